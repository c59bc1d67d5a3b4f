"""Which aligner a command works with: weights here, a server, or a chat model on one; and what a shell completes."""

import os
import subprocess
import sys

import pytest

from aligner_integrations.backends.base import Completion
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.cli import options
from aligner_integrations.cli.options import AlignerOptions
from aligner_integrations.models import KNOWN_MODELS
from aligner_integrations.policy import Policy
from aligner_integrations.templates import TEMPLATES
from tests.unit.backends.remote.stub import Stub, completed, said


@pytest.fixture
def server():
    """A server with one model, for completions and for chats."""

    def handle(call):
        if call.path == "/v1/models":
            return said({"data": [{"id": "served"}]})
        if call.path == "/v1/chat/completions":
            return said({"choices": [{"index": 0, "message": {"content": "kind"}, "finish_reason": "stop"}]})
        return completed("kind")

    with Stub(handle) as stub:
        yield stub


def test_weights_here():
    which = AlignerOptions(model="some/model", template="paper")
    aligner = options.make_aligner(which, gate=False, edits=options.Edits.MARKED, on_error=options.OnError.KEEP)
    assert aligner.backend.name == "some/model"
    assert aligner.template.name == "paper"
    assert aligner.policy == Policy(gate=False, edits="marked", on_error="keep", on_overflow="keep")


def test_the_aligners_own_gate_by_default(monkeypatch):
    monkeypatch.delenv("ALIGNER_MODEL", raising=False)
    assert options.make_aligner(AlignerOptions(model="some/model", template="paper")).policy == Policy()
    assert options.make_aligner().backend.name == "embedded"


@pytest.mark.parametrize("command", [["correct"], ["demo"], ["evaluate", "quality"]])
def test_each_command_that_names_an_aligner_takes_a_server_too(run, command):
    shown = run(*command, "--help", env={"COLUMNS": "200"}).stdout
    for option in ("--model", "--endpoint", "--chat-model", "--api-key-env", "--template"):
        assert option in shown


def test_an_aligner_on_a_server(run, server):
    done = run("correct", "q", "rude", "--endpoint", server.url, "--template", "paper")
    assert (done.exit_code, done.stdout) == (0, "kind\n")
    named = run("correct", "q", "rude", "--endpoint", server.url, "--template", "paper", "-m", "other", "--json")
    assert named.exit_code == 0
    assert [call.body["model"] for call in server.calls if call.path == "/v1/completions"] == ["served", "other"]


def test_a_chat_model_on_a_server(run, server):
    done = run("correct", "q", "rude", "--chat-model", server.url)
    assert (done.exit_code, done.stdout) == (0, "kind\n")
    assert server.calls[-1].body["messages"][0]["role"] == "system"


@pytest.mark.parametrize("kind", ["--endpoint", "--chat-model"])
def test_the_key_comes_from_the_environment_and_is_shown_nowhere(run, server, kind):
    done = run(
        *("correct", "q", "rude", kind, server.url, "--template", "paper", "--api-key-env", "MY_KEY"),
        env={"MY_KEY": "key-0123456789"},
    )
    assert (done.exit_code, done.stdout) == (0, "kind\n")
    assert {call.headers["authorization"] for call in server.calls} == {"Bearer key-0123456789"}
    assert "key-0123456789" not in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--endpoint", "http://a/v1", "--chat-model", "http://a/v1"], 2, "without --endpoint"),
        (["--api-key-env", "MY_KEY"], 2, "--endpoint or --chat-model"),
        (["--endpoint", "https://a/v1", "--api-key-env", "NOT_THERE"], 1, "NOT_THERE, which is not set"),
        (["--endpoint", "localhost:8000"], 1, "https://host:8000/v1"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(run, arguments, code, words):
    done = run("correct", "q", "a", *arguments)
    assert done.exit_code == code
    assert words in done.stderr


def test_a_command_gets_the_options_in_one_piece():
    @options.takes_options
    def command(question, *, which: AlignerOptions, rows: int = 3):
        return question, which, rows

    assert command(question="q", model="m", endpoint=None, chat_model=None, api_key_env=None, template=None) == (
        "q",
        AlignerOptions(model="m"),
        3,
    )


@pytest.mark.parametrize(
    ("words", "known", "beginning"),
    [
        ("aligner correct --model al", KNOWN_MODELS, "al"),
        ("aligner demo -m MetaAligner/MetaAligner-HH", KNOWN_MODELS, "MetaAligner/MetaAligner-HH"),
        ("aligner evaluate quality --template ", TEMPLATES, ""),
    ],
)
def test_a_shell_completes_names(words, known, beginning):
    done = subprocess.run(
        [sys.executable, "-c", "from aligner_integrations.cli import main; main()"],
        env={
            **os.environ,
            "_ALIGNER_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    wanted = [name for name in known if name.startswith(beginning)]
    assert wanted and sorted(done.stdout.split()) == sorted(wanted), done.stderr


def test_loading_is_not_part_of_a_corrections_seconds(run, monkeypatch):
    """Weights are there before the clock of the correction starts."""
    order = []
    monkeypatch.setattr(LocalBackend, "load", lambda self: order.append("load"))
    monkeypatch.setattr(
        LocalBackend, "complete", lambda self, requests: order.append("correct") or [Completion("kind", "stop")]
    )
    done = run("correct", "q", "rude", "-m", "some/model", "--template", "paper", "--no-gate", "--edits", "all")
    assert (done.exit_code, done.stdout, order) == (0, "kind\n", ["load", "correct"])
