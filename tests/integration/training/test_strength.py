"""Choosing an adapter's strength: the best of what was tried is set, once, and stays."""

import json
import shutil

import pytest

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.rows import Row
from aligner_integrations.training.embedded import strength

pytestmark = pytest.mark.integration

GOOD = Row("good", "What is tea?", "It is a drink.", "test")
ROWS = [*(Row("rude", "What is tea?", answer, "test", (answer,)) for answer in (GOOD.answer, "Fine, thanks.")), GOOD]


@pytest.fixture
def folder(adapter, tmp_path):
    """A copy of the tiny adapter, which has no gate."""
    return shutil.copytree(adapter, tmp_path / "adapter")


def alpha_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())["lora_alpha"]


def test_the_best_is_set(folder, monkeypatch):
    monkeypatch.setattr(strength, "STRENGTHS", (0.0, 1.0, 8.0))
    before = alpha_of(folder)
    strength.choose_strength(folder, ROWS)
    found = json.loads((folder / "strength.json").read_text())
    assert [one["alpha"] for one in found["tried"]] == [0, before, 8 * before]
    assert len({one["chrf"] for one in found["tried"]}) > 1  # it is the adapter with that alpha that was measured

    def worth(one):
        passed = strength.PASSED * one["good_changed_percent"]
        return one["chrf"] + one["bleu"] - one["profane_percent"] - passed

    assert alpha_of(folder) == found["alpha"] == max(found["tried"], key=worth)["alpha"]
    assert (found["trained_alpha"], found["rows"]) == (before, 3)


def test_what_was_chosen_is_not_chosen_again(folder, monkeypatch):
    monkeypatch.setattr(strength, "STRENGTHS", (1.0, 2.0))
    strength.choose_strength(folder, ROWS)
    monkeypatch.setattr(strength, "_try", lambda *_: pytest.fail("it was tried again"))
    found = json.loads((folder / "strength.json").read_text())
    (folder / "strength.json").write_text(json.dumps({**found, "alpha": 5.0}))  # a run that was killed here goes on
    strength.choose_strength(folder, ROWS)
    assert alpha_of(folder) == 5
    with pytest.raises(ConfigurationError, match="other data"):
        strength.choose_strength(folder, ROWS[:1])


@pytest.mark.parametrize("rows", [ROWS[:2], [GOOD]])
def test_without_rows_of_both_kinds_there_is_nothing_to_choose_on(folder, rows):
    with pytest.raises(ConfigurationError, match="rude and good rows"):
        strength.choose_strength(folder, rows)
