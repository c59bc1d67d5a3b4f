"""`aligner train` with wrong options; real trainings are in the integration tests."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "secret"], "no recipe 'secret'. Recipes: paper, embedded, small."),
        ([], "Name the base model with --base"),
        (["--recipe", "embedded", "--epochs", "2", "--base", "x"], "fixed; drop epochs, base."),
        (["--recipe", "embedded"], "lacks paradetox.jsonl.gz"),
        (["--base", "some/base", "--template", "nonsense"], "nonsense"),
        (["--base", "some/base", "--method", "qlora"], "method is 'qlora'"),
        (["--base", "some/base", "--identity-share", "20"], "identity_share is 20"),
    ],
)
def test_what_does_not_fit_is_a_sentence(run, tmp_path, options, words):
    result = run("train", "--data", tmp_path, "--output", tmp_path / "out", "--json", *options)
    assert result.exit_code == 1
    assert words in json.loads(result.stdout)["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_a_missing_library_names_the_extra(tmp_path):
    program = "import sys; sys.modules['torch'] = None; from aligner_integrations.cli import main; main()"
    command = ["train", "--base", "some/base", "--data", "x", "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True)
    said = "error: Training needs torch: pip install 'aligner-integrations[train]'\n"
    assert (done.returncode, done.stderr) == (1, said)
