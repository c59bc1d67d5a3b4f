"""The last of three passes, a short one: rewrites as people wrote them, spaces and all, beside some of all that the second taught.

The second pass puts human edits on the original's spaces; what is measured compares with what people wrote.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from aligner_integrations.refusals import is_refusal
from aligner_integrations.training.embedded.data import QUESTIONS
from aligner_integrations.triples import Triple

_LEFT_OUT = {
    "Rewrite your last message.",
    "What did they say?",
    "How would you answer?",
    "Describe the situation.",
    "What is this about?",
    "Give me your honest take.",
}
_LONG = 150  # characters
_LONGEST = 650


def last_triples(triples: Sequence[Triple], rewrites: Sequence[tuple[str, str]], seed: int = 7) -> list[Triple]:
    """All triples of the last pass, in no particular order.

    Args:
        triples: Those of the second pass.
        rewrites: Rude texts of its rows, and the human rewrite chosen for each.
        seed: Which rows are drawn.
    """
    rng = random.Random(seed)
    questions = [question for question in QUESTIONS if question not in _LEFT_OUT]

    def some(rows: Sequence[Triple], count: int) -> list[Triple]:
        return rng.sample(rows, min(count, len(rows)))

    order = list(range(len(rewrites)))
    rng.shuffle(order)
    found = [Triple(rng.choice(questions), *rewrites[number]) for number in order[:1150]]
    declined = [t for t in triples if t.answer != t.correction and not t.end_only and _declines(t)]
    found += some([t for t in declined if len(t.answer) > _LONG], 140)
    found += some([t for t in declined if len(t.answer) <= _LONG], 110)
    same = [t for t in triples if t.answer == t.correction]
    found += some([t for t in same if _LONG < len(t.answer) < _LONGEST], 110)
    found += some([t for t in same if len(t.answer) <= _LONG], 90)
    edited = [t for t in triples if t.answer != t.correction and not t.end_only and not is_refusal(t.correction)]
    found += some([t for t in edited if t.answer[:1].isupper() and len(t.answer) < 400], 230)
    return found + some([t for t in triples if t.end_only], 40)


def _declines(triple: Triple) -> bool:
    return is_refusal(triple.correction) and not is_refusal(triple.answer)
