"""Every wait belongs to a call: look-ups and callers' functions run off the event loop, end with its deadline, and hurt nobody else."""

import asyncio
import copy
import logging
import pickle
import threading
import time

import pytest

from aligner_integrations import Aligner, Resilience
from aligner_integrations.backends.base import FakeBackend, Timeouts
from aligner_integrations.errors import BackendError, UnknownTemplateError
from tests.unit.support import TEMPLATE, fixed, mend

HANGS = 30.0  # seconds: far beyond the deadline, and the end of a test that fails


def hasty(**options):
    """An aligner that has looked up what it needs, and gives up after a second."""
    made = Aligner(
        backend=FakeBackend(mend), template=TEMPLATE, on_error="keep", resilience=Resilience(deadline=1), **options
    )
    made._plans.get(Timeouts())
    return made


@pytest.fixture
def held():
    """What hangs until the test is over."""
    event = threading.Event()
    yield lambda: event.wait(HANGS)
    event.set()


async def correct(aligner):
    return aligner.correct("q", "bad")


async def acorrect(aligner):
    return await aligner.acorrect("q", "bad")


async def astream(aligner):
    stream = aligner.astream("q", "bad")
    assert "".join([piece async for piece in stream]) == stream.correction.text
    return stream.correction


async def stream(aligner):
    stream = aligner.stream("q", "bad")
    assert "".join(stream) == stream.correction.text
    return stream.correction


@pytest.fixture(params=[correct, acorrect, stream, astream], ids=lambda f: f.__name__)
def verb(request):
    return request.param


FUNCTIONS = {
    "gate": lambda run: lambda question, answer, score: bool(run()) and False,
    "repair": lambda run: lambda answer, correction: (run(), correction)[1],
    "accept": lambda run: lambda question, answer, correction: (run(), True)[1],
}


@pytest.mark.parametrize("name", FUNCTIONS)
async def test_a_function_that_hangs_costs_its_call_the_deadline(verb, held, name):
    began = time.monotonic()
    correction = await verb(hasty(**{name: FUNCTIONS[name](held)}))
    assert correction.outcome == "failed" and f"{name} had not returned at the deadline" in correction.reason
    assert 1 <= time.monotonic() - began < HANGS


async def test_a_coroutine_function_that_hangs_does_so_too():
    async def accept(*texts):
        await asyncio.sleep(HANGS)

    correction = await hasty(accept=accept).acorrect("q", "bad")
    assert correction.outcome == "failed" and "accept had not returned at the deadline" in correction.reason


@pytest.mark.parametrize("name", [*FUNCTIONS, "record"])
@pytest.mark.parametrize("verb", [acorrect, astream])
async def test_no_function_of_a_caller_runs_on_the_event_loop(verb, name):
    seen = []

    def note(*values):
        seen.append(threading.get_ident())
        return True

    function = note if name == "record" else FUNCTIONS[name](note)
    aligner = Aligner(backend=FakeBackend(mend), template=TEMPLATE, **{name: function})
    assert (await verb(aligner)).text == "good"
    assert seen and threading.get_ident() not in seen


async def test_a_function_sees_the_callers_context():
    import contextvars

    who, seen = contextvars.ContextVar("who"), []
    who.set("me")
    aligner = Aligner(
        backend=FakeBackend(mend), template=TEMPLATE, record=lambda correction: seen.append(who.get("nobody"))
    )
    await aligner.acorrect("q", "bad")
    aligner.correct("q", "bad")
    assert seen == ["me", "me"]


# Look-ups ------------------------------------------------------------------------------------------------------------


class Asked(FakeBackend):
    """A backend that has to ask somebody for its template."""

    def __init__(self, ask):
        super().__init__(fixed("good"))
        self.ask, self.asked, self.threads = ask, 0, set()

    @property
    def template(self):
        self.asked += 1
        self.threads.add(threading.get_ident())
        return self.ask()


def template():
    return Aligner(template=TEMPLATE).template


async def test_a_look_up_that_hangs_costs_its_callers_their_deadline_and_is_asked_once(verb, held):
    backend = Asked(held)
    aligner = Aligner(backend=backend, on_error="keep", resilience=Resilience(deadline=0.2))
    done = await asyncio.gather(*(verb(aligner) for _ in range(5)))
    assert [c.outcome for c in done] == ["failed"] * 5
    assert all("was not found out before the deadline" in c.reason for c in done)
    # Synchronous callers come one after the other here; all found the same one under way.
    assert backend.asked == 1 and threading.get_ident() not in backend.threads


