"""From the data folder to the shipped aligner and its card: `aligner train --recipe embedded --data DIR`."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.local import loading
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.backends.local.devices import quick_dtype
from aligner_integrations.backends.request import Completion, Request
from aligner_integrations.backends.score import RUDE, Score
from aligner_integrations.errors import AlignerError
from aligner_integrations.evaluation import own_rows
from aligner_integrations.evaluation.harmless import evaluate_harmless
from aligner_integrations.evaluation.quality import evaluate
from aligner_integrations.evaluation.rows import Row
from aligner_integrations.models import CONFIG_FILE, GATE_FILE, REVISIONS, SMOLLM2, AlignerConfig
from aligner_integrations.templates import TEMPLATES
from aligner_integrations.training import card, run
from aligner_integrations.training.embedded import answers, examples, sources
from aligner_integrations.training.embedded import rows as embedded
from aligner_integrations.training.embedded.first_pass import first_triples
from aligner_integrations.training.embedded.strength import FURTHER_STRENGTHS, choose_strength
from aligner_integrations.training.provenance import (
    digest,
    digest_of_files,
    read_result,
    read_stage,
    write_stage,
)
from aligner_integrations.training.recipes import EMBEDDED_SECOND_PASS, RECIPES, Recipe
from aligner_integrations.triples import Triple

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

NOTES = (
    "It makes rude answers civil, also a rude sentence inside a long good answer, declines answers that help with harm, and leaves "
    "good ones alone, talk about rude words among them. It has 135 million parameters and is meant for trying out, for tests and "
    "for detoxification of English text on a CPU. It does not make answers more helpful or more truthful; for that take the paper's "
    "`aligner/aligner-7b-v1.0`. It is no safety system: the table says what it misses.",
    "It corrects by minimal edits: in an answer of more than one sentence only those that the gate objects to change, and "
    "code, numbers, addresses and markup come back to the letter, at times at the price of a rude word beside them. What the gate "
    "objects to as a whole may be declined. The columns without a gate are its own text (`edits='all'`).",
    "The authors' copy of ParaDetox on the Hub is under openrail++, whose use restrictions (its attachment A) are "
    "passed on: do not use these weights to produce abusive or discriminating text, or in breach of the law.",
    "Made by `aligner train --recipe embedded --data DIR --output DIR` with the seed below. Rows of the tables were "
    "held out of training and of every choice; the splits are by question, of jailbreaks by behaviour.",
)

REPORT_ROWS = "report.jsonl"
HARMFULQA_ANSWERS = "harmfulqa_answers.jsonl"
FIRST = "first"
"""Sub-folder of the first pass."""

QUICK = "bfloat16" if quick_dtype() == torch.bfloat16 else None
"""What the gate's examples are read in, and harm and good answers of many kinds are measured in; None: as the aligner always runs."""

KEEP = {RUDE: 0.97, "hateful": 0.98, "harmful": 1.0}
"""By what there is to object to: the share of good tuning answers that the gate must let be.

Low for words, because many of those answers only sound rude (talk about words, sentences that swear at furniture), and because what the
gate objects to without cause the aligner mostly copies. All for harm: of an answer that is declined nothing is left.
"""

ROUNDINGS = (8, 4)
"""Bits that the base's weights are rounded to, to see how much the figures hang on the last of them."""


def train_embedded(data: Path, output: Path, start: Path | None = None) -> Path:
    """Train, measure and document the embedded aligner. Each stage is skipped if its file is there.

    Args:
        data: The folder with the files of `sources.SOURCES` and, to measure on, `sources.MEASURED`.
        output: Folder of the result; that of the first pass is its sub-folder `first`.
        start: Folder of the result of a first pass, which is then not trained again.
    """
    recipe = RECIPES["embedded"]
    splits = sources.load(data, recipe.seed)  # first, so that a missing file is found at once
    if start is None:
        start = output / FIRST
        _fit(first_triples(splits.train, recipe.seed), recipe, start)
        choose_strength(start, examples.strength_rows(splits.tune))
    rows = embedded.make(splits, data, output, recipe.seed)
    _fit(rows.triples, EMBEDDED_SECOND_PASS, output, start=start)
    choose_strength(output, examples.strength_rows(splits.tune), FURTHER_STRENGTHS)
    run.fit_own_gate(
        output,
        rows.gate_train,
        rows.gate_tune,
        recipe.seed,
        report_on=rows.gate_report,
        keep=KEEP,
        learn_in=QUICK,
    )
    loading.release()  # the gate was not there when the weights were loaded
    _write_rows(output / REPORT_ROWS, rows.report)
    _measure(output, rows.report)
    _measure_harm(output / card.HARM_FILE, output, rows.harm)
    _measure_good(output, rows.good)
    questions = examples.harmfulqa_questions(data)
    known = answers.ask(questions, output / HARMFULQA_ANSWERS, recipe.seed)
    _measure_harm(output / card.HARMFULQA_FILE, output, examples.harmfulqa_rows(answers.answered(known, questions)))
    for bits in ROUNDINGS:
        _measure_rounded(output, rows.report, bits)
    write_card(output, splits.checksums)
    return output


def _fit(triples: Sequence[Triple], recipe: Recipe, output: Path, start: Path | None = None) -> None:
    run.fit_weights(
        triples,
        base="embedded",
        revision=REVISIONS[SMOLLM2],
        template=TEMPLATES["embedded"],
        recipe=recipe,
        output=output,
        start=start,
    )


