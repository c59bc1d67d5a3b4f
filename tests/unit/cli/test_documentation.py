"""Each command line in the documentation is one that the program takes."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from aligner_integrations.cli.app import app

ROOT = Path(__file__).parents[3]
FILES = ["README.md", "CONTRIBUTING.md", "cookbook/learning_loop.md", "cookbook/rlhf.py"]


def lines():
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")  # a command may go on in the next line
        for line in text.splitlines():
            if re.match(r"(    )?(\.venv/bin/)?aligner [a-z]+ ", line):
                yield name, line.strip().removeprefix(".venv/bin/")


LINES = list(lines())


def test_there_are_some():
    assert {name for name, _ in LINES} == set(FILES)


@pytest.mark.parametrize(("name", "line"), LINES)
def test_it_is_understood(name, line):
    command, words = get_command(app), shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("aligner", words)  # which raises what the program would answer
