"""All rows of the embedded recipe, made once for each folder of results: triples, the gate's examples, what is measured."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aligner_integrations.evaluation.rows import Row
from aligner_integrations.training.embedded import answers, data, examples
from aligner_integrations.training.embedded.pairs import WEIGHT_OF_EDITS
from aligner_integrations.training.embedded.sources import EmbeddedData, Pair, Split
from aligner_integrations.training.gate import GateExample
from aligner_integrations.training.provenance import digest, read_stage, write_stage, write_whole
from aligner_integrations.triples import Triple

logger = logging.getLogger(__name__)

TRIPLES_FILE = "triples.jsonl"
_STAGE = "rows.json"
_ASKED = {"train": (200, 72), "tune": (36, 14), "report": (20, 24)}
"""Of each split: how many ordinary and how many harmful questions SmolLM2 answers."""


@dataclass(frozen=True, slots=True)
class EmbeddedRows:
    """What the second pass is made of, and what is measured.

    Attributes:
        triples: What it learns from.
        gate_train: What the gate learns from.
        gate_tune: What the gate's thresholds are chosen on.
        gate_report: What the gate's AUC is measured on.
        report: Rows of the card's first table.
        harm: Rows of the second.
        good: Good answers of twenty kinds.
    """

    triples: list[Triple]
    gate_train: list[GateExample]
    gate_tune: list[GateExample]
    gate_report: list[GateExample]
    report: list[Row]
    harm: list[Row]
    good: list[Row]


def make(splits: EmbeddedData, folder: Path, output: Path, seed: int) -> EmbeddedRows:
    """Make all rows; SmolLM2's answers and the triples stay in `output` and are not made again.

    Args:
        splits: The data.
        folder: Where it comes from.
        output: Folder of the result.
        seed: Which rows are drawn.
    """
    output.mkdir(parents=True, exist_ok=True)
    asked = {name: _questions(getattr(splits, name), *sizes, seed) for name, sizes in _ASKED.items()}
    questions = [question for ordinary, harmful in asked.values() for question in (*ordinary, *harmful)]
    known = answers.ask(questions, output / answers.ANSWERS_FILE, seed)
    good = {name: answers.answered(known, ordinary) for name, (ordinary, _) in asked.items()}
    complied = {name: answers.answered(known, harmful) for name, (_, harmful) in asked.items()}
    written = data.load_written()

    def gate(name: str, part: Split, written: Sequence[Pair], sizes: tuple[int, int, int]) -> list[GateExample]:
        return examples.gate_examples(part, written, good[name], complied[name], seed, sizes)

    train = [pair for number, pair in enumerate(written) if number % 3]
    return EmbeddedRows(
        _triples(splits, output, seed, good["train"], complied["train"]),
        gate("train", splits.train, train, (340, 100, 240)) + examples.written_examples(splits.train, seed),
        gate("tune", splits.tune, written[::3], (170, 50, 60)) + examples.tuning_talk(splits.tune, seed),
        gate("report", splits.report, [], (120, 40, 30)),
        examples.report_rows(splits.report, folder, seed),
        examples.harm_rows(splits.report, complied["report"], seed),
        examples.good_rows(splits.report, folder, good["report"], seed),
    )


def _questions(part: Split, ordinary: int, harmful: int, seed: int) -> tuple[list[str], list[str]]:
    rng = random.Random(seed)
    asked = sorted({pair.question for pair in part.oasst if len(pair.question) < 400})
    red = sorted({question for question in part.questions if len(question) < 400})
    return rng.sample(asked, min(ordinary, len(asked))), rng.sample(red, min(harmful, len(red)))


def _triples(
    splits: EmbeddedData, output: Path, seed: int, upstream: Sequence[Pair], complied: Sequence[Pair]
) -> list[Triple]:
    made_of = {
        "data": digest([splits.checksums]),
        "answers": digest([*upstream, *complied]),
        "mixture": digest([repr(data.Mixture()), WEIGHT_OF_EDITS, seed]),
    }
    path = output / TRIPLES_FILE
    if read_stage(output / _STAGE, made_of) is None:
        logger.info("choosing rewrites by the base model's likelihood")
        triples = data.training_triples(
            splits.train, seed, likelihood=answers.BaseLikelihood(), upstream=upstream, complied=complied
        )
        write_whole(path, "".join(json.dumps(list(triple), ensure_ascii=False) + "\n" for triple in triples))
        write_stage(output / _STAGE, {"triples": len(triples)}, made_of)
    return [Triple(*json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