def write_card(output: Path, checksums: dict[str, str]) -> None:
    """Write the card from what is in the folder."""
    first = read_result(output / FIRST / run.TRAINING_FILE)
    begun = (
        f"{first['rows']:,} rows, {first['steps']} steps, {first['seconds'] / 60:.0f} minutes"
        if first
        else "an adapter that was there before, `--start`"
    )
    learnt = [f"{source}; `{name}` SHA-256 `{checksums[name]}`" for name, source in sources.SOURCES.items()]
    measured = [
        f"{source}; `{name}` SHA-256 `{checksums[name]}`: measuring only" for name, source in sources.MEASURED.items()
    ]
    card.write(
        output,
        title="The embedded aligner",
        data=[
            *learnt,
            "answers of SmolLM2-135M-Instruct, the base itself, to questions of Open-Assistant and STAR-1",
            "texts written for this package (`training/embedded/written`)",
            *measured,
            "texts written for this package to measure with, before the training (`evaluation/kept_back`): measuring only",
            f"two passes: the first ({begun}) makes rude text civil; the second, below, goes on from it",
        ],
        recipe=EMBEDDED_SECOND_PASS,
        licence="apache-2.0",
        notes=NOTES,
    )


class _DecodesOnce(LocalBackend):
    """Judges each text and completes each prompt once: the settings of one report only differ in what they make of it."""

    def __init__(self, model: Path) -> None:
        super().__init__(model)
        self._completions: dict[tuple[str, str], Completion | AlignerError] = {}
        self._scores: dict[tuple[str, str], Score | AlignerError] = {}

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        return _once(self._completions, requests, super().complete)

    def score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        return _once(self._scores, requests, super().score)


def _once(
    known: dict[tuple[str, str], _T], requests: Sequence[Request], run: Callable[[Sequence[Request]], list[_T]]
) -> list[_T]:
    def key(request: Request) -> tuple[str, str]:
        return request.prompt, request.answer  # after one prompt the answer is judged, and the reference

    new = [request for request in requests if key(request) not in known]
    known.update(zip(map(key, new), run(new), strict=True))
    return [known[key(request)] for request in requests]


def _measure(output: Path, rows: list[Row]) -> None:
    path, made_of = output / card.QUALITY_FILE, _measured_on(output, rows)
    rude = [row for row in rows if row.kind == "rude"]
    backend = _DecodesOnce(output)
    if read_stage(path, made_of) is None:
        settings = {"gate": Aligner(backend=backend)}
        write_stage(path, evaluate(settings, rows, on_progress=_log_progress).to_dict(), made_of)
    path, made_of = output / "quality_other_edits.json", _measured_on(output, rude)
    if read_stage(path, made_of) is None:
        settings = {
            "no gate": Aligner(backend=backend, gate=False, edits="all"),
            "gate, marked edits": Aligner(backend=backend, edits="marked"),
        }
        write_stage(path, evaluate(settings, rude, on_progress=_log_progress).to_dict(), made_of)
    pairs = [row for row in rows if row.kind in ("rude", "good")]
    path, made_of = output / card.OWN_ROWS_FILE, _measured_on(output, pairs)
    if read_stage(path, made_of) is None:
        triples = [Triple(row.question, row.answer, next(iter(row.references), row.answer)) for row in pairs]
        report = own_rows.evaluate({"gate": Aligner(backend=backend)}, triples, on_progress=_log_progress)
        write_stage(path, report.to_dict(), made_of)


def _measure_harm(path: Path, output: Path, rows: list[Row]) -> None:
    made_of = _measured_on(output, rows)
    if read_stage(path, made_of) is None:
        write_stage(
            path, evaluate_harmless({"gate": _quick(output)}, rows, on_progress=_log_progress).to_dict(), made_of
        )


def _measure_good(output: Path, rows: list[Row]) -> None:
    path, made_of = output / "quality_good_answers_of_twenty_kinds.json", _measured_on(output, rows)
    if read_stage(path, made_of) is None:
        write_stage(path, evaluate({"gate": _quick(output)}, rows, on_progress=_log_progress).to_dict(), made_of)


def _quick(output: Path) -> Aligner:
    """The aligner in the quickest numbers, which may be coarser: nearly all of these rows are kept or declined either way."""
    return Aligner(backend=LocalBackend(output, dtype=QUICK))


def _measured_on(output: Path, rows: list[Row]) -> dict[str, str]:
    weights, gate = run.digest_of_weights(output), digest_of_files(output / GATE_FILE, output / CONFIG_FILE)
    return {"weights": weights, "gate": gate, "data": digest(map(dataclasses.astuple, rows))}


def _log_progress(setting: str, done: int) -> None:
    logger.info("measuring, %s: %d rows", setting, done)


def _measure_rounded(output: Path, rows: list[Row], bits: int) -> None:
    """Measure again with the base's weights rounded another way, as a stand-in for the Hub's unquantised base."""
    path, made_of = output / f"quality_base_rounded_to_{bits}_bits.json", _measured_on(output, rows)
    if read_stage(path, made_of) is not None:
        return
    with TemporaryDirectory() as folder:
        base, adapter = Path(folder) / "base", Path(folder) / "adapter"
        model, tokenizer = loading.load_base("embedded")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.copy_(round_to_bits(parameter, bits))
        model.save_pretrained(base)
        tokenizer.save_pretrained(base)
        adapter.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors", GATE_FILE):
            shutil.copy(output / name, adapter)
        config = AlignerConfig.read(output / CONFIG_FILE)
        dataclasses.replace(config, base=str(base), revision=None).save(adapter)
        report = evaluate({"gate": Aligner(adapter)}, rows, on_progress=_log_progress)
        loading.release()
    write_stage(path, report.to_dict(), made_of)


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
