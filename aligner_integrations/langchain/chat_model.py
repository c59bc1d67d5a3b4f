"""`AlignedChatModel`: a chat model whose answers have been through an aligner before anybody sees them.

What lives elsewhere: messages (`messages.py`), chunks (`chunks.py`), the answer on its way (`tasks.py`), runs and traces
(`correction_run.py`), who hears of the upstream (`callbacks.py`), and what is corrected and what is not (`aligner.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from contextvars import ContextVar
from typing import Any, cast
from uuid import uuid4

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, ensure_config
from pydantic import ConfigDict, Field, field_validator

from aligner_integrations.aligner import Aligner
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.fingerprint import fingerprint
from aligner_integrations.langchain import callbacks
from aligner_integrations.langchain.answer import told_of
from aligner_integrations.langchain.chunks import awrite_chat, join, write_chat
from aligner_integrations.langchain.messages import reason_to_leave, text_in
from aligner_integrations.langchain.question.user import IsUser
from aligner_integrations.langchain.tasks import Picker, Reading, Results, Task, acorrect_all, correct_all, unwrap

_STRUCTURED = (  # what providers call the request for structured output
    "format",
    "output_config",
    "output_format",
    "response_format",
    "response_json_schema",
    "response_schema",
)


class AlignedChatModel(BaseChatModel):
    """A chat model and an aligner as one chat model: `AlignedChatModel(llm=ChatOpenAI(...), aligner=Aligner())`.

    Goes wherever a chat model goes: into chains, agents (`create_agent(model=...)`), LangGraph nodes. It knows what was
    asked, so nothing is guessed and no hook is needed. Streams hold the upstream back and give out the aligner's own words
    as it writes them; no token of the upstream reaches a stream, an event or a handler outside. Tracers show the
    upstream's call and the correction below this model's run, so an account of tokens that adds up all LLM runs of a
    trace counts the upstream's twice.

    Tool calls, refusals, structured output, answers without text, and answers to a message of the user without words are left
    alone; `with_structured_output` is the upstream's own. A message keeps everything but its text, and carries what happened as
    `response_metadata["aligner"]`; of a blocked answer nothing is left.

    A cache (`cache=`, or LangChain's global one) holds aligned answers, and the upstream has its own: with `cache=False` here
    the upstream still answers from the global cache, unless it is made with `cache=False` as well.

    Args:
        llm: The upstream.
        aligner: The aligner. Default: `Aligner()`.
        question: Picks the question from the messages. Default: the user's last message.
        is_user: Whether a human message is the user's, for programs' messages without a mark.
        include_original: Also put the uncorrected text into the record.
        keep_reasoning: Whether an answer that the aligner has read, changed or not, keeps what its LLM thought, which it has not.

    Raises:
        QuestionNotFoundError: When called: there is no text in the messages to take as the question.
        AlignerError: When called, as the aligner's `on_error`, `on_overflow` and `on_reject` say.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    llm: BaseChatModel
    aligner: Aligner = Field(default_factory=Aligner, exclude=True)
    question: Picker | None = Field(default=None, exclude=True)
    is_user: IsUser | None = Field(default=None, exclude=True)
    include_original: bool = False
    keep_reasoning: bool = True

    @field_validator("llm", mode="before")
    @classmethod
    def _is_chat_model(cls, llm: Any) -> Any:
        if not isinstance(llm, BaseChatModel):
            raise ConfigurationError(
                f"llm must be a chat model, got {type(llm).__name__}. What goes around a model goes around this one: "
                "AlignedChatModel(llm=a).with_fallbacks([AlignedChatModel(llm=b)]), and likewise .bind(...), .with_retry(...) "
                "and .configurable_alternatives(...)."
            )
        return llm

    # The answer -----------------------------------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with callbacks.unheard():
            config = callbacks.tracers_inside(run_manager, CallbackManager([]))
            said = self.llm.generate([messages], stop, config["callbacks"], **kwargs)
        tasks = self._tasks(messages, said, kwargs, run_manager)
        return _result(said, tasks, correct_all(self.aligner, tasks, {}))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with callbacks.unheard():
            config = callbacks.tracers_inside(run_manager, AsyncCallbackManager([]))
            said = await self.llm.agenerate([messages], stop, config["callbacks"], **kwargs)
        tasks = self._tasks(messages, said, kwargs, run_manager)
        return _result(said, tasks, await acorrect_all(self.aligner, tasks, {}))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        run = run_manager or _stream_run.get()
        with self.aligner.prefill(lambda: self._likely_question(messages, kwargs)) as prefill:
            held = []
            with callbacks.unheard():
                config = callbacks.tracers_inside(run, CallbackManager([]))
                for piece in self.llm.stream(messages, config, stop=stop, **kwargs):
                    held.append(piece)
                    prefill.feed(text_in(piece))
            task = self._task(messages, _own(join(held)), kwargs, run)
            yield from write_chat(self.aligner, task, Task.corrected, run_manager)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        run = run_manager or _stream_run.get()
        with self.aligner.prefill(lambda: self._likely_question(messages, kwargs)) as prefill:
            held = []
            with callbacks.unheard():
                config = callbacks.tracers_inside(run, AsyncCallbackManager([]))
                async for piece in self.llm.astream(messages, config, stop=stop, **kwargs):
                    held.append(piece)
                    prefill.feed(text_in(piece))
            task = self._task(messages, _own(join(held)), kwargs, run)
            async with aclosing(awrite_chat(self.aligner, task, Task.corrected, run_manager)) as chunks:
                async for chunk in chunks:
                    yield chunk

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Yield the corrected answer as the aligner writes it; adding up the chunks gives what `invoke` returns."""
        config = _with_run_id(config)
        run = callbacks.run_of_stream(config, self.callbacks)
        with closing(cast("Generator[AIMessageChunk]", super().stream(input, config, stop=stop, **kwargs))) as chunks:
            while True:
                with callbacks.holding(_stream_run, run):
                    chunk = next(chunks, None)
                if chunk is None:
                    return
                yield chunk

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """`stream` without blocking the event loop; closing it stops the aligner."""
        config = _with_run_id(config)
        run = callbacks.run_of_stream(config, self.callbacks)
        inner = cast("AsyncGenerator[AIMessageChunk]", super().astream(input, config, stop=stop, **kwargs))
        async with aclosing(inner) as chunks:
            while True:
                with callbacks.holding(_stream_run, run):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                yield chunk

    # Steps shared by the paths above --------------------------------------------------------------------------------

    def _likely_question(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> str | None:
        """The question, if its answer will be corrected as far as is known; nothing hangs on it."""
        if _asked_for_data(kwargs):
            return None
        try:
            return self._reading.picked(messages) or None
        except Exception:  # noqa: BLE001 - `_task` will meet it again, and raise it
            return None

    @property
    def _reading(self) -> Reading:
        return Reading(self.question, self.is_user, self.include_original, self.keep_reasoning)

    def _task(
        self, messages: list[BaseMessage], answer: AIMessage, kwargs: dict[str, Any], run: callbacks.Run | None
    ) -> Task:
        reason = reason_to_leave(answer) or ("structured" if _asked_for_data(kwargs) else None)
        return self._reading.task_of(answer, messages, run, reason)

    def _tasks(
        self, messages: list[BaseMessage], said: LLMResult, kwargs: dict[str, Any], run: callbacks.Run | None
    ) -> list[Task]:
        answers = [_own(cast("ChatGeneration", generation).message) for generation in said.generations[0]]
        return [self._task(messages, answer, kwargs, run) for answer in answers]

    # What is the upstream's own -------------------------------------------------------------------------------------

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools as the upstream does.

        Raises:
            NotImplementedError: The upstream cannot, or does it in a way that cannot be passed on.
        """
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        bound = self.llm.bind_tools(tools, **kwargs)
        if isinstance(bound, BaseChatModel):
            return self._over(bound)
        if isinstance(bound, RunnableBinding) and isinstance(bound.bound, BaseChatModel):
            return cast("Runnable[LanguageModelInput, AIMessage]", self._over(bound.bound).bind(**bound.kwargs))
        raise NotImplementedError(
            f"{type(self.llm).__name__}.bind_tools returns a {type(bound).__name__}, and only a chat model, or what is bound "
            "to one, can stand in an AlignedChatModel."
        )

    def _over(self, llm: BaseChatModel) -> AlignedChatModel:
        return self if llm is self.llm else self.model_copy(update={"llm": llm})

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Runnable[LanguageModelInput, Any]:
        """Return the upstream's own structured output: data for a program, which is not aligned."""
        return self.llm.with_structured_output(schema, **kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """Return the upstream's tokens of a text."""
        return self.llm.get_token_ids(text)

    def get_num_tokens(self, text: str) -> int:
        """Return how many of the upstream's tokens a text has."""
        return self.llm.get_num_tokens(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Return how many of the upstream's tokens messages have."""
        return self.llm.get_num_tokens_from_messages(messages, tools)

    @property
    def model_name(self) -> str | None:
        """The upstream's model; `create_agent` chooses by it how to ask for structured output."""
        names = (getattr(self.llm, key, None) for key in ("model_name", "model", "model_id"))
        return next((name for name in names if isinstance(name, str)), None)

    def _combine_llm_outputs(self, outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        # A stream has none, which an upstream that cannot stream need not know of.
        told: list[dict[str, Any] | None] = [output for output in outputs if output]
        return self.llm._combine_llm_outputs(told) if told else {}

    def _resolve_model_profile(self) -> Any:
        return self.llm.profile

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self.llm._get_ls_params(stop=stop, **kwargs)

    # What names it --------------------------------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return f"aligned-{self.llm._llm_type}"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"llm": dict(self.llm._identifying_params), "aligner": self.aligner.fingerprint}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The cache's key: one upstream with two aligners gives two answers."""
        own = [self.aligner.fingerprint, fingerprint(self._reading)]
        return f"{self.llm._get_llm_string(stop=stop, **kwargs)}---{own}"


# Tells `_stream` its run, for one step: between two chunks the context is that of whoever reads the stream.
_stream_run: ContextVar[CallbackManagerForLLMRun | None] = ContextVar("aligned_stream", default=None)


def _with_run_id(config: RunnableConfig | None) -> RunnableConfig:
    config = ensure_config(config)
    return {**config, "run_id": config.get("run_id") or uuid4()}


def _asked_for_data(kwargs: dict[str, Any]) -> bool:
    return any(kwargs.get(name) is not None for name in _STRUCTURED)


def _result(said: LLMResult, tasks: list[Task], corrections: Results) -> ChatResult:
    """The upstream's generations with their answers corrected, and what it told of all of them."""
    generations = []
    told = said.llm_output or None
    for generation, task, result in zip(said.generations[0], tasks, corrections, strict=True):
        correction = unwrap(result)
        info = generation.generation_info
        message = cast("AIMessage", task.corrected(correction))
        generations.append(ChatGeneration(message=message, generation_info=info and told_of(info, correction)))
        told = told and told_of(told, correction)
    return ChatResult(generations=generations, llm_output=told)


def _own(answer: Any) -> AIMessage:
    """The answer without an id that LangChain made of the upstream's run: this model's run gives its own."""
    message = cast("AIMessage", answer)
    return message.model_copy(update={"id": None}) if (message.id or "").startswith("lc_run-") else message
