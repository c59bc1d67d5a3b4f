"""From text to tokens: the one encoder that training and inference share.

A prompt is encoded as one string, because piece by piece gives other tokens. Special-token strings in it
(`</s>`, `<|im_end|>`) are text that a user or a model wrote, so they are split like any other text and never become
control tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_integrations.errors import AnswerTooLongError, InvalidTextError, ModelLoadError, first_line, require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# No tokenizer needs this many characters a token on real text; longer input is refused before it is tokenised.
_MAX_CHARACTERS_A_TOKEN = 64


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return the token ids of a rendered prompt; ordinary text gives exactly `tokenizer(prompt)`."""
    ids: list[int] = tokenizer(prompt, split_special_tokens=True)["input_ids"]
    return ids


def encode_completion(tokenizer: PreTrainedTokenizerBase, prefix: str, text: str) -> list[int]:
    """Return the token ids of a correction, without the end token.

    Args:
        tokenizer: The aligner's tokenizer.
        prefix: The template's `completion_prefix`.
        text: The correction, or an answer that is scored as if it were its own correction.
    """
    ids: list[int] = tokenizer(prefix + text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


@contextmanager
def encodable(prompt: str, window: int | None) -> Iterator[None]:
    """Make errors of ours of a prompt that cannot be encoded; goes around the encoding.

    Args:
        prompt: The prompt.
        window: The model's context in tokens, if it is known.

    Raises:
        AnswerTooLongError: It is so long that counting its tokens would be a waste.
        InvalidTextError: It is no text, or has lone surrogates.
    """
    if window is not None and len(prompt) > window * _MAX_CHARACTERS_A_TOKEN:
        raise AnswerTooLongError(
            f"Question and answer have {len(prompt):,} characters, far more than fit the aligner's window of {window:,} "
            "tokens. Shorten the answer, or set on_overflow."
        )
    try:
        yield
    except (TypeError, UnicodeError) as error:  # tokenizers say "must be str" to a string with a lone surrogate
        raise InvalidTextError("The prompt is not text that can be encoded as UTF-8.") from error


def load_tokenizer(source: str | Path) -> Any:
    """Return the tokenizer in a folder or a Hub repository, without any weights; its code is never executed.

    Raises:
        MissingDependencyError: transformers is not installed.
        ModelLoadError: There is none, or it is broken.
    """
    what = "Without tokenizer= the prompt goes to the server as text. A tokenizer needs transformers"
    with require("local", what, "transformers"):
        from transformers import AutoTokenizer
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, clean_up_tokenization_spaces=False)
    except Exception as error:  # broken files fail in any way
        raise ModelLoadError(
            f"There is no tokenizer to load in {source}: {type(error).__name__}: {first_line(error)}."
        ) from error
