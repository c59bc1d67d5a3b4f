"""`align_response` and `aalign_response`: every type of response, from both worlds."""

import copy
import json
import random

import pytest
from llama_index.core.base.response.schema import AsyncStreamingResponse, PydanticResponse, Response, StreamingResponse
from llama_index.core.bridge.pydantic import BaseModel

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.errors import BackendError, InvalidTextError
from aligner_integrations.llama_index.response import aalign_response
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    QUESTION,
    TEMPLATE,
    TEXTUAL,
    LoopWatch,
    Recorder,
    apieces_of,
    fail,
    make_aligner,
    make_nodes,
    pieces_of,
    read,
    response_of,
)

STREAMS = [StreamingResponse, AsyncStreamingResponse]


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_type_text_sources_and_metadata(align, kind):
    nodes = make_nodes()
    before = [node.to_json() for node in nodes]
    upstream = response_of(kind, "It is ", "a bad", " idea.", source_nodes=nodes, metadata={"n1": {"page": 1}})
    aligned = await align(make_aligner(), "Is it?", upstream)
    assert type(aligned) is kind
    assert aligned is not upstream
    assert aligned.source_nodes == nodes  # of a stream: at once, before it is read
    assert "".join(await read(aligned)) == FIXED
    assert [node.to_json() for node in aligned.source_nodes] == before
    assert all(a is b for a, b in zip(aligned.source_nodes, nodes, strict=True))
    record = aligned.metadata.pop("aligner")
    assert aligned.metadata == {"n1": {"page": 1}}
    assert 0 < record.pop("changed_share") < 0.5
    assert record.pop("seconds") >= 0
    assert record == {"outcome": "corrected", "reason": None, "rounds": 1, "question_from": "query"}


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_the_upstreams_response_keeps_what_the_upstream_said(align, kind):
    upstream = response_of(kind, DRAFT, source_nodes=make_nodes(), metadata={"a": 1})
    nodes, metadata = upstream.source_nodes, copy.deepcopy(upstream.metadata)
    aligned = await align(make_aligner(), "Is it?", upstream)
    await read(aligned)
    assert "".join(await read(upstream)) == DRAFT if kind is Response else upstream.response_txt == DRAFT
    assert upstream.source_nodes is nodes
    assert upstream.metadata == metadata
    assert upstream.metadata is not aligned.metadata


async def test_a_response_is_the_same_object_content_before_and_after(align):
    upstream = Response(DRAFT, make_nodes(), {"a": {"b": 1}})
    snapshot = copy.deepcopy(upstream)
    await align(make_aligner(), "Is it?", upstream)
    assert upstream == snapshot


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_the_original_travels_only_if_asked_for(align, kind):
    aligned = await align(make_aligner(), "Is it?", response_of(kind, DRAFT))
    await read(aligned)
    assert " bad" not in json.dumps(aligned.metadata)
    aligned = await align(make_aligner(), "Is it?", response_of(kind, DRAFT), include_original=True)
    await read(aligned)
    assert aligned.metadata["aligner"]["original"] == DRAFT


async def test_question_from_is_the_callers(align):
    aligned = await align(make_aligner(), "Is it?", Response(DRAFT), question_from="message")
    assert aligned.metadata["aligner"]["question_from"] == "message"


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_an_unchanged_answer_is_the_answer_to_the_letter(align, kind):
    aligned = await align(make_aligner(lambda prompt: "fine"), "Is it?", response_of(kind, " fine \n"))
    assert "".join(await read(aligned)) == " fine \n"
    assert aligned.metadata["aligner"]["outcome"] == "kept"


@pytest.mark.parametrize("kind", TEXTUAL)
@pytest.mark.parametrize(
    ("answer", "reason"), [("Empty Response", "empty_response"), ("", "empty"), ('{"a": 1}', "structured")]
)
async def test_left_alone(align, kind, answer, reason):
    fn = Recorder(lambda prompt: "CHANGED")
    aligned = await align(make_aligner(fn), "Is it?", response_of(kind, answer, source_nodes=make_nodes()))
    assert "".join(await read(aligned)) == answer
    assert aligned.metadata["aligner"]["outcome"] == "skipped"
    assert aligned.metadata["aligner"]["reason"] == reason
    assert aligned.metadata["aligner"]["question_from"] == "query"
    assert fn.prompts == []


