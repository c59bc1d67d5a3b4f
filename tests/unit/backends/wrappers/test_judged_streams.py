"""A backend that judges an answer while it streams still does so inside of every wrapper, and of all of them."""

import itertools

import pytest

from aligner_integrations import Aligner, Cache, Resilience
from aligner_integrations.errors import BackendError
from tests.unit.backends.wrappers.flaky import OUTAGE, JudgingBackend
from tests.unit.support import TEMPLATE

CASES = [("all fine", "all fine", "kept"), ("bad day", "good day", "corrected")]
SHAPES = [dict(zip(("resilience", "cache"), made, strict=True)) for made in itertools.product([False, True], repeat=2)]


def shaped(backend, shape, **rules):
    resilience = Resilience(backoff=0.001, max_backoff=0.001, **rules) if shape["resilience"] else None
    return Aligner(backend=backend, template=TEMPLATE, resilience=resilience, cache=Cache() if shape["cache"] else None)


@pytest.fixture(params=["stream", "astream"])
def read(request):
    async def read(aligner, answer):
        if request.param == "stream":
            stream = aligner.stream("q", answer)
            pieces = list(stream)
        else:
            stream = aligner.astream("q", answer)
            pieces = [piece async for piece in stream]
        assert "".join(pieces) == stream.correction.text
        return stream.correction

    return read


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("answer", "text", "outcome"), CASES)
async def test_it_is_judged_while_it_streams(read, shape, answer, text, outcome):
    backend = JudgingBackend()
    correction = await read(shaped(backend, shape), answer)
    assert (correction.text, correction.outcome) == (text, outcome)
    assert (backend.judged, backend.scored) == (1, 0)


@pytest.mark.parametrize("resilience", [False, True])
async def test_a_kept_answer_is_judged_once(read, resilience):
    backend = JudgingBackend()
    aligner = shaped(backend, {"resilience": resilience, "cache": True})
    assert [(await read(aligner, "all fine")).outcome for _ in range(3)] == ["kept"] * 3
    assert (backend.judged, backend.scored, backend.calls) == (1, 0, 0)


@pytest.mark.parametrize("resilience", [False, True])
async def test_a_text_that_is_known_is_not_written_again(read, resilience):
    backend = JudgingBackend()
    aligner = shaped(backend, {"resilience": resilience, "cache": True})
    assert [(await read(aligner, "bad day")).text for _ in range(3)] == ["good day"] * 3
    # Judged while it was written, then once more, because the text alone says nothing of the gate.
    assert (backend.judged, backend.scored, backend.calls) == (1, 1, 1)


async def test_a_correction_that_is_known_serves_streams_and_lists(read):
    backend = JudgingBackend()
    aligner = shaped(backend, {"resilience": False, "cache": True})
    assert aligner.correct("q", "bad day").text == "good day"
    assert (await read(aligner, "bad day")).text == "good day"
    assert (backend.judged, backend.scored, backend.calls) == (0, 1, 1)


async def test_what_breaks_before_it_shows_anything_is_tried_again(read):
    backend = JudgingBackend(OUTAGE, [" ", OUTAGE])
    correction = await read(shaped(backend, {"resilience": True, "cache": True}), "bad day")
    assert correction.text == "good day" and backend.judged == 3


async def test_what_breaks_later_is_an_error(read):
    backend = JudgingBackend(["good ", OUTAGE])
    with pytest.raises(BackendError, match="down"):
        await read(shaped(backend, {"resilience": True, "cache": True}), "bad day")
    assert backend.judged == 1


async def test_a_fallback_writes_what_cannot_be_judged(read):
    fallback = JudgingBackend()
    aligner = shaped(JudgingBackend(OUTAGE), {"resilience": True, "cache": True}, retries=0, fallbacks=[fallback])
    correction = await read(aligner, "bad day")
    assert correction.text == "good day" and (fallback.judged, fallback.calls) == (0, 1)
