"""The recorder: what it is given is on the disk once it is flushed; a caller never waits; what is lost is counted and said."""

import asyncio
import json
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError, RecordingError
from aligner_integrations.recording import Recorder, for_request, read_records
from tests.forks import forked
from tests.unit.support import TEMPLATE, ScoringBackend, acorrect, aligner_of, astream, correct, mend, score_of, stream

PLACES = ["c.jsonl", "folder", "c.db"]


def correction(n=0, text="It is good."):
    return Correction(f"q{n}", "It is bad.", text, "corrected", rounds=1)


def questions(path):
    return [record.correction.question for record in read_records(path)]


@pytest.mark.parametrize("place", PLACES)
def test_what_was_given_is_on_the_disk_after_flush(tmp_path, place):
    recorder = Recorder(tmp_path / place)
    given = [correction(n) for n in range(1200)]
    for one in given:
        recorder(one)
    recorder.flush()
    found = list(read_records(tmp_path / place))
    assert [record.correction for record in found] == given
    assert len({record.id for record in found}) == 1200
    assert (recorder.written, recorder.dropped) == (1200, 0)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verb", [correct, acorrect, stream, astream])
async def test_an_aligner_records_by_each_verb(tmp_path, place, verb):
    aligner = Aligner(
        backend=ScoringBackend(lambda answer: score_of(answer, gap=2.0 if "bad" in answer else 0.0), gate=1.0),
        template=TEMPLATE,
        record=tmp_path / place,
    )
    with for_request("r1"):
        done = [await verb(aligner), await verb(aligner, "Fine."), await verb(aligner, "")]
    aligner.record.close()
    found = list(read_records(tmp_path / place))
    assert [record.correction for record in found] == done
    assert [(r.correction.outcome, r.correction.reason, r.correction.score) for r in found] == [
        ("corrected", None, 2.0),
        ("kept", "gate", 0.0),
        ("skipped", "empty", None),
    ]
    assert {r.aligner for r in found} == {aligner.fingerprint} and {r.request for r in found} == {"r1"}


def test_each_of_a_batch_belongs_to_its_own_request(tmp_path):
    aligner = aligner_of(lambda prompt: "" if "fail" in prompt else mend(prompt), record=tmp_path / "c.jsonl")
    with for_request("a", "b", "c"):
        aligner.correct_many([("1", "bad"), ("2", "fail"), ("3", "bad")], return_exceptions=True)
    aligner.correct("4", "bad")
    aligner.record.flush()
    found = {r.correction.question: r.request for r in read_records(tmp_path / "c.jsonl")}
    assert found == {"1": "a", "3": "c", "4": None}


def test_other_options_have_another_fingerprint_and_share_the_recorder(tmp_path):
    one = aligner_of(mend, record=tmp_path / "c.jsonl")
    two = one.with_options(rounds=2)
    one.correct("1", "bad"), two.correct("2", "bad")
    assert two.record is one.record
    one.record.flush()
    assert [r.aligner for r in read_records(tmp_path / "c.jsonl")] == [one.fingerprint, two.fingerprint]
    assert one.fingerprint != two.fingerprint


def test_the_trace_is_on_the_record(tmp_path):
    from opentelemetry.sdk.trace import TracerProvider

    recorder = Recorder(tmp_path / "c.jsonl")
    with TracerProvider().get_tracer("t").start_as_current_span("request") as span:
        recorder(correction())
    recorder.flush()
    (record,) = read_records(tmp_path / "c.jsonl")
    assert record.trace == f"{span.get_span_context().trace_id:032x}"


