"""Which question led to an answer: what the recorder knows of a run, and how an answer is matched with it.

Plain values and functions without locks or callbacks; `upstream.py` fills them in and asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import PromptValue

from aligner_integrations.errors import QuestionNotFoundError
from aligner_integrations.langchain.messages import as_messages, last_question, text_of

MAX_TEXTS = 256  # texts noted for one LLM call
MIN_NEAR = 8  # shortest text, in characters, that may be recognised as part of another

How = Literal["id", "text", "near", "only", "latest", "prompt", "chain_input"]
"""id: the message's id is the LLM call's. text: an LLM call gave exactly this text. near: one text holds the other, up
to white space and case. only: no text fits, but the run asked one question. latest: the last of several LLM calls, or
one further out. prompt: the last prompt made, without an LLM call after it. chain_input: what the chain was given."""

_AMBIGUOUS = (
    "Several questions fit this answer equally well, and a wrong one would silently mix up answers. Hand on the "
    "AIMessage instead of its text, or pass {'question': ..., 'answer': ...}."
)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Call:
    """One LLM call.

    `given` is what the prompt template was given, if one made the messages; `started` and `ended` are ticks of the
    recorder's clock; `texts` maps each text to its core.
    """

    messages: list[BaseMessage]
    given: Any
    started: int
    ended: int | None = None
    failed: bool = False
    ids: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)

    def note(self, message_id: str | None, text: str) -> None:
        """Add an id and a text by which this call's answer can be recognised."""
        if message_id and len(self.ids) < MAX_TEXTS:
            self.ids.add(message_id)
        if text and len(self.texts) < MAX_TEXTS:
            self.texts[text] = _core(text)


@dataclass(frozen=True, slots=True)
class Made:
    """A prompt that a template made from what it was given, and when."""

    tick: int
    prompt: PromptValue
    given: Any


@dataclass(eq=False, slots=True)
class Scope:
    """A run that is alive, and what happened in it so far."""

    parent: UUID | None
    started: int
    input: Any
    inner: bool
    calls: list[Call] = field(default_factory=list)
    calls_dropped: bool = False
    prompts: list[Made] = field(default_factory=list)
    first_input: Any = None

    @property
    def streams(self) -> bool:
        """Whether the run started with its input still to come: LangChain then reports an empty one."""
        value = self.input.get("input") if isinstance(self.input, dict) and len(self.input) == 1 else None
        return isinstance(value, str) and not value

    def follows(self, call: Call) -> bool:
        """Whether what this run was given can stem from a call outside it: not if they ran side by side."""
        if call.ended is None or call.started > self.started:
            return False
        return self.streams or call.ended < self.started


@dataclass(frozen=True, slots=True)
class _View:
    """What a scope offers to a run inside it."""

    calls: list[Call]
    complete: bool
    prompts: list[Made]


