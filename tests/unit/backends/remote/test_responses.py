"""Small questions about what servers answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.backends.remote.responses import is_cut, is_withheld, only_model, shares, usage_of
from aligner_integrations.correction import Usage
from aligner_integrations.errors import ConfigurationError


@given(st.integers(0, 10_000), st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_shares_add_up(total, weights):
    parts = shares(total, weights)
    assert sum(parts) == (total if sum(weights) else 0)
    assert all(part >= 0 for part in parts)


def test_usage_is_read_where_it_makes_sense():
    assert usage_of({"prompt_tokens": 3, "completion_tokens": 4}) == Usage(3, 4)
    assert usage_of({"prompt_tokens": "3", "completion_tokens": -4}) == usage_of(None) == usage_of([]) == Usage()


def test_words_for_ends():
    assert is_cut("length") and is_cut("MAX_TOKENS") and not is_cut("stop") and not is_cut(None) and not is_cut(7)
    assert is_withheld("content_filter") and is_withheld("SAFETY") and not is_withheld(None)


def test_one_model():
    assert only_model({"data": [{"id": "m", "max_model_len": 9}]}, "h") == ("m", 9)
    assert only_model({"data": [{"id": "m", "max_model_len": "9"}]}, "h") == ("m", None)
    with pytest.raises(ConfigurationError, match="h does not list exactly one model, but a, b"):
        only_model({"data": [{"id": "a"}, {"id": "b"}]}, "h")
