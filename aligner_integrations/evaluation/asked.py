"""Asking a model many things, each once: whatever it said is kept at once, so that a run that was killed goes on.

What is kept is a file of JSON Lines that only its owner may read: for each thing asked its key, the reply, and what it took. A
reply is written before it is counted; a failure is not kept, so it is asked again next time. Killed while it writes, a run leaves
half a line, which is dropped. What was on its way at that moment is the only thing that may be asked twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from aligner_integrations.backends.base import Backend
from aligner_integrations.backends.request import Completion, Request
from aligner_integrations.backends.side_by_side import each
from aligner_integrations.backends.wrappers.resilient import Resilience
from aligner_integrations.correction import Usage
from aligner_integrations.errors import AlignerError, ConfigurationError

FILE = "kept.jsonl"


class Kept:
    """Values by key in a file that is only ever added to. One process at a time, any number of threads.

    Args:
        folder: Where the file is; made if it is not there.

    Raises:
        ConfigurationError: Another run has it, or it is damaged elsewhere than at its end.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._found = self._read()
        except BlockingIOError as error:
            os.close(self._file)
            raise ConfigurationError(
                f"Another run is keeping its replies in {folder}. Wait for its end, or name another folder."
            ) from error
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Kept:
        """Use it in a block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what is kept under a key."""
        return self._found.get(key)

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a value; when this returns, killing the process loses nothing."""
        line = json.dumps({"key": key, **value}).encode() + b"\n"
        with self._lock:
            size = os.fstat(self._file).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._file, line[written:])
            except OSError:  # a full disk: half a line must not stand before the next one
                os.ftruncate(self._file, size)
                raise
            self._found[key] = dict(value)

    def close(self) -> None:
        """Let another run have it."""
        os.close(self._file)

    def __len__(self) -> int:
        """How many values are kept."""
        return len(self._found)

    def _read(self) -> dict[str, dict[str, Any]]:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # it was killed while it wrote
            os.ftruncate(self._file, whole)
        found = {}
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                value = json.loads(line)
                found[str(value.pop("key"))] = value
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ConfigurationError(
                    f"{self.path}, line {number}: this is nothing that was kept here ({type(error).__name__}). Delete the line, "
                    "and it is asked again."
                ) from error
        return found


def key_of(*parts: Any) -> str:
    """Return the key of what is asked: a digest of all that decides the reply."""
    return hashlib.sha256(json.dumps(parts, default=repr).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Said:
    """A reply.

    Attributes:
        text: What was said.
        cut: Whether it ran into its token limit.
        usage: Tokens it took.
        fresh: Whether it was asked for now, and not found.
    """

    text: str
    cut: bool
    usage: Usage
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is asked: a judge, or an upstream.

    Attributes:
        name: What it is called; part of the keys, so another model is asked anew.
        backend: How it is asked: a prompt in, its reply out.
        resilience: Time limits, retries and the breaker.
        concurrency: Most requests on the way at once.
        max_new_tokens: Longest reply in tokens; None: as the server has it.
    """

    name: str
    backend: Callable[[str], Backend]
    resilience: Resilience
    concurrency: int = 8
    max_new_tokens: int | None = 2048


def ask(
    model: Model,
    prompts: Sequence[tuple[str, str]],
    kept: Kept,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> list[Said | AlignerError]:
    """Ask a model for a reply to each (system message, prompt), none of them twice.

    Args:
        model: Who is asked.
        prompts: What is asked.
        kept: Where replies are looked for, and kept.
        on_progress: Called with how many are there.

    Returns:
        For each prompt its reply, or why there is none.
    """
    keys = [key_of("reply", model.name, model.max_new_tokens, *prompt) for prompt in prompts]
    backends = {system: model.resilience.wrap(model.backend(system)) for system in {system for system, _ in prompts}}
    missing = [(key, prompt) for key, prompt in dict(zip(keys, prompts, strict=True)).items() if kept.get(key) is None]
    failed: dict[str, AlignerError] = {}
    fresh = set()
    guard = threading.Lock()
    done = len(set(keys)) - len(missing)

    def one(item: tuple[str, tuple[str, str]]) -> None:
        nonlocal done
        key, (system, prompt) = item
        result = _asked(model, backends[system], prompt)
        if isinstance(result, AlignerError):
            failed[key] = result
        else:
            usage = [result.usage.prompt_tokens, result.usage.completion_tokens]
            kept.put(key, {"reply": result.text, "cut": result.finish_reason == "length", "tokens": usage})
            fresh.add(key)
        with guard:
            done += 1
            if on_progress is not None:
                on_progress(done)

    if on_progress is not None:
        on_progress(done)
    each(one, missing, model.concurrency)
    return [_said(value, key in fresh) if (value := kept.get(key)) is not None else failed[key] for key in keys]


def _asked(model: Model, backend: Backend, prompt: str) -> Completion | AlignerError:
    limits = model.resilience.timeouts(time.monotonic())
    try:
        (result,) = backend.complete([Request("", "", prompt, "", model.max_new_tokens, limits)])
    except AlignerError as error:
        return error
    return result


def _said(value: Mapping[str, Any], fresh: bool) -> Said:
    return Said(str(value["reply"]), bool(value["cut"]), Usage(*value["tokens"]), fresh)
