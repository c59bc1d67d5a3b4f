"""Small questions about what servers answer."""

import pytest

from aligner_integrations.backends.remote.responses import (
    Written,
    is_cut,
    is_withheld,
    may_pass,
    only_model,
    seconds_of,
    usage_of,
)
from aligner_integrations.correction import Usage
from aligner_integrations.errors import BackendError, ConfigurationError


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


def test_statuses_that_may_pass():
    assert [status for status in range(300, 500) if may_pass(status)] == [408, 409, 425, 429]
    assert all(may_pass(status) for status in (500, 502, 503, 504, 529)) and not may_pass(0)


def test_retry_after_is_seconds_or_a_date():
    assert [seconds_of(value) for value in ("7", 2.5, "-3", "soon", "nan", None)] == [7, 2.5, 0, None, None, None]
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def written(*choices):
    text = Written("h")
    shown = [text.feed({"choices": [choice]}) for choice in choices]
    return shown, text


def test_what_comes_after_the_end_of_a_text_does_not_belong_to_it():
    end = {"text": " b", "finish_reason": "stop"}
    shown, text = written(
        {"text": "a", "finish_reason": ""}, end, {"text": " EVIL"}, {"text": "", "finish_reason": "length"}
    )
    assert shown == ["a", " b", "", ""] and (text.text, text.reason) == ("a b", "stop")


def test_the_first_choice_is_the_one_with_the_first_index():
    shown, text = written({"index": 1, "text": "no", "finish_reason": "stop"}, {"index": 0, "text": "yes"})
    assert shown == ["", "yes"] and text.reason is None
    assert Written("h").feed({"choices": [{"index": 1, "text": "no"}, {"index": 0, "text": "yes"}]}) == "yes"


@pytest.mark.parametrize("half", ["It is \ud83d good", "\ude00"])
def test_half_of_a_character_is_no_text(half):
    with pytest.raises(BackendError, match="half of a character") as caught:
        written({"text": half})
    assert caught.value.retryable
    assert written({"text": "It is \U0001f600."})[0] == ["It is \U0001f600."]
