"""Every test of LangChain starts with the recorder installed and empty, and leaves nothing in it."""

import pytest
from langchain_core.tracers.context import tracing_v2_enabled
from langsmith import Client

from aligner_integrations.langchain.question import recorder
from tests.unit.langchain.smith import Smith
from tests.unit.langchain.support import held


@pytest.fixture(autouse=True)
def nothing_left():
    recorder.install()  # as the first aligner of a process does; some tests make theirs when the LLM has answered
    assert held() == 0
    yield
    assert held() == 0


@pytest.fixture
def smith():
    server = Smith()
    client = Client(api_url=server.start(), api_key="made-up", auto_batch_tracing=False)
    with tracing_v2_enabled(client=client):
        yield server
    server.shutdown()
    server.server_close()
