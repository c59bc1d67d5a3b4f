"""Streams of LangChain's values: the upstream's chunks put together, and the corrected value given out in chunks.

What lives elsewhere: which part of a value is the answer, and how its text is replaced (`messages.py`); the aligner's
run (`correction_run.py`); who listens to a chat model's chunks (`callbacks.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables.utils import AddableDict

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.langchain import correction_run
from aligner_integrations.langchain.answer import Answer, places, thought_before, usage_of, without_offsets
from aligner_integrations.langchain.tasks import Task

_SHAPES = ("model_provider", "output_version")


def join(chunks: Sequence[Any]) -> Any:
    """Put the chunks of one value together; where that is impossible the last one counts, as in LangChain."""
    first = chunks[0]
    if len(chunks) == 1:
        return first
    if all(isinstance(chunk, str) for chunk in chunks):
        return "".join(chunks)
    if all(isinstance(chunk, AIMessageChunk) for chunk in chunks):
        return first + chunks[1:]  # at once: adding one after the other takes quadratic time
    if all(isinstance(chunk, AddableDict) for chunk in chunks):
        parts: dict[str, list[Any]] = {}
        for chunk in chunks:
            for key, value in chunk.items():
                parts.setdefault(key, []).append(value)
        return AddableDict({key: join([v for v in values if v is not None] or [None]) for key, values in parts.items()})
    if any(isinstance(chunk, BaseMessage | dict) for chunk in chunks):
        return chunks[-1]  # adding messages gives a prompt template
    try:
        whole = first
        for chunk in chunks[1:]:
            whole = whole + chunk
    except TypeError:
        return chunks[-1]
    return whole


class ChunkWriter:
    """Gives a value out piece by piece: text as it comes, everything else of the answer with the last chunk.

    Adding up the chunks gives the corrected value. Lives for one stream.

    Attributes:
        live: Whether text can be given out before the aligner is done. Not if the text is spread over several blocks:
            whether they stay is known at the end.
    """

    def __init__(self, task: Task, block_message: str) -> None:
        self._value, self._incoming = task.value, task.incoming
        answer = task.incoming.answer
        self._thought = thought_before(answer)
        self._blocks = answer.content if isinstance(answer, AIMessage) and isinstance(answer.content, list) else None
        texts = places(self._blocks or ())
        self._place = texts[0] if texts else 0
        single = len(texts) == 1 and self._blocks is not None and isinstance(self._blocks[self._place], dict)
        self.live = not task.incoming.whole and (self._blocks is None or single)
        self._block_message = block_message
        self._held = ""
        self._begun = False

    def piece(self, text: str) -> list[Any]:
        """Return the chunks for a piece of text."""
        text = self._held + text
        if not self._begun:
            # What is before the text (thoughts, searches) goes out with it, but not before what stands for a blocked answer. That
            # comes as one piece; whether it is that is known with the next one, or at the end.
            self._held = text if text == self._block_message else ""
            if self._held:
                return []
            text = self._thought + text
        answer = self._incoming.answer
        if isinstance(answer, str):
            return self._out(text)
        content: str | list[Any] = text
        if self._blocks is not None:
            content = [self._piece(text)]
            if not self._begun:
                content = [*self._blocks[: self._place], {**without_offsets(self._own), **self._piece(text)}]
        # Each chunk says whose shapes its blocks have, as those of providers' packages do, or they are read in different ways.
        told = {key: answer.response_metadata[key] for key in _SHAPES if key in answer.response_metadata}
        return self._out(AIMessageChunk(content=content, id=answer.id, name=answer.name, response_metadata=told))

    def last(self, corrected: Answer) -> list[Any]:
        """Return the chunks that complete the value, given the corrected answer."""
        if self._incoming.whole:
            return [self._incoming.put(corrected)]
        if isinstance(corrected, str):
            return [] if self._begun else self._out(corrected)
        content = corrected.content
        if not self._begun:
            return self._out(as_chunk(corrected, content))
        if isinstance(content, list):
            # What was not in the first piece: of an answer that is kept, what points at its words.
            rest = {
                key: value
                for key, value in cast("dict[str, Any]", content[self._place]).items()
                if key not in without_offsets(self._own)
            }
            content = [{**rest, **self._piece("")}, *content[self._place + 1 :]]
        else:
            content = ""
        return self._out(as_chunk(corrected, content))

    @property
    def _own(self) -> dict[str, Any]:
        """The block of the text that is streamed."""
        return cast("dict[str, Any]", (self._blocks or [{}])[self._place])

    def _piece(self, text: str) -> dict[str, Any]:
        """A piece of that block, with what its pieces are put together by: an index, and in LangChain's third protocol the id."""
        index = self._own.get("index")
        if not isinstance(index, int):
            others = [block.get("index") for block in self._blocks or () if isinstance(block, dict)]
            index = max((other for other in others if isinstance(other, int)), default=-1) + 1
        same = {"id": self._own["id"]} if "id" in self._own else {}
        return {"type": "text", "text": text, "index": index, **same}

    def _out(self, answer: Answer) -> list[Any]:
        begun, self._begun = self._begun, True
        key = self._incoming.key
        if key is None:
            return [answer]
        others = {name: value for name, value in self._value.items() if name != key}
        return [*([AddableDict(others)] if others and not begun else []), AddableDict({key: answer})]