async def test_it_is_asked_once_for_all_pairs_and_then_never_again():
    backend = Asked(template)
    aligner = Aligner(backend=backend)
    await asyncio.gather(*(aligner.acorrect_many([("q", "bad")] * 10) for _ in range(10)))
    aligner.correct("q", "bad")
    assert [piece async for piece in aligner.astream("q", "bad")] == ["good"]
    assert backend.asked == 1


async def test_one_that_failed_is_asked_again(verb):
    answers = [BackendError("down"), BackendError("down"), template()]

    def ask():
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    aligner = Aligner(backend=Asked(ask), on_error="keep")
    assert [(await verb(aligner)).outcome for _ in range(3)] == ["failed", "failed", "corrected"]


async def test_a_template_that_is_not_known_is_raised(verb):
    with pytest.raises(UnknownTemplateError):
        await verb(Aligner(backend=FakeBackend(mend), on_error="keep"))


async def test_whoever_is_cancelled_takes_the_look_up_from_nobody():
    go = threading.Event()
    backend = Asked(lambda: (go.wait(HANGS), template())[1])
    aligner = Aligner(backend=backend)
    first, second = (asyncio.create_task(aligner.acorrect("q", "bad")) for _ in range(2))
    while not backend.asked:
        await asyncio.sleep(0.001)
    first.cancel()
    go.set()
    assert (await second).text == "good" and backend.asked == 1
    with pytest.raises(asyncio.CancelledError):
        await first


def test_copies_look_up_for_themselves():
    aligner = Aligner(backend=FakeBackend(mend), template=TEMPLATE)
    aligner.correct("q", "bad")
    for one in (copy.copy(aligner), copy.deepcopy(aligner), aligner.with_options(rounds=2)):
        assert one.policy == aligner.policy or one.policy.rounds == 2
        assert one.correct("q", "bad").text == "good"
    unpicklable = pickle.dumps(Aligner(template=TEMPLATE))
    assert pickle.loads(unpicklable).template.text == TEMPLATE  # noqa: S301 - made here


def test_options_that_decide_what_is_looked_up_are_looked_up_anew():
    aligner = Aligner(backend=FakeBackend(mend), template=TEMPLATE)
    aligner.correct("q", "bad")
    other = "Other question={question};A={answer};"
    assert aligner.with_options(on_error="keep")._plans.known is aligner._plans.known is not None
    assert aligner.with_options(template=other)._plans.known is None
    assert aligner.with_options(template=other).correct("q", "bad").text == "good"


# Records -------------------------------------------------------------------------------------------------------------


async def test_a_recorder_that_raises_costs_its_own_row(verb, caplog):
    kept = []

    def record(correction):
        if len(kept) == 2:
            kept.append(None)
            raise OSError(28, "No space left on device")
        kept.append(correction)

    aligner = Aligner(backend=FakeBackend(mend), template=TEMPLATE, record=record)
    with caplog.at_level(logging.ERROR, "aligner_integrations"):
        assert [(await verb(aligner)).text for _ in range(5)] == ["good"] * 5
    assert len([one for one in kept if one]) == 4
    (told,) = caplog.records
    assert "No space left on device" in told.getMessage()


async def test_a_batch_survives_it_too(caplog):
    def record(correction):
        if correction.question == "2":
            raise ValueError(f"secret {correction.answer}")

    aligner = Aligner(backend=FakeBackend(mend), template=TEMPLATE, record=record)
    pairs = [(str(i), "bad") for i in range(5)]
    assert [c.text for c in aligner.correct_many(pairs)] == ["good"] * 5
    assert [c.text for c in await aligner.acorrect_many(pairs)] == ["good"] * 5
    assert len(caplog.records) == 2 and "secret" not in caplog.text and "ValueError" in caplog.text


async def test_a_recorder_that_hangs_costs_the_deadline(held):
    aligner = hasty(record=lambda correction: held())
    assert (await aligner.acorrect("q", "bad")).text == "good"
    assert aligner.correct("q", "bad").text == "good"
