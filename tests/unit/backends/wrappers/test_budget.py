"""Retries do not make an outage worse than it is: how often a backend is asked, by the share of calls that fail."""

import asyncio
import copy
import pickle
import random
import threading

import pytest

from aligner_integrations import Aligner, Resilience
from aligner_integrations.backends.base import Completion, FakeBackend
from aligner_integrations.backends.wrappers.budget import Budget
from aligner_integrations.errors import BackendError, ConfigurationError
from tests.unit.support import TEMPLATE

CORRECTIONS = 400


def test_each_success_pays_for_a_retry():
    budget = Budget(reserve=2, refill=0)
    assert budget.spend(wanted=5, earned=0) == 2  # the reserve
    assert budget.spend(wanted=5, earned=0) == 0
    assert budget.spend(wanted=1, earned=1) == 1
    assert budget.spend(wanted=0, earned=100) == 0
    assert budget.spend(wanted=5, earned=0) == 2  # good times are not saved up for a storm
    assert budget.spend(wanted=500, earned=500) == 500  # a batch pays for itself


def test_the_reserve_comes_back_with_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr("aligner_integrations.backends.wrappers.budget.time.monotonic", lambda: now)
    budget = Budget(reserve=4, refill=0.5)
    assert budget.spend(wanted=9, earned=0) == 4
    now += 4
    assert budget.spend(wanted=9, earned=0) == 2
    now += 1000
    assert budget.spend(wanted=9, earned=0) == 4


def test_threads_share_it():
    budget, granted = Budget(reserve=100, refill=0), []
    threads = [
        threading.Thread(target=lambda: granted.extend(budget.spend(wanted=1, earned=0) for _ in range(50)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 100


def test_copies_have_a_full_reserve():
    budget = Budget(reserve=3, refill=0)
    budget.spend(wanted=3, earned=0)
    for one in (copy.copy(budget), copy.deepcopy(budget), pickle.loads(pickle.dumps(budget))):  # noqa: S301 - made here
        assert (one.reserve, one.refill, one.spend(wanted=9, earned=0)) == (3, 0, 3)


@pytest.mark.parametrize("wrong", [{"reserve": 0}, {"refill": -1}, {"refill": float("nan")}, {"refill": float("inf")}])
def test_numbers_that_make_no_sense(wrong):
    with pytest.raises(ConfigurationError, match="A budget takes"):
        Budget(**wrong)


class FailingBackend(FakeBackend):
    """Fails a share of its requests, the same ones in each run."""

    def __init__(self, share):
        super().__init__(lambda prompt: "good")
        self.share, self.calls, self.random = share, 0, random.Random(7)

    async def acomplete(self, requests):
        self.calls += len(requests)
        await asyncio.sleep(0)
        down = BackendError("down", retryable=True)
        return [down if self.random.random() < self.share else Completion("good", "stop") for _ in requests]


@pytest.mark.parametrize("batch", [1, 40])
@pytest.mark.parametrize(
    ("share", "most_asked", "most_failed"), [(0.1, 1.2, 0.01), (0.3, 1.6, 0.02), (0.45, 2.0, 0.05), (0.6, 2.0, 0.5)]
)
async def test_a_backend_that_fails_in_part(share, batch, most_asked, most_failed):
    backend = FailingBackend(share)
    resilience = Resilience(backoff=0.001, max_backoff=0.002)
    aligner = Aligner(backend=backend, template=TEMPLATE, on_error="keep", resilience=resilience)
    free = asyncio.Semaphore(16)

    async def some():
        async with free:
            return await aligner.acorrect_many([("q", "bad")] * batch)

    batches = await asyncio.gather(*(some() for _ in range(CORRECTIONS // batch)))
    failed = sum(correction.outcome == "failed" for done in batches for correction in done)
    assert backend.calls <= most_asked * CORRECTIONS
    assert failed <= most_failed * CORRECTIONS
    assert resilience.breaker.state == "closed"


@pytest.mark.parametrize("breaker", [None, False])
async def test_a_backend_that_is_down_is_hardly_asked_more_often(breaker):
    backend = FailingBackend(1.0)
    resilience = Resilience(backoff=0.001, max_backoff=0.002, breaker=breaker)
    aligner = Aligner(backend=backend, template=TEMPLATE, on_error="keep", resilience=resilience)
    await asyncio.gather(*(aligner.acorrect("q", "bad") for _ in range(CORRECTIONS)))
    assert backend.calls <= 1.2 * CORRECTIONS


async def test_without_a_budget_everything_is_tried_again():
    backend = FailingBackend(1.0)
    resilience = Resilience(backoff=0.001, max_backoff=0.002, breaker=False, budget=False)
    aligner = Aligner(backend=backend, template=TEMPLATE, on_error="keep", resilience=resilience)
    await asyncio.gather(*(aligner.acorrect("q", "bad") for _ in range(50)))
    assert backend.calls == 250
