"""No word of a question or an answer, and no key, is in a file, a log record, a span or a repr that does not say so."""

import asyncio
import json
import logging
import pickle
import traceback

import pytest

from aligner_integrations import Aligner, Cache, Resilience, telemetry
from aligner_integrations.errors import AlignerError
from tests.unit.backends.remote.stub import Stub, completed, said
from tests.unit.support import TEMPLATE, ScoringBackend, fixed, score_of
from tests.unit.test_telemetry import Seen

QUESTION, ANSWER, KEY = "questioncanary, is it?", "answercanary is bad.", "sk-keycanary-1234567890"
CANARIES = ["questioncanary", "answercanary", "keycanary"]


def hostile(call):
    """First errors that repeat all they were told, then a correction."""
    if call.method == "GET":
        return said({"data": [{"id": "m"}]})
    n = hostile.calls = hostile.calls + 1
    told = json.dumps([call.body, call.headers])
    if n % 5 == 1:
        return said({"error": {"message": told}}, 500)
    if n % 5 == 2:
        return said({"error": told}, 400)
    if n % 5 == 3:
        return said({"choices": [{"index": 0, "text": ["no text"], "told": told, "finish_reason": told}]})
    return completed("a polite text")


def raises(*values):
    raise ValueError(f"about {values}")


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.delenv("ALIGNER_LOG_TEXT", raising=False)
    made = Seen()
    monkeypatch.setattr(telemetry, "instruments", lambda: made.instruments)
    return made


async def everything(aligner):
    """All ways to correct, as often as it takes to meet all faults; what is raised, and its traceback."""
    errors = []
    for i in range(10):
        for way in (
            lambda i=i: asyncio.to_thread(aligner.correct, f"{QUESTION} {i}", ANSWER),
            lambda i=i: aligner.acorrect(f"{QUESTION} a{i}", ANSWER),
            lambda i=i: asyncio.to_thread(lambda: list(aligner.stream(f"{QUESTION} s{i}", ANSWER))),
        ):
            try:
                await way()
            except AlignerError as error:
                errors.append(error)
    return errors


@pytest.mark.parametrize("raising", [None, "accept", "repair", "record", "gate"])
async def test_a_server_that_repeats_all_it_is_told(seen, caplog, tmp_path, raising):
    options = {} if raising is None else {raising: raises}
    caplog.set_level(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    hostile.calls = 0
    with Stub(hostile) as stub:
        cache = Cache(tmp_path / "cache.db")
        resilience = Resilience(retries=1, backoff=0.001, breaker=False, budget=False)
        aligner = Aligner.from_endpoint(
            stub.url, "m", KEY, TEMPLATE, cache=cache, resilience=resilience, on_error="keep", **options
        )
        await everything(aligner)
        errors = await everything(aligner.with_options(on_error="raise"))
        cache.close()
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    logs = "\n".join(record.getMessage() + str(record.exc_info or "") for record in caplog.records)
    places = {
        "files": files.decode(errors="replace"),
        "logs": logs,
        "spans and metrics": seen.everything(),
        "reprs": repr(aligner) + repr(aligner.backend) + repr(aligner.wrapped_backend) + repr(vars(aligner.backend)),
    }
    for place, text in places.items():
        assert text, place
        assert not [canary for canary in CANARIES if canary in text], place
    assert errors
    # An error may quote what a server or a caller's function said of the text, but never the key.
    for error in errors:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "keycanary" not in shown
    assert b"keycanary" not in pickle.dumps(Aligner(backend=aligner.backend, template=TEMPLATE))


async def test_scores_on_disk_hold_no_words(tmp_path, seen):
    cache = Cache(tmp_path / "cache.db")
    backend = ScoringBackend(lambda answer: score_of(answer, gap=9.0), fixed("a polite text"), gate=0.5)
    backend.fingerprint = ["a name"]
    aligner = Aligner(backend=backend, template=TEMPLATE, cache=cache)
    assert aligner.correct(QUESTION, ANSWER).text == (await aligner.acorrect(QUESTION, ANSWER)).text == "a polite text"
    cache.close()
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir()).decode(errors="replace")
    assert "polite" in files and not [canary for canary in CANARIES if canary in files + seen.everything()]
