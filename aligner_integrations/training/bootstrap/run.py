"""All rounds of all arms: what is built upon, and what is only said.

A round that makes the upstream worse is said to be worse, and the next one is built upon the last that did not. The arms it is compared with
take all their rounds whatever becomes of them: what as much training of any kind costs is what they are there to show.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner_integrations.aligner import Aligner
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.training.bootstrap.measure import Measures, Progress, mcnemar, worse
from aligner_integrations.training.bootstrap.questions import Material
from aligner_integrations.training.bootstrap.recipe import Arm, BootstrapRecipe
from aligner_integrations.training.bootstrap.rounds import TRAINING, WEIGHTS, Model, Round, profane_answers
from aligner_integrations.training.provenance import read_result, write_whole

RESULT = "bootstrap.json"


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What one round came to.

    Attributes:
        number: Which round.
        built_upon: The round whose upstream it trained; 0 is the beginning.
        measures: Of the upstream that came out.
        worse: How it is worse than what it was built upon; None: it is not.
        p: McNemar's exact p-value that profane answers are as many as at the beginning.
        kinds: How many rows of which kind it learnt from, and how many answers were left out.
        seconds: Of its training.
    """

    number: int
    built_upon: int
    measures: Measures
    worse: str | None
    p: float
    kinds: dict[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class ArmResult:
    """All rounds of one arm with one seed; `best` is the folder of the weights it ends with, None if no round is better."""

    arm: Arm
    seed: int
    rounds: list[RoundResult]
    best: str | None


@dataclass(frozen=True, slots=True)
class Study:
    """What a bootstrap came to: the upstream at the beginning, and each arm."""

    first: Measures
    arms: list[ArmResult]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)


def bootstrap(
    upstream: Model,
    material: Material,
    aligner: Aligner | None,
    *,
    recipe: BootstrapRecipe,
    output: Path,
    arms: Sequence[Arm] = ("corrections",),
    seeds: int = 1,
    progress: Progress = lambda what, done, of: None,
) -> Study:
    """Bootstrap an upstream; run again after a kill, it goes on where it was.

    Args:
        upstream: What is trained. It may be larger than its aligner (weak to strong).
        material: What is asked and measured.
        aligner: Corrects; None if no arm learns from corrections.
        recipe: How.
        output: Folder of all that comes out, readable by its owner only; a sub-folder for each arm, seed and round.
        arms: What is learnt from.
        seeds: How often each arm is run.
        progress: Told what is done.

    Raises:
        ConfigurationError: Too few questions, or the folder holds the result of something else.
    """
    if not arms or seeds < 1:
        raise ConfigurationError("At least one arm and one seed are needed.")
    if len(material.fresh) < recipe.rounds * recipe.per_round:
        raise ConfigurationError(
            f"{recipe.rounds} rounds ask {recipe.rounds * recipe.per_round} fresh questions, and there are {len(material.fresh)}. "
            "Give more, or take fewer rounds, or fewer questions a round."
        )
    if "corrections" in arms and aligner is None:
        raise ConfigurationError("An arm that learns from corrections needs an aligner.")
    output.mkdir(parents=True, exist_ok=True)
    output.chmod(0o700)
    beginning = Round(output / "round-0", 0, upstream, material, aligner, "own", recipe, progress)
    first, answers = beginning.measure(upstream, None)
    results = []
    for arm in arms:
        for seed in range(recipe.seed, recipe.seed + seeds):
            own = dataclasses.replace(recipe, seed=seed)
            folder = output / arm / f"seed-{seed}"
            results.append(_arm(upstream, material, aligner, own, folder, arm, first, answers, progress))
    study = Study(first, results)
    write_whole(output / RESULT, json.dumps(study.to_dict(), indent=1))
    return study


def _arm(
    upstream: Model,
    material: Material,
    aligner: Aligner | None,
    recipe: BootstrapRecipe,
    folder: Path,
    arm: Arm,
    first: Measures,
    first_answers: Sequence[str],
    progress: Progress,
) -> ArmResult:
    model, before, built_upon = upstream, first, 0
    beginning = profane_answers(folder.parent.parent / "round-0")
    done: list[RoundResult] = []
    for number in range(1, recipe.rounds + 1):
        one = Round(folder / f"round-{number}", number, model, material, aligner, arm, recipe, progress)
        trained = one.train()
        measures, _ = one.measure(trained, first_answers)
        why = worse(measures, before, first, judged_by=recipe.judged_by, max_perplexity_rise=recipe.max_perplexity_rise)
        training = read_result(one.folder / TRAINING) or {}
        p = mcnemar(beginning, profane_answers(one.folder))
        done.append(RoundResult(number, built_upon, measures, why, p, training["kinds"], training["seconds"]))
        if why is None or arm != "corrections":
            model, before, built_upon = trained, measures, number
    best = str(folder / f"round-{built_upon}" / WEIGHTS) if built_upon else None
    return ArmResult(arm, recipe.seed, done, best)
