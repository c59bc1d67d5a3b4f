"""Nothing that is text may control the terminal."""

import json

import pytest

from aligner_integrations.cli import console
from aligner_integrations.correction import diff_words


@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_is_safe_and_means_the_same(ascii_only):
    data = {"text": "\x1b[2J \x9b \x7f \u202e \u2028 \ud800 é\r\n\t", "\x9bkey": 1}
    dumped = console.dump_json(data, ascii_only=ascii_only)
    assert console.visible(dumped) == dumped
    assert json.loads(dumped) == data


def test_json_keeps_letters_readable():
    assert console.dump_json({"text": "é"}) == '{"text": "é"}'


def test_diff_is_coloured_where_there_is_colour(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = console.console()
    text = console.diff_text(diff_words("a bad day", "a good day"), out)
    assert text.plain == "a badgood day"
    assert [(text.plain[s.start : s.end], s.style) for s in text.spans] == [("bad", "red strike"), ("good", "green")]


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"TERM": "dumb", "FORCE_COLOR": "1"}])
def test_diff_has_marks_where_there_is_no_colour(monkeypatch, environment):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = console.diff_text(diff_words("a bad day", "a good day"), console.console())
    assert text.plain == "a [-bad-]{+good+} day"


def test_a_command_in_a_notebook_writes_no_controls(monkeypatch, capsys):
    """Its kernel's terminal says of itself that it has colours and moves."""
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    console.print_table([["name", "n"], ["a", "1"]])
    with console.progress("measuring", 2) as done:
        done(1)
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out and captured.err == ""


def test_table_cells_are_neither_markup_nor_control(capsys):
    console.print_table([["name", "[red]n[/red]"], ["[bold]x[/bold]", "\x1b[31m"]])
    out = capsys.readouterr().out
    assert "[bold]x[/bold]" in out
    assert "[red]n[/red]" in out
    assert r"\x1b[31m" in out
    assert "\x1b" not in out


def test_json_is_ascii_on_a_terminal_that_is_not_utf8(monkeypatch, capsys):
    monkeypatch.setattr(type(console.sys.stdout), "encoding", "ascii", raising=False)
    console.echo_json({"text": "é"}, indent=None)
    assert capsys.readouterr().out == '{"text": "\\u00e9"}\n'
