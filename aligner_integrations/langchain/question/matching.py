"""Which question led to an answer: how an answer is matched with what happened in the runs around it.

Answers repeat: many users are told "I do not know." What keeps them apart is never the text alone. Only the runs around
the step that asks are looked at, so other users' chains are out of sight. Where one run holds the chains of many, the
nearest run comes first. What lies outside a run that was not given the answer counts only where nothing inside explains
it, or where both lead to one question. What is still alike after that is an error, unless all were asked the same.

What lives elsewhere: what is kept of a run (`run_tree.py`), and how it is gathered (`recorder.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import PromptValue

from aligner_integrations.errors import QuestionNotFoundError
from aligner_integrations.langchain.answer import text_of
from aligner_integrations.langchain.messages import as_messages
from aligner_integrations.langchain.question.run_tree import Call, Made, Scope, core_of, near

How = Literal["id", "text", "near", "only", "latest", "prompt", "chain_input"]
"""id: the message's id is the LLM call's. text: an LLM call gave exactly this text. near: one text holds the other, up
to white space and case. only: no text fits, but the run asked one question. latest: the last of several LLM calls, or
one further out. prompt: the last prompt made, without an LLM call after it. chain_input: what the chain was given."""

_AMBIGUOUS = (
    "Several questions fit this answer equally well, and a wrong one would silently mix up answers. Hand on the "
    "AIMessage instead of its text, or pass {'question': ..., 'answer': ...}."
)


@dataclass(frozen=True, slots=True)
class _View:
    """What a scope offers to a run inside it."""

    scope: Scope
    calls: list[Call]
    prompts: list[Made]

    @property
    def answers(self) -> list[Call]:
        return [call for call in self.calls if call.answered] or self.calls

    def unseen(self, outer: tuple[Any, ...]) -> Found | None:
        """The prompts, if the last is newer than any LLM call: it went to a cached completion, a remote chain, HTTP."""
        if not self.prompts or (self.calls and self.prompts[-1].tick < self.answers[-1].started):
            return None
        asked = tuple(Asked(made.prompt.to_messages(), made.given, outer) for made in self.prompts)
        return Found("prompt", asked, ordered=True)

    def saying(self, text: str) -> list[Call]:
        return [call for call in self.calls if text in call.texts]

    def saying_nearly(self, core: str) -> list[Call]:
        return [call for call in self.calls if any(near(core, other) for other in call.cores())]


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

    def variable(self, name: str, pick: Callable[[Sequence[BaseMessage]], str | None]) -> str:
        """Return the text of a variable of the prompt template, else of a key of the nearest run's input that has it.

        Args:
            name: The variable.
            pick: Picks the text from messages, if it holds such.

        Raises:
            QuestionNotFoundError: There is no such variable or key, or no text in it.
        """
        if isinstance(self.given, str):  # a template with one variable takes it without its name
            return self.given
        holder = next(
            (given for given in (self.given, *self.outer) if isinstance(given, Mapping) and name in given), {}
        )
        if (question := pick(as_messages(holder.get(name)) or ())) is not None:
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

    def question(self, ask: Callable[[Asked], str | None]) -> tuple[str | None, How, bool]:
        """Return the question (None if what was asked holds none), how it was found, and whether that is a guess.

        Args:
            ask: Picks the question from what an LLM was asked.

        Raises:
            QuestionNotFoundError: Several questions fit.
        """
        # Where all calls that fit were asked one and the same, it does not matter which of them it was.
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

    An answer is looked for in the run that holds it, and then further out, but only as far as that run was given it: what
    it was not given was made inside, and another run that said the same has nothing to do with it.

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
    if found := _by_text(text, views[:1], outer):  # as a rule; what follows looks into everything the runs were given
        return found
    core = core_of(text)
    # The nearest run that surely was not given the text holds what made it, whoever was told the same further out.
    handed = list(_handed(core, views))
    made_in = handed.index(False) + 1 if False in handed else len(views)
    inside, outside = views[:made_in], views[made_in:]
    if found := _by_text(text, inside, outer) or _by_near_text(core, inside, handed, outer):
        return found
    own = _by_order(inside, handed, outer) or _by_input(core, views, outer, name)
    same = _by_text(text, outside, outer)
    if own is None or own.how == "prompt" or same is None:
        return own or same or _by_order(outside, handed[made_in:], outer)
    # The run was not given the answer, but perhaps came by it in another way, such as a variable of the programmer's own.
    # Nothing says which of the two it was, so they must agree about the question.
    return _either(own, same)


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
        # A call beside or after the run inside cannot have led to what is in there, whatever it said.
        calls = [call for call in scope.calls if not call.failed and (inside is None or inside.follows(call, scope))]
        prompts = [made for made in scope.prompts if inside is None or made.tick < inside.started]
        yield _View(scope, calls, prompts)
        inside = scope


def _handed(core: str, views: Sequence[_View]) -> Iterator[bool | None]:
    """For each run whether it was given the text; None if that cannot be told."""
    for place, view in enumerate(views):
        answers = {other for outer in views[place + 1 :] for call in outer.calls for other in call.cores()}
        yield view.scope.handed(core, answers)


def _by_text(text: str, views: Sequence[_View], outer: tuple[Any, ...]) -> Found | None:
    # A prompt nearer than the call that said this went to an LLM that nobody saw, which may have said the same.
    unseen: Found | None = None
    for view in views:
        if hits := view.saying(text):
            found = _of("text", hits, outer, complete=not view.scope.calls_dropped)
            return found if unseen is None else _either(unseen, found)
        unseen = unseen or view.unseen(outer)
    return None


def _either(one: Found, other: Found) -> Found:
    """Two that fit equally well: one and the same question, or an error."""
    return Found("text", (*one.asked, *other.asked), other.call, complete=one.complete and other.complete)


def _by_near_text(
    core: str, views: Sequence[_View], handed: Sequence[bool | None], outer: tuple[Any, ...]
) -> Found | None:
    """Only in the nearest run that asked an LLM: further out a part of a text is too weak a sign."""
    for view, given in zip(views, handed, strict=False):
        if view.calls and not given:
            hits = view.saying_nearly(core)
            return _of("near", hits, outer, complete=not view.scope.calls_dropped) if hits else None
    return None


def _by_order(views: Sequence[_View], handed: Sequence[bool | None], outer: tuple[Any, ...]) -> Found | None:
    """The text was rewritten on the way, or no LLM call was seen: take what the nearest run did last."""
    for place, (view, given) in enumerate(zip(views, handed, strict=False)):
        if given:  # made further out
            continue
        calls = view.answers
        if unseen := view.unseen(outer):
            return unseen
        if calls:
            *before, last = calls
            # Of calls side by side none is "the last", so they are as good as each other.
            ordered = all(call.ended is not None and call.ended < last.started for call in before)
            complete = not view.scope.calls_dropped
            # Where the run may have been given the text after all, the calls further out count as well.
            further = [] if given is False else [call for other in views[place + 1 :] for call in other.calls]
            how: How = "latest" if place else "only"
            return _of(how, [*further, *calls], outer, ordered=ordered, complete=complete)
    return None


def _by_input(core: str, views: Sequence[_View], outer: tuple[Any, ...], name: str | None) -> Found | None:
    for value in outer:
        named = value.get(name) if isinstance(value, Mapping) and name else None
        messages = as_messages(value if named is None else named)
        # A run that is handed the answer tells nothing about the question.
        if not messages or any(core_of(text_of(message)) == core for message in messages):
            continue
        if isinstance(value, PromptValue):
            made = next((made for view in views for made in view.prompts if made.prompt is value), None)
            return Found("prompt", (Asked(messages, made.given if made else None, outer),))
        return Found("chain_input", (Asked(messages, value if named is not None else None, outer),))
    return None
