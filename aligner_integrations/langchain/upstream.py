"""Finds the question that led to an answer, from a later step of the chain.

In `prompt | llm | AlignerRunnable()` the last step is handed the answer and nothing else. But every run of LangChain
and LangGraph reports to callback handlers, so one process-wide handler, `RECORDER`, keeps the tree of the runs that
are alive, and notes each LLM call in every run around it. A step knows the run it is in, and looks there first, then
further out. Look-up goes by run id, never by thread or context, so concurrent chains cannot be mixed up; where several
questions fit equally well, that is an error.

What lives elsewhere: answers given together with their question (`messages.py`), and the step itself (`runnable.py`).
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID
from weakref import WeakValueDictionary

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.tracers.context import register_configure_hook

from aligner_integrations.errors import QuestionNotFoundError
from aligner_integrations.langchain.messages import as_messages, text_of

INTERNAL_TAG = "aligner:internal"
"""On a run that belongs to an aligner's own work: it and everything below it is never taken for the upstream."""

MAX_SCOPES = 100_000  # backstop against runs whose end is never reported, such as streams abandoned at exit
MAX_CALLS = 4096  # LLM calls noted in one run
MAX_ROOT_CALLS = 512  # LLM calls outside any run, for `aligner.invoke(llm.invoke(question))`
MAX_PROMPTS = 8  # prompts noted in one run
MAX_TEXTS = 256  # texts noted for one LLM call
MIN_NEAR = 8  # shortest text, in characters, that may be recognised as part of another

How = Literal["id", "text", "near", "only", "latest", "prompt", "chain_input"]
"""id: the message's id is the LLM call's. text: an LLM call gave exactly this text. near: one text holds the other, up
to white space and case. only: no text fits, but the run asked one question. latest: the last of several LLM calls, or
one further out. prompt: the last prompt made, without an LLM call after it. chain_input: what the chain was given."""

_NO_QUESTION = (
    "No question was found for this answer: no LLM call, prompt or chain input leads to it. Put the aligner into the "
    "same chain as the LLM, hand on the AIMessage instead of its text, or pass {'question': ..., 'answer': ...}."
)
_AMBIGUOUS = (
    "Several questions fit this answer equally well, and a wrong one would silently mix up answers. Hand on the "
    "AIMessage instead of its text, or pass {'question': ..., 'answer': ...}."
)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Call:
    """One LLM call. `started` and `ended` are ticks of the recorder's clock; `texts` maps each text to its core."""

    messages: list[BaseMessage]
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


@dataclass(eq=False, slots=True)
class Scope:
    """A run that is alive, and what happened in it so far."""

    parent: UUID | None
    started: int
    input: Any
    inner: bool
    calls: list[Call] = field(default_factory=list)
    calls_dropped: bool = False
    prompts: list[tuple[int, PromptValue]] = field(default_factory=list)
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
    prompts: list[tuple[int, PromptValue]]


@dataclass(frozen=True, slots=True)
class Found:
    """What the look-up found.

    Attributes:
        how: By which step.
        prompts: The messages of each LLM call that fits, oldest first.
        call: The LLM call of the last one.
        ordered: Whether the last one surely came after the others, so that it may be preferred.
        complete: False if other calls were forgotten that might fit as well.
    """

    how: How
    prompts: tuple[Sequence[BaseMessage], ...]
    call: Call | None = None
    ordered: bool = False
    complete: bool = True

    def question(self, ask: Callable[[Sequence[BaseMessage]], str]) -> tuple[str, How, bool]:
        """Return the question, how it was found, and whether that is a guess.

        Args:
            ask: Picks the question from messages.

        Raises:
            QuestionNotFoundError: Several questions fit.
        """
        questions = [ask(messages) for messages in self.prompts]
        several = len(set(questions)) > 1
        if not self.complete or (several and not self.ordered):
            raise QuestionNotFoundError(_AMBIGUOUS)
        how: How = "latest" if several and self.how == "only" else self.how
        return questions[-1], how, how in ("latest", "chain_input") or (several and how == "prompt")


