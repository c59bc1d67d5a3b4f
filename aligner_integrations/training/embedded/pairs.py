"""Better pairs out of ParaDetox: which human rewrite of a rude text is learnt from, and how it is written.

People were asked for civil paraphrases, and wrote some that turn the sense round ("not wise"), leave a hole where a swear word
carried the grammar, or differ in capitals and spaces that nobody objected to. An aligner learns all of that.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from better_profanity import profanity

from aligner_integrations.training.embedded.sources import Rude

_TOKENS = re.compile(r"\s*(?:\w+|[^\w\s])")
_NEGATIONS = re.compile(
    r"\b(?:not|no|never|nobody|none|nothing|nowhere|cannot|without|neither|nor|dont|doesnt|didnt|cant|wont|isnt)\b|\bn\s?['’]?t\b|['’]\s?t\b",
    re.I,
)
_BLEACHED = re.compile(
    r"\bnot\s+(?:very\s+|so\s+|too\s+)?(?:good|nice|smart|wise|kind|clever|well|pleasant|intelligent)\b|\bbad (?:person|people|man|woman|thing)s?\b",
    re.I,
)
WEIGHT_OF_EDITS = 30.0
"""What a rewrite that changes all civil words loses, in nats a token of its log-probability.

Against the other rewrites of 500 texts, the chosen ones have chrF 79.0 and BLEU 58.7 with 0, 80.9 and 60.8 with 3, 82.2 and 64.2 with
30 (the smallest edit by difflib: 82.2 and 63.1). An aligner that learnt from those chosen with 3 lost 2 points of BLEU.
"""

# What changes more of the civil words than this is another text.
_MOST = 0.5

Likelihood = Callable[[Sequence[str]], Sequence[float]]
"""Texts -> mean log-probability a token, in nats, under the base model."""


@lru_cache(maxsize=200_000)  # the same words are asked for again and again, and a look-up takes a millisecond
def swears(text: str) -> bool:
    """Return whether a word of better-profanity's list is in a text."""
    return bool(profanity.contains_profanity(text))


def civil_references(rude: Rude) -> list[str]:
    """The human rewrites without swear words that keep the sense of the text, the closest first.

    2% of the rewrites still swear; an aligner that learns from them does too. 7% add a negation.
    """
    clean = [n for n in rude.neutral if n.strip() and not swears(n)]
    kept = [n for n in clean if keeps_sense(rude.toxic, n)]
    costs = {n: edit_cost(rude.toxic, n) for n in kept}
    return sorted((n for n in kept if costs[n] <= _MOST), key=costs.__getitem__)


def keeps_sense(toxic: str, neutral: str) -> bool:
    """False if a rewrite has another number of negations, or says "not good" where a swear word was."""
    if len(_BLEACHED.findall(neutral)) > len(_BLEACHED.findall(toxic)):
        return False
    return len(_NEGATIONS.findall(toxic)) == len(_NEGATIONS.findall(neutral))


def edit_cost(toxic: str, neutral: str) -> float:
    """Return how much of what nobody objects to a rewrite changes, as a share of the text's words.

    A swear word that goes costs nothing, one that is replaced by a single word does not either: so a close replacement does not
    lose to a hole.
    """
    a, b = _words(toxic), _words(neutral)
    cost = 0
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag != "equal":
            gone = a[i1:i2]
            rude = sum(swears(f"{word} {word.removesuffix('s')}") for word in gone)
            cost += max(len(gone) - rude, j2 - j1 - max(rude, 1 if gone else 0), 0)
    return cost / max(1, len(a))


def best_references(rows: Sequence[tuple[Rude, Sequence[str]]], likelihood: Likelihood) -> list[str]:
    """Return of each text's rewrites the one that is close, and likely as English: a hole is not.

    Args:
        rows: Texts and their candidates, at least one.
        likelihood: The base model's.
    """
    texts = [text for _, candidates in rows for text in candidates]
    likely = iter(likelihood(texts))
    chosen = []
    for rude, candidates in rows:
        scores = [next(likely) - WEIGHT_OF_EDITS * edit_cost(rude.toxic, text) for text in candidates]
        chosen.append(candidates[scores.index(max(scores))])
    return chosen


def project(toxic: str, neutral: str) -> str:
    """Return the human edit on the original: its letter case, spaces and punctuation stay where no word changed."""
    a, b = _TOKENS.findall(toxic), _TOKENS.findall(neutral)
    ours, theirs = ([token.strip().lower() for token in tokens] for tokens in (a, b))
    out: list[str] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        gone, new = a[i1:i2], b[j1:j2]
        ends: list[str] = []
        if tag != "equal" and i2 == len(a) and j2 == len(b):  # how a text ends is no edit
            while gone and not _says(gone[-1]):
                ends.insert(0, gone.pop())
            while new and not _says(new[-1]):
                new.pop()
        if tag == "equal":
            out += gone
        elif new:
            out += [_space(gone[0] if gone else new[0]) + _cased(new[0].strip(), toxic, first=not out), *new[1:]]
        out += ends
    text = "".join(out).strip()
    if toxic[:1].isupper() and text[:1].islower():
        text = text[:1].upper() + text[1:]
    return text


def _says(token: str) -> bool:
    return any(letter.isalnum() for letter in token)


def _space(token: str) -> str:
    return token[: len(token) - len(token.lstrip())]


def _cased(word: str, toxic: str, *, first: bool) -> str:
    """A rewrite's first capital says nothing if the original has none."""
    return word[:1].lower() + word[1:] if first and word != "I" and toxic == toxic.lower() else word


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
