"""What the embedded aligner and its gate learn from, and which rows they never see.

Rude texts become civil (ParaDetox), also a rude sentence inside a long good answer, and good answers (human answers of
Open-Assistant, worked sums of GSM8K) come back letter by letter. Splits are by question: training, tuning (the gate's
threshold and every other choice) and report (the figures in the card).
"""

from __future__ import annotations

import difflib
import hashlib
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from better_profanity import profanity

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.rows import Row
from aligner_integrations.jsonl import read_jsonl
from aligner_integrations.training.gate import GateExample
from aligner_integrations.triples import Triple

SOURCES = {
    "paradetox.jsonl.gz": "s-nlp/paradetox (ACL 2022), CC0 1.0 in its repository; the authors' copy on the Hub is marked "
    "openrail++, whose use restrictions are passed on",
    "oasst_en_100.jsonl.gz": "LAION-AI/Open-Assistant, Apache-2.0",
    "gsm8k_answers.jsonl.gz": "GSM8K, MIT",
}
"""File in the data folder -> source and licence. Nothing else goes into the shipped weights."""

MEASURED = "alpacaeval_aligner2b_gpt4turbo.jsonl.gz"
MEASURED_SOURCE = "answers of GPT-4 Turbo from tatsu-lab/alpaca_eval, CC BY-NC 4.0"
"""They only ever measure."""

WRITTEN = Path(__file__).parent / "good_answers.jsonl"
"""Good answers written for this package (other languages, code, tables): the gate learns to keep them."""

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
SIZES = {
    "paradetox_report": 560,
    "paradetox_tune": 300,
    "oasst_report": 92,
    "oasst_tune": 60,
    "gsm8k_report": 60,
    "gsm8k_tune": 80,
}


@dataclass(frozen=True, slots=True)
class Rude:
    """A rude text and its human rewrites."""

    toxic: str
    neutral: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of one split: rude texts, good answers by source as (question, answer)."""

    rude: list[Rude]
    oasst: list[tuple[str, str]]
    gsm8k: list[tuple[str, str]]

    @property
    def good(self) -> list[tuple[str, str]]:
        """Good answers of both sources."""
        return self.oasst + self.gsm8k


@dataclass(frozen=True, slots=True)
class EmbeddedData:
    """The three splits and the SHA-256 of each file they come from."""

    train: Split
    tune: Split
    report: Split
    checksums: dict[str, str]


def load(folder: Path, seed: int) -> EmbeddedData:
    """Read the data folder and split it by question.

    Raises:
        ConfigurationError: A file is missing.
    """
    missing = [name for name in (*SOURCES, MEASURED) if not (folder / name).is_file()]
    if missing:
        raise ConfigurationError(f"{folder} lacks {', '.join(missing)}, which the embedded recipe needs.")
    checksums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (*SOURCES, MEASURED)}
    rude = [Rude(row["toxic"], tuple(row["neutral"])) for row in _rows(folder / "paradetox.jsonl.gz")]
    oasst = [(row["question"], row["answer"]) for row in _rows(folder / "oasst_en_100.jsonl.gz")]
    gsm8k = [(row["question"], row["answer"]) for row in _rows(folder / "gsm8k_answers.jsonl.gz")]
    rng = random.Random(seed)
    rude_parts = _split(
        rude, lambda r: " ".join(r.toxic.lower().split()), SIZES["paradetox_report"], SIZES["paradetox_tune"], rng
    )
    oasst_parts = _split(oasst, lambda r: r[0].lower(), SIZES["oasst_report"], SIZES["oasst_tune"], rng)
    gsm8k_parts = _split(gsm8k, lambda r: r[0].lower(), SIZES["gsm8k_report"], SIZES["gsm8k_tune"], rng)
    train, tune, report = (Split(*parts) for parts in zip(rude_parts, oasst_parts, gsm8k_parts, strict=True))
    return EmbeddedData(train, tune, report, checksums)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def _split(
    rows: list[Any], key: Any, report: int, tune: int, rng: random.Random
) -> tuple[list[Any], list[Any], list[Any]]:
    """Split into (train, tune, report) such that rows with one key stay together."""
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    keys = sorted(groups)
    rng.shuffle(keys)
    parts: list[list[Any]] = [[], [], []]
    for name in keys:
        target = 2 if len(parts[2]) < report else 1 if len(parts[1]) < tune else 0
        parts[target] += groups[name]
    return parts[0], parts[1], parts[2]


def civil_references(rude: Rude) -> list[str]:
    """The human rewrites without swear words, the smallest edit first.

    2% of the rewrites still swear; an aligner that learns from them does too.
    """
    clean = [n for n in rude.neutral if n.strip() and not profanity.contains_profanity(n)]
    return sorted(clean, key=lambda n: -difflib.SequenceMatcher(None, rude.toxic, n, autojunk=False).ratio())


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


def mixed(rng: random.Random, good: tuple[str, str], rude: Rude, reference: str) -> Triple:
    """A good answer with one rude sentence in it, and the same with that sentence made civil."""
    question, answer = good
    place = rng.randrange(len(sentences(answer)) + 1)
    return Triple(question, insert_sentence(answer, place, rude.toxic), insert_sentence(answer, place, reference))


@dataclass(frozen=True, slots=True)
class Mixture:
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


def training_triples(train: Split, seed: int, mixture: Mixture = Mixture()) -> list[Triple]:
    """All triples of one training, in no particular order."""
    rng = random.Random(seed)
    pairs = [(rude, refs) for rude in train.rude if (refs := civil_references(rude))]
    rows = [Triple(rng.choice(QUESTIONS), rude.toxic, refs[0]) for rude, refs in rng.sample(pairs, mixture.rude)]
    civil = [rng.choice(refs) for _, refs in rng.sample(pairs, mixture.civil)]
    rows += [Triple(rng.choice(QUESTIONS), text, text) for text in civil]
    rows += _passages(rng, rng.sample(pairs, mixture.passage_sentences))
    good = [g for g in train.oasst if len(g[1]) <= MAX_GOOD_CHARACTERS] + rng.sample(train.gsm8k, mixture.gsm8k)
    rows += [Triple(q, a, a) for q, a in good]
    hosts = [g for g in good if 120 <= len(g[1]) <= 1000]
    for _ in range(mixture.mixed):
        rude, refs = rng.choice(pairs)
        rows.append(mixed(rng, rng.choice(hosts), rude, refs[0]))
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


def gate_examples(part: Split, written: list[GateExample], seed: int, sizes: tuple[int, int, int]) -> list[GateExample]:
    """Examples for the gate from one split.

    Args:
        part: The split.
        written: Good answers in other languages, code and tables.
        seed: Which rows are drawn.
        sizes: How many rude, civil and mixed answers; all good answers that fit are taken, sums up to half the rude.
    """
    rng = random.Random(seed)
    question = QUESTIONS if sizes[0] > len(part.rude) // 2 else (*QUESTIONS, REPORT_QUESTION)
    rude = rng.sample(part.rude, min(sizes[0], len(part.rude)))
    examples = [GateExample(rng.choice(question), r.toxic, r.neutral) for r in rude]
    examples += [
        GateExample(rng.choice(question), r.neutral[0]) for r in rng.sample(part.rude, min(sizes[1], len(part.rude)))
    ]
    good = [g for g in part.oasst if 80 <= len(g[1]) <= MAX_GOOD_CHARACTERS]
    good += rng.sample(part.gsm8k, min(len(part.gsm8k), sizes[0] // 3))
    examples += [GateExample(q, a) for q, a in good] + written
    hosts = [g for g in good if len(g[1]) <= 900]
    for _ in range(sizes[2]):
        r, host = rng.choice(part.rude), rng.choice(hosts)
        place = rng.randrange(len(sentences(host[1])) + 1)
        examples.append(
            GateExample(
                host[0],
                insert_sentence(host[1], place, r.toxic),
                tuple(insert_sentence(host[1], place, n) for n in r.neutral),
            )
        )
    return examples


def strength_rows(tune: Split) -> list[Row]:
    """Rude rows of the tuning split, to choose the adapter's strength on."""
    return [Row("rude", REPORT_QUESTION, r.toxic, "ParaDetox", r.neutral) for r in tune.rude]


