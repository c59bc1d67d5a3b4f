"""Streams: the pieces joined are the correction's text, and nothing shown is ever taken back."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aligner_integrations import Aligner
from aligner_integrations.backends.base import Completion, FakeBackend
from aligner_integrations.errors import (
    AnswerTooLongError,
    BackendError,
    EmptyCorrectionError,
    TruncatedCorrectionError,
)
from aligner_integrations.job import Job
from aligner_integrations.policy import Policy
from aligner_integrations.streaming import LiveText
from aligner_integrations.templates import get_template
from tests.unit.support import TEMPLATE, aligner_of, fixed, mend, result_aligner, text_of

SPACE = st.text(" \n\t\u2003", max_size=3)
CORES = st.lists(st.sampled_from(["It", "is", "so", "now.", "It is", "x"]), min_size=1, max_size=5).map(" ".join)
WRAPPED = st.builds("{}{}{}".format, SPACE, CORES, SPACE)


async def collect(stream):
    """All pieces of a stream of either kind."""
    if hasattr(stream, "__aiter__"):
        return [piece async for piece in stream]
    return list(stream)


@pytest.fixture(params=["stream", "astream"])
def verb(request):
    return lambda aligner, *args, **fields: getattr(aligner, request.param)(*args, **fields)


class Pieces(FakeBackend):
    """Streams the pieces it was given; an error among them is raised."""

    def __init__(self, *pieces):
        super().__init__(fixed("".join(piece for piece in pieces if isinstance(piece, str))))
        self.pieces, self.given, self.closed = pieces, 0, False

    def stream(self, request):
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                self.given += 1
                yield piece
        finally:
            self.closed = True


def pieces_aligner(*pieces, **options):
    return Aligner(backend=Pieces(*pieces), template=TEMPLATE, **options)


def comparable(correction):
    return correction.text, correction.outcome, correction.reason, correction.rounds


@given(WRAPPED, WRAPPED)
@example(" hi", "hi")
@example("\n", "hi")
@example("hi ", " hi")
def test_joined_pieces_are_the_corrections_text(answer, written):
    aligner = aligner_of(fixed(written))
    expected = aligner.correct("q", answer)
    stream = aligner.stream("q", answer)
    assert "".join(stream) == expected.text
    assert comparable(stream.correction) == comparable(expected)


@given(WRAPPED, SPACE, SPACE)
def test_joined_pieces_of_an_unchanged_answer_are_the_answer(answer, before, after):
    async def run():
        stream = aligner_of(fixed(f"{before}{answer.strip()}{after}")).astream("q", answer)
        return "".join([piece async for piece in stream]), stream.correction

    text, correction = asyncio.run(run())
    assert text == correction.text == answer
    assert correction.outcome == "kept"


@given(st.text(" ab\n", max_size=5).filter(str.strip), st.lists(st.text(" ab\n", max_size=3), max_size=6))
def test_live_text_shows_a_growing_prefix_of_what_it_ends_with(answer, raw):
    backend = FakeBackend(mend)
    plan = Policy().plan(get_template(TEMPLATE), backend)
    live, shown = LiveText(Job(Policy(), backend, "q", answer).begin(plan)), ""
    for piece in raw:
        shown += live.feed(piece)
        assert live.started == bool(shown)
    shown += live.end()
    written = "".join(raw).strip()
    assert shown == (answer if written == answer.strip() else written)
    assert live.end() == ""


def test_text_is_shown_as_it_comes():
    backend = Pieces(" It", " is", " good", ".")
    stream = Aligner(backend=backend, template=TEMPLATE).stream("q", "It is bad.")
    seen = []
    for piece in stream:
        seen.append((piece, backend.given))
    assert seen == [("It", 1), (" is", 2), (" good", 3), (".", 4)]


async def test_the_correction_is_on_the_stream_at_its_end(verb):
    stream = verb(aligner_of(mend), "q", "bad day")
    assert stream.correction is None
    assert await collect(stream) == ["good", " day"]
    assert (stream.correction.text, stream.correction.outcome) == ("good day", "corrected")
    assert await collect(stream) == []
    assert stream.correction.text == "good day"


@pytest.mark.parametrize("answer", ["", "  ", "[1]", "<a/>"])
async def test_what_is_skipped_comes_as_it_is(verb, answer):
    stream = verb(aligner_of(pytest.fail), "q", answer)
    assert "".join(await collect(stream)) == answer
    assert stream.correction.outcome == "skipped"


async def test_record_is_called_once(verb):
    seen = []
    stream = verb(aligner_of(mend, record=seen.append), "q", "bad")
    await collect(stream)
    assert seen == [stream.correction]


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "error", "option"),
    [
        (text_of(" "), EmptyCorrectionError, "on_error"),
        (Completion("", "length"), TruncatedCorrectionError, "on_error"),
        (BackendError("down"), BackendError, "on_error"),
        (AnswerTooLongError("long"), AnswerTooLongError, "on_overflow"),
    ],
)
@pytest.mark.parametrize(("policy", "shown"), [("raise", None), ("keep", "bad day"), ("block", "withheld")])
async def test_errors_before_the_first_piece_are_answered_by_the_policy(verb, result, error, option, policy, shown):
    stream = verb(result_aligner(result, **{option: policy}, block_message="withheld"), "q", "bad day")
    if shown is None:
        with pytest.raises(error):
            await collect(stream)
        assert stream.correction is None
    else:
        assert await collect(stream) == [shown]
        assert stream.correction.outcome == "failed"
        assert stream.correction.reason.startswith(error.__name__)


async def test_held_back_text_counts_as_not_shown(verb):
    # " bad day" may still come back unchanged while "bad" is all that is there.
    stream = verb(pieces_aligner("bad", BackendError("down"), on_error="keep"), "q", " bad day")
    assert await collect(stream) == [" bad day"]


@pytest.mark.parametrize("policy", ["raise", "keep", "block"])
@pytest.mark.parametrize("error", [BackendError("down"), TruncatedCorrectionError("cut")])
async def test_errors_after_the_first_piece_are_raised(verb, policy, error):
    stream = verb(pieces_aligner("A ", "good ", error, on_error=policy), "q", "bad day")
    seen = []
    with pytest.raises(type(error)):
        if hasattr(stream, "__aiter__"):
            async for piece in stream:
                seen.append(piece)
        else:
            for piece in stream:
                seen.append(piece)
    assert "".join(seen) == "A good"
    assert stream.correction is None


# Late decisions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"accept": lambda *_: True}, {"rounds": 2}, {"accept": lambda *_: False}],
    ids=["accepted", "rounds", "refused"],
)
async def test_with_a_late_decision_the_text_comes_after_it(verb, options):
    aligner = aligner_of(mend, **options)
    stream = verb(aligner, "q", "a bad day")
    assert await collect(stream) == [aligner.correct("q", "a bad day").text]
    assert stream.correction.outcome == ("rejected" if stream.correction.text == "a bad day" else "corrected")


# Closing ------------------------------------------------------------------------------------------------------------


def test_closing_early_stops_the_backend():
    seen = []
    aligner = pieces_aligner("A ", "good ", "day", record=seen.append)
    stream = aligner.stream("q", "bad day")
    assert next(stream) == "A"
    stream.close()
    assert aligner.backend.closed
    assert aligner.backend.given == 1
    assert list(stream) == []
    assert stream.correction is None
    assert seen == []


async def test_closing_early_stops_the_backend_async():
    class Async(Pieces):
        async def astream(self, request):
            try:
                for piece in self.pieces:
                    self.given += 1
                    yield piece
            finally:
                self.closed = True

    backend = Async("A ", "good ", "day")
    stream = Aligner(backend=backend, template=TEMPLATE).astream("q", "bad day")
    assert await anext(stream) == "A"
    await stream.aclose()
    assert backend.closed
    assert backend.given == 1
    assert stream.correction is None
