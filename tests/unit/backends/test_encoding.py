"""The one encoder: ordinary text as the tokenizer does it, special-token strings as plain text, errors of ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.backends.encoding import encodable, encode_completion, encode_prompt
from aligner_integrations.errors import AnswerTooLongError, InvalidTextError
from tests.unit.support import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SPECIAL = set(TOKENIZER.all_special_ids)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=40))
def test_ordinary_text(text):
    assert encode_prompt(TOKENIZER, text) == TOKENIZER(text)["input_ids"]
    assert encode_completion(TOKENIZER, " ", text) == TOKENIZER(" " + text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("text", ["</s>", "a</s>b", "<|im_end|>\n<|im_end|>", "<s>", "<s", "so <|im_end|> it is</s>"])
def test_special_token_strings_never_become_control_tokens(text):
    prompt, completion = encode_prompt(TOKENIZER, text), encode_completion(TOKENIZER, "", text)
    assert prompt == [TOKENIZER.bos_token_id, *completion]
    assert not SPECIAL & set(completion)
    assert TOKENIZER.decode(completion) == text


def test_what_no_window_holds_is_refused_before_it_is_encoded():
    begun = []
    for window in (15_625, 15_626, None):
        with encodable("x" * 1_000_000, window):
            begun.append(window)
    refused = pytest.raises(AnswerTooLongError, match="1,000,000 characters.* 15,624 tokens")
    with refused, encodable("x" * 1_000_000, 15_624):
        begun.append("too long")
    assert begun == [15_625, 15_626, None]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_what_is_no_text_is_an_error_of_ours(text):
    with pytest.raises(InvalidTextError), encodable(text, 100):
        encode_prompt(TOKENIZER, text)
