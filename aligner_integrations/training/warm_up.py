"""The identity warm-up, measured (paper, section 3): the same training with other shares of it, and what came of each.

    python -m aligner_integrations.training.warm_up DATA OUTPUT      on the embedded recipe's data, in short runs

Its published ablation looks unsound: each of its "A against B" is, within a point or two, the corrected against the uncorrected answers. All
runs learn from the same rows in as many steps; the warm-up comes on top. A killed run goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.local import loading
from aligner_integrations.evaluation.quality import evaluate
from aligner_integrations.evaluation.rows import Row
from aligner_integrations.models import REVISIONS, SMOLLM2
from aligner_integrations.templates import TEMPLATES, Template
from aligner_integrations.training import run
from aligner_integrations.training.provenance import digest, read_stage, write_stage, write_whole
from aligner_integrations.training.recipes import RECIPES, Recipe
from aligner_integrations.triples import Triple

RUNS = ((0.0, 0), (0.2, 0), (0.0, 1), (0.2, 1), (0.02, 0), (0.1, 0), (0.5, 0))
"""Share of the warm-up, and seed; the two that matter most come first, with two seeds."""

_ROWS, _RUDE, _GOOD = 1_600, 150, 60
_MEASURED = "measured.json"


def ablate(
    triples: Sequence[Triple],
    rows: Sequence[Row],
    *,
    base: str,
    revision: str | None,
    template: Template,
    recipe: Recipe,
    output: Path,
    runs: Sequence[tuple[float, int]] = RUNS,
) -> list[dict[str, Any]]:
    """Train with each share of the warm-up, and measure without a gate; writes a table and a plot.

    Args:
        triples: What all runs learn from.
        rows: What is measured, rude and good ones.
        base: The base model.
        revision: Its commit on the Hub.
        template: The template.
        recipe: Everything but share and seed.
        output: Folder of the result, with one for each run.
        runs: Shares and seeds.

    Returns:
        What each run came to.
    """
    found = []
    for share, seed in runs:
        folder = output / f"share-{share:g}-seed-{seed}"
        changed = dataclasses.replace(recipe, identity_share=share, seed=seed)
        run.fit_weights(triples, base=base, revision=revision, template=template, recipe=changed, output=folder)
        made_of = {"weights": run.digest_of_weights(folder), "data": digest(map(dataclasses.astuple, rows))}
        if (measured := read_stage(folder / _MEASURED, made_of)) is None:
            aligner = Aligner(folder, gate=False, edits="all", on_error="keep", on_overflow="keep")
            report = evaluate({"no gate": aligner}, rows).settings["no gate"]
            loading.release()
            measured = {
                "profane": report.rude and report.rude.profane.value,
                "chrf": report.rude and report.rude.chrf,
                "bleu": report.rude and report.rude.bleu,
                "good_unchanged": report.good and report.good.unchanged.value,
            }
            write_stage(folder / _MEASURED, measured, made_of)
        training = run.read_report(folder)
        last = [loss for _, loss, _ in training.curve[-5:]]
        figures = {name: value for name, value in measured.items() if name != "made_of"}
        loss = statistics.mean(last) if last else None
        found.append({"share": share, "seed": seed, "steps": training.steps, "loss": loss, **figures})
        logging.getLogger(__name__).info("%s", found[-1])
        _write(output, found, len(triples), rows)
    return found


def _write(output: Path, found: Sequence[dict[str, Any]], triples: int, rows: Sequence[Row]) -> None:
    write_whole(output / "warm_up.json", json.dumps(found, indent=1))
    columns = {
        "share": "{:.0%}", "seed": "{}", "steps": "{}", "loss": "{:.4f}", "profane": "{:.1%}", "chrf": "{:.1f}", "bleu": "{:.1f}",
        "good_unchanged": "{:.1%}",
    }  # fmt: skip
    lines = ["# The identity warm-up, measured", ""]
    lines += [f"{triples:,} rows, measured on {len(rows)} of the tuning split without a gate.", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---:|" * len(columns)]
    for one in sorted(found, key=lambda one: (one["share"], one["seed"])):
        cells = ["" if one[name] is None else form.format(one[name]) for name, form in columns.items()]
        lines.append("| " + " | ".join(cells) + " |")
    write_whole(output / "README.md", "\n".join([*lines, "", "![](warm_up.png)"]) + "\n")
    _plot(output / "warm_up.png", found)


def _plot(path: Path, found: Sequence[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), dpi=110, layout="constrained")
    for axis, (name, label) in zip(
        figure.subplots(1, 3),
        (("profane", "still profane"), ("chrf", "chrF"), ("good_unchanged", "good answers unchanged")),
        strict=True,
    ):
        shown = [one for one in found if one[name] is not None]
        for seed in sorted({one["seed"] for one in shown}):
            points = sorted((100 * one["share"], one[name]) for one in shown if one["seed"] == seed)
            axis.plot(*zip(*points, strict=True), marker="o", label=f"seed {seed}")
        axis.set(title=label, xlabel="identity warm-up, % of the rows")
        axis.spines[["top", "right"]].set_visible(False)
        if shown:
            axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def main(data: Path, output: Path) -> None:
    """Run it on the embedded recipe's data."""
    from aligner_integrations.training.embedded import examples, sources
    from aligner_integrations.training.embedded.first_pass import first_triples

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = RECIPES["embedded"]
    splits = sources.load(data, recipe.seed)
    triples = random.Random(0).sample(first_triples(splits.train, recipe.seed), _ROWS)
    good = [Row("good", p.question, p.answer, "tuning split") for p in splits.tune.oasst if len(p.answer) <= 900]
    rows = [*examples.strength_rows(splits.tune)[:_RUDE], *good[:_GOOD]]
    ablate(
        triples,
        rows,
        base="embedded",
        revision=REVISIONS[SMOLLM2],
        template=TEMPLATES["embedded"],
        recipe=recipe,
        output=output,
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
