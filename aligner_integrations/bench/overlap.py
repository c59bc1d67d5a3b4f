"""How long a user waits after the upstream's last token, with and without reading ahead, where integrations stream.

The upstream writes at a steady pace; what is measured is the time from its last token to the correction's first text.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from aligner_integrations.bench.decoding import Case, take_turns
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.langchain import AlignerRunnable
from aligner_integrations.llama_index import align_response

# isort: split
# After ours, which say what extra is missing.
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from llama_index.core.base.response.schema import StreamingResponse

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner


@dataclass(frozen=True, slots=True)
class Wait:
    """Median seconds from the upstream's last token to the first text of the correction."""

    without: float
    ahead: float

    @property
    def saved(self) -> float:
        """Share of the wait that reading ahead takes away."""
        return 1 - self.ahead / self.without

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return {**dataclasses.asdict(self), "saved": self.saved}


class _Upstream(BaseChatModel):
    """Streams pieces at a steady pace, and notes when the last one was out."""

    pieces: list[str]
    delay: float
    ended: Callable[[], None]

    @property
    def _llm_type(self) -> str:
        return "steady"

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for number, piece in enumerate(self.pieces):
            await asyncio.sleep(self.delay)
            if number == len(self.pieces) - 1:
                self.ended()
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))


def bench_overlap(
    without: Aligner,
    ahead: Aligner,
    cases: Sequence[Case],
    *,
    delay: float = 0.03,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Wait]:
    """Stream answers through both integrations.

    Args:
        without: An aligner that does not read ahead.
        ahead: The same, reading ahead.
        cases: What the upstream is asked and says.
        delay: Seconds between two words of the upstream.
        on_progress: Called with the number of streams done, of `4 * len(cases)`.

    Returns:
        Name of an integration -> its wait.

    Raises:
        ConfigurationError: There are no cases.
    """
    if not cases:
        raise ConfigurationError("A benchmark needs answers.")
    routes = {"AlignerRunnable.astream": _chain, "LlamaIndex streaming response": _response}
    done = itertools.count(1)

    def wait(route: Callable[[Aligner, Case, float], float], aligner: Aligner, case: Case) -> float:
        seconds = route(aligner, case, delay)
        if on_progress is not None:
            on_progress(next(done))
        return seconds

    return {
        name: Wait(*take_turns(without, ahead, cases, functools.partial(wait, route))) for name, route in routes.items()
    }


def _pieces(answer: str) -> list[str]:
    return [f"{word} " for word in answer.split(" ")[:-1]] + answer.split(" ")[-1:]


def _chain(aligner: Aligner, case: Case, delay: float) -> float:
    async def measure() -> float:
        upstream = _Upstream(pieces=_pieces(case.answer), delay=delay, ended=clock.start)
        async for chunk in (upstream | AlignerRunnable(aligner)).astream(case.question):
            if chunk.text:
                clock.stop()
        return clock.seconds

    clock = _Clock()
    return asyncio.run(measure())


def _response(aligner: Aligner, case: Case, delay: float) -> float:
    clock = _Clock()

    def tokens() -> Generator[str, None, None]:
        pieces = _pieces(case.answer)
        for number, piece in enumerate(pieces):
            time.sleep(delay)
            if number == len(pieces) - 1:
                clock.start()
            yield piece

    aligned = align_response(aligner, case.question, StreamingResponse(tokens()))
    for text in cast("StreamingResponse", aligned).response_gen:
        if text:
            clock.stop()
    return clock.seconds


class _Clock:
    """From the start to the first stop."""

    def __init__(self) -> None:
        self._started = 0.0
        self.seconds = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self.seconds = self.seconds or time.perf_counter() - self._started
