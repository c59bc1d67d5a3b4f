"""One completion that is shown as it is written: from tokens to pieces of text, on the thread that runs the model.

How the pieces reach whoever reads the stream: `backend.py`. Where the tokens come from: `generation.py`, `scoring.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aligner_integrations.backends.local.generation import decode
from aligner_integrations.backends.local.prefix_cache import Prefixes
from aligner_integrations.backends.local.scheduling import Part
from aligner_integrations.backends.local.scoring import judge_in_steps, score_batch
from aligner_integrations.backends.score import Keep, Score
from aligner_integrations.errors import TruncatedCorrectionError


class _Shown:
    """The text so far, and how much of it is out."""

    def __init__(self, tokenizer: Any, put: Callable[[str], None], whole: str) -> None:
        self._tokenizer = tokenizer
        self._put = put
        self._whole = whole
        self.tokens: list[int] = []
        self._out = 0

    def add(self, tokens: list[int]) -> None:
        """Show tokens that were written."""
        self.tokens += tokens
        # A character of several tokens shows as U+FFFD until its last one is there.
        if not (text := self.text(self.tokens)).endswith("�"):
            self._show(text)

    def agree(self, tokens: list[int]) -> None:
        """Show tokens of the answer, as far as their text is the answer's to the letter."""
        self.tokens += tokens
        if self._whole.startswith(text := self.text(self.tokens)):
            self._show(text)

    def end(self, text: str) -> None:
        """Show what is left of the whole text."""
        self._show(text)

    def text(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _show(self, text: str) -> None:
        if len(text) > self._out:
            self._put(text[self._out :])
            self._out = len(text)


def write(
    part: Part,
    encoded: tuple[list[int], list[int], int],
    put: Callable[[str], None],
    *,
    drafts: bool,
    options: Mapping[str, Any],
    keep: Keep | None = None,
) -> Score | None:
    """Write one completion and put its text piece by piece.

    Args:
        part: The request.
        encoded: Token ids of the prompt, those of the answer, and the completion's limit.
        put: Takes the pieces.
        drafts: Whether text is drafted from the answer.
        options: Arguments of `GenerationConfig`; greedy without any.
        keep: Decides whether the answer is kept; None: it is not.

    Returns:
        The answer's score if it was kept.

    Raises:
        AlignerError: It was given up, or ran into the limit.
    """
    weights, stop, request = part.weights, part.stop, part.request
    prompt, answer, limit = encoded
    whole = request.completion_prefix + request.answer.strip()
    shown = _Shown(weights.tokenizer, put, whole)
    prefixes = weights.prefixes
    with weights.lock:
        if stop.is_set():
            raise part.stopped()
        if keep is not None and (weights.drafts is None or not drafts):
            (score,) = score_batch(weights, [prompt], [request], keep=False)
            if keep(score, True):
                shown.end(whole)
                return score
        elif keep is not None and weights.drafts is not None:

            def on_agreed(tokens: list[int]) -> None:
                if not options:  # what is sampled may begin otherwise
                    shown.agree(tokens[: limit - len(shown.tokens)])

            kept, prefix = judge_in_steps(weights, weights.drafts, prompt, request, keep, stop, on_agreed)
            weights.prefixes.add(prefix)
            if kept is not None:
                shown.end(whole)
                return kept
            # What is shown already must stay true, so this very pass is gone on from, even if it is too large to be kept.
            prefixes = Prefixes(prefix.nbytes)
            prefixes.add(prefix)
        already = len(shown.tokens)

        def on_tokens(tokens: list[int]) -> None:
            nonlocal already
            already, new = max(0, already - len(tokens)), tokens[already:]
            if new:
                shown.add(new)

        drafted = [answer] if drafts else None
        ((ids, ended),) = decode(weights, [prompt], drafted, [limit], [stop], options, on_tokens, prefixes=prefixes)
    shown.end(shown.text(ids))
    if not ended and stop.is_set():
        raise part.stopped()
    if not ended:
        raise TruncatedCorrectionError(
            f"The correction ran into its limit of {limit} tokens and is incomplete. Raise max_new_tokens."
        )
    return None