def written_examples() -> tuple[list[GateExample], list[GateExample]]:
    """The written good answers, two thirds for training the gate and one third for tuning it."""
    rows = [GateExample(row["question"], row["answer"]) for _, row in read_jsonl(WRITTEN)]
    return [r for i, r in enumerate(rows) if i % 3], rows[::3]


def report_rows(report: Split, folder: Path, seed: int) -> list[Row]:
    """The rows of the card's table: 500 rude, 200 good and 100 mixed ones, none of them in training or any choice."""
    rng = random.Random(seed)
    rows = [Row("rude", REPORT_QUESTION, r.toxic, "ParaDetox", r.neutral) for r in report.rude[:500]]
    upstream = [(row["question"], row["answer"]) for row in _rows(folder / MEASURED)]
    upstream = [u for u in upstream if 80 <= len(u[1]) <= 1500]
    rng.shuffle(upstream)
    oasst = [g for g in report.oasst if 80 <= len(g[1]) <= 1500]
    gsm8k = [g for g in report.gsm8k if 80 <= len(g[1]) <= 1500]
    for source, good, count in (("OASST", oasst, 60), ("GSM8K", gsm8k, 40), ("GPT-4 Turbo", upstream, 100)):
        rows += [Row("good", q, a, source) for q, a in good[:count]]
    # Rude sentences of the report split that the 500 rows above do not use, in hosts of both kinds.
    hosts = [g for g in (*oasst, *upstream[100:]) if len(g[1]) >= 300][:200]
    rng.shuffle(hosts)
    spare = [r for r in report.rude[500:] if profanity.contains_profanity(r.toxic)] + report.rude[:500]
    for host, rude in zip(hosts[:100], spare, strict=False):
        place = rng.randrange(len(sentences(host[1])) + 1)
        rows.append(Row("mixed", host[0], insert_sentence(host[1], place, rude.toxic), "mixed", inserted=rude.toxic))
    return rows
