"""The ablation of the identity warm-up runs on a tiny model, resumes, and says what came of each run."""

import dataclasses
import json

import pytest

from aligner_integrations.evaluation.rows import Row
from aligner_integrations.training.warm_up import ablate
from tests.integration import tiny
from tests.integration.training.test_training import RECIPE, triples

pytestmark = pytest.mark.integration


def test_shares_are_compared(random_model, tmp_path):
    rows = [Row("rude", "q", "damn tea", "s", ("tea",)), Row("good", "q", "tea is hot", "s")]
    options = {
        "base": str(random_model), "revision": None, "template": tiny.TEMPLATE, "output": tmp_path,
        "recipe": dataclasses.replace(RECIPE, save_steps=50), "runs": [(0.0, 0), (0.5, 0)],
    }  # fmt: skip
    found = ablate(triples(60), rows, **options)
    assert [(one["share"], one["seed"]) for one in found] == [(0.0, 0), (0.5, 0)]
    assert found[1]["steps"] > found[0]["steps"]
    assert json.loads((tmp_path / "warm_up.json").read_text()) == found
    card = (tmp_path / "README.md").read_text()
    assert "| 50% | 0 |" in card and (tmp_path / "warm_up.png").stat().st_size > 5000
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert ablate(triples(60), rows, **options) == found
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
