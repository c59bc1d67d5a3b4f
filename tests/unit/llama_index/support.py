"""Upstreams, an aligner and a tracer that the tests of this folder share. No weights, no network."""

import asyncio
import itertools
import sys
from typing import Any

from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import CitationBlock
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.evaluation import BaseEvaluator, EvaluationResult
from llama_index.core.llms import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseGen,
    CustomLLM,
    LLMMetadata,
    TextBlock,
)
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend

TEXTUAL = [Response, StreamingResponse, AsyncStreamingResponse]
TEMPLATE = "Q={question};A={answer};"
QUESTION = "Is it?"
DRAFT = "It is a bad idea."
FIXED = "It is a good idea."


def question_in(prompt: str) -> str:
    return prompt.removeprefix("Q=").partition(";A=")[0]


def mend(prompt: str) -> str:
    """The correction: the answer with "bad" made "good"."""
    return prompt.partition(";A=")[2].removesuffix(";").replace("bad", "good")


class Recorder:
    """A `fn` for FakeBackend that keeps the prompts it saw."""

    def __init__(self, fn=mend):
        self.fn, self.prompts = fn, []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return self.fn(prompt)

    @property
    def questions(self) -> list[str]:
        return [question_in(prompt) for prompt in self.prompts]


def make_aligner(fn=mend, **options: Any) -> Aligner:
    return Aligner(backend=FakeBackend(fn), template=TEMPLATE, **options)


def fail(prompt: str) -> str:
    raise RuntimeError("the aligner is down")


class ScriptedLLM(CustomLLM):
    """Answers everything alike, streams by words, and keeps the prompts it saw."""

    reply: str = DRAFT
    prompts: list[str] = []  # noqa: RUF012 - a pydantic field, copied for each instance

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.prompts.append(prompt)
        return CompletionResponse(text=self.reply)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        self.prompts.append(prompt)

        def pieces():
            text = ""
            for word in self.reply.split(" "):
                delta = f" {word}" if text else word
                text += delta
                yield CompletionResponse(text=text, delta=delta)

        return pieces()


def make_index() -> VectorStoreIndex:
    """A real index in memory."""
    documents = [Document(text=f"Fact {i}: the sky is blue.", metadata={"file": f"{i}.txt"}) for i in range(3)]
    return VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4))


def make_nodes() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text=f"Fact {i}", id_=f"n{i}", metadata={"page": i}), score=i / 7) for i in (1, 2)
    ]


class Engine(BaseQueryEngine):
    """Returns what `make(query)` makes, and keeps both the queries and the very objects it returned."""

    def __init__(self, make):
        super().__init__(None)
        self.make, self.queries, self.returned = make, [], []

    def _get_prompt_modules(self):
        return {}

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        self.queries.append(query_bundle.query_str)
        self.returned.append(self.make(query_bundle))
        return self.returned[-1]

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return self._query(query_bundle)


class Kept(BaseQueryEngine):
    """Passes on what another engine returns, and keeps those very objects."""

    def __init__(self, engine: BaseQueryEngine):
        super().__init__(None)
        self.engine, self.returned = engine, []

    def _get_prompt_modules(self):
        return {}

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        self.returned.append(self.engine.query(query_bundle))
        return self.returned[-1]

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        self.returned.append(await self.engine.aquery(query_bundle))
        return self.returned[-1]


class Verdicts(BaseEvaluator):
    """Passes or fails answers in a given order, and keeps the answers it judged."""

    def __init__(self, *verdicts, feedback="no"):
        self.verdicts, self.feedback, self.judged = list(verdicts), feedback, []

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    def evaluate_response(self, query=None, response=None, **kwargs):
        self.judged.append(response.response)
        passing = self.verdicts.pop(0)
        return EvaluationResult(query=query, response=response.response, passing=passing, feedback=self.feedback)

    async def aevaluate(self, *args, **kwargs):
        raise NotImplementedError


def pieces_of(*pieces: str, seen: list[str] | None = None, then: Exception | None = None):
    for piece in pieces:
        if seen is not None:
            seen.append(piece)
        yield piece
    if then is not None:
        raise then


async def apieces_of(*pieces: str, seen: list[str] | None = None, then: Exception | None = None):
    for piece in pieces_of(*pieces, seen=seen, then=then):
        await asyncio.sleep(0)
        yield piece


