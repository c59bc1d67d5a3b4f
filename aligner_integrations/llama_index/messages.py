"""Messages taken apart and put together: which part of one is the answer, and what becomes of the others.

The answer is the text behind the last block that is no text. What stands before it stays where and as it is: earlier text,
thoughts, images. A `CitationBlock` belongs to the sentence before it, so it is part of the answer: while an answer is corrected
it is a marker in the text, and it comes back as a block where that sentence still says the same.

What lives elsewhere: which sentences say the same (`citations.py`), thoughts within a text (`corrector.py`), and whose words
are the question (`question.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, CitationBlock, ContentBlock, TextBlock
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.schema import NodeWithScore

from aligner_integrations.correction import Correction
from aligner_integrations.llama_index.citations import Citations, carry_citations

# A citation as carry_citations() knows them, with a character that no text has.
_MARK = "【\ue000{} {}】"
_MARKED = re.compile(r"【\ue000(\d+) [^】]*】")
# Behind a text that goes on with one of these there is no new line; LlamaIndex's `content` puts one between any two blocks.
_GOES_ON = tuple(" \t\n,.;:!?)]}’”")


def answer_in(message: ChatMessage) -> str:
    """Return the answer in a message, with a marker for each of its citation blocks (see `without_marks`)."""
    start, end = _place(message.blocks)
    text, space = "", ""
    for i, block in enumerate(message.blocks[start:end]):
        if isinstance(block, CitationBlock):
            text += _MARK.format(i, re.sub(r"[】\n]", " ", block.title)[:80])
        elif isinstance(block, TextBlock):
            if text and not space and not block.text.startswith(_GOES_ON):
                space = "\n"
            # A mark stands right behind its sentence, so the space after that waits until the text goes on.
            text += space + block.text.rstrip()
            space = block.text[len(block.text.rstrip()) :]
    return text + space


def without_marks(text: str) -> str:
    """Return a text without the markers of citation blocks."""
    return _MARKED.sub("", text)


def with_text(message: ChatMessage, text: str, *, blocked: bool = False) -> ChatMessage:
    """Return a copy with another answer; of a message that is blocked nothing else is left, as all of it may have its words."""
    if blocked:
        return ChatMessage(role=message.role, blocks=[TextBlock(text=text)])
    return _with_blocks(message, [TextBlock(text=text)])


def with_correction(
    message: ChatMessage, correction: Correction, citations: Citations, record: dict[str, Any]
) -> ChatMessage:
    """Return a message with its answer corrected; the very same one if nothing has changed.

    Args:
        message: What the upstream said.
        correction: That of `answer_in(message)`.
        citations: What becomes of citation blocks.
        record: Is told which of them are lost, by their titles.
    """
    if not correction.changed:
        return message
    start, end = _place(message.blocks)
    own = message.blocks[start:end]
    if correction.blocked:
        return with_text(message, correction.text, blocked=True)
    titles = {str(i): block.title for i, block in enumerate(own) if isinstance(block, CitationBlock)}
    text = correction.text
    if titles and citations != "drop":
        text = carry_citations(answer_in(message), text)
    pieces = _MARKED.split(text) if titles else [text]  # text, number, text, number, ... text
    if gone := [title for i, title in titles.items() if i not in pieces[1::2]]:
        record["citations_lost"] = [*record.get("citations_lost", ()), *gone]
    blocks = [
        own[int(piece)] if i % 2 else TextBlock(text=piece)
        for i, piece in enumerate(pieces)
        if (piece in titles if i % 2 else piece)  # no number that the upstream itself has written
    ]
    return _with_blocks(message, blocks)


def _with_blocks(message: ChatMessage, blocks: Sequence[ContentBlock]) -> ChatMessage:
    start, end = _place(message.blocks)
    return message.model_copy(update={"blocks": [*message.blocks[:start], *blocks, *message.blocks[end:]]})


def _place(blocks: Sequence[ContentBlock]) -> tuple[int, int]:
    """Where the answer's blocks begin and end. A block without words behind the last text does not make it less an answer."""
    words = (i for i, block in enumerate(blocks) if isinstance(block, TextBlock) and block.text.strip())
    end = max(words, default=len(blocks) - 1) + 1
    while end < len(blocks) and isinstance(blocks[end], CitationBlock):
        end += 1
    start = end
    while start and isinstance(blocks[start - 1], TextBlock | CitationBlock):
        start -= 1
    return start, end


def calls_tools(message: ChatMessage) -> bool:
    """Whether a message calls tools, in either of the ways that LlamaIndex's LLMs say it."""
    blocks = any(getattr(block, "block_type", None) == "tool_call" for block in message.blocks)
    return blocks or bool(message.additional_kwargs.get("tool_calls"))


def response_with_text(raw: Any, text: str, *, blocked: bool = False) -> Any:
    """Return what a tool returned with another text: LlamaIndex's responses keep their sources, anything else is the text."""
    if not isinstance(raw, Response | StreamingResponse | AsyncStreamingResponse):
        return text
    return Response(text, raw.source_nodes, metadata_of(raw.source_nodes) if blocked else raw.metadata)


def metadata_of(sources: Sequence[NodeWithScore]) -> dict[str, Any]:
    """Return a response's metadata as its sources make it. What an engine adds may quote the answer, such as rows it found."""
    return {node.node_id: node.metadata for node in sources}
