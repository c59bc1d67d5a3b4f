"""Where the embedded aligner's rows come from, and which of them it never learns from.

Splits are by question (of ParaDetox: by text; of harmful behaviours: by behaviour; of HateCheck: by the sentence without the group
it is about): training, tuning (thresholds and every other choice) and report (the figures in the card). What rows are made of them:
`data.py`, `harm.py`.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.jsonl import read_jsonl
from aligner_integrations.refusals import is_refusal

_T = TypeVar("_T")

SOURCES = {
    "paradetox.jsonl.gz": "s-nlp/paradetox (ACL 2022), CC0 1.0 in its repository; the authors' copy on the Hub is marked "
    "openrail++, whose use restrictions are passed on",
    "oasst_en_100.jsonl.gz": "LAION-AI/Open-Assistant, Apache-2.0",
    "gsm8k_answers.jsonl.gz": "GSM8K, MIT",
    "jailbreakbench.jsonl.gz": "JailbreakBench/artifacts, MIT",
    "xstest.jsonl.gz": "XSTest (paul-rottger/exaggerated-safety), CC BY 4.0",
    "star1.jsonl.gz": "UCSC-VLAA/STAR-1, Apache-2.0",
    "diasafety.jsonl.gz": "thu-coai/DiaSafety, Apache-2.0",
    "hatecheck.jsonl.gz": "HateCheck (paul-rottger/hatecheck-data), CC BY 4.0",
    "truthfulqa.jsonl.gz": "sylinrl/TruthfulQA, Apache-2.0",
}
"""File in the data folder -> source and licence. Nothing else goes into the shipped weights."""

MEASURED = {
    "alpacaeval_aligner2b_gpt4turbo.jsonl.gz": "answers of GPT-4 Turbo from tatsu-lab/alpaca_eval, CC BY-NC 4.0",
    "alpacaeval_aligner2b_qwen72b.jsonl.gz": "answers of Qwen1.5-72B from tatsu-lab/alpaca_eval, CC BY-NC 4.0",
    "harmfulqa.jsonl.gz": "questions of HarmfulQA (declare-lab/red-instruct), Apache-2.0",
}
"""They only ever measure."""

SIZES = {
    "paradetox_report": 560,
    "paradetox_tune": 300,
    "oasst_report": 92,
    "oasst_tune": 60,
    "gsm8k_report": 60,
    "gsm8k_tune": 80,
    "behaviors_report": 13,
    "behaviors_tune": 8,
    "xstest_report": 320,
    "xstest_tune": 120,
    "star1_report": 130,
    "star1_tune": 60,
    "diasafety_report": 500,
    "diasafety_tune": 300,
    "hatecheck_report": 240,
    "hatecheck_tune": 140,
    "truthfulqa_report": 40,
    "truthfulqa_tune": 40,
}
"""Rows, of behaviours their number, that report and tuning get; training gets the rest."""

_GROUPS = re.compile(
    r"\b(muslims?|islam\w*|blacks?( people| person| man| woman| men| women)?|africans?|disabled?|disabilit\w*|gays?|homosexuals?|"
    r"immigrants?|imm1grants|migrants?|trans\w*|wom[ae]n|females?|girls?|people|person|the|a|an|all|those|these)\b"
)


class Rude(NamedTuple):
    """A rude text and its human rewrites."""

    toxic: str
    neutral: tuple[str, ...]


class Pair(NamedTuple):
    """A question, an answer, and what kind it is of within its source, if that says."""

    question: str
    answer: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of one split.

    Attributes:
        rude: Rude texts.
        oasst: Good answers of people.
        gsm8k: Worked sums.
        harmful: Answers that do what a harmful request asks for; kind: the behaviour, or "xstest".
        harmless: Good answers to questions that only sound harmful.
        refusals: Refusals of harmful requests; kind as above, "star1", or that of the harmless question refused.
        abusive: Replies that offend the user.
        chat: Replies that do not; noisy.
        hateful: Hateful sentences; kind: HateCheck's functionality. Without a question.
        neutral: Sentences about the same groups that are not hateful.
        questions: Harmful questions without an answer.
        facts: Short true answers.
    """

    rude: list[Rude] = field(default_factory=list)
    oasst: list[Pair] = field(default_factory=list)
    gsm8k: list[Pair] = field(default_factory=list)
    harmful: list[Pair] = field(default_factory=list)
    harmless: list[Pair] = field(default_factory=list)
    refusals: list[Pair] = field(default_factory=list)
    abusive: list[Pair] = field(default_factory=list)
    chat: list[Pair] = field(default_factory=list)
    hateful: list[Pair] = field(default_factory=list)
    neutral: list[Pair] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    facts: list[Pair] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EmbeddedData:
    """The three splits and the SHA-256 of each file they come from."""

    train: Split
    tune: Split
    report: Split
    checksums: dict[str, str]


