"""The options of a correction that decide (`Policy`), and what they mean for one backend (`Plan`).

What lives elsewhere: the steps of a correction, which ask these (`job.py`), the verbs, and how a backend is asked (`aligner.py`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, cast, get_args

from aligner_integrations import threads
from aligner_integrations.backends.base import Backend
from aligner_integrations.backends.deadline import Deadline
from aligner_integrations.backends.request import Timeouts
from aligner_integrations.backends.score import RUDE, WHOLE, Score
from aligner_integrations.errors import (
    BackendError,
    ConfigurationError,
)
from aligner_integrations.gate_file import read_gate
from aligner_integrations.templates import Template

Instead = Literal["raise", "keep", "block"]
"""What to do when there is no correction to show: raise, show the answer as it is, or show `block_message`."""

Gate = Callable[[str, str, Score | None], bool]
"""(question, answer, score) -> whether the answer is kept without a correction. No score: the backend has none."""

Objections = Mapping[str, float | Literal[False]]
"""Kind of objection (`"rude"`, `"hateful"`, `"harmful"`) -> the threshold of its score, or False: not objected to at all."""

Accept = Callable[[str, str, str], bool | Awaitable[bool]]
"""(question, answer, correction) -> whether the correction may be shown. A coroutine function: for the async verbs."""

Repair = Callable[[str, str], str]
"""(answer, correction) -> the correction with what it must not touch put right; RejectedCorrectionError refuses it."""

Edits = Literal["all", "marked", "guarded"]
"""Which edits of the aligner are taken over; `Aligner`'s docstring says what they mean."""

BLOCK_MESSAGE = "This answer was withheld because it could not be corrected."


