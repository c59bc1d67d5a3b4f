"""The README's Python runs from top to bottom; `llm` and `index` are the reader's own, here a real small upstream."""

import re
from pathlib import Path

import pytest
from llama_index.core import Document, Settings, SummaryIndex

from aligner_integrations.models import EMBEDDED
from tests.integration.smollm import SmolChat, SmolLLM

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not (EMBEDDED / "adapter_model.safetensors").exists(), reason="the embedded adapter has not been trained yet"
    ),
]

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_runs(monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    monkeypatch.setattr(Settings, "_llm", SmolLLM())
    names = {
        "llm": SmolChat(),
        "index": SummaryIndex.from_documents([Document(text="The printer stands in the hall.")]),
    }
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own README
    assert names["correction"].outcome == "corrected"
    assert names["message"].response_metadata["aligner"]["outcome"] in ("kept", "corrected")
    assert names["response"].source_nodes
