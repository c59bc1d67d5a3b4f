"""`aligner cookbook`: the notebooks, from a checkout or from a wheel."""

import json
from pathlib import Path

import aligner_integrations
from aligner_integrations.cli import cookbook as module

HERE = Path(aligner_integrations.__file__).parents[1] / "cookbook"


def test_writes_each_file_with_its_title(run, tmp_path):
    done = run("cookbook", tmp_path / "a" / "b")
    assert done.exit_code == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "a" / "b").iterdir()}
    assert written == {path.name: path.read_bytes() for path in HERE.iterdir() if path.is_file()}
    assert "01_quickstart.ipynb  Quickstart" in done.stdout
    assert "jupyter lab" in done.stderr


def test_what_is_there_already_stays(run, tmp_path):
    (tmp_path / "01_quickstart.ipynb").write_text("my own")
    done = run("cookbook", tmp_path, "--json")
    told = json.loads(done.stdout)
    assert (tmp_path / "01_quickstart.ipynb").read_text() == "my own"
    assert told["left"] == [str(tmp_path / "01_quickstart.ipynb")]
    assert str(tmp_path / "02_langchain.ipynb") in told["written"]


def test_without_notebooks_it_is_a_sentence(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PLACES", (tmp_path / "none",))
    done = run("cookbook", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no notebooks" in done.stderr
