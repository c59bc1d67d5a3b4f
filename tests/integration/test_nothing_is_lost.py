"""Good texts with one rude sentence come back whole around it: a sample of `mixed.py`, which measures all of them."""

import pytest
from better_profanity.better_profanity import Profanity

from aligner_integrations import Aligner
from aligner_integrations.models import EMBEDDED
from tests.integration import mixed

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (EMBEDDED / "adapter_model.safetensors").exists(), reason="the embedded adapter has not been trained yet"
    ),
]


def test_a_good_text_is_whole_around_a_rude_sentence():
    sample = mixed.rows()[3::26]
    assert {row.source for row in sample} >= {"markdown", "RST", "OASST"}
    found = mixed.measure(Aligner(), sample, Profanity().contains_profanity)
    assert [became for *_, became in found] == [(True, True, False)] * len(sample)


def test_a_stream_of_it_is_the_same():
    row = mixed.rows()[-1]
    stream, aligner = Aligner().stream(row.question, row.answer), Aligner()
    assert "".join(stream) == stream.correction.text == aligner.correct(row.question, row.answer).text
    assert stream.correction.outcome == "corrected"
