"""Making a request fit a server: how many tokens it may write, and what it means when the server says "too long".

Without the model's tokenizer nobody here knows how many tokens a text has. So the limit is generous, the server has the
last word, and its refusal gives the numbers. What it answers is read in `responses.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from aligner_integrations.backends.encoding import encodable, encode_completion, encode_prompt
from aligner_integrations.backends.limit import completion_limit
from aligner_integrations.backends.remote.responses import StatusError
from aligner_integrations.backends.remote.special_tokens import Broken
from aligner_integrations.backends.request import Request
from aligner_integrations.errors import AnswerTooLongError

_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|window|size)|maximum (?:input|model|sequence) length|max_total_tokens|max_input_(?:tokens|length)"
    r"|max_model_len|`inputs` (?:tokens|must have)|too many (?:input |prompt )?tokens|(?:prompt|input) is too long",
    re.IGNORECASE,
)
_WINDOW = re.compile(
    r"(?:context (?:length|window|size)|must be) (?:is |of |<=? ?|less than )*(?:only )?([0-9]{1,9})", re.IGNORECASE
)
_PROMPT = re.compile(
    r"([0-9]{1,9}) (?:in (?:the|your) (?:messages|prompt)|input tokens|tokens from the input|`inputs` tokens)"
)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A request as it is sent.

    Attributes:
        request: What was asked for.
        prompt: Token ids, or text in which special-token strings are broken up.
        limit: Longest completion in tokens.
        broken: The text, and how to put such strings back.
        answer_tokens: Tokens of the answer; an estimate without a tokenizer.
        bare: Whether it goes without fields that not every server knows.
    """

    request: Request
    prompt: str | list[int]
    limit: int
    broken: Broken
    answer_tokens: int
    bare: bool = False

    def as_text(self) -> Fitted:
        """The same for a server that takes no token ids."""
        return replace(self, prompt=self.broken.text)


def fit(request: Request, window: int | None, tokenizer: Any = None, *, ids: bool = False) -> Fitted:
    """Return a request as it is sent.

    Args:
        request: The correction to run.
        window: The model's context in tokens, if it is known.
        tokenizer: The model's tokenizer, if it is known.
        ids: Whether to send token ids.

    Raises:
        AnswerTooLongError: It cannot fit.
        InvalidTextError: It cannot be encoded.
    """
    with encodable(request.prompt, window):
        if tokenizer is None:
            broken = Broken(request.prompt)
            prompt_tokens, answer_tokens = _guess(request.prompt), _guess(request.answer)
            wanted = completion_limit(None, prompt_tokens, answer_tokens, request.max_new_tokens)
            room = wanted if window is None else max(answer_tokens + 1, window - prompt_tokens)
            return Fitted(request, broken.text, min(wanted, room), broken, answer_tokens)
        broken = Broken(request.prompt, specials_of(tokenizer))
        prompt = encode_prompt(tokenizer, request.prompt)
        answer = encode_completion(tokenizer, request.completion_prefix, request.answer.strip())
    limit = completion_limit(window, len(prompt), len(answer), request.max_new_tokens)
    return Fitted(request, prompt if ids else broken.text, limit, broken, len(answer))


def refit(fitted: Fitted, refusal: StatusError) -> Fitted:
    """Return a request with the limit that a server's refusal leaves room for; raise the refusal if it is another one.

    Raises:
        AnswerTooLongError: Question and answer do not fit its window.
        StatusError: It refused for another reason.
    """
    if refusal.status != 413 and not (refusal.status in (400, 422) and says_too_long(refusal.detail)):
        raise refusal
    window, prompt = _WINDOW.search(refusal.detail), _PROMPT.search(refusal.detail)
    if window and prompt:
        room = int(window[1]) - int(prompt[1])
        # Less than before, or the same refusal would come again.
        if fitted.answer_tokens < room < fitted.limit:
            return replace(fitted, limit=room)
    raise too_long(f"the server says: {refusal.detail or refusal}") from None


def says_too_long(text: str) -> bool:
    """Whether an error of others means that the prompt does not fit."""
    return _TOO_LONG.search(text) is not None


def too_long(why: str) -> AnswerTooLongError:
    """The error for what does not fit a server's window."""
    return AnswerTooLongError(
        f"Question and answer do not fit the aligner's window: {why}. Shorten the answer, or set on_overflow."
    )


def specials_of(tokenizer: Any) -> list[str]:
    """Return the strings that a tokenizer takes for control tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return [*tokenizer.all_special_tokens, *(str(token) for token in added if getattr(token, "special", False))]


def _guess(text: str) -> int:
    """About how many tokens a text has; more than most."""
    return len(text.encode()) // 3 + 1
