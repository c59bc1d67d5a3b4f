"""The first correction in a new environment: what a person sees of it."""

import subprocess
import sys

import pytest

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


@pytest.fixture
def new(tmp_path, monkeypatch):
    """The environment of somebody who has never loaded anything."""
    monkeypatch.setenv("ALIGNER_WEIGHTS_CACHE", str(tmp_path / "kept"))
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    return tmp_path


def test_in_a_script_nothing_but_its_own_words(new):
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "corrected\n", "")
