"""The program as a whole: help, version, errors and exit codes."""

import json
import subprocess
import sys

import pytest

from aligner_integrations import __version__
from aligner_integrations.cli import options
from aligner_integrations.errors import BackendError, MissingDependencyError

PROGRAM = [sys.executable, "-c", "from aligner_integrations.cli import main; main()"]


def test_version(run):
    result = run("--version")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"aligner-integrations {__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_the_commands(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 0
    for command in ("demo", "correct", "evaluate", "models"):
        assert command in result.stdout


def test_evaluate_alone_shows_its_help(run):
    result = run("evaluate")
    assert result.exit_code == 0
    assert "quality" in result.stdout


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from aligner_integrations.cli.app import app\n"
        "heavy = {'torch', 'transformers', 'sacrebleu', 'better_profanity', 'huggingface_hub', 'langchain_core'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_program_runs_as_a_process():
    done = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"aligner-integrations {__version__}\n")


def test_program_on_a_terminal_that_is_not_utf8(tmp_path):
    """A character the terminal lacks is shown as an escape; it does not end in a traceback."""
    code = PROGRAM[2].replace("main()", "").rstrip("; ") + (
        "; from aligner_integrations.cli import options; from aligner_integrations.aligner import Aligner"
        "; from aligner_integrations.backends.base import FakeBackend"
        "; options.make_aligner = lambda *a, **k: Aligner(backend=FakeBackend(lambda p: 'caf\\u00e9'), template='paper')"
        "; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "correct", "q", "a"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(p for p in sys.path if p)},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf\\xe9\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["correct", "--nonsense"], "No such option: --nonsense"),
        (["correct", "q", "a", "--on-error", "cry"], "'cry'"),
        (["evaluate", "quality"], "--rows"),
    ],
)
def test_wrong_command_line_is_a_sentence_and_code_2(run, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert "--help" in result.stderr


def test_wrong_command_line_in_json(run):
    result = run("correct", "--nonsense", "--json")
    assert result.exit_code == 2
    assert result.stderr == ""
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["retryable"]) == ("UsageError", False)
    assert "--nonsense" in error["message"]


def test_escape_sequences_in_the_command_line_are_not_echoed(run):
    result = run("correct", "--non\x1b[31msense")
    assert "\x1b" not in result.output
    assert r"\x1b[31m" in result.stderr


def test_missing_model_is_a_sentence_and_code_1(run):
    result = run("correct", "-m", "./nowhere", "q", "a")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: There is no folder './nowhere'.\n"


def _failing(monkeypatch, error):
    def make(*_, **__):
        raise error

    monkeypatch.setattr(options, "make_aligner", make)


def test_aligner_error_in_json_says_whether_it_may_pass(run, monkeypatch):
    _failing(monkeypatch, BackendError("The server is busy.", retryable=True))
    result = run("correct", "q", "a", "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    assert json.loads(result.stdout) == {
        "error": {"type": "BackendError", "message": "The server is busy.", "retryable": True}
    }


def test_json_after_a_double_dash_is_an_argument(run, monkeypatch):
    _failing(monkeypatch, BackendError("The server is busy."))
    result = run("correct", "--", "q", "--json")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "error: The server is busy.\n")


def test_missing_extra_is_a_sentence(run, monkeypatch):
    _failing(monkeypatch, MissingDependencyError("pip install 'aligner-integrations[local]'"))
    result = run("demo")
    assert (result.exit_code, result.stderr) == (1, "error: pip install 'aligner-integrations[local]'\n")


def test_traceback_only_when_asked_for(run, monkeypatch):
    _failing(monkeypatch, RuntimeError("boom \x1b[31m"))
    monkeypatch.delenv("ALIGNER_DEBUG", raising=False)
    result = run("correct", "q", "a")
    assert result.exit_code == 1
    assert "Unexpected RuntimeError: boom \\x1b[31m" in result.stderr
    assert "Traceback" not in result.stderr
    debug = run("correct", "q", "a", env={"ALIGNER_DEBUG": "1"})
    assert debug.exit_code == 1
    assert "Traceback" in debug.stderr
    assert "\x1b" not in debug.output


@pytest.mark.parametrize("as_json", [True, False])
def test_interrupt_is_code_130(run, monkeypatch, as_json):
    _failing(monkeypatch, KeyboardInterrupt())
    result = run("correct", "q", "a", *(["--json"] if as_json else []))
    assert result.exit_code == 130
    if as_json:
        assert json.loads(result.stdout)["error"]["type"] == "Interrupted"
    else:
        assert (result.stdout, result.stderr) == ("", "Interrupted.\n")
