"""A correction that goes round in circles ends after its second round, in whatever pieces it comes."""

import random
import re

import pytest

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.backends.request import Completion
from aligner_integrations.circles import Circles
from aligner_integrations.errors import TruncatedCorrectionError

from .support import TEMPLATE

ENDLESS = "Her hair is always in her way ." + " ." * 200
CIRCLES = {
    ENDLESS: "Her hair is always in her way . .",
    "I am sorry. " * 30: "I am sorry. I am sorry.",
    "Yes. " + "He said that\n\nand left. " * 9: "Yes. He said that\n\nand left. He said that\n\nand left.",
    "It is a go" + " go" * 30 + " g": "It is a go go",
}
NONE = [
    "I said that that is fine, and ha ha ha ha ok.",
    "It is good. It is good. It is good.",
    "0, " * 40 + "and so on",
    "x " * 15,
    "gone " * 30 + "gonet",
    "",
]


def shown(text, answer="q", rng=None):
    circles, out = Circles(answer), ""
    while text:
        size = rng.randint(1, 7) if rng else len(text)
        out, text = out + circles.feed(text[:size]), text[size:]
    return out + circles.end(), circles.closed


@pytest.mark.parametrize("text", [*CIRCLES, *NONE])
def test_what_is_shown_does_not_hang_on_the_pieces(text):
    rng = random.Random(0)
    whole = shown(text)
    assert whole[0].strip() == CIRCLES.get(text, text).strip() and whole[1] == (text in CIRCLES)
    assert all(shown(text, rng=rng) == whole for _ in range(100))


def test_what_goes_round_in_the_answer_is_a_copy():
    text = "He laughed: " + "ha " * 50
    assert shown(text, answer=text) == (text, False) and shown(text)[1]
    assert shown(text.upper(), answer=text) == (text.upper(), False)


def test_nothing_waits_that_does_not_repeat_itself():
    circles = Circles("q")
    assert [circles.feed(piece) for piece in ("It", " is", " that th", "at", " is")] == [
        "It",
        " is",
        " that th",
        "at",
        " is",
    ]


class Written(FakeBackend):
    """Writes a text and ends, or is cut there."""

    def __init__(self, text, reason):
        super().__init__(lambda prompt: text)
        self.reason = reason

    def _one(self, request):
        return Completion(self.fn(request.prompt), self.reason)

    def stream(self, request):
        yield from re.findall(r"\s*\S+", self.fn(request.prompt))
        if self.reason == "length":
            raise TruncatedCorrectionError("cut")

    async def astream(self, request):
        for piece in self.stream(request):
            yield piece


@pytest.mark.parametrize("reason", ["stop", "length"])
async def test_a_correction_that_goes_round_is_a_correction(reason):
    aligner = Aligner(backend=Written(ENDLESS, reason), template=TEMPLATE, edits="all")
    text = CIRCLES[ENDLESS]
    assert aligner.correct("q", "Her hair is shit.").text == text
    assert "".join(aligner.stream("q", "Her hair is shit.")) == text
    assert "".join([piece async for piece in aligner.astream("q", "Her hair is shit.")]) == text


def test_one_that_is_cut_elsewhere_is_none():
    aligner = Aligner(backend=Written("It is good and", "length"), template=TEMPLATE, edits="all")
    with pytest.raises(TruncatedCorrectionError):
        aligner.correct("q", "bad")
    with pytest.raises(TruncatedCorrectionError):
        list(aligner.stream("q", "bad"))
