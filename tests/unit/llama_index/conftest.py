"""Both worlds at once: a test that takes one of these runs with the synchronous verb and with the asynchronous one."""

import pytest

from aligner_integrations.llama_index import aalign_response, align_response
from tests.unit.llama_index.support import QUESTION


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """One coroutine function for `query` and `aquery`."""

    async def call(engine, question=QUESTION):
        return engine.query(question) if request.param == "sync" else await engine.aquery(question)

    return call


@pytest.fixture(params=["sync", "async"])
def align(request):
    """One coroutine function for `align_response` and `aalign_response`."""

    async def call(*args, **kwargs):
        if request.param == "sync":
            return align_response(*args, **kwargs)
        return await aalign_response(*args, **kwargs)

    return call
