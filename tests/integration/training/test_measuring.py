"""What the embedded recipe measures after training, on a tiny model."""

import json

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.backends.request import Request
from aligner_integrations.evaluation import own_rows
from aligner_integrations.models import CONFIG_FILE
from aligner_integrations.training import card
from aligner_integrations.training.embedded import run
from aligner_integrations.training.recipes import RECIPES
from aligner_integrations.triples import Triple
from tests.integration import tiny

pytestmark = pytest.mark.integration

TRIPLES = [Triple("What is tea?", "My old advice was wrong.", "It is a drink."), Triple("How?", "Fine.", "Fine.")]


def test_what_was_judged_once_is_judged_once_each_text_by_itself(adapter):
    """The gate judges the answer, and the loss is the reference's, after the same prompt."""
    prompt = tiny.TEMPLATE.render("What is tea?", "Fine.")
    requests = [Request("What is tea?", text, prompt, " ") for text in ("Fine.", "It is a drink.")]
    backend = run._DecodesOnce(adapter)
    found = [backend.score([request])[0].total for request in requests]
    assert found == pytest.approx([LocalBackend(adapter).score([request])[0].total for request in requests], abs=1e-4)
    assert found[0] != pytest.approx(found[1], abs=1e-2)


def test_figures_on_own_rows_are_in_the_card(adapter, tmp_path):
    report = own_rows.evaluate({"gate": Aligner(adapter)}, TRIPLES)
    (tmp_path / card.OWN_ROWS_FILE).write_text(json.dumps(report.to_dict()))
    (tmp_path / CONFIG_FILE).write_text((adapter / CONFIG_FILE).read_text())
    card.write(tmp_path, title="Small", data=["made up"], recipe=RECIPES["small"])
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert "|  | gate | copying |" in lines
    chrf = report.settings[own_rows.COPYING].chrf
    (line,) = (line for line in lines if line.startswith("| chrF |"))
    assert line.endswith(f"| {chrf:.2f} |")
    assert any(line.startswith("| loss of the rows' corrections") for line in lines)
