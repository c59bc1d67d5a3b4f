"""What the embedded aligner learns from: the triples of one training, out of the training split.

Rude texts become civil, also inside long good answers and in posts of several sentences; harmful answers are declined, abuse and hate
become civil; good answers of many kinds, talk about rude words and refusals come back letter by letter. Where rows come from:
`sources.py`; what is made of harm: `harm.py`, of talk: `talk.py`. What the gate learns from, and what is measured: `examples.py`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aligner_integrations.jsonl import read_jsonl
from aligner_integrations.training.embedded import harm, looks
from aligner_integrations.training.embedded.barbs import barbs
from aligner_integrations.training.embedded.pairs import Likelihood, best_references, civil_references, project, swears
from aligner_integrations.training.embedded.sources import Pair, Rude, Split
from aligner_integrations.training.embedded.talk import talk
from aligner_integrations.triples import Triple

WRITTEN = Path(__file__).parent / "written" / "good.jsonl"
"""Good answers written for this package: other languages, code, tables."""

QUESTIONS = (
    "What do you think?",
    "Say something about it.",
    "Write a comment.",
    "Reply to this post.",
    "Tell me your opinion.",
    "Rewrite your last message.",
    "What happened?",
    "Any thoughts?",
    "Continue.",
    "What did they say?",
    "How would you answer?",
    "Describe the situation.",
    "Share your view.",
    "What is this about?",
    "Give me your honest take.",
    "Leave a reply.",
)
"""Neutral questions for ParaDetox, which has none."""

REPORT_QUESTION = "What do you think about this?"
"""Asked in tuning and report only."""

MAX_GOOD_CHARACTERS = 1600
"""Of the first pass and of the gate."""

_MAX_COPIED = 1000
"""Characters of a good answer in the second pass, which knows from the first one how to copy."""

_GOES_ON = (
    "This is not good.",
    "It is not good.",
    "That is bad.",
    "This is a bad thing.",
    "He is not a good person.",
    "I am not happy.",
)


@dataclass(frozen=True, slots=True)
class Mixture:
    """How many rows of each kind one training has.

    Attributes:
        rude: Rude texts with their smallest civil edit, a third of them as people type them.
        clean_rude: Further rude texts without a word of the list: what is rude about them is what they say.
        rants: Posts of two to six rude and civil sentences.
        civil: Civil sentences that stay as they are.
        mixed: Good answers with a rude sentence in them.
        barbs: Good answers with an insult or an expletive in a sentence that says something.
        good: Human answers that stay as they are.
        upstream: SmolLM2's own good answers.
        gsm8k: Worked sums.
        facts: Short true answers.
        harmless: Answers to questions that only sound harmful.
        refusals: Refusals that stay.
        harmful: Characters of a harmful answer; all of them are taken.
        abusive: Replies that offend the user. Few: with 160 and no barbs it apologised for useful answers, too.
        hateful: Hateful sentences.
        neutral: Sentences about the same groups, and as many replies that offend nobody.
        talk: Talk about rude words, beside what is written.
        endings: Corrections that went on with a sentence of their own, for the end token alone.
    """

    rude: int = 4200
    clean_rude: int = 700
    rants: int = 300
    civil: int = 80
    mixed: int = 200
    barbs: int = 500
    good: int = 90
    upstream: int = 120
    gsm8k: int = 30
    facts: int = 50
    harmless: int = 160
    refusals: int = 80
    harmful: int = 340
    abusive: int = 80
    hateful: int = 200
    neutral: int = 90
    talk: int = 160
    endings: int = 160


def load_written() -> list[Pair]:
    """The written good answers."""
    return [Pair(row["question"], row["answer"]) for _, row in read_jsonl(WRITTEN)]


def training_triples(
    train: Split,
    seed: int,
    *,
    likelihood: Likelihood,
    upstream: Sequence[Pair] = (),
    complied: Sequence[Pair] = (),
    mixture: Mixture = Mixture(),
) -> list[Triple]:
    """All triples of the second pass, in no particular order.

    Args:
        train: The training split.
        seed: Which rows are drawn.
        likelihood: The base model's, to choose rewrites by.
        upstream: SmolLM2's answers to ordinary questions of the split.
        complied: Its answers to harmful ones.
        mixture: How many of each kind.
    """
    rng = random.Random(seed)
    good, hosts = _good(rng, train, upstream, mixture)
    own = random.Random(seed + 1)  # whatever the upstream answered
    chosen = _choose(own, train.rude, mixture)
    best = best_references(chosen, likelihood)
    rewrites = [(rude.toxic, text) for (rude, _), text in zip(chosen, best, strict=True)]
    rows = _rude(own, rewrites, hosts, mixture)
    rows += barbs(random.Random(seed + 2), [*train.oasst, *upstream], mixture.barbs)
    rows += [Triple(pair.question, pair.answer, pair.answer) for pair in good]
    rows += harm.declined(rng, train, complied, mixture.harmful)
    rows += harm.abusive(rng, train, mixture.abusive) + harm.hateful(rng, train, mixture.hateful)
    rows += 6 * harm.written() + harm.kept_refusals(rng, train, mixture.refusals)
    rows += talk(rng, [rude.toxic for rude in train.rude], mixture.talk)
    return rows


def _good(
    rng: random.Random, train: Split, upstream: Sequence[Pair], mixture: Mixture
) -> tuple[list[Pair], list[Pair]]:
    """Good answers that stay, and those that rude sentences are put into."""

    def some(pairs: Sequence[Pair], count: int) -> list[Pair]:
        return rng.sample(list(pairs), min(count, len(pairs)))

    def whole(pairs: Sequence[Pair]) -> list[Pair]:
        return [pair for pair in pairs if len(pair.answer) <= _MAX_COPIED]

    good = some(whole(train.oasst), mixture.good) + some(whole(upstream), mixture.upstream)
    good += some(whole(train.gsm8k), mixture.gsm8k) + some(whole(train.harmless), mixture.harmless)
    hosts = [pair for pair in good if 120 <= len(pair.answer) <= 900]
    good += load_written() + some(train.facts, mixture.facts)
    good += [Pair(rng.choice(harm.OPINIONS), pair.answer) for pair in some(train.neutral, mixture.neutral)]
    good += [Pair(harm.clip(p.question, 400), harm.clip(p.answer, 400)) for p in some(train.chat, mixture.neutral)]
    laid = [Pair(pair.question, looks.laid_out(rng, pair.answer)) for pair in rng.sample(hosts, len(hosts) // 5)]
    return good + laid, hosts


def _rude(
    rng: random.Random, rewrites: Sequence[tuple[str, str]], hosts: Sequence[Pair], mixture: Mixture
) -> list[Triple]:
    """Rude texts with their edits: alone, in posts, in good answers; civil ones; and the ends of some corrections."""
    edits = [(toxic, project(toxic, text)) for toxic, text in rewrites]
    rows = [Triple(rng.choice(QUESTIONS), *_looking(rng, *edit)) for edit in edits]
    rows += [
        Triple(rng.choice(QUESTIONS), civil, civil) for _, civil in rng.sample(edits, min(mixture.civil, len(edits)))
    ]
    rows += [rant(rng, edits) for _ in range(mixture.rants)]
    for _ in range(mixture.mixed if hosts else 0):
        host = rng.choice(hosts)
        if rng.random() < 0.4:
            host = Pair(host.question, looks.laid_out(rng, host.answer))
        rows.append(mixed(rng, host, *_looking(rng, *rng.choice(edits), real=True)))
    for toxic, civil in rng.sample(edits, min(mixture.endings, len(edits))):
        rows.append(Triple(rng.choice(QUESTIONS), toxic, f"{looks.ended(civil)} {rng.choice(_GOES_ON)}", end_only=True))
    return rows


def _choose(rng: random.Random, rude: Sequence[Rude], mixture: Mixture) -> list[tuple[Rude, list[str]]]:
    """Rude texts with their candidates: so many with a swear word, and so many without."""
    order = rng.sample(list(rude), len(rude))
    wanted = {True: mixture.rude, False: mixture.clean_rude}
    chosen: list[tuple[Rude, list[str]]] = []
    for one in order:
        if not any(wanted.values()):
            break
        sworn = swears(one.toxic)
        if wanted[sworn] and (references := civil_references(one)):
            wanted[sworn] -= 1
            chosen.append((one, references))
    return chosen


def _looking(rng: random.Random, toxic: str, civil: str, *, real: bool = False) -> tuple[str, str]:
    """A rude text and its correction, both in the look of the data or of real text, some with masked words."""
    if real or rng.random() < 0.3:
        toxic, civil = looks.ended(looks.typed(toxic)), looks.ended(looks.typed(civil))
    if rng.random() < 0.15:
        toxic = looks.masked(rng, toxic, civil)
    return toxic, civil


def rant(rng: random.Random, edits: Sequence[tuple[str, str]]) -> Triple:
    """A post of two to six sentences, most of them rude, so that one prompt teaches several edits."""
    answer, correction = [], []
    lower = rng.random() < 0.25
    for number in range(rng.randint(2, 6)):
        toxic, civil = _looking(rng, *rng.choice(edits), real=True)
        toxic = toxic if rng.random() < 0.65 or number == 0 else civil
        answer.append(toxic.lower() if lower else toxic)
        correction.append(civil.lower() if lower else civil)
    joint = rng.choice((" ", " ", " ", "\n", "\n\n"))
    return Triple(rng.choice(QUESTIONS), joint.join(answer), joint.join(correction))


def sentences(text: str) -> list[str]:
    """Split after sentence ends; the white space between is dropped."""
    return re.split(r"(?<=[.!?])\s+", text)


def insert_sentence(answer: str, place: int, sentence: str) -> str:
    """Put a sentence before the `place`-th sentence of an answer; the answer's own white space stays."""
    starts = [0, *(m.end() for m in re.finditer(r"(?<=[.!?])\s+", answer)), len(answer)]
    at = starts[min(place, len(starts) - 1)]
    head, tail = answer[:at], answer[at:]
    before = "" if not head or head[-1].isspace() else " "
    after = "" if not tail else " "
    return f"{head}{before}{sentence}{after}{tail}"


def mixed(rng: random.Random, host: Pair, toxic: str, civil: str) -> Triple:
    """A good answer with one rude sentence in it, and the same with that sentence made civil."""
    place = rng.randrange(len(sentences(host.answer)) + 1)
    return Triple(host.question, insert_sentence(host.answer, place, toxic), insert_sentence(host.answer, place, civil))
