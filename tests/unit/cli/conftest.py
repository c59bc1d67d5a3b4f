"""An aligner for the command line that needs no weights: a function from prompt to correction."""

import pytest
from typer.testing import CliRunner

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import FakeBackend, Score
from aligner_integrations.cli import options
from aligner_integrations.cli.app import app


class GatedBackend(FakeBackend):
    """Has a gate that objects to answers with "damn" in them."""

    gate = 0.0
    can_score = True

    def score(self, requests):
        return [Score((), -1.0, -1.0, -1.0, 1.0, gate=5.0 if "damn" in r.answer else -5.0) for r in requests]


def answer_in(prompt):
    """The answer within a prompt of the template aligner-repo."""
    return prompt.split("##Answer: ")[1].split("\n##Correction")[0]


def civil(prompt):
    return answer_in(prompt).replace("damn ", "").replace("shit", "bad")


@pytest.fixture
def run():
    """Run a command line and return typer's result, whose standard output and error are apart."""

    def invoke(*arguments, **options):
        return CliRunner().invoke(app, [str(a) for a in arguments], **options)

    return invoke


@pytest.fixture
def fake(monkeypatch):
    """Let every command work with a fake aligner; returns the options each was asked for."""
    asked = []

    def install(fn=civil, backend=FakeBackend):
        def make(which, *, gate=True, edits=None, on_error=options.OnError.RAISE, at_once=None):
            asked.append({"which": which, "gate": gate, "edits": edits, "on_error": on_error})
            return Aligner(
                backend=backend(fn),
                template=which.template or "aligner-repo",
                gate=None if gate else False,
                edits=edits and edits.value,
                on_error=on_error.value,
                on_overflow=on_error.value,
            )

        monkeypatch.setattr(options, "make_aligner", make)
        return asked

    return install
