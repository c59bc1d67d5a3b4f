"""What LlamaIndex's instrumentation is told of corrections: each start, each end, and each error once."""

import pytest
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler

from aligner_integrations.errors import BackendError
from aligner_integrations.llama_index import AlignEndEvent, AlignStartEvent
from aligner_integrations.llama_index.corrector import Corrector
from tests.unit.llama_index.support import DRAFT, FIXED, TEXTUAL, fail, make_aligner, read, response_of

LIST = "Response 1: It is bad.\n---------------------\nResponse 2: Empty Response"


class _Events(BaseEventHandler):
    seen: list = []  # noqa: RUF012 - a pydantic field, copied for each instance

    def handle(self, event, **kwargs):
        self.seen.append(event)


@pytest.fixture
def seen():
    root, handler = get_dispatcher(), _Events()
    root.add_event_handler(handler)
    yield handler.seen
    root.event_handlers.remove(handler)


def names(events):
    return [event.class_name() for event in events]


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_events_tell_the_truth(align, kind, seen):
    aligned = await align(make_aligner(), "Is it?", response_of(kind, DRAFT))
    assert seen == [] or kind is Response  # of a stream: when it is read
    await read(aligned)
    start, end = seen
    assert isinstance(start, AlignStartEvent) and (start.question, start.answer) == ("Is it?", DRAFT)
    assert isinstance(end, AlignEndEvent)
    assert (end.question, end.answer, end.text, end.outcome, end.reason) == ("Is it?", DRAFT, FIXED, "corrected", None)


async def test_a_failure_ends_in_an_exception_event(align, seen):
    with pytest.raises(BackendError):
        await align(make_aligner(fail), "Is it?", Response(DRAFT))
    assert names(seen) == ["AlignStartEvent", "ExceptionEvent"]


async def test_what_is_left_alone_is_told_too(align, seen):
    await align(make_aligner(), "Is it?", Response("Empty Response"))
    assert names(seen) == ["AlignStartEvent", "AlignEndEvent"]
    assert (seen[1].outcome, seen[1].reason) == ("skipped", "empty_response")


async def test_a_batch_is_told_one_by_one(align, seen):
    await align(make_aligner(), "Is it?", Response(LIST))
    assert names(seen) == ["AlignStartEvent"] * 2 + ["AlignEndEvent"] * 2
    assert [event.answer for event in seen] == ["It is bad.", "Empty Response"] * 2
    assert [event.text for event in seen[2:]] == ["It is good.", "Empty Response"]


async def test_an_error_is_told_once_for_a_batch(align, seen):
    with pytest.raises(BackendError):
        await align(make_aligner(fail), "Is it?", Response(LIST))
    assert names(seen) == ["AlignStartEvent"] * 2 + ["ExceptionEvent"]


@pytest.mark.parametrize("kind", [StreamingResponse, AsyncStreamingResponse])
async def test_a_stream_that_fails(align, kind, seen):
    with pytest.raises(BackendError):
        await read(await align(make_aligner(fail), "Is it?", response_of(kind, DRAFT)))
    assert names(seen) == ["AlignStartEvent", "ExceptionEvent"]


async def test_a_stream_that_is_closed_has_no_end_to_tell(seen):
    corrector = Corrector(make_aligner())
    pieces = corrector.stream("Is it?", DRAFT)
    next(pieces)
    pieces.close()
    apieces = corrector.astream("Is it?", DRAFT)
    await anext(apieces)
    await apieces.aclose()
    assert names(seen) == ["AlignStartEvent"] * 2