def load(folder: Path, seed: int) -> EmbeddedData:
    """Read the data folder and split it.

    Raises:
        ConfigurationError: A file is missing.
    """
    names = (*SOURCES, *MEASURED)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ConfigurationError(f"{folder} lacks {', '.join(missing)}, which the embedded recipe needs.")
    checksums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    splits = Split(), Split(), Split()
    rng = random.Random(seed)
    rude = [Rude(row["toxic"], tuple(row["neutral"])) for row in rows_of(folder, "paradetox")]
    _give(splits, "rude", rude, lambda r: " ".join(r.toxic.lower().split()), "paradetox", rng)
    for name, file in (("oasst", "oasst_en_100"), ("gsm8k", "gsm8k_answers")):
        _give(splits, name, _pairs(rows_of(folder, file)), lambda r: r.question.lower(), name, rng)
    _give_harm(splits, folder, rng)
    facts = [
        Pair(r["question"], r["best"] if r["best"].endswith(".") else r["best"] + ".")
        for r in rows_of(folder, "truthfulqa")
    ]
    _give(splits, "facts", facts, lambda r: r.question.lower(), "truthfulqa", rng)
    return EmbeddedData(*splits, checksums)


def _give_harm(splits: tuple[Split, Split, Split], folder: Path, rng: random.Random) -> None:
    rows = rows_of(folder, "jailbreakbench")
    for part, found in zip(splits, _split(rows, lambda r: r["behavior"], "behaviors", rng, groups=True), strict=True):
        part.harmful.extend(_pairs([r for r in found if r["harmful"]], "behavior"))
        part.refusals.extend(_pairs([r for r in found if not r["harmful"] and is_refusal(r["answer"])], "behavior"))
    rows = rows_of(folder, "xstest")
    for part, found in zip(splits, _split(rows, lambda r: r["question"].lower(), "xstest", rng), strict=True):
        complied = [r for r in found if r["label"] == "full_compliance"]
        part.harmful.extend([Pair(r["question"], r["answer"], "xstest") for r in complied if not r["safe_question"]])
        part.harmless.extend(_pairs([r for r in complied if r["safe_question"]], "upstream"))
        refused = [r for r in found if r["label"] == "full_refusal" and is_refusal(r["answer"])]
        part.refusals.extend([Pair(r["question"], r["answer"], "xstest") for r in refused])
    rows = [r for r in rows_of(folder, "star1") if is_refusal(r["refusal"])]
    for part, found in zip(splits, _split(rows, lambda r: r["question"].lower(), "star1", rng), strict=True):
        part.refusals.extend([Pair(r["question"], r["refusal"], "star1") for r in found])
        part.questions.extend([r["question"] for r in found])
    rows = rows_of(folder, "diasafety")
    for part, found in zip(splits, _split(rows, lambda r: r["question"].lower(), "diasafety", rng), strict=True):
        part.abusive.extend(_pairs([r for r in found if r["unsafe"] and r["category"] == "Offending User"], "category"))
        part.chat.extend(_pairs([r for r in found if not r["unsafe"]], "category"))
    rows = rows_of(folder, "hatecheck")
    for part, found in zip(splits, _split(rows, _without_group, "hatecheck", rng), strict=True):
        part.hateful.extend([Pair("", r["text"], r["functionality"]) for r in found if r["hateful"]])
        part.neutral.extend([Pair("", r["text"], r["functionality"]) for r in found if not r["hateful"]])


def _without_group(row: dict[str, Any]) -> str:
    return " ".join(_GROUPS.sub("", row["text"].lower()).split())


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of one file of the data folder."""
    path = folder / (name if name.endswith(".gz") else f"{name}.jsonl.gz")
    return [row for _, row in read_jsonl(path)]


def _pairs(rows: Iterable[dict[str, Any]], kind: str = "") -> list[Pair]:
    return [Pair(row["question"], row["answer"], row.get(kind, "")) for row in rows]


def _give(
    splits: tuple[Split, ...], name: str, rows: list[_T], key: Callable[[_T], Hashable], sizes: str, rng: random.Random
) -> None:
    for part, found in zip(splits, _split(rows, key, sizes, rng), strict=True):
        getattr(part, name).extend(found)


def _split(
    rows: list[_T], key: Callable[[_T], Any], sizes: str, rng: random.Random, *, groups: bool = False
) -> tuple[list[_T], list[_T], list[_T]]:
    """Split into (train, tune, report) such that rows with one key stay together; `groups`: sizes count keys, not rows."""
    report, tune = SIZES[f"{sizes}_report"], SIZES[f"{sizes}_tune"]
    by_key: dict[Any, list[_T]] = {}
    for row in rows:
        by_key.setdefault(key(row), []).append(row)
    keys = sorted(by_key)
    rng.shuffle(keys)
    parts: list[list[_T]] = [[], [], []]
    taken = [0, 0, 0]
    for name in keys:
        target = 2 if taken[2] < report else 1 if taken[1] < tune else 0
        parts[target] += by_key[name]
        taken[target] += 1 if groups else len(by_key[name])
    return parts[0], parts[1], parts[2]
