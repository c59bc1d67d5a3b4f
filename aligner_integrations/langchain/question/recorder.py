"""Records what LLMs are asked, so that a later step of the chain finds the question that led to an answer.

In `prompt | llm | AlignerRunnable()` the last step is handed the answer and nothing else. But every run of LangChain
and LangGraph reports to callback handlers, so one process-wide handler, `RECORDER`, keeps the tree of the runs that
are alive, and notes each LLM call in every run around it. A step knows the run it is in, and looks there first, then
further out, as far as the answer was handed in: what a run was not given was made inside it. Look-up goes by run id, never
by thread or context, so concurrent chains cannot be mixed up; where several questions fit equally well, that is an error.

The hook can be switched off: for a process by the environment variable `ALIGNER_NO_UPSTREAM=1`, for some code by
`with disabled():`, for a runnable by `hook=False`. `AlignerRunnable.after(chain)` finds the question without it.

What lives elsewhere: what is kept of a run (`run_tree.py`), which question fits an answer (`matching.py`), answers given
together with their question (`messages.py`), and the step itself (`runnable.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.tracers.context import register_configure_hook

from aligner_integrations.backends.base import INTERNAL_TAG
from aligner_integrations.errors import QuestionNotFoundError
from aligner_integrations.forking import Lock
from aligner_integrations.langchain.answer import text_of
from aligner_integrations.langchain.callbacks import holding
from aligner_integrations.langchain.question import matching
from aligner_integrations.langchain.question.matching import Found, made_for
from aligner_integrations.langchain.question.run_tree import BRANCH, STEP, Call, Made, Scope, opens

SWITCH = "ALIGNER_NO_UPSTREAM"
"""The environment variable that keeps the process-wide hook from being installed."""

MAX_SCOPES = 100_000  # backstop against runs whose end is never reported, such as streams abandoned at exit
MAX_CALLS = 4096  # LLM calls noted in one run
MAX_ROOT_CALLS = 512  # LLM calls outside any run, for `aligner.invoke(llm.invoke(question))`
MAX_PROMPTS = 8  # prompts noted in one run

_NO_QUESTION = (
    "No question was found for this answer: no LLM call, prompt or chain input leads to it. Put the aligner into the "
    "same chain as the LLM, hand on the AIMessage instead of its text, or pass {'question': ..., 'answer': ...}. Where "
    "the process-wide hook is switched off, AlignerRunnable(...).after(chain) finds the question without it."
)


class UpstreamRecorder(BaseCallbackHandler):
    """Follows the runs of this process; see the module's docstring. Thread-safe, and bounded in memory."""

    run_inline = True  # an asynchronous manager would otherwise hop to a thread for every event
    raise_error = False
    ignore_retry = True
    ignore_custom_event = True

    def __init__(self) -> None:
        self._lock = Lock(threading.RLock)
        self._clock = itertools.count(1)
        self._scopes: OrderedDict[UUID, Scope] = OrderedDict()
        self._root_calls: OrderedDict[UUID, Call] = OrderedDict()
        # Weak, because a cancelled LLM call reports no end: it goes when the runs around it go.
        self._calls: WeakValueDictionary[UUID, Call] = WeakValueDictionary()

    def __deepcopy__(self, memo: Any) -> UpstreamRecorder:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_recorder if self is RECORDER else UpstreamRecorder, ())

    # Runs -----------------------------------------------------------------------------------------------------------

    def _start(self, run_id: UUID, event: dict[str, Any], inputs: Any = None) -> None:
        parent = event.get("parent_run_id")
        with self._lock:
            outer = self._scopes.get(parent) if parent else None
            inner = _is_internal(event) or (outer is not None and outer.inner)
            self._scopes[run_id] = Scope(parent, next(self._clock), inputs, inner, _place(event))
            while len(self._scopes) > MAX_SCOPES:
                self._scopes.popitem(last=False)

    def _end(self, run_id: UUID, outputs: Any = None, inputs: Any = None) -> None:
        with self._lock:
            scope = self._scopes.pop(run_id, None)
            if scope is None or scope.inner:
                return
            tick = next(self._clock)
            if isinstance(outputs, PromptValue):
                made = Made(tick, outputs, scope.input if inputs is None else inputs)
                for outer in self._path(scope.parent):
                    outer.prompts.append(made)
                    del outer.prompts[:-MAX_PROMPTS]
            # A run that streams tells its input when it is over. Its first step, over earlier, was given the same.
            if (outside := self._scopes.get(scope.parent) if scope.parent else None) is not None:
                given = scope.input if inputs is None else inputs
                if outside.first_input is None:
                    outside.first_input = given
                if opens(scope.place) and outside.known_input is None:
                    outside.known_input = given

    def _path(self, run_id: UUID | None) -> Iterator[Scope]:
        """The run and the runs around it, nearest first.

        A text is looked up nowhere else, so another user's chain is never seen, whichever thread or task either is in.
        """
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
            made = [one for scope in self._path(kwargs.get("parent_run_id")) for one in reversed(scope.prompts)]
            whole = next((one.prompt for one in made if one.prompt.to_string() == prompts[0]), None)
            messages: list[BaseMessage] = [HumanMessage(prompts[0])] if whole is None else whole.to_messages()
            self._call(run_id, kwargs, messages)

    def _call(self, run_id: UUID, event: dict[str, Any], messages: list[BaseMessage]) -> None:
        if _is_internal(event):
            return
        with self._lock:
            scopes = list(self._path(event.get("parent_run_id")))
            if scopes and scopes[0].inner:  # the aligner's own LLM or judge is not who said the answer
                return
            made = made_for(messages, scopes)
            place = _place(event)
            # For each run around the call the step or branch below it that leads here: so branches are told apart.
            places = {scope.started: at for scope, at in zip(scopes, [place, *(s.place for s in scopes)], strict=False)}
            call = Call(messages, made.given if made else None, next(self._clock), places)
            self._calls[run_id] = call
            if scopes and opens(place) and scopes[0].known_input is None:  # the first step is given what its run is
                scopes[0].known_input = messages
            for scope in scopes:
                scope.calls.append(call)
                if len(scope.calls) > MAX_CALLS:
                    del scope.calls[0]
                    scope.calls_dropped = True  # one of them may have said the same, so a text alone tells no more
            if not scopes:
                self._root_calls[run_id] = call
                while len(self._root_calls) > MAX_ROOT_CALLS:
                    self._root_calls.popitem(last=False)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, chunk: Any = None, **kwargs: Any) -> None:
        """An LLM said a piece of its answer; a step may use the beginning and never read the rest."""
        if (call := self._calls.get(run_id)) is not None:
            call.spoken.append(token if chunk is None else chunk.text)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """An LLM answered."""
        with self._lock:
            if (call := self._calls.pop(run_id, None)) is not None:
                self._answered(call, run_id, response)

    def _answered(self, call: Call, run_id: UUID, response: LLMResult) -> None:
        call.ended = next(self._clock)
        call.spoken.clear()
        call.ids.add(f"lc_run--{run_id}")
        for generation in itertools.chain.from_iterable(response.generations):
            message = getattr(generation, "message", None)
            call.note(getattr(message, "id", None), generation.text if message is None else text_of(message))

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, response: LLMResult | None = None, **kwargs: Any
    ) -> None:
        """An LLM failed, so whatever comes later is not its answer; or whoever read its stream had enough."""
        with self._lock:
            if (call := self._calls.pop(run_id, None)) is None:
                return
            if response is not None and isinstance(error, GeneratorExit | asyncio.CancelledError) and call.spoken:
                self._answered(call, run_id, response)
            else:
                call.failed = True
                self._root_calls.pop(run_id, None)

    # Look-up --------------------------------------------------------------------------------------------------------

    def find(self, answer: str | BaseMessage, run_id: UUID | None, name: str | None = None) -> Found:
        """Find what led to an answer.

        Args:
            answer: An answer as some step of a chain hands it on.
            run_id: The run in which that happens: the parent of the run that asks.
            name: The variable that holds the question, if the caller knows one.

        Raises:
            QuestionNotFoundError: Nothing leads to the answer.
        """
        with self._lock:
            found = matching.find(answer, list(self._path(run_id)), self._root_calls.values(), name)
        if found is None:
            raise QuestionNotFoundError(_NO_QUESTION)
        return found

    def note(self, call: Call, message_id: str | None, text: str) -> None:
        """Note a later form of a call's answer, such as its correction, so that a second aligner knows it."""
        with self._lock:
            call.note(message_id, text)

    def sizes(self) -> dict[str, int]:
        """Count what is held: runs alive, LLM calls not ended, and LLM calls outside any run."""
        with self._lock:
            return {"scopes": len(self._scopes), "calls": len(self._calls), "root_calls": len(self._root_calls)}


def _place(event: dict[str, Any]) -> str:
    """The place of a run in the run around it, as LangChain tags it."""
    return next((tag for tag in event.get("tags") or () if tag.startswith((STEP, BRANCH))), "")


def _is_internal(event: dict[str, Any]) -> bool:
    return INTERNAL_TAG in (event.get("tags") or ())


def _recorder() -> UpstreamRecorder:
    return RECORDER


RECORDER = UpstreamRecorder()
"""The one recorder of this process."""

# The default puts it into every thread, task and context, including those that exist already.
_hook: ContextVar[UpstreamRecorder | None] = ContextVar("aligner_upstream", default=RECORDER)
_install_lock = Lock()
_installed = False


def install() -> None:
    """Make the recorder part of every callback manager from now on. Safe to call again: hooks cannot be removed."""
    global _installed
    if os.environ.get(SWITCH, "").lower() not in ("", "0", "false", "no"):
        return
    with _install_lock:
        if not _installed:
            register_configure_hook(_hook, inheritable=True)
            _installed = True


@contextmanager
def disabled() -> Iterator[None]:
    """Record nothing in this context: chains started inside are not followed."""
    with holding(_hook, None):
        yield
