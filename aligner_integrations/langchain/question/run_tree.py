"""What the recorder knows of the runs that are alive: the LLM calls and prompts in them, and what they were given.

Plain values without locks or callbacks: `recorder.py` fills them in, `matching.py` looks into them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import PromptValue

from aligner_integrations.langchain.answer import text_of

STEP, BRANCH = "seq:step:", "map:key:"  # how LangChain tags the runs inside a sequence or a mapping
MAX_TEXTS = 256  # texts noted for one LLM call
MAX_PARTS = 512  # parts of a run's input that are looked at
MIN_NEAR = 8  # shortest text, in characters, that may be recognised as part of another


@dataclass(eq=False, slots=True, weakref_slot=True)
class Call:
    """One LLM call.

    `given` is what the prompt template was given, if one made the messages; `started` and `ended` are ticks of the
    recorder's clock; `texts` maps each text to its core; `spoken` are the pieces of an answer that is being streamed;
    `places` maps each run around it, by its start, to the place of the call in that run.
    """

    messages: list[BaseMessage]
    given: Any
    started: int
    places: dict[int, str]
    ended: int | None = None
    failed: bool = False
    ids: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    spoken: list[str] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        """Whether an answer can have come of it: not if it was cancelled, which nobody reports, before it said a word."""
        return self.ended is not None or bool(self.spoken)

    def cores(self) -> Iterator[str]:
        """The cores of its texts, or of what it has said so far."""
        yield from self.texts.values()
        if self.ended is None and self.spoken:
            yield core_of("".join(self.spoken))

    def note(self, message_id: str | None, text: str) -> None:
        """Add an id and a text by which this call's answer can be recognised."""
        if message_id and len(self.ids) < MAX_TEXTS:
            self.ids.add(message_id)
        if text and len(self.texts) < MAX_TEXTS:
            self.texts[text] = core_of(text)


@dataclass(frozen=True, slots=True)
class Made:
    """A prompt that a template made from what it was given, and when."""

    tick: int
    prompt: PromptValue
    given: Any


@dataclass(eq=False, slots=True)
class Scope:
    """A run that is alive, and what happened in it so far.

    Attributes:
        parent: The run around it.
        started: When, by the recorder's clock.
        input: What it was given; a stream says "" because its input is still to come.
        inner: Whether it is an aligner's own work.
        place: Which step of a sequence or which branch of a mapping it is, as LangChain tags it; "" if it is neither.
        calls: The LLM calls in it.
        calls_dropped: Whether some were forgotten.
        prompts: The prompts made in it.
        first_input: What the first run inside that ended was given.
        known_input: What this run was given, if that is known.
    """

    parent: UUID | None
    started: int
    input: Any
    inner: bool
    place: str
    calls: list[Call] = field(default_factory=list)
    calls_dropped: bool = False
    prompts: list[Made] = field(default_factory=list)
    first_input: Any = None
    known_input: Any = None

    def __post_init__(self) -> None:
        self.known_input = None if self.streams else self.input

    @property
    def streams(self) -> bool:
        """Whether the run started with its input still to come: LangChain then reports an empty one."""
        value = self.input.get("input") if isinstance(self.input, dict) and len(self.input) == 1 else None
        return isinstance(value, str) and not value

    def follows(self, call: Call, around: Scope) -> bool:
        """Whether what this run was given can stem from a call outside it: not if they ran side by side.

        Args:
            call: The call.
            around: The run around this one, which the call is in too.
        """
        # Branches of one mapping are given the same input and nothing of each other, even if one is done first.
        if self.place.startswith(BRANCH) and call.places[around.started] != self.place:
            return False
        if call.ended is None or call.started > self.started:
            return False
        # A step of a stream begins with the first piece of an answer, before the call that says it has ended.
        return self.streams or call.ended < self.started

    def handed(self, core: str, answers: Set[str]) -> bool | None:
        """Whether this run was given a text, so that it was made outside; None if that cannot be told.

        Args:
            core: The core of the text.
            answers: The cores of what LLMs outside this run said: of those it may have made the text.
        """
        if self.known_input is None:
            return None
        cores, complete = cores_in(self.known_input)
        if core in cores:
            return True
        unsure = not complete or any(other in answers or near(core, other) for other in cores)
        return None if unsure else False


def opens(place: str) -> bool:
    """Return whether a run in this place is given what the run around it is given."""
    return place == f"{STEP}1" or place.startswith(BRANCH)


def core_of(text: str) -> str:
    """Return a text without differences in white space and case."""
    return " ".join(text.split()).casefold()


def near(a: str, b: str) -> bool:
    """Return whether one of two cores is part of the other, and long enough to mean something."""
    return (a in b or b in a) and min(len(a), len(b)) >= MIN_NEAR


def cores_in(value: Any) -> tuple[list[str], bool]:
    """Return the cores of the texts in a value, and whether that is all there is to it."""
    cores: list[str] = []
    complete = True
    waiting = [value]
    for _ in range(MAX_PARTS):
        if not waiting:
            return cores, complete
        part = waiting.pop()
        if isinstance(part, BaseMessage):
            part = text_of(part)
        elif isinstance(part, PromptValue):
            part = part.to_string()
        if isinstance(part, str):
            cores.append(core_of(part))
        elif isinstance(part, Mapping):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple | set | frozenset):
            waiting.extend(part)
        elif not isinstance(part, int | float | None):
            complete = False
    return cores, False
