"""The first correction in a new environment: what a person sees of it, in a script, on a terminal and in a notebook."""

import os
import pty
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from aligner_integrations.models import EMBEDDED, packaged_smollm2

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (EMBEDDED / "adapter_model.safetensors").exists() or packaged_smollm2() is None,
        reason="the embedded aligner is not complete here",
    ),
]

CODE = (
    "from aligner_integrations import Aligner; print(Aligner().correct('How was it?', 'it was a load of crap').outcome)"
)
SENTENCE = "aligner-integrations: Reading the tokenizer of the base weights, once"


@pytest.fixture
def new(tmp_path, monkeypatch):
    """The environment of somebody who has never loaded anything."""
    monkeypatch.setenv("ALIGNER_WEIGHTS_CACHE", str(tmp_path / "kept"))
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    return tmp_path


def test_in_a_script_nothing_but_its_own_words(new):
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "corrected\n", "")


def test_on_a_terminal_at_most_three_lines_all_of_them_ours(new):
    """What stays on the screen, that is: a bar that is there meanwhile goes."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            written += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    lines = _left_on_the_screen(written.decode())
    assert lines[-1] == "corrected" and len(lines) <= 3
    assert lines[0].startswith(SENTENCE)


def _left_on_the_screen(written):
    """Lines as a terminal shows them at the end, as far as rich's bars go: those that are erased are gone."""
    screen, at = [""], 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", written):
        if part == "\n":
            at += 1
            if at == len(screen):
                screen.append("")
        elif part == "\x1b[2K":
            screen[at] = ""
        elif re.fullmatch(r"\x1b\[\d*A", part):
            at = max(0, at - int(part[2:-1] or 1))
        elif not part.startswith("\x1b") and part != "\r":
            screen[at] += part
    return [line for line in screen if line.strip()]


def test_in_a_notebook_one_line(new):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE.replace("print(", "_ = ("))])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert len(notebook.cells[0].outputs) == 1, notebook.cells[0].outputs
    (output,) = notebook.cells[0].outputs
    assert output.text.startswith(SENTENCE) and output.text.count("\n") == 1
