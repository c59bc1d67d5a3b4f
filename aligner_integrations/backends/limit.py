"""How many tokens a completion may have, for backends that know how many there are."""

from __future__ import annotations

from aligner_integrations.errors import AnswerTooLongError


def completion_limit(window: int | None, prompt_tokens: int, answer_tokens: int, requested: int | None) -> int:
    """Return how many tokens a completion may have.

    Args:
        window: The model's context in tokens; None if it has no limit.
        prompt_tokens: Tokens of the prompt.
        answer_tokens: Tokens of the answer.
        requested: The user's `max_new_tokens`, or None for max(320, twice the answer + 64).

    Raises:
        AnswerTooLongError: The window has no room to give the answer back as it is.
    """
    wanted = max(320, 2 * answer_tokens + 64) if requested is None else requested
    if window is None:
        return wanted
    if prompt_tokens + answer_tokens + 1 > window:
        raise AnswerTooLongError(
            f"Question and answer take {prompt_tokens} tokens and the answer alone {answer_tokens}; a correction of the "
            f"same length does not fit the aligner's window of {window} tokens. Shorten the answer, or set on_overflow."
        )
    return min(window - prompt_tokens, wanted)
