"""From the data folder to the shipped aligner and its card: `aligner train --recipe embedded --data DIR`."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends import weights as loading
from aligner_integrations.backends.local import LocalBackend
from aligner_integrations.evaluation.quality import evaluate
from aligner_integrations.evaluation.rows import Row
from aligner_integrations.models import REVISIONS, SMOLLM2
from aligner_integrations.templates import TEMPLATES
from aligner_integrations.training import card, embedded, run
from aligner_integrations.training.sft import RECIPES

logger = logging.getLogger(__name__)

REPORT_ROWS = "report.jsonl"


def train_embedded(data: Path, output: Path, *, progress: Callable[[str, int], None] | None = None) -> Path:
    """Train, measure and document the embedded aligner. Each stage is skipped if its file is there.

    Args:
        data: The folder with the files of `embedded.SOURCES` and, to measure on, `embedded.MEASURED`.
        output: Folder of the result.
        progress: Called with the name of a measurement and the rows it has done.
    """
    recipe = RECIPES["embedded"]
    splits = embedded.load(data, recipe.seed)
    if not (output / run.TRAINING_FILE).exists():
        run.fit_weights(
            embedded.training_triples(splits.train, recipe.seed),
            base="embedded",
            revision=REVISIONS[SMOLLM2],
            template=TEMPLATES["embedded"],
            recipe=recipe,
            output=output,
        )
    written_train, written_tune = embedded.written_examples()
    run.fit_own_gate(
        output,
        embedded.gate_examples(splits.train, written_train, recipe.seed, (700, 350, 250)),
        embedded.gate_examples(splits.tune, written_tune, recipe.seed, (300, 100, 80)),
        recipe.seed,
    )
    loading.release()  # the gate was not there when the weights were loaded
    rows = embedded.report_rows(splits.report, data, recipe.seed)
    _write_rows(output / REPORT_ROWS, rows)
    _measure(output, card.QUALITY_FILE, rows, progress)
    write_card(output, splits.checksums)
    return output


def write_card(output: Path, checksums: dict[str, str]) -> None:
    """Write the card from what is in the folder."""
    sources = [f"{embedded.SOURCES[name]}; `{name}` SHA-256 `{digest}`" for name, digest in checksums.items()]
    card.write(
        output,
        title="The embedded aligner",
        data=[*sources, "answers written for this package (`good_answers.jsonl`): the gate only"],
        recipe=RECIPES["embedded"],
        licence="apache-2.0",
        notes=[
            "It makes rude answers civil, also a rude sentence inside a long good answer, and leaves good ones alone. It has "
            "135 million parameters and is meant for trying out, for tests and for detoxification of English text on a CPU. "
            "It does not make answers more helpful or more truthful, and it does not refuse harmful requests; for that "
            "take the paper's `aligner/aligner-7b-v1.0`.",
            "The authors' copy of ParaDetox on the Hub is under openrail++, whose use restrictions (its attachment A) are "
            "passed on: do not use these weights to produce abusive or discriminating text, or in breach of the law.",
            "Made by `aligner train --recipe embedded --data DIR --output DIR` with the seed below. Rows of the table were "
            "held out of training and of every choice; the splits are by question.",
        ],
    )


def _measure(output: Path, name: str, rows: list[Row], progress: Callable[[str, int], None] | None) -> None:
    if (output / name).exists():
        return
    backend = LocalBackend(output)
    settings = {
        "gate": Aligner(backend=backend),
        "no gate": Aligner(backend=backend, gate=False),
        "gate, marked edits": Aligner(backend=backend, edits="marked"),
    }
    report = evaluate(settings, rows, on_progress=progress)
    (output / name).write_text(json.dumps(report.to_dict(), indent=1))


def measure_rounded(data: Path, output: Path, *, bits: int, progress: Callable[[str, int], None] | None = None) -> None:
    """Measure again with the base's weights rounded another way, as a stand-in for the Hub's unquantised base.

    Every matrix of the merged model's base part is rounded to `bits` bits in blocks of 32 numbers and back.
    """
    name = f"quality_base_rounded_to_{bits}_bits.json"
    if (output / name).exists():
        return
    splits = embedded.load(data, RECIPES["embedded"].seed)
    rows = embedded.report_rows(splits.report, data, RECIPES["embedded"].seed)
    loading.release()
    original = loading._read_model

    def rounded(*args: object, **options: object) -> object:
        model = original(*args, **options)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.copy_(round_to_bits(parameter, bits))
        return model

    loading._read_model = rounded
    try:
        report = evaluate({"gate": Aligner(output)}, rows, on_progress=progress)
    finally:
        loading._read_model = original
        loading.release()
    (output / name).write_text(json.dumps(report.to_dict(), indent=1))


def round_to_bits(matrix: torch.Tensor, bits: int, block: int = 32) -> torch.Tensor:
    """Return a matrix rounded to symmetric integers of `bits` bits in blocks, and back to its dtype."""
    blocks: torch.Tensor = matrix.reshape(-1, block)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
    rounded: torch.Tensor = ((blocks / scale).round() * scale).reshape(matrix.shape)
    return rounded


def _write_rows(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")
