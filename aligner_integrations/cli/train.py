"""`aligner train`: an aligner from Q-A-C triples, or the embedded one from its data folder."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aligner_integrations.cli.console import echo, echo_json
from aligner_integrations.cli.options import JsonOption
from aligner_integrations.errors import ConfigurationError, require
from aligner_integrations.models import EMBEDDED
from aligner_integrations.templates import get_template
from aligner_integrations.training.recipes import RECIPES

_LIBRARIES = ("accelerate", "better_profanity", "datasets", "peft", "safetensors", "torch", "transformers", "trl")


def train(
    data: Annotated[str, typer.Option(help="JSONL or Parquet file, a folder of them, or a data set on the Hub.")],
    output: Annotated[Path, typer.Option(help="Folder of the result; a killed run goes on from its checkpoints.")],
    recipe: Annotated[
        str, typer.Option(help='"paper" (its hyper-parameters), "small" (an adapter on a CPU), or "embedded".')
    ] = "paper",
    base: Annotated[
        str | None, typer.Option(help='Base model: Hub id, folder, or "embedded" for SmolLM2-135M.')
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of the base on the Hub.")] = None,
    template: Annotated[str, typer.Option(help="Template to train with.")] = "aligner-7b",
    method: Annotated[str | None, typer.Option(help='"full" or "lora", instead of the recipe\'s.')] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak of the schedule, instead of the recipe's; an adapter takes another one than all weights."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest row in tokens, instead of the recipe's.")] = None,
    identity_share: Annotated[
        float | None, typer.Option(help="Size of the identity warm-up as a share of the rows.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help='Folder of a LoRA adapter to go on from, for a further feature; "embedded": the embedded one. '
            "The embedded recipe then leaves out its first pass."
        ),
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="Also put the result on the Hub, as a model.", metavar="OWNER/NAME")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: for everybody to load.")] = False,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train an aligner. For several GPUs: `accelerate launch --config_file ... -m aligner_integrations train ...`."""
    changes: dict[str, Any] = {
        "method": method,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "max_length": max_length,
        "identity_share": identity_share,
        "seed": seed,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    # Before the trainers, which take seconds to import, and the data, so that what does not fit is found at once.
    if recipe not in RECIPES:
        raise ConfigurationError(f"There is no recipe {recipe!r}. Recipes: {', '.join(RECIPES)}.")
    if recipe == "embedded":
        if fixed := [*changes, *(["base"] if base else [])]:
            raise ConfigurationError(f"The embedded recipe is fixed; drop {', '.join(fixed)}.")
    elif base is None:
        raise ConfigurationError("Name the base model with --base, for example --base google/gemma-2b.")
    start = EMBEDDED if start == Path("embedded") else start
    chosen, changed = get_template(template), RECIPES[recipe].with_changes(**changes)
    if public and push is None:
        raise ConfigurationError("--public goes with --push.")
    if push is not None:
        if base is not None and changed.method == "lora" and Path(base).is_dir():
            raise ConfigurationError(
                f"Nobody else could load an adapter on {base}, which is a folder here. Name a base on the Hub, or drop --push."
            )
        from aligner_integrations.hub import create_repository

        create_repository(push, kind="model", public=public)
    with require("train", "Training needs {missing}", *_LIBRARIES):
        from aligner_integrations.training import run
        from aligner_integrations.training.embedded import run as embedded_run
        from aligner_integrations.triples import read_triples
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Trainers write their losses to standard output, which is for the result.
    with contextlib.redirect_stdout(sys.stderr):
        if base is None:  # the embedded recipe, which has its own
            embedded_run.train_embedded(Path(data), output, start)
        else:
            run.train_aligner(
                read_triples(data),
                base=base,
                revision=revision,
                template=chosen,
                recipe=changed,
                output=output,
                data=data,
                start=start,
            )
    if not run.is_main_process():
        return
    url = None
    if push is not None:
        from aligner_integrations.hub import push_folder

        url = push_folder(output, push, kind="model", public=public, ignore=("checkpoints/*",))
    report = run.read_report(output)
    if as_json:
        echo_json({"output": str(output), "url": url, "training": report.to_dict()})
    else:
        name = str(output) if url is None else push
        echo(f"Trained on {report.rows:,} rows in {report.seconds / 60:.1f} minutes. Use it: Aligner({name!r})")