class Options(TypedDict, total=False):
    """The fields of `Policy` as keyword arguments, for type checkers: `Aligner` and what is made of one take them."""

    gate: float | Literal[False] | Objections | Gate | str | Path | None
    accept: Accept | None
    repair: Repair | None
    rounds: int
    max_new_tokens: int | None
    on_error: Instead
    on_overflow: Instead
    on_reject: Instead
    structured: bool
    edits: Edits | None
    block_message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The options of an `Aligner` that decide, with their defaults; its docstring says what they mean.

    Raises:
        ConfigurationError: A value that makes no sense.
    """

    gate: float | Literal[False] | Objections | Gate | str | Path | None = None
    accept: Accept | None = None
    repair: Repair | None = None
    rounds: int = 1
    max_new_tokens: int | None = None
    on_error: Instead = "raise"
    on_overflow: Instead = "raise"
    on_reject: Instead = "keep"
    structured: bool = False
    edits: Edits | None = None
    block_message: str = BLOCK_MESSAGE

    def __post_init__(self) -> None:
        """Check the values."""
        if self.gate is True:
            raise ConfigurationError(
                "gate=True says nothing: leave it out for the aligner's own gate, or give a number."
            )
        if isinstance(self.gate, str | Path):
            object.__setattr__(self, "gate", read_gate(Path(self.gate)))
        if not (self.gate is None or callable(self.gate) or isinstance(self.gate, int | float | Mapping)):
            raise ConfigurationError(
                f"gate is {self.gate!r}; it takes None, False, a number, a number or False for each kind, a function or a file."
            )
        if isinstance(self.gate, Mapping):
            _check_kinds(self.gate)
        if inspect.iscoroutinefunction(self.gate):
            raise ConfigurationError(
                "gate is a coroutine function; its answer is needed at once, so give a plain function."
            )
        self._check_kinds()
        for name in ("on_error", "on_overflow", "on_reject"):
            if getattr(self, name) not in get_args(Instead):
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}; it takes one of {get_args(Instead)}.")
        if self.rounds < 1:
            raise ConfigurationError(f"rounds is {self.rounds}; an aligner needs at least 1.")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ConfigurationError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1, or None.")
        if self.edits not in (None, *get_args(Edits)):
            raise ConfigurationError(f"edits is {self.edits!r}; it takes None or one of {get_args(Edits)}.")

    def _check_kinds(self) -> None:
        # An evaluator of LlamaIndex is for its integration, which makes a function of it.
        if not (self.accept is None or callable(self.accept) or hasattr(self.accept, "aevaluate")):
            raise ConfigurationError(
                f"accept is {self.accept!r}; it takes a function (question, answer, correction) -> bool, or None."
            )
        if not (self.repair is None or callable(self.repair)):
            raise ConfigurationError(
                f"repair is {self.repair!r}; it takes a function (answer, correction) -> str, or None."
            )
        for name, kind in (("rounds", int), ("max_new_tokens", int), ("structured", bool), ("block_message", str)):
            value = getattr(self, name)
            if value is None and name == "max_new_tokens":
                continue
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise ConfigurationError(f"{name} is {value!r}; it takes a value of type {kind.__name__}.")

    @property
    def decides_late(self) -> bool:
        """Whether a correction can be taken back after its last token, so that a stream has to wait for the end."""
        return self.accept is not None or self.repair is not None or self.rounds > 1 or self.edits == "marked"

    def plan(self, template: Template, backend: Backend) -> Plan:
        """Find out what this policy needs to know of a backend. May read a file, or ask the Hub or a server.

        Raises:
            ConfigurationError: The policy needs probabilities, and the backend has none.
        """
        edits = self.edits or ("guarded" if backend.minimal else "all")
        marked, free = edits == "marked", callable(self.gate)
        threshold, whole = self._thresholds(backend)
        gated = free or threshold is not None or bool(whole)
        marks = backend.gate if threshold is None and edits != "all" else threshold
        if self._lets_rude_be and marks is not None:
            marks = math.inf
        if not marked and not gated and marks is None:
            return Plan(template, None, edits, None, wants_score=False, final=True)
        can_score = backend.can_score
        if can_score is False and (marked or (gated and not free)):
            what = "edits='marked'" if marked else "a gate by score"
            raise ConfigurationError(
                f"{what} needs the aligner's probabilities, which {type(backend).__name__} has not."
            )
        if marked and marks is None:
            raise ConfigurationError(
                "edits='marked' needs a threshold: this aligner has no gate, so give gate= a number."
            )
        wants_score = can_score is not False
        marks = marks if wants_score else None
        return Plan(template, threshold, edits, marks, wants_score, can_score is not None, whole if wants_score else {})

    @property
    def _lets_rude_be(self) -> bool:
        return isinstance(self.gate, Mapping) and self.gate.get(RUDE) is False

    def _thresholds(self, backend: Backend) -> tuple[float | None, Mapping[str, float]]:
        """What the gate's score is compared with, and what its objections to the whole answer are."""
        gate = self.gate
        if gate is False:
            return None, {}
        if isinstance(gate, Mapping):
            own = {RUDE: backend.gate, **backend.objections}
            if unknown := [kind for kind in gate if own.get(kind) is None and gate[kind] is not False and kind != RUDE]:
                raise ConfigurationError(
                    f"gate names {', '.join(unknown)}, and this aligner's own gate cannot see that; it knows {_known(own)}."
                )
            chosen = {kind: gate.get(kind, most) for kind, most in own.items()}
            numbers = {kind: float(most) for kind, most in chosen.items() if most is not None and most is not False}
            return numbers.pop(RUDE, None), numbers
        if gate is None or callable(gate):
            return backend.gate, backend.objections
        return float(cast("float", gate)), backend.objections


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of an aligner before a correction: looked up once, so that nothing is looked up in between.

    Attributes:
        template: Its prompt template.
        threshold: What the gate's score is compared with; None: no gate by a number.
        edits: Which edits are taken over.
        marks: What marked words are found with; None: no score finds them.
        wants_score: Whether answers are judged.
        final: Whether it stays true; a server that could not be asked may yet say something else.
        whole: Objections to an answer as a whole -> what their scores are compared with.
    """

    template: Template
    threshold: float | None
    edits: Edits
    marks: float | None
    wants_score: bool
    final: bool
    whole: Mapping[str, float] = field(default_factory=dict)

    def objections(self, score: Score) -> tuple[str, ...]:
        """Return what there is to object to in an answer, or in as much of it as the score is of."""
        rude = self.threshold is not None and score.judgement > self.threshold
        return (*((RUDE,) if rude else ()), *score.objects(self.whole))


class Plans:
    """What is known of one aligner: found out once, by whoever comes first, and for all who wait.

    Args:
        find: Finds it out; may read a file, or ask the Hub or a server. It runs on a thread of its own.
    """

    def __init__(self, find: Callable[[], Plan]) -> None:
        self._find = find
        self.known: Plan | None = None
        self._finding = threads.Shared(self._keep)

    def __reduce__(self) -> tuple[Any, ...]:
        """Who waits is not part of a copy."""
        return Plans, (self._find,)

    def get(self, timeouts: Timeouts) -> Plan | BackendError:
        """Return it, or the error that each correction meets and `on_error` answers."""
        try:
            return self.known or threads.wait(self._finding.begin(), Deadline(timeouts.deadline).left)
        except (TimeoutError, BackendError) as error:
            return _not_found(error)

    async def aget(self, timeouts: Timeouts) -> Plan | BackendError:
        """`get` without blocking the event loop."""
        # Once it is known, no thread is asked: with hundreds of corrections at a time that would be most of their cost.
        if self.known is not None:
            return self.known
        try:
            return await threads.awaited(self._finding.begin(), Deadline(timeouts.deadline).left)
        except (TimeoutError, BackendError) as error:
            return _not_found(error)

    def _keep(self) -> Plan:
        plan = self._find()
        if plan.final:
            self.known = plan
        return plan


def _check_kinds(gate: Objections) -> None:
    kinds = (RUDE, *WHOLE)
    if unknown := sorted(set(gate) - set(kinds)):
        raise ConfigurationError(
            f"gate names {', '.join(map(repr, unknown))}; kinds of objection are {', '.join(kinds)}."
        )
    for kind, most in gate.items():
        if most is True or not isinstance(most, int | float):
            raise ConfigurationError(f"gate[{kind!r}] is {most!r}; it takes a number, or False to let such answers be.")


def _known(own: Mapping[str, float | None]) -> str:
    return ", ".join(kind for kind, most in own.items() if most is not None) or "no kind at all"


def _not_found(error: TimeoutError | BackendError) -> BackendError:
    if isinstance(error, BackendError):
        return error
    return BackendError(
        "What the aligner needs (template, gate) was not found out before the deadline.", retryable=True
    )
