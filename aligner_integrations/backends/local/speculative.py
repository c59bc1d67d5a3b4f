"""Lossless decoding that drafts from the answer: the model verifies many tokens in one forward pass.

Greedy tokens are those of `generate`: a drafted token counts only where it is the model's own choice, and after the
first that is not, the model's choice takes its place. Sampled tokens have the distribution of `generate`, because each
is drawn from the model's own probabilities after what precedes it, and the draft counts only as far as it was drawn. So drafts
decide about time alone. They come from `drafter.py`; what was read before comes from `prefix_cache.py`.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from aligner_integrations.backends.deadline import Stop
from aligner_integrations.backends.local.drafter import Drafter, best_length
from aligner_integrations.backends.local.kv_cache import Rows, read_on
from aligner_integrations.backends.local.prefix_cache import NOTHING, Prefix, Prefixes

logger = logging.getLogger(__name__)

# Most drafted tokens in one pass, all rows together: bounds the memory of the logits.
_MOST_DRAFTED = 256
_TRIAL_PROMPT, _TRIAL_DRAFT = 8, 32

Pick = Callable[[torch.Tensor], list[list[int]]]
"""Logits, shape (rows, tokens, words) -> the model's choice at each place."""


@dataclass(frozen=True, slots=True)
class DraftSupport:
    """What drafting can do with a model on its device.

    Attributes:
        token_cost: Time for one token more in a forward pass, as a share of that of a pass of one token.
        token_bytes: Memory of one token in the model's cache.
        batches: Whether rows of a batch may accept different numbers of tokens.
    """

    token_cost: float
    token_bytes: int
    batches: bool


def find_support(model: Any, window: int | None) -> DraftSupport | None:
    """Try drafting on a model and measure its costs; None, with the reason logged, where plain `generate` has to do."""
    try:
        return _try(model, window)
    except Exception as error:  # noqa: BLE001 - a model may be unfit in any way, and generate still runs it
        logger.info("Corrections are decoded by plain generate, without drafts: %s.", error)
        return None


@torch.inference_mode()
def _try(model: Any, window: int | None) -> DraftSupport:
    if window is not None and window < 2 * (_TRIAL_PROMPT + _TRIAL_DRAFT):
        raise ValueError(f"its window of {window} tokens is too small")
    rows = Rows(model)
    size = model.get_input_embeddings().num_embeddings
    tokens = [(7919 * i + 1) % size for i in range(_TRIAL_PROMPT + _TRIAL_DRAFT)]
    prompt, draft = tokens[:_TRIAL_PROMPT], tokens[_TRIAL_PROMPT:]
    expected = rows.forward([prompt], [draft])[0, 1]
    token_bytes = Prefix([], rows.cache).nbytes // len(tokens)
    rows.grow_in_place()
    rows.settle([0])
    # A cache that is cropped in name only would give wrong text without a word.
    off = float((rows.forward([draft[:1]], [[]])[0, 0] - expected).norm() / expected.norm())
    if not off < 0.05:
        raise ValueError(f"its numbers after a crop are off by {off:.0%}")
    rows.settle([0])
    long: list[float] = []
    short: list[float] = []
    # Slow models are measured once, others thrice, fast ones until the figure is steady.
    while len(long) < 5 and (spent := sum(short) + sum(long)) < 3 and (len(long) < 3 or spent < 0.3):
        started = time.perf_counter()
        rows.forward([draft[:1]], [[]])[0, 0, 0].item()  # waits for a device that runs on its own
        rows.settle([0])
        between = time.perf_counter()
        rows.forward([draft[:1]], [draft[1:]])[0, 0, 0].item()
        rows.settle([0])
        short.append(between - started)
        long.append(time.perf_counter() - between)
    extra = (min(long) / min(short) - 1) / (len(draft) - 1)
    # A power of two, so that a busy machine hardly ever changes where passes begin, and with it the last bits of numbers.
    power = next((n for n in range(10) if extra >= 0.75 * 2.0**-n), 10)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT's own forward takes anything
    batches = rows.plain and "position_ids" in inspect.signature(inner.forward).parameters
    return DraftSupport(2.0**-power, token_bytes, batches)


