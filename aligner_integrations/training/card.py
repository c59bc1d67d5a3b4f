"""The model card beside a trained aligner: what it is, what it was trained on, and its figures.

Written from the files that training and measuring leave in the folder, so it can be written again at any time. What
leaves them: `run.py`, `embedded/run.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_integrations.evaluation.harmless import HarmlessReport
from aligner_integrations.evaluation.own_rows import RowsReport
from aligner_integrations.evaluation.report import QualityReport, markdown
from aligner_integrations.models import SMOLLM2, AlignerConfig
from aligner_integrations.training.provenance import read_result, write_whole

if TYPE_CHECKING:
    from aligner_integrations.training.recipes import Recipe

QUALITY_FILE = "quality.json"
CURVE_FILE = "loss.png"
STRENGTH_FILE = "strength.json"
HARM_FILE = "harm.json"
HARMFULQA_FILE = "harmfulqa.json"
OWN_ROWS_FILE = "own_rows.json"


def base_name(base: str) -> str:
    """The name of a base as it is written into configurations: a Hub id rather than a place on this machine."""
    return SMOLLM2 if base == "embedded" else base


def write(
    output: Path, *, title: str, data: Sequence[str], recipe: Recipe, notes: Sequence[str] = (), licence: str = ""
) -> None:
    """Write `README.md` and the loss curve into a trained aligner's folder.

    Args:
        output: The folder.
        title: First line of the card.
        data: One line for each source, with licence and checksum where known.
        recipe: What it was trained with.
        notes: Further paragraphs, such as intended use and limits.
        licence: Licence of the weights for the card's header.
    """
    config = AlignerConfig.read(output / "aligner_config.json")
    training = read_result(output / "training.json") or {}
    gate = read_result(output / "gate.json")
    header = ["---", "library_name: peft" if config.base else "library_name: transformers"]
    header += [f"base_model: {config.base}"] if config.base else []
    header += [f"license: {licence}"] if licence else []
    header += ["tags: [aligner, correction]", "---", ""]
    lines = [*header, f"# {title}", ""]
    lines += [
        "An [aligner](https://arxiv.org/abs/2402.02416): it reads a question and an answer and writes a corrected answer.",
        "",
        "```python",
        "from aligner_integrations import Aligner",
        "",
        'Aligner("FOLDER").correct(question, answer).text',
        "```",
        "",
    ]
    for note in notes:
        lines += [note, ""]
    lines += ["## Training", "", *(f"- {source}" for source in data)]
    lines += [f"- base: {config.base or 'whole model'}" + (f" at {config.revision}" if config.revision else "")]
    lines += [f"- template `{config.template.name}`: `{config.template.text!r}`"]
    lines += [f"- {_recipe(recipe)}"]
    if training:
        lines += [
            f"- {training['rows']:,} rows, {training['tokens']:,} tokens, {training['steps']} steps; "
            f"{training['refused']} rows refused because they are longer than {recipe.max_length} tokens",
            f"- {training['seconds'] / 60:.0f} minutes on {training.get('machine', 'an unnamed machine')}",
        ]
        _plot(output / CURVE_FILE, training["curve"])
        lines += ["", f"![Loss and learning rate]({CURVE_FILE})"]
    if strength := read_result(output / STRENGTH_FILE):
        lines += ["", "## Strength", "", _strength(strength)]
    lines += ["", "## Gate", ""]
    if gate:
        lines += [
            f"A linear probe on the hidden states of layer {gate['layer']} with threshold {gate['threshold']:.3f}, learnt "
            f"from {gate['training_examples']} answers. On {gate['tuning_examples']} others it keeps "
            f"{gate['good_kept']:.1%} of the good ones and flags {gate['bad_flagged']:.1%} of those that need a correction.",
            *_objections(gate),
        ]
    else:
        lines += ["None: too few corrected or identical answers to learn one from."]
    if harm := read_result(output / HARM_FILE):
        lines += [
            "",
            "## Harm",
            "",
            "Shares with their 95% intervals (Wilson), with the gate, in bfloat16 where the machine computes in it.",
            "",
        ]
        lines.append(HarmlessReport.from_dict(harm).to_markdown())
    if harm := read_result(output / HARMFULQA_FILE):
        lines += ["", "The paper's sample of HarmfulQA's questions, with the answers of SmolLM2-135M-Instruct:", ""]
        lines.append(HarmlessReport.from_dict(harm).to_markdown())
    for path in sorted(output.glob("quality*.json")):
        report = QualityReport.from_dict(read_result(path) or {})
        label = path.stem.removeprefix("quality").strip("_").replace("_", " ")
        lines += ["", f"## Quality{f': {label}' if label else ''}", "", report.to_markdown()]
    if rows := read_result(output / OWN_ROWS_FILE):
        about = "`aligner evaluate rows`: each rude answer with its first human rewrite, each good one with itself."
        lines += ["", "## Own rows", "", about, ""]
        lines.append(markdown(RowsReport.from_dict(rows)))
    write_whole(output / "README.md", "\n".join(lines).rstrip() + "\n")


def _recipe(recipe: Recipe) -> str:
    batch = f"{recipe.batch_tokens} tokens" if recipe.batch_tokens else f"{recipe.batch_rows} rows"
    method = f"LoRA of rank {recipe.lora_rank}" if recipe.method == "lora" else "full parameters"
    return (
        f"{method}, {recipe.epochs} pass(es), learning rate {recipe.learning_rate:g} (cosine, {recipe.warmup_ratio:.0%} warm-up), "
        f"batches of {batch} x {recipe.gradient_accumulation}, identity warm-up {recipe.identity_share:.0%}, seed {recipe.seed}"
    )


def _objections(gate: dict[str, Any]) -> list[str]:
    """What the gate objects to in answers as a whole, and how well each kind is told from good answers."""
    lines = []
    if whole := gate.get("whole"):
        lines += [
            "",
            f"A second one, on layer {gate['whole_layer']}, reads the answer as a whole: the state before it, the mean over its tokens "
            "and the last state.",
            "",
            "| objects to | threshold | good ones kept (tuning) | flagged (tuning) | AUC (held out) |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        rude = {"threshold": gate["threshold"], "kept": gate["good_kept"], "flagged": gate["bad_flagged"]}
        for kind, one in {"rude": rude, **whole}.items():
            area = gate.get("areas", {}).get(kind)
            about = f"{area[0]:.3f} ({area[1]} against {area[2]} good ones)" if area else ""
            lines.append(f"| {kind} | {one['threshold']:.3f} | {one['kept']:.1%} | {one['flagged']:.1%} | {about} |")
    return lines


def _strength(found: dict[str, Any]) -> str:
    tried = "; ".join(
        f"{one['alpha']:g}: {one['profane_percent']:.1f}% profane, chrF {one['chrf']:.1f}, BLEU {one['bleu']:.1f}, "
        f"{one['good_changed_percent']:.0f}% of good ones changed"
        for one in found["tried"]
    )
    return (
        f"The adapter was trained with alpha {found['trained_alpha']:g} and is used with {found['alpha']:g}, chosen on "
        f"{found['rows']} rude and good rows of the tuning split without a gate ({tried})."
    )


def _plot(path: Path, curve: Sequence[Sequence[float]]) -> None:
    if not curve:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), dpi=100, layout="constrained")
    left = figure.add_subplot()
    left.plot([p[0] for p in curve], [p[1] for p in curve], color="tab:blue", linewidth=1)
    left.set(xlabel="step", ylabel="loss (nats a token)", yscale="log")
    right = left.twinx()
    right.plot([p[0] for p in curve], [p[2] for p in curve], color="tab:gray", linewidth=1, linestyle="--")
    right.set(ylabel="learning rate")
    figure.savefig(path, metadata={"Software": None})
