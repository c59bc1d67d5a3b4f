"""The first of two passes: rude text becomes civil, good answers stay. What the second one goes on from (`data.py`).

Its rows are as the data holds them: tokenised, in lower case, the rewrite that differs least in letters.
"""

from __future__ import annotations

import difflib
import random
from dataclasses import dataclass

from aligner_integrations.training.embedded.data import MAX_GOOD_CHARACTERS, QUESTIONS, mixed
from aligner_integrations.training.embedded.pairs import swears
from aligner_integrations.training.embedded.sources import Rude, Split
from aligner_integrations.triples import Triple


@dataclass(frozen=True, slots=True)
class FirstMixture:
    """How many rows of each kind one training has.

    Attributes:
        rude: Rude texts with their smallest civil edit.
        passage_sentences: Rude texts that come again, inside passages of several sentences.
        civil: Civil sentences that stay as they are.
        gsm8k: Worked sums that stay as they are; the human answers of Open-Assistant are all taken.
        mixed: Good answers with a rude sentence in them.
    """

    rude: int = 9500
    passage_sentences: int = 4500
    civil: int = 1000
    gsm8k: int = 500
    mixed: int = 900


def first_triples(train: Split, seed: int, mixture: FirstMixture = FirstMixture()) -> list[Triple]:
    """All triples of the first pass, in no particular order."""
    rng = random.Random(seed)
    pairs = [(rude, refs) for rude in train.rude if (refs := smallest_edits(rude))]
    rows = [Triple(rng.choice(QUESTIONS), rude.toxic, refs[0]) for rude, refs in rng.sample(pairs, mixture.rude)]
    civil = [rng.choice(refs) for _, refs in rng.sample(pairs, mixture.civil)]
    rows += [Triple(rng.choice(QUESTIONS), text, text) for text in civil]
    rows += _passages(rng, rng.sample(pairs, mixture.passage_sentences))
    good = [g for g in train.oasst if len(g.answer) <= MAX_GOOD_CHARACTERS] + rng.sample(train.gsm8k, mixture.gsm8k)
    rows += [Triple(g.question, g.answer, g.answer) for g in good]
    hosts = [g for g in good if 120 <= len(g.answer) <= 1000]
    for _ in range(mixture.mixed):
        rude, refs = rng.choice(pairs)
        rows.append(mixed(rng, rng.choice(hosts), rude.toxic, refs[0]))
    return rows


def _passages(rng: random.Random, pairs: list[tuple[Rude, list[str]]]) -> list[Triple]:
    """Passages of two to five ParaDetox sentences, about half of them rude, so that one prompt teaches several edits."""
    order = list(pairs)
    rows = []
    while order:
        part = [order.pop() for _ in range(min(len(order), rng.randint(2, 5)))]
        answer, correction = [], []
        for rude, refs in part:
            is_rude = rng.random() < 0.6
            correction.append(refs[0] if is_rude else rng.choice(refs))
            answer.append(rude.toxic if is_rude else correction[-1])
        rows.append(Triple(rng.choice(QUESTIONS), " ".join(answer), " ".join(correction)))
    return rows


def smallest_edits(rude: Rude) -> list[str]:
    """The human rewrites without swear words, the smallest edit first."""
    clean = [n for n in rude.neutral if n.strip() and not swears(n)]
    return sorted(clean, key=lambda n: -difflib.SequenceMatcher(None, rude.toxic, n, autojunk=False).ratio())
