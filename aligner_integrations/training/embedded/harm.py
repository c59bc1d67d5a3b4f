"""What the embedded aligner learns about harm: harmful answers are declined, abuse and hate become civil, refusals stay."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from aligner_integrations.jsonl import read_jsonl
from aligner_integrations.refusals import is_refusal
from aligner_integrations.training.embedded.sources import Pair, Split
from aligner_integrations.triples import Triple

WRITTEN = Path(__file__).parent / "written" / "abuse.jsonl"
"""Insults without swear words, threats and worse with civil corrections, written for this package."""

OPINIONS = (
    "What do you think?",
    "Write a comment.",
    "Say something about them.",
    "What is your opinion?",
    "Any thoughts?",
)
"""Questions for sentences that come without one."""

_GENERAL = re.compile(r"\b(?:with|fulfill|support|do|provide|of) (?:this|that)(?: request| information)?\.$")

_APOLOGIES = (
    "I'm sorry, that was unkind of me.",
    "That was rude of me, and I take it back. I'm sorry.",
    "I'm sorry, I should not have said that.",
    "I'd rather not answer with an insult. I'm sorry.",
    "I disagree, but I don't want to insult you.",
    "I don't want to be rude. Let us talk about it calmly.",
)
_ABOUT_GROUPS = (
    "I won't say that: it is hateful, and it isn't true of any group of people.",
    "I don't want to say anything hateful about people. I'm sorry.",
    "I'm sorry, I won't say something hateful. People deserve respect, whoever they are.",
    "I don't want to insult people for who they are.",
)
_THREATS = (
    "I won't threaten anyone. I'm sorry.",
    "I'm sorry, I don't want to threaten or hurt anybody.",
    "I don't wish harm on anyone, and I take it back.",
)


def clip(text: str, most: int) -> str:
    """Return the beginning of a text, up to the end of its last sentence or line that ends within so many characters."""
    text = text.strip()
    if len(text) <= most:
        return text
    cut = text[:most]
    end = max(cut.rfind(". "), cut.rfind("\n"))
    return cut[: end + 1].strip() if end > most // 5 else cut


def brief(refusal: str, most: int = 240) -> str:
    """Return a refusal's first sentences."""
    text = re.sub(r"\s+", " ", refusal.strip())
    out = ""
    for sentence in re.split(r"(?<=[.!?]) ", text):
        if out and len(out) + len(sentence) > most:
            break
        out = f"{out} {sentence}".strip()
    return out


def declined(rng: random.Random, part: Split, answered: Sequence[Pair], most: int = 700) -> list[Triple]:
    """Harmful answers with a refusal as their correction: one of the same behaviour where there is one.

    Args:
        rng: Which refusal is taken.
        part: The split.
        answered: What a real LLM answered to `part.questions`.
        most: Characters of an answer.
    """
    by_kind: dict[str, list[str]] = {}
    for pair in part.refusals:
        by_kind.setdefault(pair.kind, []).append(brief(pair.answer))
    considered = by_kind.get("star1", [])
    own = {pair.question: brief(pair.answer) for pair in part.refusals if pair.kind == "star1"}
    # What refuses one request in particular would be wrong about another.
    openings = [re.split(r"(?<=[.!?]) ", text)[0] for text in considered]
    general = [text for text in openings if _GENERAL.search(text)] or considered
    rows = []
    for pair in part.harmful:
        same = by_kind.get(pair.kind, []) if pair.kind != "xstest" else []
        refusal = rng.choice(same) if same and rng.random() < 0.6 else rng.choice(general)
        rows.append(Triple(pair.question, clip(pair.answer, most), refusal))
    for pair in answered:
        if len(pair.answer) > 60 and not is_refusal(pair.answer):
            refusal = own.get(pair.question) or rng.choice(general)
            rows.append(Triple(pair.question, clip(pair.answer, most), refusal))
    return rows


def abusive(rng: random.Random, part: Split, count: int) -> list[Triple]:
    """Replies that offend the user, with an apology as their correction."""
    found = [pair for pair in part.abusive if len(pair.answer) > 25]
    found = rng.sample(found, min(count, len(found)))
    return [Triple(clip(p.question, 400), clip(p.answer, 400), rng.choice(_APOLOGIES)) for p in found]


def hateful(rng: random.Random, part: Split, count: int) -> list[Triple]:
    """Hateful sentences and threats, with a correction that does not say them."""
    rows = []
    for pair in rng.sample(part.hateful, min(count, len(part.hateful))):
        civil = _THREATS if pair.kind.startswith("threat") else _ABOUT_GROUPS
        rows.append(Triple(rng.choice(OPINIONS), pair.answer, rng.choice(civil)))
    return rows


def written() -> list[Triple]:
    """The written insults and threats with their corrections."""
    return [Triple(row["question"], row["answer"], row["correction"]) for _, row in read_jsonl(WRITTEN)]


def kept_refusals(rng: random.Random, part: Split, count: int) -> list[Triple]:
    """Refusals that stay as they are."""
    found = rng.sample(part.refusals, min(count, len(part.refusals)))
    return [Triple(p.question, text, text) for p in found for text in [clip(p.answer, 500)]]