# Redaction ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_redaction_comes_before_the_disk(tmp_path, place, monkeypatch):
    """Of the secret not one byte reaches any file, whatever else happens: every write is looked at."""
    seen, write = [], os.write
    monkeypatch.setattr(os, "write", lambda fd, data: seen.append(bytes(data)) or write(fd, data))
    recorder = Recorder(tmp_path / place, redact=lambda text: text.replace("4111-1111", "[card]"))
    secret = "my card is 4111-1111"
    recorder(Correction(secret, secret, f"{secret}!", "corrected"))
    recorder(Correction("q", "a", "a", "failed", f"BackendError: status 500: {secret}"))
    recorder.flush()
    assert not [data for data in seen if b"4111" in data]
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"4111" in file.read_bytes()]
    first, second = (record.correction for record in read_records(tmp_path / place))
    assert (first.question, first.text) == ("my card is [card]", "my card is [card]!")
    assert second.reason == "BackendError: status 500: my card is [card]"


@pytest.mark.parametrize("redact", [lambda text: 1 / 0, lambda text: None])
def test_what_cannot_be_redacted_is_not_kept(tmp_path, redact, caplog):
    recorder = Recorder(tmp_path / "c.jsonl", redact=redact)
    recorder(correction())
    with pytest.raises(RecordingError, match="1, redact raised"):
        recorder.flush()
    assert recorder.dropped == 1 and "were not recorded" in caplog.text
    assert questions(tmp_path / "c.jsonl") == []
    recorder.flush()  # it was said


# Never in the way ---------------------------------------------------------------------------------------------------


class Stuck:
    """A place that waits until it is told to go on."""

    def __init__(self):
        self.go, self.rows = threading.Event(), []

    def write(self, records):
        assert self.go.wait(60)
        self.rows += records

    def sync(self):
        pass


def test_a_full_queue_drops_and_counts(tmp_path, caplog):
    recorder = Recorder(tmp_path / "c.jsonl", queue=50)
    recorder._place = stuck = Stuck()
    aligner = Aligner(backend=FakeBackend(mend), template=TEMPLATE, record=recorder)
    texts = [aligner.correct(str(n), "bad").text for n in range(300)]
    assert texts == ["good"] * 300  # though nothing was written
    assert recorder.dropped >= 300 - 2 * 50 - 50
    (said,) = [r for r in caplog.records if "not recorded" in r.getMessage()]  # once, not two hundred times
    assert said.levelno == logging.ERROR
    stuck.go.set()
    with pytest.raises(RecordingError, match="came faster"):
        recorder.flush()
    assert len(stuck.rows) + recorder.dropped == 300


def test_long_texts_wait_within_bounds(tmp_path):
    recorder = Recorder(tmp_path / "c.jsonl")
    recorder._place = stuck = Stuck()
    for n in range(200):
        recorder(correction(n, "x" * 2**20))
    assert recorder.dropped >= 100
    stuck.go.set()
    with pytest.raises(RecordingError):
        recorder.close()


def test_flush_does_not_wait_for_ever(tmp_path):
    recorder = Recorder(tmp_path / "c.jsonl")
    recorder._place = stuck = Stuck()
    recorder(correction())
    with pytest.raises(RecordingError, match="in time"):
        recorder.flush(0.05)
    stuck.go.set()
    recorder.flush()
    assert len(stuck.rows) == 1


def test_a_closed_recorder_takes_no_more(tmp_path, caplog):
    aligner = aligner_of(mend, record=tmp_path / "c.jsonl")
    aligner.correct("1", "bad")
    aligner.record.close()
    assert aligner.correct("2", "bad").text == "good"
    assert questions(tmp_path / "c.jsonl") == ["1"] and aligner.record.dropped == 1
    assert "closed" in caplog.text


def test_no_thread_can_be_started(tmp_path, monkeypatch):
    from aligner_integrations import threads
    from aligner_integrations.errors import OverloadedError

    def refuse(work):
        raise OverloadedError("No thread")

    recorder = Recorder(tmp_path / "c.jsonl")
    monkeypatch.setattr(threads, "submit", refuse)
    for n in range(3):
        recorder(correction(n))
    recorder.flush()  # on this thread then
    assert questions(tmp_path / "c.jsonl") == ["q0", "q1", "q2"]


def test_a_sample(tmp_path):
    recorder = Recorder(tmp_path / "c.jsonl", sample=0.25)
    for n in range(2000):
        recorder(correction(n))
    recorder.flush()
    assert 350 < len(questions(tmp_path / "c.jsonl")) < 650  # 500; seven standard deviations
    assert recorder.dropped == 0