def as_chunk(message: AIMessage, content: str | list[Any]) -> AIMessageChunk:
    """Return a message as the last chunk of its stream, with other content."""
    if isinstance(message, AIMessageChunk):
        return message.model_copy(update={"content": content, "chunk_position": "last"})
    return AIMessageChunk(
        content=content,
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        id=message.id,
        name=message.name,
        usage_metadata=usage_of(message),
        tool_calls=message.tool_calls,
        invalid_tool_calls=message.invalid_tool_calls,
        chunk_position="last",
    )


def write(
    aligner: Aligner, task: Task, fields: dict[str, Any], corrected: Callable[[Task, Correction], Answer]
) -> Generator[Any, None, None]:
    """Correct an answer and yield the chunks of its value as the aligner writes it.

    Args:
        aligner: The aligner.
        task: The answer.
        fields: The template's extra fields.
        corrected: Returns the corrected answer, given the correction.
    """
    writer = ChunkWriter(task, aligner.policy.block_message)
    correction = task.left()
    if not task.reason:
        with closing(correction_run.stream(aligner, task.work, fields)) as pieces:
            for piece in pieces:
                if isinstance(piece, Correction):
                    correction = piece
                elif writer.live:
                    yield from writer.piece(piece)
    yield from writer.last(corrected(task, correction))


async def awrite(
    aligner: Aligner, task: Task, fields: dict[str, Any], corrected: Callable[[Task, Correction], Answer]
) -> AsyncGenerator[Any, None]:
    """`write` without blocking the event loop; closing it stops the aligner."""
    writer = ChunkWriter(task, aligner.policy.block_message)
    correction = task.left()
    if not task.reason:
        async with aclosing(correction_run.astream(aligner, task.work, fields)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Correction):
                    correction = piece
                elif writer.live:
                    for chunk in writer.piece(piece):
                        yield chunk
    for chunk in writer.last(corrected(task, correction)):
        yield chunk


def write_chat(
    aligner: Aligner,
    task: Task,
    corrected: Callable[[Task, Correction], Answer],
    run: CallbackManagerForLLMRun | None,
) -> Generator[ChatGenerationChunk, None, None]:
    """`write` as a chat model streams: each chunk is told to the model's run before it is given out.

    Args:
        aligner: The aligner.
        task: The answer, a message.
        corrected: Returns the corrected message, given the correction.
        run: The model's run; None where LangChain itself tells the run.
    """
    with closing(write(aligner, task, {}, corrected)) as written:
        for message in written:
            chunk = ChatGenerationChunk(message=message)
            if run:
                run.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


async def awrite_chat(
    aligner: Aligner,
    task: Task,
    corrected: Callable[[Task, Correction], Answer],
    run: AsyncCallbackManagerForLLMRun | None,
) -> AsyncGenerator[ChatGenerationChunk, None]:
    """`write_chat` without blocking the event loop; closing it stops the aligner."""
    async with aclosing(awrite(aligner, task, {}, corrected)) as written:
        async for message in written:
            chunk = ChatGenerationChunk(message=message)
            if run:
                await run.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
