"""How strongly an adapter's change of its base is applied: chosen after training, on the tuning split.

Training weighs each token alike, and nearly all of a correction's tokens are copies; so the adapter ends up a little timid
where it should edit. Its alpha scales the whole change, costs nothing, and is one number to choose.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.local import loading
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.quality import evaluate
from aligner_integrations.evaluation.rows import Row
from aligner_integrations.models import CONFIG_FILE, AlignerConfig
from aligner_integrations.training.card import STRENGTH_FILE
from aligner_integrations.training.provenance import digest, digest_of_files, read_stage, write_stage, write_whole

logger = logging.getLogger(__name__)

STRENGTHS = (1.0, 1.125, 1.25, 1.375, 1.5)
"""What is tried: multiples of the alpha that the adapter was trained with."""

FURTHER_STRENGTHS = (1.0, 1.125, 1.25)
"""The same after a further pass, which was trained with the alpha that the one before was given."""

PASSED = 0.06
"""Share of good answers that a gate is taken to let pass to the aligner."""

_ADAPTER, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def choose_strength(output: Path, rows: Sequence[Row], strengths: Sequence[float] | None = None) -> None:
    """Set a trained adapter's alpha to the best of several; what was tried is in `strength.json`.

    The best has the highest chrF plus BLEU minus percentage of texts that stay profane, corrected without a gate: too weak
    an adapter leaves swear words, too strong a one drops what it should keep. Of good answers, those that it changes cost as
    much as a gate lets pass of them. Fit the gate afterwards: hidden states change with the alpha.

    Args:
        output: Folder of the adapter.
        rows: Rude and good rows of the tuning split.
        strengths: What is tried: multiples of the alpha that the adapter was trained with; None: `STRENGTHS`.
    """
    made_of = {"weights": digest_of_files(output / _WEIGHTS), "data": digest(map(dataclasses.astuple, rows))}
    found = read_stage(output / STRENGTH_FILE, made_of)
    if found is None:
        trained = _alpha(output)
        tried = [_try(output, trained * strength, rows) for strength in strengths or STRENGTHS]
        best = max(tried, key=_worth)
        found = {"trained_alpha": trained, "alpha": best["alpha"], "rows": len(rows), "tried": tried}
        write_stage(output / STRENGTH_FILE, found, made_of)
    _set_alpha(output, found["alpha"])
    loading.release()  # whoever has loaded the folder has the old alpha


def _worth(tried: dict[str, float]) -> float:
    return tried["chrf"] + tried["bleu"] - tried["profane_percent"] - PASSED * tried["good_changed_percent"]


def _try(output: Path, alpha: float, rows: Sequence[Row]) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        for name in (_ADAPTER, _WEIGHTS):
            shutil.copy(output / name, folder)
        config = AlignerConfig.read(output / CONFIG_FILE)
        dataclasses.replace(config, gate=None, gate_layer=None).save(Path(folder))
        _set_alpha(Path(folder), alpha)
        report = evaluate({"no gate": Aligner(folder, gate=False, edits="all")}, rows)
        loading.release()
    rude, good = report.settings["no gate"].rude, report.settings["no gate"].good
    if rude is None or good is None:
        raise ConfigurationError("An adapter's strength is chosen on rude and good rows, and one kind is missing.")
    tried = {"alpha": alpha, "profane_percent": 100 * rude.profane.value, "chrf": rude.chrf, "bleu": rude.bleu}
    tried["good_changed_percent"] = 100 - 100 * good.unchanged.value
    logger.info("strength: %s", tried)
    return tried


def _alpha(folder: Path) -> float:
    return float(json.loads((folder / _ADAPTER).read_text())["lora_alpha"])


def _set_alpha(folder: Path, alpha: float) -> None:
    config = json.loads((folder / _ADAPTER).read_text())
    write_whole(folder / _ADAPTER, json.dumps({**config, "lora_alpha": alpha}, indent=2))
