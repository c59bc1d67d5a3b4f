"""The cookbook runs from top to bottom, and what is stored in it is what its code shows, and nothing else."""

import re

import nbformat
import pytest

from aligner_integrations.models import EMBEDDED
from tests.notebooks import COOKBOOK, FINGERPRINT, BrokenNotebookError, execute, fingerprint

NOTEBOOKS = sorted(path.name for path in COOKBOOK.glob("*.ipynb"))
LARGEST = 300_000  # characters of outputs
NOISE = re.compile(r"\b(?:DEBUG|INFO|WARNING)\b|\w+Warning\b")
MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|Users|tmp|work|var|private|opt|usr)/|\b0x[0-9a-f]{8,}\b")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not (EMBEDDED / "adapter_model.safetensors").exists(), reason="the embedded adapter has not been trained yet"
)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name):
    execute(COOKBOOK / name)


def shown(output):
    """What a reader sees of an output, but for pictures."""
    if output.output_type == "stream":
        return output.text
    return "\n".join(
        text for kind, text in output.get("data", {}).items() if isinstance(text, str) and kind != "image/png"
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_outputs(name):
    notebook = nbformat.read(COOKBOOK / name, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    numbers = [cell.execution_count for cell in cells]
    again = f"Run `make notebooks NOTEBOOKS=cookbook/{name}`"
    assert numbers == [*range(1, len(cells) + 1)], f"{name} has cells that were not executed in one go. {again}."
    assert notebook.metadata.get(FINGERPRINT) == fingerprint(notebook), f"The code of {name} has changed. {again}."
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert "widgets" not in notebook.metadata
    for output in outputs:
        assert output.output_type != "error", f"{name} shows an error."
        assert output.get("name") != "stderr", f"{name} shows what someone wrote to stderr: {output.text}"
        kinds = [kind for kind in output.get("data", {}) if "widget" in kind or "javascript" in kind]
        assert not kinds, f"{name} has an output that needs a running notebook: {kinds}"
        noise = NOISE.search(shown(output))
        assert not noise, f"{name} shows what someone else has to say: {shown(output)}"
        found = MACHINE.search(shown(output))
        assert not found, f"{name} shows a place of one machine: {shown(output)[max(0, found.start() - 80) :][:200]}"
    assert sum(len(str(output)) for output in outputs) < LARGEST


def test_a_broken_cell_is_named(tmp_path):
    notebook = nbformat.v4.new_notebook()
    sources = ["x = 1", "# here\nx / 0", "print('never')"]
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    with pytest.raises(BrokenNotebookError, match=r"(?s)broken\.ipynb breaks in cell 1 .*# here.*ZeroDivisionError"):
        execute(tmp_path / "broken.ipynb")


def test_the_working_directory_is_empty_and_outputs_come_whole_and_in_order(tmp_path):
    notebook = nbformat.v4.new_notebook()
    source = """import os, shutil
print(os.listdir(), flush=True)
print(bool(shutil.which('aligner')))
display(1)
print('after')"""
    notebook.cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(notebook, tmp_path / "quiet.ipynb")
    executed = execute(tmp_path / "quiet.ipynb")
    before, shown, after = executed.cells[0].outputs
    assert before.text == "[]\nTrue\n" and shown.data["text/plain"] == "1" and after.text == "after\n"
    assert "execution" not in executed.cells[0].metadata