@dataclass(slots=True)
class _Row:
    """One correction on its way."""

    drafter: Drafter
    limit: int
    stop: Stop
    fresh: list[int]
    written: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def room(self) -> int:
        """How many drafted tokens there is room for: a pass gives one more than it accepts."""
        return max(0, self.limit - len(self.written) - 1)

    @property
    def done(self) -> bool:
        return self.ended or len(self.written) >= self.limit or self.stop.is_set()

    def begin(
        self, answer: list[int], stop_ids: Sequence[int], prefixes: Prefixes, *, greedy: bool
    ) -> tuple[Prefix, int]:
        """Begin the text with what the model is known to choose; return what to go on from, and how much of it."""
        prompt = self.fresh
        prefix, known = prefixes.find(prompt + answer)
        at = len(prompt) - 1 - prefix.first
        # The pass that judged the answer has told what the model chooses after each of its tokens. So the answer's beginning is
        # a draft that is verified already. What is sampled has to be drawn instead.
        if greedy and known >= len(prompt) and 0 <= at < len(prefix.choices):
            most = min(self.room, known - len(prompt), len(prefix.choices) - at - 1)
            accepted, _ = self.take(self.drafter.propose(most).tokens, prefix.choices[at:], stop_ids)
            return prefix, len(prompt) + accepted
        known = min(known, len(prompt) - 1)  # what comes after its last token is not known
        if known < prefix.floor:  # a sliding window has forgotten what stands before that
            prefix, known = NOTHING, 0
        self.fresh = prompt[known:]
        return prefix, known

    def take(self, draft: list[int], choices: list[int], stop_ids: Sequence[int]) -> tuple[int, list[int]]:
        """Accept what is the model's choice; return how much of the draft that is, and the new tokens of the text."""
        # Each choice was made after the draft's tokens before it. While those are the model's own choices, it is what the model
        # would have written token by token; the first that differs was still made after right ones, and so it counts, too.
        accepted = 0
        while accepted < len(draft) and draft[accepted] == choices[accepted]:
            accepted += 1
        tokens = [*draft[:accepted], choices[accepted]]
        self.drafter.take(tokens, len(draft))
        self.fresh = tokens[-1:]  # chosen, but not read yet
        end = next((i for i, token in enumerate(tokens) if token in stop_ids), None)
        self.ended = end is not None
        self.written += tokens[:end]
        return accepted, tokens[:end]


def decode_with_drafts(
    model: Any,
    support: DraftSupport,
    stop_ids: Sequence[int],
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    limits: Sequence[int],
    stops: Sequence[Stop],
    prefixes: Prefixes,
    *,
    pick: Pick | None = None,
    on_tokens: Callable[[list[int]], None] | None = None,
) -> list[tuple[list[int], bool]]:
    """Continue a batch of prompts.

    Args:
        model: A causal language model.
        support: What `find_support` found; for batches if there are several rows.
        stop_ids: Token ids that end a completion.
        prompts: Token ids of each prompt.
        answers: Token ids of each answer as a completion, without the end token.
        limits: Longest continuation of each, in tokens.
        stops: When each is given up.
        prefixes: What went through this model before.
        pick: Draws tokens, for sampling. None: greedy.
        on_tokens: Called with the tokens of each pass, without the end token; for a batch of one.

    Returns:
        For each prompt the new token ids without the end token, and whether it ended by itself.
    """
    rows_of = zip(prompts, answers, limits, stops, strict=True)
    texts = [_Row(Drafter(p, a), n, stop, p) for p, a, n, stop in rows_of]
    with torch.inference_mode():
        share_beginning(model, support, prompts, prefixes)
        starts = []
        for row, answer in zip(texts, answers, strict=True):
            starts.append(row.begin(answer, stop_ids, prefixes, greedy=pick is None))
            if on_tokens is not None and row.written:
                on_tokens(row.written)
        going = [i for i, row in enumerate(texts) if not row.done]
        if not going:
            return [(row.written, row.ended) for row in texts]
        alive = [texts[i] for i in going]
        rows = Rows(model, [starts[i] for i in going])
        rows.grow_in_place()
        while alive:
            most = _MOST_DRAFTED // len(alive)
            guesses = [row.drafter.propose(min(most, row.room)) for row in alive]
            # One length for all: a batch is a rectangle, so a row with a shorter draft would read padding instead.
            length = best_length(guesses, support.token_cost)
            drafts = [guess.tokens[:length] for guess in guesses]
            logits = rows.forward([row.fresh for row in alive], drafts)
            choices = logits.max(-1).indices.tolist() if pick is None else pick(logits)
            accepted = []
            for row, draft, chosen in zip(alive, drafts, choices, strict=True):
                count, new = row.take(draft, chosen, stop_ids)
                accepted.append(count)
                if on_tokens is not None and new:
                    on_tokens(new)
            rows.settle(accepted)
            going = [i for i, row in enumerate(alive) if not row.done]
            if 0 < len(going) < len(alive):
                rows.select(going)
            alive = [alive[i] for i in going]
        # The next draft or round often begins with the same question. A row of a batch would have to be copied out first.
        if len(texts) == 1 and rows.plain and starts[0][1] < len(prompts[0]) <= rows.lengths[0]:
            rows.cache.crop(len(prompts[0]) - rows.lengths[0])
            prefixes.add(Prefix(prompts[0], rows.cache))
    return [(row.written, row.ended) for row in texts]


def share_beginning(model: Any, support: DraftSupport, prompts: Sequence[list[int]], prefixes: Prefixes) -> None:
    """Let what all prompts of a batch begin with go through the model once, if that saves time."""
    if len(prompts) == 1:
        return
    shared = prompts[0][: min(Prefix(prompts[0], None).common(prompt) for prompt in prompts)]
    prefix, known = prefixes.find(shared)
    # Reading it is a pass of its own, which has to save more tokens than a pass is worth.
    if known < len(shared) and (len(prompts) - 1) * (len(shared) - known) * support.token_cost > 1:
        prefixes.add(read_on(model, prefix, known, shared[known:]))
