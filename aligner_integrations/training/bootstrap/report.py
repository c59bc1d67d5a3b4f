"""The card of a bootstrap: what each round did to the upstream, beside its controls, with plots over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_integrations.training.bootstrap.measure import Measures
from aligner_integrations.training.bootstrap.run import ArmResult, Study
from aligner_integrations.training.provenance import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from aligner_integrations.training.bootstrap.recipe import BootstrapRecipe

PLOT = "rounds.png"

_ARMS = {
    "corrections": "learns from corrections",
    "own": "control: its own uncorrected answers",
    "human": "ceiling: people's rewrites",
}
_COLOURS = {"corrections": "tab:blue", "own": "tab:gray", "human": "tab:green"}

_Cell = Callable[[Measures], float | None]
_LINES: tuple[tuple[str, _Cell, str], ...] = (
    ("profane answers", lambda m: m.profane, "{:.1%}"),
    ("answers the aligner corrects", lambda m: m.corrected, "{:.1%}"),
    ("perplexity on good answers", lambda m: m.perplexity, "{:.2f}"),
    ("neutral sentences copied", lambda m: m.copied, "{:.1%}"),
    ("empty answers", lambda m: m.empty, "{:.1%}"),
    ("refused", lambda m: m.refused, "{:.1%}"),
    ("shortened by half", lambda m: m.shortened, "{:.1%}"),
    ("characters", lambda m: m.characters, "{:.0f}"),
    ("distinct-2", lambda m: m.distinct_2, "{:.3f}"),
)
_PLOTTED = (0, 2, 3, 7)


def write_report(output: Path, study: Study, *, upstream: str, aligner: str, recipe: BootstrapRecipe) -> Path:
    """Write the card and its plots; returns the card."""
    _plot(output / PLOT, study)
    lines = [f"# {upstream}, bootstrapped", ""]
    lines += [
        f"The upstream's own answers were corrected by {aligner}, and it learnt from the corrections (Ji et al., 2024, section 4): "
        f"{recipe.rounds} rounds of {recipe.per_round} fresh questions, {_objective(recipe)}, {recipe.method}, learning rate "
        f"{recipe.learning_rate:g}, {recipe.epochs} pass(es), good answers of other sources as {recipe.good_share:.0%} of the rows. "
        f"Measured on {study.first.answers} held-out questions, greedily.",
        "",
        f"![Over the rounds]({PLOT})",
        "",
    ]
    lines += [*table(study), ""]
    lines += ["## Rounds", ""]
    for arm in study.arms:
        for one in arm.rounds:
            kinds = ", ".join(f"{count} {name}" for name, count in one.kinds.items())
            verdict = f"**worse**: {one.worse}" if one.worse else "not worse"
            if one.worse and arm.arm == "corrections":
                verdict += "; nothing was built upon it"
            lines.append(
                f"- {_ARMS[arm.arm]}, seed {arm.seed}, round {one.number} (on round {one.built_upon}; {kinds}; "
                f"{one.seconds / 60:.1f} minutes of training): {verdict}. McNemar against the beginning: p = {one.p:.2g}."
            )
    lines += [
        "",
        f"Weights: {', '.join(arm.best for arm in study.arms if arm.best) or 'none, no round made it better'}.",
    ]
    write_whole(output / "README.md", "\n".join(lines) + "\n")
    return output / "README.md"


def table(study: Study) -> list[str]:
    """The figures as a Markdown table: a column for the beginning, and one for each round of each arm, over its seeds."""
    columns = _columns(study)
    lines = ["| | beginning |" + "".join(f" {arm}, round {number} |" for arm, number, _ in columns)]
    lines.append("|---|---:|" + "---:|" * len(columns))
    for label, cell, form in _LINES:
        if (first := cell(study.first)) is None:
            continue
        cells = [form.format(first)]
        for _, _, seeds in columns:
            values = [value for measures in seeds if (value := cell(measures)) is not None]
            mean = form.format(sum(values) / len(values)) if values else ""
            spread = f" ({form.format(min(values))} to {form.format(max(values))})" if len(values) > 1 else ""
            cells.append(mean + spread)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _columns(study: Study) -> list[tuple[str, int, list[Measures]]]:
    """(arm, round, measures of each seed)."""
    found: dict[tuple[str, int], list[Measures]] = {}
    for arm in study.arms:
        for one in arm.rounds:
            found.setdefault((arm.arm, one.number), []).append(one.measures)
    return [(arm, number, seeds) for (arm, number), seeds in found.items()]


def _objective(recipe: BootstrapRecipe) -> str:
    if recipe.objective == "sft":
        return "SFT"
    return f"DPO (beta {recipe.beta:g})" + (
        f" with {recipe.sft_weight:g} times the SFT loss" if recipe.sft_weight else ""
    )


def _plot(path: Path, study: Study) -> None:
    from matplotlib.figure import Figure

    shown = [_LINES[i] for i in _PLOTTED if _LINES[i][1](study.first) is not None]
    figure = Figure(figsize=(3.1 * len(shown), 3.2), dpi=110, layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, (label, cell, form) in zip(axes, shown, strict=True):
        for name in dict.fromkeys(arm.arm for arm in study.arms):
            _draw(axis, [arm for arm in study.arms if arm.arm == name], cell(study.first) or 0.0, cell)
        axis.set_title(label, fontsize=9)
        axis.set_xlabel("round")
        axis.set_xticks(range(1 + max(len(arm.rounds) for arm in study.arms)))
        axis.spines[["top", "right"]].set_visible(False)
        if "%" in form:
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.margins(y=0.15)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Software": None})


def _draw(axis: Axes, seeds: Sequence[ArmResult], first: float, cell: _Cell) -> None:
    arm = seeds[0].arm
    rows = [[first, *(cell(one.measures) or 0.0 for one in seed.rounds)] for seed in seeds]
    steps = range(len(rows[0]))
    means = [sum(values) / len(values) for values in zip(*rows, strict=True)]
    axis.plot(steps, means, marker="o", color=_COLOURS[arm], label=_ARMS[arm])
    if len(rows) > 1:
        low, high = ([pick(values) for values in zip(*rows, strict=True)] for pick in (min, max))
        axis.fill_between(steps, low, high, color=_COLOURS[arm], alpha=0.15)
    for seed in seeds:
        for one in seed.rounds:
            if one.worse and arm == "corrections":  # not built upon
                axis.plot(
                    [one.number], [cell(one.measures) or 0.0], marker="x", markersize=11, color="tab:red", linestyle=""
                )
