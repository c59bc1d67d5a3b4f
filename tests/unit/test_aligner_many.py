"""Batches, threads, tasks and cancellation."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aligner_integrations import Aligner, Correction
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.errors import AlignerError, BackendError, EmptyCorrectionError, InvalidTextError
from tests.unit.support import TEMPLATE, ScoringBackend, aligner_of, answer_in, mend, score_of


async def correct_many(aligner, pairs, **options):
    return aligner.correct_many(pairs, **options)


async def acorrect_many(aligner, pairs, **options):
    return await aligner.acorrect_many(pairs, **options)


@pytest.fixture(params=[correct_many, acorrect_many], ids=lambda f: f.__name__)
def verb(request):
    return request.param


def some_fail(prompt):
    if "empty" in prompt:
        return ""
    if "raise" in prompt:
        raise RuntimeError("down")
    return mend(prompt)


class Counting(FakeBackend):
    """Keeps the size of each batch."""

    def __init__(self, fn):
        super().__init__(fn)
        self.batches = []

    def complete(self, requests):
        self.batches.append(len(requests))
        return super().complete(requests)


PAIRS = [
    ("q", "bad 0"),
    ("q", "empty"),
    ("q", "fine 2"),
    ("q", "raise"),
    ("q", ""),
    ("q", "\ud800"),
    ("q", None),
    ("q", "bad 7"),
]


async def test_one_batch_in_order(verb):
    aligner = Aligner(backend=Counting(mend), template=TEMPLATE)
    done = await verb(aligner, ((f"q{i}", f"bad {i}" if i % 3 else "[]") for i in range(100)))
    assert [c.question for c in done] == [f"q{i}" for i in range(100)]
    assert [c.text for c in done] == [f"good {i}" if i % 3 else "[]" for i in range(100)]
    assert aligner.backend.batches == [66]


async def test_nothing_to_do(verb):
    assert await verb(aligner_of(pytest.fail), []) == []


async def test_later_rounds_hold_only_what_still_changes(verb):
    aligner = Aligner(backend=Counting(lambda p: answer_in(p).replace("x", "", 1) or "."), template=TEMPLATE, rounds=4)
    done = await verb(aligner, [("q", "xxx"), ("q", "x"), ("q", "y")])
    assert [(c.text, c.rounds) for c in done] == [(".", 4), (".", 2), ("y", 1)]
    assert aligner.backend.batches == [3, 2, 1, 1]


async def test_one_failure_takes_no_other_down(verb):
    seen = []
    done = await verb(aligner_of(some_fail, record=seen.append), PAIRS, return_exceptions=True)
    assert [type(c) for c in done] == [
        Correction, EmptyCorrectionError, Correction, BackendError, Correction, InvalidTextError, InvalidTextError, Correction,
    ]  # fmt: skip
    assert [c.text for c in done if isinstance(c, Correction)] == ["good 0", "fine 2", "", "good 7"]
    assert seen == [c for c in done if isinstance(c, Correction)]


async def test_the_first_error_is_raised_once_all_others_are_done(verb):
    seen = []
    with pytest.raises(EmptyCorrectionError):
        await verb(aligner_of(some_fail, record=seen.append), PAIRS)
    assert [c.text for c in seen] == ["good 0", "fine 2", "", "good 7"]


async def test_policies_hold_in_a_batch(verb):
    done = await verb(aligner_of(some_fail, on_error="keep"), PAIRS[:6])
    assert [c.outcome for c in done] == ["corrected", "failed", "kept", "failed", "skipped", "failed"]
    assert [c.text for c in done] == ["good 0", "empty", "fine 2", "raise", "", "\ud800"]


async def test_a_score_that_fails_takes_no_other_down(verb):
    def score(answer):
        return BackendError("down") if answer == "raise" else score_of(answer, gap=9.0 if "bad" in answer else 0.0)

    aligner = Aligner(backend=ScoringBackend(score), template=TEMPLATE, gate=1.0)
    done = await verb(aligner, [("q", "bad"), ("q", "raise"), ("q", "fine")], return_exceptions=True)
    assert [c if isinstance(c, AlignerError) else c.reason for c in (done[0], done[2])] == [None, "gate"]
    assert isinstance(done[1], BackendError)
    assert aligner.backend.completed == ["bad"]


async def test_accept_judges_each_alone(verb):
    aligner = aligner_of(mend, accept=lambda question, *_: 1 / int(question) < 1)
    done = await verb(aligner, [("1", "bad"), ("0", "bad"), ("2", "bad")], return_exceptions=True)
    assert [type(c).__name__ if isinstance(c, AlignerError) else c.outcome for c in done] == [
        "rejected",
        "BackendError",
        "corrected",
    ]


# Many at once -------------------------------------------------------------------------------------------------------


def test_fifty_threads_on_one_aligner():
    together = threading.Barrier(50)

    def fn(prompt):
        together.wait(timeout=60)
        return mend(prompt)

    aligner = aligner_of(fn)
    with ThreadPoolExecutor(50) as pool:
        done = list(pool.map(lambda i: aligner.correct(f"q{i}", f"bad {i}"), range(50)))
    assert [(c.question, c.text) for c in done] == [(f"q{i}", f"good {i}") for i in range(50)]


class Slow(FakeBackend):
    """Waits in `acomplete` and `astream` until it is let go; knows whether it was stopped."""

    def __init__(self):
        super().__init__(mend)
        self.entered, self.stopped, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.waiting = 0

    async def acomplete(self, requests):
        self.waiting += 1
        self.entered.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        return self.complete(requests)


async def test_tasks_run_side_by_side():
    backend = Slow()
    aligner = Aligner(backend=backend, template=TEMPLATE)
    tasks = [asyncio.create_task(aligner.acorrect(f"q{i}", f"bad {i}")) for i in range(20)]
    async with asyncio.timeout(60):
        while backend.waiting < 20:
            await asyncio.sleep(0.001)
    backend.go.set()
    done = await asyncio.gather(*tasks)
    assert [c.text for c in done] == [f"good {i}" for i in range(20)]


async def test_cancelling_stops_the_aligner():
    seen = []
    backend = Slow()
    aligner = Aligner(backend=backend, template=TEMPLATE, on_error="keep", record=seen.append)
    task = asyncio.create_task(aligner.acorrect("q", "bad"))
    await backend.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.stopped.is_set()
    assert seen == []


async def test_a_slow_accept_does_not_block_the_loop():
    asked, answer = threading.Event(), threading.Event()

    def accept(*_):
        asked.set()
        return answer.wait(timeout=60)

    task = asyncio.create_task(aligner_of(mend, accept=accept).acorrect("q", "bad"))
    async with asyncio.timeout(60):
        while not asked.is_set():
            await asyncio.sleep(0.001)
    answer.set()
    assert (await task).outcome == "corrected"