async def test_a_response_of_none_stays_none(align):
    aligned = await align(make_aligner(), "Is it?", Response(None))
    assert aligned.response is None
    assert aligned.metadata["aligner"]["reason"] == "empty"


async def test_a_pydantic_response_is_left_alone(align):
    class Fact(BaseModel):
        text: str

    fact = Fact(text=DRAFT)
    upstream = PydanticResponse(fact, make_nodes(), None)
    aligned = await align(make_aligner(), "Is it?", upstream)
    assert type(aligned) is PydanticResponse
    assert aligned is not upstream
    assert aligned.response is fact
    assert aligned.text == DRAFT
    assert aligned.source_nodes == make_nodes()
    assert upstream.metadata is None
    record = aligned.metadata["aligner"]
    assert (record["outcome"], record["reason"], record["changed_share"]) == ("skipped", "pydantic", 0.0)
    assert "original" not in record


async def test_anything_else_is_an_error(align):
    with pytest.raises(InvalidTextError, match="got dict"):
        await align(make_aligner(), "Is it?", {"response": DRAFT})


# Streams ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STREAMS)
async def test_the_upstream_is_read_to_its_end_before_the_first_piece(align, kind):
    seen = []
    source = pieces_of if kind is StreamingResponse else apieces_of
    upstream = kind(source("It is ", "a bad", " idea.", seen=seen))
    aligned = await align(make_aligner(), "Is it?", upstream)
    assert seen == []  # nothing happens before the stream is read
    if kind is StreamingResponse:
        first = next(aligned.response_gen)
    else:
        first = await anext(aligned.response_gen)
        await aligned.response_gen.aclose()
    assert seen == ["It is ", "a bad", " idea."]
    assert FIXED.startswith(first)
    assert first != FIXED


@pytest.mark.parametrize("kind", STREAMS)
async def test_pieces_are_the_aligners_own(align, kind):
    aligned = await align(make_aligner(), "Is it?", response_of(kind, DRAFT))
    assert await read(aligned) == ["It", " is", " a", " good", " idea."]


@pytest.mark.parametrize("kind", STREAMS)
async def test_with_accept_the_text_comes_after_the_decision(align, kind):
    aligner = make_aligner(accept=lambda question, answer, correction: "good" not in correction)
    aligned = await align(aligner, "Is it?", response_of(kind, DRAFT))
    assert await read(aligned) == [DRAFT]
    assert aligned.metadata["aligner"]["outcome"] == "rejected"


@pytest.mark.parametrize("kind", STREAMS)
async def test_the_record_comes_at_the_end_of_the_stream(align, kind):
    aligned = await align(make_aligner(), "Is it?", response_of(kind, DRAFT, metadata={"a": 1}))
    assert aligned.metadata == {"a": 1}
    whole = aligned.get_response() if kind is StreamingResponse else await aligned.get_response()
    assert whole.response == FIXED
    assert whole.metadata["aligner"]["outcome"] == "corrected"


@pytest.mark.parametrize("kind", STREAMS)
async def test_metadata_replaced_while_streaming_is_kept(align, kind):
    aligned = await align(make_aligner(), "Is it?", response_of(kind, DRAFT))
    aligned.metadata = {"selector_result": 0}  # what RouterQueryEngine does
    await read(aligned)
    assert aligned.metadata["selector_result"] == 0
    assert aligned.metadata["aligner"]["outcome"] == "corrected"
    aligned = await align(make_aligner(), "Is it?", response_of(kind, DRAFT))
    aligned.metadata = None
    await read(aligned)
    assert aligned.metadata["aligner"]["outcome"] == "corrected"


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_stream_that_was_read_already(align, kind):
    upstream = response_of(kind, DRAFT)
    await read(upstream)
    upstream.response_txt = DRAFT  # as StreamingResponse.get_response leaves it
    aligned = await align(make_aligner(), "Is it?", upstream)
    assert aligned.response_txt is None
    assert "".join(await read(aligned)) == FIXED


@pytest.mark.parametrize("kind", STREAMS)
async def test_an_upstream_that_fails_half_way_shows_nothing(align, kind):
    source = pieces_of if kind is StreamingResponse else apieces_of
    upstream = kind(source("It is ", "a bad", then=ConnectionError("gone")))
    fn = Recorder()
    aligned = await align(make_aligner(fn, on_error="keep"), "Is it?", upstream)
    shown = []

    async def show():
        if kind is StreamingResponse:
            shown.extend(aligned.response_gen)
        else:
            async for piece in aligned.response_gen:
                shown.append(piece)

    with pytest.raises(ConnectionError, match="gone"):
        await show()
    assert shown == []
    assert fn.prompts == []
    assert "aligner" not in aligned.metadata


