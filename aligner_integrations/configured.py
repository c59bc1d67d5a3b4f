"""What an aligner is made of, and the ways to make one: weights or a server, template, policy, and what is around them.

What lives elsewhere: its verbs and what its options mean (`aligner.py`), their checks (`options.py`, `policy.py`).
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from aligner_integrations import options as options_of
from aligner_integrations import telemetry
from aligner_integrations._version import __version__
from aligner_integrations.backends.base import Backend
from aligner_integrations.backends.request import Request, Timeouts
from aligner_integrations.backends.wrappers.traced import traced
from aligner_integrations.errors import ConfigurationError, MisplacedError, UnknownTemplateError
from aligner_integrations.fingerprint import fingerprint, made_with
from aligner_integrations.job import Record
from aligner_integrations.options import CHECKS, Changes, OfChatModel, OfEndpoint, check_model, refuse_unknown
from aligner_integrations.policy import Options, Plan, Plans, Policy
from aligner_integrations.recording.recorder import Recorder, Recording
from aligner_integrations.templates import TEMPLATES, Template, get_template

if TYPE_CHECKING:
    from aligner_integrations.backends.remote.keys import Secret
    from aligner_integrations.backends.wrappers.cached import Cache
    from aligner_integrations.backends.wrappers.resilient import Resilience


class Configured:
    """An aligner without its verbs; see `Aligner`. Nothing of a call is kept on it."""

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        backend: Backend | None = None,
        template: str | Template | None = None,
        resilience: Resilience | None = None,
        cache: Cache | str | Path | None = None,
        record: str | Path | Recorder | Record | None = None,
        **options: Unpack[Options],
    ) -> None:
        refuse_unknown(options, (*Changes.__optional_keys__, "model", "backend"), "Aligner")
        if model is not None and backend is not None:
            raise ConfigurationError("Give either model or backend, not both: a backend brings its own model.")
        if model is not None:
            check_model(model)
        if backend is None:
            from aligner_integrations.backends.local.backend import LocalBackend

            backend = LocalBackend(model or os.environ.get("ALIGNER_MODEL") or "embedded")
        if not isinstance(backend, Backend):
            raise ConfigurationError(
                f"backend is a {type(backend).__name__}, which is no Backend: give one of aligner_integrations.backends, or a "
                "subclass of its Backend."
            )
        self.backend = backend
        self.policy = Policy(**options)
        self.resilience: Resilience | None = CHECKS["resilience"](resilience)
        self.cache: Cache | None = CHECKS["cache"](cache)
        self.record: Recorder | Record | None = CHECKS["record"](record)
        self._name: tuple[str, str | None] | None = None
        self._template = None if template is None else get_template(template)
        self._plans = Plans(self._find_out)
        # Imports what makes spans. At the first correction other threads may be about, and a process that forks while one of
        # them imports leaves its child waiting for that import for ever.
        telemetry.instruments()

    def __repr__(self) -> str:
        """Name what corrects, and the options that are not the default."""
        what = repr(getattr(self.backend, "name", None) or self.backend)
        return f"Aligner({', '.join([what, *options_of.described(vars(self))])})"

    def __getattr__(self, name: str) -> Any:
        """Say what goes where a framework looks for a method that an aligner does not have.

        Raises:
            AttributeError: Always.
        """
        if (instead := options_of.ELSEWHERE.get(name)) is not None:
            raise MisplacedError(instead)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def with_options(self, **changes: Unpack[Changes]) -> Self:
        """Return an aligner with the same weights or server and other options.

        Args:
            **changes: Keyword arguments of `Aligner`, but for `model` and `backend`.
        """
        refuse_unknown(changes, Changes.__optional_keys__, "with_options, which keeps the weights or the server,")
        changed = dict(changes)
        own = {name: check(changed.pop(name)) for name, check in CHECKS.items() if name in changed}
        if "template" in changed:
            template = cast("str | Template | None", changed.pop("template"))
            own["_template"] = None if template is None else get_template(template)
        other = copy.copy(self)
        values: Any = changed
        vars(other).update(own, _name=None, policy=replace(self.policy, **values), _plans=Plans(other._find_out))
        if changed.keys().isdisjoint(("gate", "edits")) and "_template" not in own:
            other._plans.known = self._plans.known
        return other

    @classmethod
    def from_endpoint(
        cls,
        url: str,
        model: str | None = None,
        api_key: str | Callable[[], str] | Secret | None = None,
        template: str | Template | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[OfEndpoint],
    ) -> Self:
        """An aligner on a server that speaks OpenAI's completions: vLLM, SGLang, llama.cpp, TGI, `transformers serve`.

        Args:
            url: The server's API, as OpenAI clients take it: it ends in `/v1`.
            model: Its name there. None asks the server, which must have exactly one.
            api_key: The key, or a function that returns it.
            template: As for `Aligner`. Default: the template of the model, if its name is a known one.
            timeout: Seconds for a whole correction, with all trying again: short for `resilience=Resilience(deadline=...)`.
            **options: Further arguments of `CompletionsBackend` and of `Aligner`. `resilience` is `Resilience()` unless
                you give another, or None.

        Raises:
            ConfigurationError: As `Aligner` and `CompletionsBackend` say; or both `timeout` and `resilience` are given.
        """
        backend, rest = options_of.endpoint(url, model, api_key, timeout, dict(options))
        return cls(backend=backend, template=template, **rest)

    @classmethod
    def from_chat_model(cls, llm: Any, **options: Unpack[OfChatModel]) -> Self:
        """A chat model that is told to correct: no aligner's weights are needed.

        Args:
            llm: A chat model of LangChain, an LLM of LlamaIndex, or the URL of an OpenAI-compatible API.
            **options: Further arguments of `ChatModelBackend`, such as `principles`, and of `Aligner`.

        Raises:
            ConfigurationError: As `Aligner` and `ChatModelBackend` say.
        """
        backend, rest = options_of.chat_model(llm, dict(options))
        return cls(backend=backend, **rest)

    @property
    def template(self) -> Template:
        """The prompt template in use; for an unknown checkpoint this may look at its `aligner_config.json`.

        Raises:
            UnknownTemplateError: None was given and the backend does not know one.
        """
        template = self._template or self.backend.template
        if template is None:
            raise UnknownTemplateError(
                f"{type(self.backend).__name__} does not know which template its aligner was trained with. "
                f"Pass template= with one of {', '.join(sorted(TEMPLATES))}, or a string with {{question}} and {{answer}}."
            )
        return template

    @property
    def fingerprint(self) -> str:
        """A short name of what decides its texts, for the keys of caches; nothing is looked up for it."""
        return fingerprint(__version__, made_with(self.backend), self._template, self.policy)

    @property
    def wrapped_backend(self) -> Backend:
        """The backend as corrections use it: spans around it, then `resilience`, and `cache` outside."""
        backend = traced(self.backend)
        if self.resilience is not None:
            backend = self.resilience.wrap(backend)
        if self.cache is not None:
            backend = self.cache.wrap(backend)
        return backend

    @property
    def listener(self) -> Record | Recording | None:
        """What is told of each correction: `record`; a recorder also of whose it is."""
        if not isinstance(self.record, Recorder):
            return self.record
        if self._name is None:
            # What it was made with; to ask for a local backend's model would load it.
            models = [vars(self.backend).get(name) for name in ("name", "model")]
            self._name = self.fingerprint, next((model for model in models if isinstance(model, str)), None)
        return Recording(self.record, *self._name)

    def load(self) -> None:
        """Load the weights now instead of at the first correction."""
        self.backend.load()

    @property
    def rules(self) -> Resilience | None:
        """How its backend is called, for those whose fallback it is."""
        return self.resilience

    def redirect(self, requests: Sequence[Request]) -> tuple[Backend, list[Request]]:
        """Return what is asked if this aligner is another one's fallback: its backend, in the words of its own template."""
        template = self.template
        return self.wrapped_backend, [request.through(template, self.policy.max_new_tokens) for request in requests]

    def _timeouts(self) -> Timeouts:
        """One deadline for everything that is done for a correction."""
        return Timeouts() if self.resilience is None else self.resilience.timeouts(time.monotonic())

    def _find_out(self) -> Plan:
        return self.policy.plan(self.template, self.backend)
