"""`aligner correct`: arguments, standard input, and every way they can be wrong."""

import json

import pytest

from aligner_integrations.cli.options import AlignerOptions
from aligner_integrations.correction import Correction
from aligner_integrations.errors import EmptyCorrectionError

from .conftest import GatedBackend, answer_in, civil


def test_arguments(run, fake):
    fake()
    result = run("correct", "what?", "your code is shit")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "your code is bad\n", "")


def test_long_lines_are_not_wrapped(run, fake):
    fake(lambda prompt: "word " * 100 + "end")
    assert run("correct", "q", "a").stdout == "word " * 100 + "end\n"


@pytest.mark.parametrize(
    "arguments",
    [["correct", "what?", "-"], ["correct", "what?"], ["correct", "-", "-q", "what?"], ["correct", "-q", "what?"]],
)
def test_answer_from_standard_input(run, fake, arguments):
    prompts = []
    fake(lambda prompt: prompts.append(prompt) or civil(prompt))
    result = run(*arguments, input="this is shit\nnaïve\n")
    assert (result.exit_code, result.stdout) == (0, "this is bad\nnaïve\n")
    assert "##Question: what?\n##Answer: this is shit\nnaïve\n##Correction" in prompts[0]


def test_question_by_option_and_answer_as_the_argument(run, fake):
    prompts = []
    fake(lambda prompt: prompts.append(prompt) or civil(prompt))
    assert run("correct", "-q", "what?", "oh shit").stdout == "oh bad\n"
    assert "##Question: what?\n##Answer: oh shit\n" in prompts[0]


def test_options_reach_the_aligner(run, fake):
    asked = fake()
    run("correct", "q", "a", "-m", "some/model", "--template", "paper", "--no-gate", "--on-error", "keep")
    run("correct", "q", "a")
    assert asked == [
        {
            "which": AlignerOptions(model="some/model", template="paper"),
            "gate": False,
            "edits": None,
            "on_error": "keep",
        },
        {"which": AlignerOptions(), "gate": True, "edits": None, "on_error": "raise"},
    ]


def test_gate_and_no_gate(run, fake):
    fake(lambda prompt: "rewritten", GatedBackend)
    assert run("correct", "q", "fine").stdout == "fine\n"
    assert run("correct", "q", "fine", "--no-gate").stdout == "rewritten\n"


def test_extra_fields_of_a_template(run, fake):
    prompts = []
    fake(lambda prompt: prompts.append(prompt) or "better")
    result = run("correct", "q", "a", "--template", "metaaligner-hh", "--field", "aspects=Harmless; a=b")
    assert result.exit_code == 0
    assert "considering these aspects: Harmless; a=b |" in prompts[0]
    assert "extra fields" in run("correct", "q", "a", "--template", "metaaligner-hh").stderr


def test_json_is_the_correction(run, fake):
    fake()
    result = run("correct", "q", "oh \x1b[31mshit\u202e", "--json")
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    correction = Correction.from_dict(json.loads(result.stdout))
    assert (correction.question, correction.answer) == ("q", "oh \x1b[31mshit\u202e")
    assert (correction.text, correction.outcome) == ("oh \x1b[31mbad\u202e", "corrected")


def test_diff(run, fake):
    fake()
    result = run("correct", "q", "your code is shit", "--diff")
    assert (result.exit_code, result.stdout) == (0, "your code is [-shit-]{+bad+}\n")
    assert result.stderr.startswith("corrected, ")


def test_diff_in_colour_takes_no_markup_from_the_text(run, fake):
    fake()
    colour = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "NO_COLOR": None}
    result = run("correct", "q", "[blink]so[/blink] shit \x1b[5m", "--diff", env=colour)
    assert result.stdout == "[blink]so[/blink] \x1b[9;31mshit\x1b[0m\x1b[32mbad\x1b[0m \\x1b[5m\n"


def test_kept_answer_says_so_in_the_diff(run, fake):
    fake(answer_in)
    result = run("correct", "q", "all is well", "--diff")
    assert result.stdout == "all is well\n"
    assert result.stderr.startswith("kept letter by letter (unchanged), ")


def test_escape_sequences_do_not_reach_the_terminal(run, fake):
    fake(lambda prompt: "done \x1b]0;title\x07 \x9b2J \u202etxt")
    result = run("correct", "q", "a")
    assert result.stdout == "done \\x1b]0;title\\x07 \\x9b2J \\u202etxt\n"


def fail(prompt):
    raise EmptyCorrectionError("nothing \x1b[31mcame")


def test_failure(run, fake):
    fake(fail)
    result = run("correct", "q", "a")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "error: nothing \\x1b[31mcame\n")


@pytest.mark.parametrize(
    ("policy", "shown"), [("keep", "a\n"), ("block", "This answer was withheld because it could not be corrected.\n")]
)
def test_failure_answered_by_on_error_is_still_told(run, fake, policy, shown):
    fake(fail)
    result = run("correct", "q", "a", "--on-error", policy)
    assert (result.exit_code, result.stdout) == (0, shown)
    assert result.stderr.startswith("failed (EmptyCorrectionError: nothing \\x1b[31mcame), ")


def test_standard_input_that_is_not_utf8(run, fake):
    fake()
    result = run("correct", "q", input=b"caf\xe9 \n")
    assert result.exit_code == 1
    assert result.stderr == "error: Standard input is not UTF-8 text: invalid continuation byte at byte 3.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "a question and an answer are needed"),
        (["-"], "--question"),
        (["q", "a", "-q", "again"], "twice"),
        (["--input", "x.jsonl"], "aligner corpus IN.jsonl OUT.jsonl"),
        (["-i", "x.jsonl", "-o", "y.jsonl"], "aligner corpus IN.jsonl OUT.jsonl"),
        (["q", "a", "--output", "x.jsonl"], "aligner corpus IN.jsonl OUT.jsonl"),
        (["q", "a", "--field", "aspects"], "NAME=TEXT"),
    ],
)
def test_arguments_that_do_not_fit(run, fake, arguments, words):
    fake()
    result = run("correct", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_diff_and_json_exclude_each_other(run, fake):
    fake()
    result = run("correct", "q", "a", "--diff", "--json")
    assert (result.exit_code, result.stderr) == (2, "")
    assert "--diff" in json.loads(result.stdout)["error"]["message"]
