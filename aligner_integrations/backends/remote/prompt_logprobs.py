"""Scores from a server: the log-probabilities of a prompt that ends in the answer, through `echo` and `logprobs`.

vLLM, SGLang and llama-cpp-python (for models that start with a BOS token) can do this. Others leave the fields out, or
count them one token off; so a server is asked once whether its numbers make sense.
"""

from __future__ import annotations

import math
from typing import Any

from aligner_integrations.backends.remote.special_tokens import Broken
from aligner_integrations.backends.request import Request
from aligner_integrations.backends.score import Score, TokenScore
from aligner_integrations.errors import BackendError

_PROBE_TOKENS = 4
_TIE = 1e-6


def probe(model: str | None) -> dict[str, Any]:
    """Return a small request that shows whether a server's log-probabilities can be used."""
    return _body(model, "The capital of France is", _PROBE_TOKENS)


def is_sound(answer: Any) -> bool:
    """Whether the prompt's log-probabilities are there, and call each greedy token the first choice in its place.

    Several different tokens must have been written: if all were alike, numbers one token off would look right.
    """
    try:
        rows = _Rows(answer)
    except BackendError:
        return False
    written = range(rows.prompt, len(rows.tokens))
    margins = [rows.margin(i) for i in written]
    different = len({rows.tokens[i] for i in written}) > 1
    return rows.prompt > 1 and different and min(margins) >= 0 and max(margins) > _TIE


class Question:
    """A request whose answer is to be judged.

    Args:
        model: The model's name on the server.
        request: The correction that it would be.

    Attributes:
        body: What to send.
    """

    def __init__(self, model: str | None, request: Request) -> None:
        self._request = request
        self._core = request.answer.strip()
        self._broken = Broken(self._core)
        self._tail = request.completion_prefix + self._broken.text
        self.body = _body(model, Broken(request.prompt).text + self._tail, 1)

    def score(self, answer: Any) -> Score:
        """Return the score.

        A token that reaches from the prompt into the answer counts as the answer's. If the aligner would write on after
        it, servers show no log-probability of the end: its gap is infinite then, so that no threshold keeps the answer.

        Raises:
            BackendError: The response holds no log-probabilities of the answer.
        """
        rows = _Rows(answer)
        lead = len(self._request.answer) - len(self._request.answer.lstrip())
        # Counted from the end, because a BOS before the prompt may be counted or not.
        core = rows.end - len(self._broken.text)
        tokens = []
        for i in range(rows.prompt):
            start, stop = rows.span(i)
            if stop > rows.end - len(self._tail):
                start, stop = (lead + self._broken.position(max(0, place - core)) for place in (start, stop))
                own, best = rows.pair(i)
                tokens.append(TokenScore(self._request.answer[start:stop], start, stop, own, best - own))
        if not tokens:
            raise BackendError("The server's log-probabilities do not reach the answer.")
        end = lead + len(self._core)
        if rows.ended:
            tokens.append(TokenScore("", end, end, rows.end_logprob, 0.0))
        else:
            tokens.append(TokenScore("", end, end, -math.inf, math.inf))
        logprobs = [token.logprob for token in tokens]
        return Score(
            tuple(tokens),
            total=sum(logprobs),
            mean=sum(logprobs) / len(logprobs),
            minimum=min(logprobs),
            max_gap=max(token.gap for token in tokens),
        )


class _Rows:
    """The tokens of a response, echoed ones and then written ones, with their log-probabilities in nats.

    Attributes:
        tokens: Their texts.
        prompt: How many are echoed.
        end: One past the last character of the echoed text.
        ended: Whether the model ended after what it wrote.
    """

    def __init__(self, answer: Any) -> None:
        try:
            choice = answer["choices"][0]
            data = choice["logprobs"]
            rows = list(
                zip(data["tokens"], data["token_logprobs"], data["top_logprobs"], data["text_offset"], strict=True)
            )
            written = answer["usage"]["completion_tokens"]
            usable = isinstance(written, int) and 0 <= written < len(rows) and all(map(_is_row, rows))
        except (KeyError, IndexError, TypeError, ValueError):
            usable = False
        if not usable:
            raise BackendError(
                "The server gives no log-probabilities of the prompt, so its aligner cannot be a gate: leave gate= out, or "
                "use a server that can, such as vLLM."
            )
        self.tokens: list[str] = [row[0] for row in rows]
        self._logprobs: list[float | None] = [row[1] for row in rows]
        self._tops: list[dict[str, float] | None] = [row[2] for row in rows]
        self._offsets: list[int] = [row[3] for row in rows]
        self.prompt = len(rows) - written
        self.end = self._offsets[self.prompt - 1] + len(self.tokens[self.prompt - 1])
        self.ended = choice.get("finish_reason") in ("stop", "eos_token")

    @property
    def end_logprob(self) -> float:
        """That of the end token, or 0 where the server does not show it: it is the first choice in any case."""
        own = self._logprobs[self.prompt] if self.prompt < len(self.tokens) else None
        return 0.0 if own is None else own

    def span(self, i: int) -> tuple[int, int]:
        """Where an echoed token is in the echoed text."""
        return self._offsets[i], self._offsets[i + 1] if i + 1 < self.prompt else self.end

    def pair(self, i: int) -> tuple[float, float]:
        """Return the log-probabilities of a token and of the first choice in its place."""
        own, tops = self._logprobs[i], self._tops[i]
        if own is None or not tops:
            raise BackendError("The server gives no log-probability for a token of the answer.")
        return own, max(own, *tops.values())

    def margin(self, i: int) -> float:
        """By how much a token is ahead of the next one in its place; 0 if none is known, -1 if it is not ahead."""
        own, tops = self._logprobs[i], self._tops[i]
        if own is None or not tops or own < max(tops.values()) - _TIE:
            return -1.0
        return own - sorted(tops.values())[-2] if len(tops) > 1 else 0.0


def _is_row(row: tuple[Any, Any, Any, Any]) -> bool:
    token, own, tops, offset = row
    numbers = [offset, *([] if own is None else [own]), *((tops or {}).values())]
    return isinstance(token, str) and all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)


def _body(model: str | None, prompt: str, tokens: int) -> dict[str, Any]:
    return {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "echo": True, "logprobs": 2}