class UpstreamRecorder(BaseCallbackHandler):
    """Follows the runs of this process; see the module's docstring. Thread-safe, and bounded in memory."""

    run_inline = True  # an asynchronous manager would otherwise hop to a thread for every event
    raise_error = False
    ignore_retry = True
    ignore_custom_event = True

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._clock = itertools.count(1)
        self._scopes: OrderedDict[UUID, Scope] = OrderedDict()
        self._root_calls: OrderedDict[UUID, Call] = OrderedDict()
        # Weak, because a cancelled LLM call reports no end: it goes when the runs around it go.
        self._calls: WeakValueDictionary[UUID, Call] = WeakValueDictionary()

    def __deepcopy__(self, memo: Any) -> UpstreamRecorder:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_recorder, ())

    # Runs -----------------------------------------------------------------------------------------------------------

    def _start(self, run_id: UUID, event: dict[str, Any], inputs: Any = None) -> None:
        parent = event.get("parent_run_id")
        with self._lock:
            outer = self._scopes.get(parent) if parent else None
            inner = _is_internal(event) or (outer is not None and outer.inner)
            self._scopes[run_id] = Scope(parent, next(self._clock), inputs, inner)
            while len(self._scopes) > MAX_SCOPES:
                self._scopes.popitem(last=False)

    def _end(self, run_id: UUID, outputs: Any = None, inputs: Any = None) -> None:
        with self._lock:
            scope = self._scopes.pop(run_id, None)
            if scope is None or scope.inner:
                return
            tick = next(self._clock)
            if isinstance(outputs, PromptValue):
                for outer in self._path(scope.parent):
                    outer.prompts.append((tick, outputs))
                    del outer.prompts[:-MAX_PROMPTS]
            parent = self._scopes.get(scope.parent) if scope.parent else None
            if parent is not None and parent.first_input is None:
                parent.first_input = scope.input if inputs is None else inputs

    def _path(self, run_id: UUID | None) -> Iterator[Scope]:
        """The run and the runs around it, nearest first."""
        while run_id is not None and (scope := self._scopes.get(run_id)) is not None:
            yield scope
            run_id = scope.parent

    def enter(self, run_id: UUID) -> None:
        """Mark a run as an aligner's own work: LLM calls in it are not the upstream."""
        with self._lock:
            if scope := self._scopes.get(run_id):
                scope.inner = True

    def on_chain_start(self, serialized: dict[str, Any], inputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A run starts."""
        self._start(run_id, kwargs, inputs)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A run ends; a streaming one reports its input only now."""
        self._end(run_id, outputs, kwargs.get("inputs"))

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A run fails or is cancelled."""
        self._end(run_id)

    def on_tool_start(self, serialized: dict[str, Any], input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool starts."""
        self._start(run_id, kwargs)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool ends."""
        self._end(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool fails."""
        self._end(run_id)

    def on_retriever_start(self, serialized: dict[str, Any], query: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever starts."""
        self._start(run_id, kwargs)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever ends."""
        self._end(run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever fails."""
        self._end(run_id)

    # LLM calls ------------------------------------------------------------------------------------------------------

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A chat model is asked."""
        if messages:
            self._call(run_id, kwargs, list(messages[0]))

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **kwargs: Any) -> None:
        """A completion model is asked. A chat prompt comes flattened; its messages are found again where possible."""
        if not prompts:
            return
        with self._lock:
            made = [
                prompt for scope in self._path(kwargs.get("parent_run_id")) for _, prompt in reversed(scope.prompts)
            ]
            whole = next((prompt for prompt in made if prompt.to_string() == prompts[0]), None)
            messages: list[BaseMessage] = [HumanMessage(prompts[0])] if whole is None else whole.to_messages()
            self._call(run_id, kwargs, messages)

    def _call(self, run_id: UUID, event: dict[str, Any], messages: list[BaseMessage]) -> None:
        if _is_internal(event):
            return
        with self._lock:
            scopes = list(self._path(event.get("parent_run_id")))
            if scopes and scopes[0].inner:
                return
            call = self._calls[run_id] = Call(messages, next(self._clock))
            for scope in scopes:
                scope.calls.append(call)
                if len(scope.calls) > MAX_CALLS:
                    del scope.calls[0]
                    scope.calls_dropped = True
            if not scopes:
                self._root_calls[run_id] = call
                while len(self._root_calls) > MAX_ROOT_CALLS:
                    self._root_calls.popitem(last=False)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """An LLM answered."""
        with self._lock:
            call = self._calls.pop(run_id, None)
            if call is None:
                return
            call.ended = next(self._clock)
            call.ids.add(f"lc_run--{run_id}")
            for generation in itertools.chain.from_iterable(response.generations):
                message = getattr(generation, "message", None)
                call.note(getattr(message, "id", None), generation.text if message is None else text_of(message))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """An LLM failed, so whatever comes later is not its answer."""
        with self._lock:
            if call := self._calls.pop(run_id, None):
                call.failed = True
                self._root_calls.pop(run_id, None)

    # Look-up --------------------------------------------------------------------------------------------------------

    def find(self, answer: str | BaseMessage, run_id: UUID | None) -> Found:
        """Find what led to an answer.

        Args:
            answer: An answer as some step of a chain hands it on.
            run_id: The run in which that happens: the parent of the run that asks.

        Raises:
            QuestionNotFoundError: Nothing leads to the answer.
        """
        text = text_of(answer)
        with self._lock:
            path = list(self._path(run_id))
            found = self._by_id(answer.id, path) if isinstance(answer, BaseMessage) and answer.id else None
            views = [] if found else list(_views(path))
            found = found or _by_text(text, views) or _by_order(views) or _by_input(text, path)
        if found is None:
            raise QuestionNotFoundError(_NO_QUESTION)
        return found

    def _by_id(self, message_id: str, path: list[Scope]) -> Found | None:
        for calls in (*(scope.calls for scope in path), self._root_calls.values()):
            if hits := [call for call in calls if message_id in call.ids]:
                return Found("id", tuple(call.messages for call in hits), hits[-1])
        return None

    def note(self, call: Call, message_id: str | None, text: str) -> None:
        """Note a later form of a call's answer, such as its correction, so that a second aligner knows it."""
        with self._lock:
            call.note(message_id, text)

    def sizes(self) -> dict[str, int]:
        """Count what is held: runs alive, LLM calls not ended, and LLM calls outside any run."""
        with self._lock:
            return {"scopes": len(self._scopes), "calls": len(self._calls), "root_calls": len(self._root_calls)}


def _views(path: list[Scope]) -> Iterator[_View]:
    """What each run on the path offers: only what came before the run inside it on the path."""
    inside: Scope | None = None
    for scope in path:
        calls = [call for call in scope.calls if not call.failed and (inside is None or inside.follows(call))]
        prompts = [made for made in scope.prompts if inside is None or made[0] < inside.started]
        yield _View(calls, not scope.calls_dropped, prompts)
        inside = scope


def _by_text(text: str, views: list[_View]) -> Found | None:
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
            return Found(how, tuple(call.messages for call in hits), hits[-1], complete=view.complete)
        nearest = False
    return None


def _by_order(views: list[_View]) -> Found | None:
    """The text was rewritten on the way, or no LLM call was seen: take what the nearest run did last."""
    for place, view in enumerate(views):
        calls = [call for call in view.calls if call.ended is not None] or view.calls
        # A prompt newer than any LLM call went somewhere else: a cached completion, a remote chain, an own HTTP call.
        if view.prompts and (not calls or view.prompts[-1][0] > calls[-1].started):
            return Found("prompt", tuple(prompt.to_messages() for _, prompt in view.prompts), ordered=True)
        if calls:
            *before, last = calls
            ordered = all(call.ended is not None and call.ended < last.started for call in before)
            how: How = "latest" if place else "only"
            return Found(how, tuple(call.messages for call in calls), last, ordered, view.complete)
    return None


def _by_input(text: str, path: list[Scope]) -> Found | None:
    for scope in path:
        for value in (scope.input, scope.first_input):
            messages = as_messages(value)
            # A run that is handed the answer tells nothing about the question.
            if messages and not any(_core(text_of(message)) == _core(text) for message in messages):
                return Found("chain_input", (messages,))
    return None


def _is_internal(event: dict[str, Any]) -> bool:
    return INTERNAL_TAG in (event.get("tags") or ())


def _core(text: str) -> str:
    return " ".join(text.split()).casefold()


def _near(a: str, b: str) -> bool:
    return (a in b or b in a) and min(len(a), len(b)) >= MIN_NEAR


def _recorder() -> UpstreamRecorder:
    return RECORDER


RECORDER = UpstreamRecorder()
"""The one recorder of this process."""

# The default puts it into every thread, task and context, including those that exist already.
_hook: ContextVar[UpstreamRecorder | None] = ContextVar("aligner_upstream", default=RECORDER)
_install_lock = threading.Lock()
_installed = False


def install() -> None:
    """Make the recorder part of every callback manager from now on. Safe to call again: hooks cannot be removed."""
    global _installed
    with _install_lock:
        if not _installed:
            register_configure_hook(_hook, inheritable=True)
            _installed = True
