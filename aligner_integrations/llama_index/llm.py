"""`AlignerLLM` and `AlignerFunctionCallingLLM`: an LLM whose answers are corrected, for what takes an LLM and no engine.

What lives elsewhere: agents that run on an unwrapped LLM (`agent.py`), and the policy (`Aligner`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import Field, SerializeAsAny
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM, ToolSelection
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import TokenAsyncGen, TokenGen

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index.citations import Citations
from aligner_integrations.llama_index.corrector import Corrector, aligner_from
from aligner_integrations.llama_index.messages import answer_in, calls_tools, with_correction, with_text
from aligner_integrations.llama_index.prompts import asks_for_no_answer, question_in
from aligner_integrations.llama_index.question import last_question
from aligner_integrations.llama_index.response import METADATA_KEY


class AlignerLLM(LLM):
    """Wraps an LLM and corrects its answers; for chat, agents and your own code. For RAG prefer `AlignerQueryEngine`.

    Corrected: `chat`, and `predict` for prompts that hold the user's question (`query_str`), in sync, async and streamed.
    Left alone: `complete` (engines condense questions with it), prompts with an output parser, LlamaIndex's own prompts
    that want no answer (SQL, synonyms, sub-questions, facts for a memory, its evaluators' verdicts), structured predictions,
    and messages that call tools. The question of a chat is the user's last message; if that has no words, such as an image
    alone, the answer is left alone (`no_question`). The record is in the response's `additional_kwargs["aligner"]`.

    What was thought is not corrected. It stays in the message, and in a stream its `thinking_delta`s come before the
    corrected answer, once that is known not to be blocked: of a blocked answer no thought is shown either.
    What the wrapped LLM has beyond every LLM (`model`, `temperature`) is read and set through this one.

    Give judges with prompts of your own and `ReActAgent` the bare LLM: their verdicts and thoughts would be corrected, too.
    For agents there are `AlignerFunctionAgent` and `AlignerReActAgent`. In refining response modes each intermediate
    answer is corrected.

    Example:
        >>> Settings.llm = AlignerLLM(llm=llm, aligner=aligner)

    Args:
        llm: What answers. One that calls functions goes into `AlignerFunctionCallingLLM`; `with_aligner` picks.
        aligner: Corrects its answers. Default: `Aligner(**options)`.
        citations: What becomes of citation markers: `"keep"`, `"drop"` or `"original_if_lost"`; see `align_response`.
        include_original: Also put the upstream's text into the record, and keep the upstream's raw response.
        **options: For `Aligner`, instead of `aligner`.

    Raises:
        ConfigurationError: Both an aligner and options, or an LLM of the other kind.
    """

    llm: SerializeAsAny[LLM]
    aligner: Aligner = Field(exclude=True)
    citations: Citations = "keep"
    include_original: bool = False

    def __init__(
        self,
        llm: LLM,
        aligner: Aligner | None = None,
        *,
        citations: Citations = "keep",
        include_original: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(llm, LLM):
            raise ConfigurationError(f"{type(self).__name__} wraps an LLM of LlamaIndex, got {type(llm).__name__}.")
        if isinstance(llm, StructuredLLM):
            raise ConfigurationError(
                "A StructuredLLM answers in data, which is not aligned. Where one of its fields is the answer, put "
                "AlignerQueryEngine(engine, pydantic_field=...) around the query engine that uses it."
            )
        # Agents decide by the class and by the metadata whether an LLM calls functions, so both have to be right.
        if isinstance(llm, FunctionCallingLLM) != isinstance(self, FunctionCallingLLM):
            other = "AlignerFunctionCallingLLM" if isinstance(llm, FunctionCallingLLM) else "AlignerLLM"
            raise ConfigurationError(
                f"{type(llm).__name__} goes into {other}, not {type(self).__name__}; with_aligner(llm, aligner) picks."
            )
        corrector = Corrector(aligner_from(aligner, **options), citations, include_original, question_from="message")
        # As a dict: to a type checker the base class has no such fields.
        fields: dict[str, Any] = {
            "llm": llm,
            "aligner": corrector.aligner,
            "citations": citations,
            "include_original": include_original,
        }
        super().__init__(
            **fields,
            callback_manager=llm.callback_manager,
            system_prompt=llm.system_prompt,
            messages_to_prompt=llm.messages_to_prompt,
            completion_to_prompt=llm.completion_to_prompt,
            output_parser=llm.output_parser,
            pydantic_program_mode=llm.pydantic_program_mode,
        )

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises this class."""
        return "aligner_llm"

    @property
    def _corrector(self) -> Corrector:
        # BaseComponent leaves out of a pickle what cannot be pickled, so the attribute itself may be missing.
        aligner = getattr(self, "aligner", None)
        if aligner is None:
            raise ConfigurationError(
                f"This {type(self).__name__} has no aligner: it was restored from a pickle, which could not hold it. Set its "
                ".aligner."
            )
        return Corrector(aligner, self.citations, self.include_original, question_from="message")

    @property
    def metadata(self) -> LLMMetadata:
        """The wrapped LLM's metadata."""
        return self.llm.metadata

    def __getattr__(self, name: str) -> Any:
        """Hand on what the wrapped LLM has beyond every LLM, such as its model and temperature."""
        try:
            return super().__getattr__(name)  # type: ignore[misc]  # pydantic hides it from type checkers
        except AttributeError:
            # Not what is private or this class's own: copy and pickle ask for it before there is an LLM.
            if name.startswith("_") or name in type(self).model_fields or "llm" not in self.__dict__:
                raise
            return getattr(self.llm, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Hand on what every LLM has, such as the callback manager that engines assign, and what only the wrapped one has."""
        own = name.startswith("_") or name in type(self).model_fields
        if own:
            super().__setattr__(name, value)
        if not own or name in LLM.model_fields:
            setattr(self.llm, name, value)

    # Chat -------------------------------------------------------------------------------------------------------------
    # Without LlamaIndex's callback decorators: the wrapped LLM has them, and tokens would be counted twice.

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer, corrected."""
        draft = self.llm.chat(messages, **kwargs)
        if self._calls_tools(draft) or asks_for_no_answer(messages):
            return draft
        return self._aligned(draft, *self._corrector.recorded(last_question(messages), answer_in(draft.message)))

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat` without blocking the event loop."""
        draft = await self.llm.achat(messages, **kwargs)
        if self._calls_tools(draft) or asks_for_no_answer(messages):
            return draft
        return self._aligned(draft, *await self._corrector.arecorded(last_question(messages), answer_in(draft.message)))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer; the aligner's own pieces are streamed once the upstream's answer is complete."""
        upstream = self.llm.stream_chat(messages, **kwargs)
        return upstream if asks_for_no_answer(messages) else self._chunks(last_question(messages), upstream)

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """`stream_chat` without blocking the event loop."""
        upstream = await self.llm.astream_chat(messages, **kwargs)
        return upstream if asks_for_no_answer(messages) else self._achunks(last_question(messages), upstream)

    def _chunks(self, question: str, upstream: ChatResponseGen) -> ChatResponseGen:
        drafts = []
        with self.aligner.prefill(question) as prefill:
            for draft in upstream:
                drafts.append(draft)
                prefill.feed(draft.delta or "")
            if not drafts or self._calls_tools(drafts[-1]):
                yield from drafts
                return
            shown = _Chunks(self._corrector, drafts)
            with closing(self._corrector.stream(question, answer_in(drafts[-1].message))) as pieces:
                for piece in pieces:
                    yield from shown.chunks(piece)
        correction = cast(Correction, pieces.correction)  # read to its end
        yield self._aligned(drafts[-1], correction, self._corrector.record(correction), delta="")

    async def _achunks(self, question: str, upstream: ChatResponseAsyncGen) -> ChatResponseAsyncGen:
        drafts = []
        with self.aligner.prefill(question) as prefill:
            async for draft in upstream:
                drafts.append(draft)
                prefill.feed(draft.delta or "")
            if not drafts or self._calls_tools(drafts[-1]):
                for draft in drafts:
                    yield draft
                return
            shown = _Chunks(self._corrector, drafts)
            async with aclosing(self._corrector.astream(question, answer_in(drafts[-1].message))) as pieces:
                async for piece in pieces:
                    for chunk in shown.chunks(piece):
                        yield chunk
        correction = cast(Correction, pieces.correction)  # read to its end
        yield self._aligned(drafts[-1], correction, await self._corrector.arecord(correction), delta="")

    def _calls_tools(self, response: ChatResponse) -> bool:
        return calls_tools(response.message)

    def _aligned(
        self, draft: ChatResponse, correction: Correction, record: dict[str, Any], delta: str | None = None
    ) -> ChatResponse:
        kept = draft.additional_kwargs.items()
        if correction.blocked:
            kept = {name: value for name, value in kept if isinstance(value, int)}.items()  # counts have no words
        quotes = self.include_original or not correction.changed
        return draft.model_copy(
            update={
                "message": with_correction(draft.message, correction, self.citations, record),
                "delta": delta,
                "raw": draft.raw if quotes else None,
                "logprobs": draft.logprobs if quotes else None,
                # A thought was in a chunk of its own.
                "additional_kwargs": {n: v for n, v in kept if n != "thinking_delta"} | {METADATA_KEY: record},
            }
        )

    # Prompts: the way of query engines --------------------------------------------------------------------------------

    def predict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Answer a prompt, corrected if it holds the user's question."""
        text = self.llm.predict(prompt, **prompt_args)
        question = self._question_in(prompt, prompt_args)
        return text if question is None else self._corrector.correct(question, text).text

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """`predict` without blocking the event loop."""
        text = await self.llm.apredict(prompt, **prompt_args)
        question = self._question_in(prompt, prompt_args)
        return text if question is None else (await self._corrector.acorrect(question, text)).text

    def stream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenGen:
        """`predict` as a stream."""
        upstream = self.llm.stream(prompt, **prompt_args)
        question = self._question_in(prompt, prompt_args)
        return upstream if question is None else self._pieces(question, upstream)

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """`apredict` as a stream."""
        upstream = await self.llm.astream(prompt, **prompt_args)
        question = self._question_in(prompt, prompt_args)
        return upstream if question is None else self._apieces(question, upstream)

    def _pieces(self, question: str, upstream: TokenGen) -> TokenGen:
        with self.aligner.prefill(question) as prefill:
            draft = "".join(prefill.through(upstream))
            with closing(self._corrector.stream(question, draft)) as pieces:
                yield from pieces

    async def _apieces(self, question: str, upstream: TokenAsyncGen) -> TokenAsyncGen:
        with self.aligner.prefill(question) as prefill:
            draft = "".join([piece async for piece in prefill.athrough(upstream)])
            async with aclosing(self._corrector.astream(question, draft)) as pieces:
                async for piece in pieces:
                    yield piece

    def _question_in(self, prompt: BasePromptTemplate, prompt_args: dict[str, Any]) -> str | None:
        return question_in(prompt, prompt_args) if self.llm.output_parser is None else None

    # What is the wrapped LLM's, as it is ------------------------------------------------------------------------------

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Complete a text with the wrapped LLM, uncorrected: there is no telling what in it is a question."""
        return self.llm.complete(prompt, formatted=formatted, **kwargs)

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete` without blocking the event loop."""
        return await self.llm.acomplete(prompt, formatted=formatted, **kwargs)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """`complete` as a stream."""
        return self.llm.stream_complete(prompt, formatted=formatted, **kwargs)

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """`acomplete` as a stream."""
        return await self.llm.astream_complete(prompt, formatted=formatted, **kwargs)

    def structured_predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict a structure with the wrapped LLM, uncorrected."""
        return self.llm.structured_predict(*args, **kwargs)

    async def astructured_predict(self, *args: Any, **kwargs: Any) -> Any:
        """`structured_predict` without blocking the event loop."""
        return await self.llm.astructured_predict(*args, **kwargs)

    def stream_structured_predict(self, *args: Any, **kwargs: Any) -> Any:
        """`structured_predict` as a stream."""
        return self.llm.stream_structured_predict(*args, **kwargs)

    async def astream_structured_predict(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """`astructured_predict` as a stream."""
        return await self.llm.astream_structured_predict(*args, **kwargs)

    def as_structured_llm(self, *args: Any, **kwargs: Any) -> Any:
        """Return the wrapped LLM as one that answers in structures, uncorrected."""
        return self.llm.as_structured_llm(*args, **kwargs)

    def predict_and_call(self, *args: Any, **kwargs: Any) -> Any:
        """Let the wrapped LLM choose and call a tool; what comes back is the tool's output."""
        return self.llm.predict_and_call(*args, **kwargs)

    async def apredict_and_call(self, *args: Any, **kwargs: Any) -> Any:
        """`predict_and_call` without blocking the event loop."""
        return await self.llm.apredict_and_call(*args, **kwargs)


class AlignerFunctionCallingLLM(AlignerLLM, FunctionCallingLLM):
    """`AlignerLLM` for an LLM that calls functions: its tool calls pass through as they are, its answers are corrected."""

    llm: SerializeAsAny[FunctionCallingLLM]

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises this class."""
        return "aligner_function_calling_llm"

    def _calls_tools(self, response: ChatResponse) -> bool:
        return super()._calls_tools(response) or bool(
            self.llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        )

    def _prepare_chat_with_tools_compat(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.llm._prepare_chat_with_tools_compat(*args, **kwargs)

    def _prepare_chat_with_tools(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.llm._prepare_chat_with_tools(*args, **kwargs)

    def _validate_chat_with_tools_response(self, *args: Any, **kwargs: Any) -> ChatResponse:
        return self.llm._validate_chat_with_tools_response(*args, **kwargs)

    def get_tool_calls_from_response(self, *args: Any, **kwargs: Any) -> list[ToolSelection]:
        """Return the tool calls in a response, as the wrapped LLM reads them."""
        return self.llm.get_tool_calls_from_response(*args, **kwargs)


class _Chunks:
    """The chunks of a corrected answer: what was thought before it, unless it is blocked, then the aligner's pieces."""

    def __init__(self, corrector: Corrector, drafts: Sequence[ChatResponse]) -> None:
        self._corrector = corrector
        self._drafts = drafts
        self._shown = ""
        self._blocked = False

    def chunks(self, piece: str) -> Iterator[ChatResponse]:
        if not self._shown:
            self._blocked = self._corrector.blocks(piece)
            yield from () if self._blocked else filter(None, map(_thought, self._drafts))
        self._shown += piece
        message = with_text(self._drafts[-1].message, self._shown, blocked=self._blocked)
        yield ChatResponse(message=message, delta=piece)


def _thought(draft: ChatResponse) -> ChatResponse | None:
    """What was thought in a chunk, without a word of the answer."""
    thought = draft.additional_kwargs.get("thinking_delta")
    message = with_text(draft.message, "")
    return ChatResponse(message=message, delta="", additional_kwargs={"thinking_delta": thought}) if thought else None