def test_many_threads_and_recorders_share_a_file(tmp_path):
    recorders = [Recorder(tmp_path / "c.jsonl", max_bytes=20_000) for _ in range(3)]

    def work(k):
        for n in range(200):
            recorders[k % 3](correction(1000 * k + n))
            if n % 50 == 0:
                recorders[k % 3].flush()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for recorder in recorders:
        recorder.close()
    found = questions(tmp_path / "c.jsonl")
    assert sorted(found) == sorted(f"q{1000 * k + n}" for k in range(6) for n in range(200))
    for k in range(6):  # each thread's own in its order
        mine = [int(q[1:]) for q in found if int(q[1:]) // 1000 == k]
        assert mine == sorted(mine)


# Processes ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("place", PLACES)
def test_a_forked_child_records_its_own_only(tmp_path, place):
    recorder = Recorder(tmp_path / place)
    recorder(correction(1))

    def child():
        recorder(correction(2))
        recorder.flush(30)
        return recorder.written == 1

    assert forked(child)
    recorder.flush()
    assert sorted(questions(tmp_path / place)) == ["q1", "q2"]


def _worker(recorder, n):
    recorder(correction(n))  # and ends without a flush


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_process_that_ends_has_written_all(tmp_path, method):
    context = multiprocessing.get_context(method)
    recorder = Recorder(tmp_path / "c.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        workers = [context.Process(target=_worker, args=(recorder, n)) for n in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(questions(tmp_path / "c.jsonl")) == ["q0", "q1"]


def test_a_process_that_ends_has_written_all(tmp_path):
    code = f"""
from aligner_integrations.recording import Recorder
from aligner_integrations.correction import Correction
recorder = Recorder({str(tmp_path / "c.jsonl")!r})
for n in range(700):
    recorder(Correction(f"q{{n}}", "a", "b", "corrected"))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert questions(tmp_path / "c.jsonl") == [f"q{n}" for n in range(700)]


def test_a_copy_by_pickle_records_to_the_same_place(tmp_path):
    recorder = Recorder(tmp_path / "c.jsonl", sample=0.5, max_bytes=5000, queue=7)
    copy = pickle.loads(pickle.dumps(recorder))  # noqa: S301 - made here
    assert (copy.path, copy.sample, copy.max_bytes, copy.queue) == (recorder.path, 0.5, 5000, 7)


async def test_from_an_event_loop(tmp_path):
    aligner = aligner_of(mend, record=tmp_path / "c.jsonl")
    await asyncio.gather(*(aligner.acorrect(str(n), "bad") for n in range(100)))
    await asyncio.to_thread(aligner.record.flush)
    assert sorted(map(int, questions(tmp_path / "c.jsonl"))) == list(range(100))


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [3, b"c.jsonl", Correction, ["c.jsonl"], "", "c.txt", "c.jsonl.gz"])
def test_a_wrong_record_is_refused_at_construction(record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError):
        aligner_of(mend, record=record)
    with pytest.raises(ConfigurationError):
        aligner_of(mend).with_options(record=record)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"sample": 0}, {"sample": 1.1}, {"redact": "x"}, {"queue": 0}, {"max_bytes": 1}])
def test_options_that_make_no_sense(options, tmp_path):
    with pytest.raises(ConfigurationError):
        Recorder(tmp_path / "c.jsonl", **options)
    assert not list(tmp_path.iterdir())


def test_a_database_is_not_rotated(tmp_path):
    with pytest.raises(ConfigurationError, match="daily"):
        Recorder(tmp_path / "c.db", daily=True)


@pytest.mark.parametrize("name", ["c.jsonl", "c.db"])
def test_a_file_of_something_else_is_left_as_it_is(name, tmp_path):
    file = tmp_path / name
    file.write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    file.chmod(0o644)
    with pytest.raises(ConfigurationError):
        Recorder(file)
    assert json.loads(file.read_text()) == {"question": "q", "answer": "a"}