@dataclass(frozen=True, slots=True)
class Asked:
    """What an LLM was asked.

    Attributes:
        messages: The messages it was given.
        given: What the prompt template was given that made them: its variables, or its only one; None without one.
        outer: What the runs around the aligner were given, nearest first.
    """

    messages: Sequence[BaseMessage]
    given: Any = None
    outer: tuple[Any, ...] = ()

    def variable(self, name: str) -> str:
        """Return the text of a variable of the prompt template, else of a key of the nearest run's input that has it.

        Raises:
            QuestionNotFoundError: There is no such variable or key, or no text in it.
        """
        if isinstance(self.given, str):  # a template with one variable takes it without its name
            return self.given
        holder = next(
            (given for given in (self.given, *self.outer) if isinstance(given, Mapping) and name in given), {}
        )
        if question := last_question(as_messages(holder.get(name)) or ()):
            return question
        raise QuestionNotFoundError(
            f"question={name!r}: neither the prompt template nor an input of the chain has a text of that name."
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What the look-up found.

    Attributes:
        how: By which step.
        asked: What each LLM call that fits was asked, oldest first.
        call: The LLM call of the last one.
        ordered: Whether the last one surely came after the others, so that it may be preferred.
        complete: False if other calls were forgotten that might fit as well.
    """

    how: How
    asked: tuple[Asked, ...]
    call: Call | None = None
    ordered: bool = False
    complete: bool = True

    def question(self, ask: Callable[[Asked], str]) -> tuple[str, How, bool]:
        """Return the question, how it was found, and whether that is a guess.

        Args:
            ask: Picks the question from what an LLM was asked.

        Raises:
            QuestionNotFoundError: Several questions fit.
        """
        questions = [ask(asked) for asked in self.asked]
        several = len(set(questions)) > 1
        if not self.complete or (several and not self.ordered):
            raise QuestionNotFoundError(_AMBIGUOUS)
        how: How = "latest" if several and self.how == "only" else self.how
        return questions[-1], how, how in ("latest", "chain_input") or (several and how == "prompt")


def find(
    answer: str | BaseMessage, path: Sequence[Scope], root_calls: Iterable[Call], name: str | None
) -> Found | None:
    """Find what led to an answer.

    Args:
        answer: An answer as some step of a chain hands it on.
        path: The run in which that happens, and the runs around it, nearest first.
        root_calls: LLM calls outside any run.
        name: The variable that holds the question, if the caller knows one.
    """
    outer = tuple(value for scope in path for value in (scope.input, scope.first_input))
    if isinstance(answer, BaseMessage) and answer.id and (found := _by_id(answer.id, path, root_calls, outer)):
        return found
    text, views = text_of(answer), list(_views(path))
    return _by_text(text, views, outer) or _by_order(views, outer) or _by_input(text, outer, name)


def made_for(messages: list[BaseMessage], path: Iterable[Scope]) -> Made | None:
    """Return the prompt an LLM call was made with, if a template made it."""
    made = (made for scope in path for made in reversed(scope.prompts))
    return next((one for one in made if one.prompt.to_messages() == messages), None)


def _of(
    how: How, hits: Sequence[Call], outer: tuple[Any, ...], *, ordered: bool = False, complete: bool = True
) -> Found:
    asked = tuple(Asked(call.messages, call.given, outer) for call in hits)
    return Found(how, asked, hits[-1], ordered, complete)


def _by_id(message_id: str, path: Sequence[Scope], root_calls: Iterable[Call], outer: tuple[Any, ...]) -> Found | None:
    for calls in (*(scope.calls for scope in path), root_calls):
        if hits := [call for call in calls if message_id in call.ids]:
            return _of("id", hits, outer)
    return None


def _views(path: Sequence[Scope]) -> Iterator[_View]:
    """What each run on the path offers: only what came before the run inside it on the path."""
    inside: Scope | None = None
    for scope in path:
        calls = [call for call in scope.calls if not call.failed and (inside is None or inside.follows(call))]
        prompts = [made for made in scope.prompts if inside is None or made.tick < inside.started]
        yield _View(calls, not scope.calls_dropped, prompts)
        inside = scope


def _by_text(text: str, views: Sequence[_View], outer: tuple[Any, ...]) -> Found | None:
    core = _core(text)
    nearest = True
    for view in views:
        if not view.calls:
            continue
        how: How = "text"
        hits = [call for call in view.calls if text in call.texts]
        if not hits and nearest:  # further out a part of a text is too weak a sign
            how = "near"
            hits = [call for call in view.calls if any(_near(core, other) for other in call.texts.values())]
        if hits:
            return _of(how, hits, outer, complete=view.complete)
        nearest = False
    return None


def _by_order(views: Sequence[_View], outer: tuple[Any, ...]) -> Found | None:
    """The text was rewritten on the way, or no LLM call was seen: take what the nearest run did last."""
    for place, view in enumerate(views):
        calls = [call for call in view.calls if call.ended is not None] or view.calls
        # A prompt newer than any LLM call went somewhere else: a cached completion, a remote chain, an own HTTP call.
        if view.prompts and (not calls or view.prompts[-1].tick > calls[-1].started):
            asked = tuple(Asked(made.prompt.to_messages(), made.given, outer) for made in view.prompts)
            return Found("prompt", asked, ordered=True)
        if calls:
            *before, last = calls
            ordered = all(call.ended is not None and call.ended < last.started for call in before)
            return _of("latest" if place else "only", calls, outer, ordered=ordered, complete=view.complete)
    return None


def _by_input(text: str, outer: tuple[Any, ...], name: str | None) -> Found | None:
    for value in outer:
        named = value.get(name) if isinstance(value, Mapping) and name else None
        messages = as_messages(value if named is None else named)
        # A run that is handed the answer tells nothing about the question.
        if messages and not any(_core(text_of(message)) == _core(text) for message in messages):
            return Found("chain_input", (Asked(messages, value if named is not None else None, outer),))
    return None


def _core(text: str) -> str:
    return " ".join(text.split()).casefold()


def _near(a: str, b: str) -> bool:
    return (a in b or b in a) and min(len(a), len(b)) >= MIN_NEAR
