"""The card of a bootstrap: what each round did to the upstream, beside its controls, with plots over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_integrations.evaluation.html import Example, Page, Table, write
from aligner_integrations.evaluation.html.charts import lines as charts_of_lines
from aligner_integrations.training.bootstrap.measure import Measures
from aligner_integrations.training.bootstrap.rounds import HELD_OUT, profane_answers
from aligner_integrations.training.bootstrap.run import ArmResult, Study
from aligner_integrations.training.provenance import read_result, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from aligner_integrations.training.bootstrap.recipe import BootstrapRecipe

PLOT, PAGE = "rounds.png", "report.html"

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


def write_page(output: Path, study: Study, questions: Sequence[str], *, title: str) -> Path:
    """Write the same as a page (`report.html`), with answers to look at: at the beginning, and of the last round.

    Args:
        output: Folder of the bootstrap.
        study: What came out.
        questions: Those held out.
        title: First line of the page.
    """
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(study)]
    charts = []
    for label, cell, form in (_LINES[i] for i in _PLOTTED):
        if (first := cell(study.first)) is not None:
            scale = 100 if "%" in form else 1
            curves = {
                f"{arm.arm}, seed {arm.seed}": [
                    (0, scale * first),
                    *((one.number, scale * (cell(one.measures) or 0.0)) for one in arm.rounds),
                ]
                for arm in study.arms
            }
            charts.append(charts_of_lines(label, curves, across="round", up="%" if scale == 100 else ""))
    arm = study.arms[0]
    last = output / arm.arm / f"seed-{arm.seed}" / f"round-{arm.rounds[-1].number}"
    page = Page(
        title,
        lead=[f"Measured on {study.first.answers} held-out questions; greedy answers."],
        tiles=[
            ("profane at the beginning", f"{study.first.profane:.1%}"),
            ("profane after the last round", f"{arm.rounds[-1].measures.profane:.1%}"),
            ("rounds built upon", f"{sum(one.worse is None for one in arm.rounds)} of {len(arm.rounds)}"),
        ],
        tables=[Table("Over the rounds", [lines[0], *lines[2:]])],
        charts=charts,
        examples=_examples(output / "round-0", last, questions),
        examples_title=f"Answers at the beginning, and after round {arm.rounds[-1].number}; those that changed sides first",
    )
    write(output / PAGE, page)
    return output / PAGE


def _examples(before: Path, after: Path, questions: Sequence[str]) -> list[Example]:
    texts = [(read_result(folder / HELD_OUT) or {})["answers"] for folder in (before, after)]
    faults = [profane_answers(folder) for folder in (before, after)]
    words = {(True, False): "cleaned", (False, True): "spoilt", (True, True): "profane", (False, False): "civil"}
    found = [
        Example(words[was, now], question, one, other)
        for question, one, other, was, now in zip(questions, *texts, *faults, strict=True)
    ]
    order = list(words.values())
    return sorted(found, key=lambda one: order.index(one.outcome))


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
            ends = [form.format(end) for end in (min(values), max(values))] if values else ["", ""]
            cells.append(mean + (f" ({ends[0]} to {ends[1]})" if ends[0] != ends[1] else ""))
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
    named = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
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
                place = [one.number], [cell(one.measures) or 0.0]
                axis.plot(*place, "x", markersize=11, color="tab:red", label="worse, not built upon")