class _Closable(FakeBackend):
    """Streams without end and says when it was stopped."""

    def __init__(self):
        super().__init__(lambda prompt: "")
        self.stopped = 0

    def stream(self, request):
        try:
            while True:
                yield "word "
        finally:
            self.stopped += 1

    async def astream(self, request):
        for piece in (stream := self.stream(request)):
            try:
                yield piece
            except GeneratorExit:
                stream.close()
                raise


@pytest.mark.parametrize("kind", STREAMS)
async def test_an_abandoned_stream_stops_the_aligner(align, kind):
    backend = _Closable()
    aligned = await align(Aligner(backend=backend, template=TEMPLATE), "Is it?", response_of(kind, DRAFT))
    if kind is StreamingResponse:
        next(aligned.response_gen)
        aligned.response_gen.close()
    else:
        await anext(aligned.response_gen)
        await aligned.response_gen.aclose()
    assert backend.stopped == 1


# Errors, by policy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_on_error_raise(align, kind):
    upstream = response_of(kind, DRAFT)

    async def run():
        return await read(await align(make_aligner(fail), "Is it?", upstream))

    with pytest.raises(BackendError, match="the aligner is down"):
        await run()


@pytest.mark.parametrize("kind", TEXTUAL)
@pytest.mark.parametrize(("policy", "shown"), [("keep", DRAFT), ("block", "withheld")])
async def test_on_error_keep_and_block(align, kind, policy, shown):
    aligner = make_aligner(fail, on_error=policy, block_message="withheld")
    aligned = await align(aligner, "Is it?", response_of(kind, DRAFT))
    assert await read(aligned) == [shown]
    assert aligned.metadata["aligner"]["outcome"] == "failed"
    assert aligned.metadata["aligner"]["reason"].startswith("BackendError")


# Nesting and the event loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_aligning_twice_keeps_only_the_outer_record(align, kind):
    inner = await align(make_aligner(), "Is it?", response_of(kind, DRAFT), include_original=True)
    if kind is Response:
        assert inner.metadata["aligner"]["original"] == DRAFT
    outer = await align(make_aligner(lambda prompt: "Better still."), "Is it?", inner)
    if kind is not Response:
        assert outer.metadata == {}
    assert "".join(await read(outer)) == "Better still."
    assert inner.metadata["aligner"]["original"] == DRAFT
    assert "original" not in outer.metadata["aligner"]


@pytest.mark.parametrize("kind", [Response, AsyncStreamingResponse])
async def test_the_diff_of_a_long_answer_does_not_block_the_event_loop(kind):
    rng = random.Random(0)
    answer, correction = (" ".join(f"a{rng.randrange(7)}" for _ in range(700)) for _ in range(2))
    with LoopWatch() as watch:
        aligned = await aalign_response(make_aligner(lambda prompt: correction), "Is it?", response_of(kind, answer))
        text = "".join(await read(aligned))
    assert text == correction
    assert not watch.blocked


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_of_a_blocked_answer_only_the_sources_metadata_is_left(align, kind):
    """What an engine adds to it may quote the answer, such as the rows that it found."""
    metadata = {"n1": {"page": 1}, "result": DRAFT}
    upstream = response_of(kind, f"<think>So bad.</think>{DRAFT}", source_nodes=make_nodes(), metadata=metadata)
    response = await align(make_aligner(fail, on_error="block", block_message="withheld"), QUESTION, upstream)
    assert await read(response) == ["withheld"]
    assert response.metadata.pop("aligner")["outcome"] == "failed"
    assert response.metadata == {"n1": {"page": 1}, "n2": {"page": 2}}
    assert upstream.metadata == metadata


async def test_what_the_sources_say_of_themselves_is_read_from_them(align):
    """Not from the values of the metadata: one of them is the record."""
    response = await align(make_aligner(), QUESTION, response_of(Response, DRAFT, source_nodes=make_nodes()))
    assert [node.metadata["page"] for node in response.source_nodes] == [1, 2]
    assert response.metadata["aligner"]["outcome"] == "corrected"
