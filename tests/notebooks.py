"""Runs the notebooks of the cookbook: `python -m tests.notebooks` keeps what they show, the tests look for what breaks.

What is kept is small and the same on every machine: no times, no widgets, and the working directory is an empty folder.
"""

import argparse
import hashlib
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError

COOKBOOK = Path(__file__).parents[1] / "cookbook"
LONGEST_CELL = 300  # seconds

# How a notebook says of which sources its outputs are.
FINGERPRINT = "sources"


class BrokenNotebookError(Exception):
    """A cell did not run to its end."""


def fingerprint(notebook):
    """Of all code; another one means that the outputs are those of older code."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def joined(outputs):
    """The same with pieces of a stream that follow each other as one: how they come apart is chance."""
    whole = []
    for output in outputs:
        before = whole[-1] if whole else {}
        if output.output_type == "stream" and before.get("name") == output.name:
            before.text += output.text
        else:
            whole.append(output)
    return whole


def execute(path):
    """The notebook at `path` with the outputs of a run from top to bottom, in an empty folder.

    Raises:
        BrokenNotebookError: It names the notebook and the cell, and says what happened there.
    """
    notebook = nbformat.read(path, as_version=4)
    at = [0]
    with TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=LONGEST_CELL,
            startup_timeout=LONGEST_CELL,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],  # it warns of eavesdroppers on loopback
            on_cell_start=lambda cell, cell_index: at.__setitem__(0, cell_index),
        )
        try:
            client.execute(env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"})
        except (CellExecutionError, CellControlSignal, DeadKernelError) as error:
            source = notebook.cells[at[0]].source
            told = (
                f"{path.name} breaks in cell {at[0]} (of {len(notebook.cells)}, counted from 0):\n\n{source}\n\n{error}"
            )
            raise BrokenNotebookError(told) from error
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata[FINGERPRINT] = fingerprint(notebook)
    return notebook


def main():
    """Execute the notebooks in place."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of the cookbook, unless named")
    for path in parser.parse_args().notebooks or sorted(COOKBOOK.glob("*.ipynb")):
        begun = time.monotonic()
        notebook = execute(path)
        nbformat.write(notebook, path)
        took = f"{path.name}: {time.monotonic() - begun:.0f} s, {path.stat().st_size // 1024} kB"
        print(took, flush=True)  # noqa: T201 - this is a program


if __name__ == "__main__":
    main()
