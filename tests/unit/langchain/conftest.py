"""Every test of LangChain starts with the recorder installed and empty, and leaves nothing in it."""

import pytest

from aligner_integrations.langchain import upstream
from tests.unit.langchain.support import held


@pytest.fixture(autouse=True)
def nothing_left():
    upstream.install()  # as the first aligner of a process does; some tests make theirs when the LLM has answered
    assert held() == 0
    yield
    assert held() == 0
