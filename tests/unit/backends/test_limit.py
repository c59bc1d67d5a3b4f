"""How long a completion may become."""

import pytest

from aligner_integrations.backends.limit import completion_limit
from aligner_integrations.errors import AnswerTooLongError


@pytest.mark.parametrize(
    ("window", "prompt", "answer", "requested", "limit"),
    [
        (None, 10, 5, None, 320),
        (None, 10, 200, None, 464),
        (2048, 100, 200, None, 464),
        (500, 100, 200, None, 400),
        (2048, 100, 200, 50, 50),
        (120, 100, 19, 50, 20),
        (None, 10, 5, 1, 1),
    ],
)
def test_completion_limit(window, prompt, answer, requested, limit):
    assert completion_limit(window, prompt, answer, requested) == limit


def test_the_answer_and_its_end_token_must_fit():
    assert completion_limit(120, 100, 19, None) == 20
    with pytest.raises(AnswerTooLongError, match="window of 119 tokens"):
        completion_limit(119, 100, 19, None)
