"""The seam: what can be had from it, and the public fake."""

import pytest

from aligner_integrations.backends import base, request, score
from aligner_integrations.backends.base import Backend, Completion, FakeBackend, Request
from aligner_integrations.errors import BackendError, EmptyCorrectionError
from tests.unit.support import fixed


def test_the_values_that_go_through_it_are_there_too():
    for home in (request, score):
        values = [name for name, value in vars(home).items() if getattr(value, "__module__", "") == home.__name__]
        public = [name for name in values if name[0].isupper()]
        assert public and all(getattr(base, name) is getattr(home, name) for name in public)


def test_the_fake_is_a_backend():
    assert isinstance(FakeBackend(fixed("x")), Backend)


@pytest.mark.parametrize("text", ["one two", "  one\n two  ", "one", "", "  "])
async def test_the_fake_streams_whole_words(text):
    backend, request = FakeBackend(fixed(text)), Request("q", "a", "prompt")
    pieces = list(backend.stream(request))
    assert "".join(pieces) == (text if text.strip() else "")
    assert len(pieces) == len(text.split())
    assert [piece async for piece in backend.astream(request)] == pieces


async def test_a_fake_that_raises_gives_that_request_its_error():
    def fn(prompt):
        if prompt == "1":
            raise KeyError("no")
        if prompt == "2":
            raise EmptyCorrectionError("nothing")
        return "fine"

    requests = [Request("q", "a", str(i)) for i in range(3)]
    backend = FakeBackend(fn)
    for results in (backend.complete(requests), await backend.acomplete(requests)):
        assert results[0] == Completion("fine", "stop")
        assert isinstance(results[1], BackendError)
        assert isinstance(results[1].__cause__, KeyError)
        assert isinstance(results[2], EmptyCorrectionError)


async def test_the_fake_has_no_score():
    backend = FakeBackend(fixed("x"))
    with pytest.raises(BackendError, match="no score"):
        backend.score([])
    with pytest.raises(BackendError, match="no score"):
        await backend.ascore([])
