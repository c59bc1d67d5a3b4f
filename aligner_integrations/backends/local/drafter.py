"""Guessing the next tokens of a correction: from the answer, then from the prompt and the text so far.

An aligner mostly copies, so its answer is a draft of its correction (SAD, arXiv 2106.04970; LLMA, 2304.04487; prompt
lookup). Here are the guesses and how long one pays; `speculative.py` lets the model verify them. No tensors here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

# How a guess was found -> the chance that its first token is right, and that each further one is, once those before
# are; for a text that copied nothing so far, and for one that copied all. A run goes on where the last guess ended; the
# number says how long it has been right, by _RUNS; near: the words just written stand near the place in the answer that was
# reached; far: elsewhere; the number says how many of those words match; skip: nothing matches, so one token of the
# answer was replaced. Counted on what Aligner-2B made of GPT-4's and Qwen's answers (AlpacaEval), and the embedded
# aligner of ParaDetox.
_CHANCES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "start": ((0.60, 0.97), (0.60, 0.97)),
    "run0": ((0.43, 0.52), (0.85, 0.95)),
    "run1": ((0.53, 0.62), (0.95, 0.97)),
    "run2": ((0.75, 0.82), (0.98, 0.99)),
    "run3": ((0.90, 0.92), (0.99, 0.998)),
    "near1": ((0.10, 0.43), (0.88, 0.97)),
    "near2": ((0.38, 0.50), (0.90, 0.95)),
    "near3": ((0.50, 0.72), (0.97, 0.99)),
    "far1": ((0.17, 0.42), (0.24, 0.62)),
    "far2": ((0.34, 0.45), (0.45, 0.68)),
    "far3": ((0.46, 0.53), (0.58, 0.85)),
    "skip": ((0.01, 0.40), (0.25, 0.95)),
}
# How many guesses those chances count as against what is seen in this very correction.
_WEIGHT = 16
# From how many right tokens on a run counts as a longer one.
_RUNS = (4, 8, 16)
# Longest first guess, in tokens. Its pass has the prompt to read anyway, and what it leaves costs as much in the next one,
# so a longer guess saves a pass only where it is the whole answer, and costs those who begin anew. After so many right
# tokens a run counts as long, and the rest goes at once.
_START = _RUNS[-1]
# Tokens around the place reached in the answer that count as near.
_NEAR = 12
# Longest match that is told from a longer one.
_LONGEST_MATCH = 8


@dataclass(frozen=True, slots=True)
class Draft:
    """Guessed tokens.

    Attributes:
        tokens: Token ids, the next one first; may be empty.
        first: Chance that the first is right.
        later: Chance that each further one is right if those before are.
    """

    tokens: list[int]
    first: float = 0.0
    later: float = 0.0

    def expected(self, length: int) -> float:
        """Return how many of its first `length` tokens are right, as far as one can tell."""
        length = min(length, len(self.tokens))
        if self.later >= 1:
            return self.first * length
        return self.first * (1 - self.later**length) / (1 - self.later)


def best_length(drafts: Sequence[Draft], token_cost: float) -> int:
    """Return how many draft tokens a row one forward pass should verify, the same number for each row of a batch.

    It is the length with the most tokens for the time. A pass gives each row one token beyond those it accepts.

    Args:
        drafts: One draft a row.
        token_cost: Time for one token more in a forward pass, as a share of the time of a pass of one token.
    """
    # A token more costs the same whether it is right or not, and the chance that it is falls from one to the next. So tokens for
    # the time rise and then fall, and a guess pays up to there; for a bad one that is not at all.
    rows, longest = len(drafts), max(len(draft.tokens) for draft in drafts)
    best, best_rate, length = 0, 0.0, 0
    while length <= longest:
        tokens = rows + sum(draft.expected(length) for draft in drafts)
        rate = tokens / (1 + token_cost * (rows * (1 + length) - 1))
        if rate > best_rate:
            best, best_rate = length, rate
        # In growing steps: the best of many lengths is hardly better than its neighbours.
        length = longest if length < longest < length + 1 + length // 4 else length + 1 + length // 4
    return best


class Drafter:
    """Guesses the continuation of one correction, and learns from what the model accepts.

    Args:
        prompt: Token ids of the prompt.
        answer: Token ids of the answer as a completion, without the end token.
    """

    def __init__(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        self._text = [*answer, *prompt]
        self._answer_end = len(answer)
        self._written_from = len(self._text)
        self._places: defaultdict[int, list[int]] = defaultdict(list)
        for place, token in enumerate(self._text):
            self._places[token].append(place)
        self._reached = 0  # place in the answer up to which the correction has followed it
        self._next: int | None = 0  # where a run goes on, if the last guess was right to its end
        self._kind = "start"
        self._copied = 0  # tokens of the correction that stand in the answer where they were expected
        self._run = 0  # tokens that were right one after the other
        self._place = 0  # where the last guess was copied from
        # kind of guess -> how often the first token was right and wrong, how often a later one was right and wrong
        self._seen: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])

    def propose(self, most: int) -> Draft:
        """Return a guess of at most `most` tokens."""
        place, kind = self._find()
        if place is None:
            return Draft([])
        self._place, self._kind = place, kind
        if kind == "start":
            most = min(most, _START)
        # The table's chances, between its two columns by how much of this very text was copied, and then weighed against how
        # guesses of this kind have done in it.
        none, all_ = _CHANCES[kind]
        share = (self._copied + 1) / (len(self._text) - self._written_from + 2)
        first, later = (low + share * (high - low) for low, high in zip(none, all_, strict=True))
        right, wrong, later_right, later_wrong = self._seen[kind]
        return Draft(
            self._copy(place, most),
            (_WEIGHT * first + right) / (_WEIGHT + right + wrong),
            (_WEIGHT * later + later_right) / (_WEIGHT + later_right + later_wrong),
        )

    def _copy(self, place: int, most: int) -> list[int]:
        """Return what stands at a place, up to the end of the answer or of the text."""
        if place < self._answer_end:
            return self._text[place : min(self._answer_end, place + most)]
        period = len(self._text) - place
        if period < most and self._text[-period:] == self._text[-2 * period : -period]:
            # The text goes round in circles. It hardly ever stops, so the copy goes on over what it has just copied.
            return [self._text[place + i % period] for i in range(most)]
        return self._text[place : place + most]

    def take(self, tokens: Sequence[int], verified: int) -> None:
        """Learn what the model wrote: accepted tokens of the last guess, then one of its own.

        Args:
            tokens: The new tokens.
            verified: How many tokens of the last guess the model saw.
        """
        accepted = len(tokens) - 1
        for token in tokens:
            self._places[token].append(len(self._text))
            self._text.append(token)
        self._next = None
        if not verified:
            return
        seen = self._seen[self._kind]
        seen[0 if accepted else 1] += 1
        seen[2] += max(0, accepted - 1)
        seen[3] += 0 < accepted < verified
        after = self._place + accepted
        in_answer = self._place < self._answer_end
        end = self._answer_end if in_answer else len(self._text) - 1
        # After a draft that was right to its end comes a token of the model's own; often it is the next one of the copy, too.
        goes_on = accepted == verified and after < end and self._text[after] == tokens[-1]
        if in_answer and (accepted or self._kind == "start" or self._kind.startswith("run")):
            self._reached = after + goes_on
        self._copied += (accepted + goes_on) if in_answer else 0
        self._run = (self._run if self._kind.startswith("run") else 0) + accepted + goes_on
        if goes_on and after + 1 < end:
            self._next, self._kind = after + 1, f"run{sum(self._run >= length for length in _RUNS)}"

    def _find(self) -> tuple[int | None, str]:
        """Return the place a guess is copied from, and how it was found."""
        if self._next is not None:
            starts = self._kind == "start"
            return (self._next, self._kind) if self._next < self._answer_end or not starts else (None, "")
        best: tuple[int, int, int] | None = None  # (tokens that match, nearness, place)
        last = len(self._text) - 1
        for place in self._places[self._text[last]]:
            if place in (last, self._answer_end - 1):  # nothing follows there
                continue
            # The answer, and the prompt with what was written, are two texts.
            in_answer = place < self._answer_end
            start = 0 if in_answer else self._answer_end
            most = min(_LONGEST_MATCH, place - start + 1, last - self._written_from + 1)
            match = 1
            while match < most and self._text[place - match] == self._text[last - match]:
                match += 1
            # Of equal matches: the nearest in the answer, else the latest.
            nearness = -abs(place + 1 - self._reached) if in_answer else place - 2 * last
            best = max(best, (match, nearness, place + 1)) if best else (match, nearness, place + 1)
        if best is not None:
            match, nearness, place = best
            near = place < self._answer_end and nearness >= -_NEAR
            return place, f"{'near' if near else 'far'}{min(match, 3)}"
        return (self._reached + 1, "skip") if self._reached + 1 < self._answer_end else (None, "")