def response_of(kind: type, *pieces: str, **fields: Any):
    """A response of any of the three textual types."""
    if kind is Response:
        return Response("".join(pieces), **fields)
    if kind is StreamingResponse:
        return StreamingResponse(pieces_of(*pieces), **fields)
    return AsyncStreamingResponse(apieces_of(*pieces), **fields)


async def read(response) -> list[str]:
    """The text of any response, in the pieces it comes in."""
    if isinstance(response, StreamingResponse):
        return list(response.response_gen)
    if isinstance(response, AsyncStreamingResponse):
        return [piece async for piece in response.async_response_gen()]
    return [response.response]


class LoopWatch:
    """Counts the most function calls that one callback made on the event loop.

    Calls and not seconds, which say more of the machine than of the callback. Callbacks here make 26,000 at most; what
    would block the loop makes more than `MOST` (see `work`), the diff of a long answer nine millions.
    """

    MOST = 100_000

    def __enter__(self):
        self.calls = 0
        self._run = run = asyncio.Handle._run

        def counted(handle):
            self._end()
            self._begin()
            try:
                run(handle)
            finally:
                self._end()

        asyncio.Handle._run = counted
        self._begin()  # the callback that this happens in
        return self

    def __exit__(self, *error):
        self._end()
        asyncio.Handle._run = self._run

    def _begin(self):
        self._counted = count = itertools.count()
        sys.setprofile(lambda *_: next(count))

    def _end(self):
        sys.setprofile(None)
        self.calls = max(self.calls, next(self._counted))

    @property
    def blocked(self) -> bool:
        return self.calls > self.MOST


def work() -> None:
    """Do more than a callback of the event loop may."""
    for _ in range(LoopWatch.MOST):
        abs(0)


class FunctionLLM(FunctionCallingLLM):
    """Says its messages one after the other, streamed by words, and keeps what it was sent."""

    replies: list[ChatMessage]
    seen: list[list[ChatMessage]] = []  # noqa: RUF012 - a pydantic field, copied for each instance

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="functions", is_chat_model=True, is_function_calling_model=True)

    def _next(self, messages) -> ChatMessage:
        self.seen.append(list(messages))
        return self.replies[min(len(self.seen), len(self.replies)) - 1]

    def chat(self, messages, **kwargs: Any) -> ChatResponse:
        message = self._next(messages)
        return ChatResponse(message=message, raw={"text": message.content}, additional_kwargs={"total_tokens": 3})

    def stream_chat(self, messages, **kwargs: Any) -> ChatResponseGen:
        message = self._next(messages)

        def pieces():
            shown = ""
            for word in (message.content or "").split(" "):
                delta = f" {word}" if shown else word
                shown += delta
                update = {"blocks": [TextBlock(text=shown)]}
                yield ChatResponse(message=message.model_copy(update=update), delta=delta, raw={"text": shown})

        return pieces()

    async def achat(self, messages, **kwargs: Any) -> ChatResponse:
        return self.chat(messages, **kwargs)

    async def astream_chat(self, messages, **kwargs: Any) -> ChatResponseAsyncGen:
        async def pieces():
            for piece in self.stream_chat(messages, **kwargs):
                yield piece

        return pieces()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=DRAFT)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any):
        raise NotImplementedError

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=DRAFT)

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any):
        raise NotImplementedError

    def _prepare_chat_with_tools(self, tools, user_msg=None, chat_history=None, **kwargs: Any) -> dict[str, Any]:
        messages = list(chat_history or [])
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role="user", content=user_msg)
        return {"messages": [*messages, *([user_msg] if user_msg else [])], "tools": [t.metadata.name for t in tools]}

    def get_tool_calls_from_response(self, response, error_on_no_tool_call=True, **kwargs: Any) -> list[ToolSelection]:
        return [ToolSelection(**call) for call in response.message.additional_kwargs.get("tool_calls", [])]


def cite(title: str) -> CitationBlock:
    return CitationBlock(title=title, source=title, cited_content=TextBlock(text=title), additional_location_info={})


def blocks_of(message: ChatMessage) -> list[str]:
    """What a message shows, block by block: a text, a citation's title, or the kind of a block."""
    return [
        block.text if block.block_type == "text" else f"<{getattr(block, 'title', block.block_type)}>"
        for block in message.blocks
    ]


def says(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


def calls(tool: str, text: str = "", **arguments: Any) -> ChatMessage:
    call = {"tool_id": "1", "tool_name": tool, "tool_kwargs": arguments}
    return ChatMessage(role="assistant", content=text, additional_kwargs={"tool_calls": [call]})
