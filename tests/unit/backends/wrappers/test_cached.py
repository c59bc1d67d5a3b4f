"""What is kept, what is found again, and equal requests at the same time: in memory and in a file."""

import asyncio
import copy
import os
import pickle
import random
import sqlite3
import stat
import threading
import time
from dataclasses import replace

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.base import Backend, Completion, FakeBackend, Request
from aligner_integrations.backends.wrappers.cached import Cache
from aligner_integrations.backends.wrappers.resilient import Resilience
from aligner_integrations.backends.wrappers.search import keys
from aligner_integrations.correction import Usage
from aligner_integrations.errors import (
    BackendError,
    ConfigurationError,
    EmptyCorrectionError,
    ModelLoadError,
    TruncatedCorrectionError,
)
from tests.interrupting import interrupted_when, needs_timer
from tests.unit.backends.wrappers.flaky import OUTAGE, FlakyBackend
from tests.unit.support import TEMPLATE, ResultBackend, ScoringBackend, fixed, mend, score_of


class Named(FlakyBackend):
    """A flaky backend with weights of a name."""

    def __init__(self, *steps, fingerprint="weights 1", **options):
        super().__init__(*steps, **options)
        self.fingerprint = fingerprint


@pytest.fixture(params=["memory", "file"])
def cache(request, tmp_path):
    with_path = None if request.param == "memory" else tmp_path / "cache.db"
    made = Cache(with_path)
    yield made
    made.close()


def aligner_of(backend, cache, **options):
    return Aligner(backend=backend, template=TEMPLATE, cache=cache, **options)


async def correct(aligner, answer="It is bad.", **fields):
    return aligner.correct("q", answer, **fields)


async def acorrect(aligner, answer="It is bad.", **fields):
    return await aligner.acorrect("q", answer, **fields)


async def stream(aligner, answer="It is bad."):
    pieces = aligner.stream("q", answer)
    return "".join(pieces) and pieces.correction


async def astream(aligner, answer="It is bad."):
    pieces = aligner.astream("q", answer)
    return "".join([piece async for piece in pieces]) and pieces.correction


@pytest.fixture(params=[correct, acorrect, stream, astream], ids=lambda f: f.__name__)
def verb(request):
    return request.param


# Found again ----------------------------------------------------------------------------------------------------------


async def test_a_correction_is_made_once(cache, verb):
    backend = Named()
    aligner = aligner_of(backend, cache)
    first, second = await verb(aligner), await verb(aligner)
    assert (first.text, second.text, second.outcome) == ("It is good.", "It is good.", "corrected")
    assert backend.calls == 1
    assert second.usage == Usage()


@pytest.mark.parametrize("first", [correct, acorrect, stream, astream])
async def test_all_verbs_and_aligners_find_it(cache, verb, first):
    await first(aligner_of(Named(), cache))
    other = Named()
    assert (await verb(aligner_of(other, cache))).text == "It is good."
    assert other.calls == 0


async def test_a_batch_asks_for_what_is_missing(cache):
    backend = Named()
    aligner = aligner_of(backend, cache)
    aligner.correct_many([("q", "bad 1"), ("q", "bad 2")])
    pairs = [("q", f"bad {i}") for i in (3, 1, 3, 2, 4)]
    assert [c.text for c in aligner.correct_many(pairs)] == ["good 3", "good 1", "good 3", "good 2", "good 4"]
    assert [[r.answer for r in part] for part in backend.requests] == [["bad 1", "bad 2"], ["bad 3", "bad 4"]]
    assert [c.text for c in await aligner.acorrect_many(pairs)] == ["good 3", "good 1", "good 3", "good 2", "good 4"]
    assert backend.calls == 2


async def test_scores_are_kept_too(cache):
    wanted = score_of("It is bad.", gap=2.0, marked=["bad."], probe=True)
    backend = ScoringBackend(lambda answer: wanted, gate=1.0)
    aligner = aligner_of(backend, cache)
    first = aligner.correct("q", "It is bad.")
    assert [aligner.correct("q", "It is bad.").text, (await aligner.acorrect("q", "It is bad.")).text] == [
        first.text
    ] * 2
    assert aligner.score("q", "It is bad.") == await aligner.ascore("q", "It is bad.") == wanted
    assert (len(backend.scored), len(backend.completed)) == (1, 1)


async def test_a_file_is_found_by_the_next_process(tmp_path):
    path = tmp_path / "cache.db"
    first = Cache(path)
    aligner_of(Named(), first).correct("q", "It is bad.")
    first.close()
    backend = Named()
    assert aligner_of(backend, Cache(path)).correct("q", "It is bad.").text == "It is good."
    assert backend.calls == 0


# Not taken for another ------------------------------------------------------------------------------------------------

BASE = Request("q", "a", "prompt", " ", 9)


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, question="a", answer="q"),
        replace(BASE, answer="b"),
        replace(BASE, prompt="prompt "),
        replace(BASE, completion_prefix=""),
        replace(BASE, max_new_tokens=None),
    ],
)
def test_what_decides_the_text_is_in_the_key(other):
    backend = Named()
    assert keys(backend, "completion", [BASE]) != keys(backend, "completion", [other])


def test_what_does_not_decide_it_is_not():
    rules = Resilience()
    with_limits = replace(BASE, timeouts=rules.timeouts(0.0))
    one, other = Named(), Named()
    assert keys(one, "completion", [BASE]) == keys(rules.wrap(other), "completion", [with_limits])


def test_other_weights_and_scores_have_other_keys():
    one, two = Named(), Named(fingerprint="weights 2")
    made = [keys(b, kind, [BASE])[0] for b in (one, two) for kind in ("completion", "score")]
    assert len(set(made)) == 4


def test_backends_without_a_name_share_nothing(cache):
    aligners = [aligner_of(FakeBackend(fixed(text)), cache) for text in ("one", "two")]
    for _ in range(2):
        assert [a.correct("q", "a").text for a in aligners] == ["one", "two"]


def test_weights_that_change_under_way_are_not_kept_under_the_old_name(cache):
    class Reloading(Named):
        def complete(self, requests):
            self.fingerprint = "weights 2"
            return super().complete(requests)

    aligner_of(Reloading(), cache).correct("q", "It is bad.")
    assert len(cache.store) == 0


# Only what is good ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (Completion("It is go", "length"), TruncatedCorrectionError),
        (Completion(" \n", "stop"), EmptyCorrectionError),
        (OUTAGE, BackendError),
    ],
)
async def test_what_is_not_good_is_not_kept(cache, verb, result, error):
    backend = ResultBackend(lambda answer: result)
    aligner = aligner_of(backend, cache)
    for _ in range(2):
        with pytest.raises(error):
            await verb(aligner)
    assert len(cache.store) == 0 and len(cache.flights) == 0


async def test_a_stream_that_is_closed_early_is_not_kept(cache):
    aligner = aligner_of(Named(["It ", "is ", "good."], ["It ", "is ", "good."]), cache)
    pieces = aligner.stream("q", "bad")
    next(pieces)
    pieces.close()
    apieces = aligner.astream("q", "bad")
    await anext(apieces)
    await apieces.aclose()
    assert len(cache.store) == 0


async def test_what_a_fallback_wrote_is_not_kept(cache, verb):
    rules = Resilience(retries=0, backoff=0.001, fallbacks=[FakeBackend(fixed("from elsewhere"))])
    aligner = aligner_of(Named(OUTAGE), cache, resilience=rules)
    assert (await verb(aligner)).text == "from elsewhere"
    assert len(cache.store) == 0
    assert (await verb(aligner)).text == "It is good."


def test_half_a_character_is_not_kept(cache):
    aligner = aligner_of(FakeBackend(fixed("\ud800")), cache)
    assert aligner.correct("q", "a").text == aligner.correct("q", "a").text == "\ud800"
    assert len(cache.store) == 0


async def test_weights_that_cannot_be_had_are_raised(cache):
    class Lost(Named):
        def complete(self, requests):
            raise ModelLoadError("gone")

        async def acomplete(self, requests):
            raise ModelLoadError("gone")

    aligner = aligner_of(Lost(), cache)
    with pytest.raises(ModelLoadError):
        aligner.correct("q", "a")
    with pytest.raises(ModelLoadError):
        await aligner.acorrect("q", "a")
    assert len(cache.flights) == 0


async def test_a_server_that_cannot_say_its_name_is_asked_all_the_same(cache, verb):
    class Down(FlakyBackend):
        @property
        def fingerprint(self):
            raise BackendError("down", retryable=True)

    assert (await verb(aligner_of(Down(), cache))).text == "It is good."
    assert len(cache.store) == 0


# One flight -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def joined(cache, monkeypatch):
    """Whoever has asked whether an equal request is being run."""
    keys, join = [], cache.flights.join
    monkeypatch.setattr(cache.flights, "join", lambda key: keys.append(key) or join(key))
    return keys


async def all_of(joined, count):
    while len(joined) < count:
        await asyncio.sleep(0.001)


async def test_equal_requests_at_the_same_time_are_run_once(cache, joined):
    release = threading.Event()
    backend = Named(release)
    aligner = aligner_of(backend, cache)
    texts = []
    threads = [
        threading.Thread(target=lambda: texts.append(aligner.correct("q", "It is bad.").text)) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    tasks = [asyncio.create_task(aligner.acorrect("q", "It is bad.")) for _ in range(20)]
    await all_of(joined, 30)
    release.set()
    texts += [c.text for c in await asyncio.gather(*tasks)]
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert texts == ["It is good."] * 30
    assert backend.calls == 1 and len(cache.flights) == 0


class Fails(Named):
    """Once released, its first call comes to an error, or raises it as backends raise what is wrong with the model itself."""

    def __init__(self, release, error):
        super().__init__(release)
        self.error = error

    async def acomplete(self, requests):
        results = await super().acomplete(requests)
        if self.calls > 1:
            return results
        if isinstance(self.error, ModelLoadError):
            raise self.error
        return [self.error] * len(requests)


@pytest.mark.parametrize("error", [OUTAGE, ModelLoadError("gone")])
async def test_if_the_one_fails_those_who_wait_fail_with_it(cache, joined, error):
    release = threading.Event()
    backend = Fails(release, error)
    aligner = aligner_of(backend, cache)
    tasks = [asyncio.create_task(aligner.acorrect("q", "It is bad.")) for _ in range(50)]
    await all_of(joined, 50)
    release.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [error] * 50 and backend.calls == 1
    assert (await aligner.acorrect("q", "It is bad.")).outcome == "corrected"  # whoever comes later tries anew


async def test_if_the_one_is_cancelled_another_one_takes_its_place(cache, joined):
    release = threading.Event()
    backend = Named(release, release)
    aligner = aligner_of(backend, cache)
    leader = asyncio.create_task(aligner.acorrect("q", "It is bad."))
    await all_of(joined, 1)
    others = [asyncio.create_task(aligner.acorrect("q", "It is bad.")) for _ in range(49)]
    await all_of(joined, 50)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    release.set()
    assert {c.text for c in await asyncio.gather(*others)} == {"It is good."}
    assert backend.calls == 2 and len(cache.flights) == 0


async def test_threads_that_wait_take_no_thread_from_the_one_they_wait_for(cache, joined):
    release = threading.Event()
    backend = Named(release)
    aligner = aligner_of(backend, cache)
    first = asyncio.create_task(aligner.acorrect("q", "It is bad."))
    await all_of(joined, 1)
    # More of them than the loop's own executor has threads.
    others = [asyncio.create_task(asyncio.to_thread(aligner.correct, "q", "It is bad.")) for _ in range(40)]
    await all_of(joined, 5)
    release.set()
    assert {c.text for c in await asyncio.gather(first, *others)} == {"It is good."} and backend.calls == 1


@pytest.mark.parametrize("doomed", [0, 1])
async def test_one_that_is_cancelled_takes_nobody_along(cache, joined, doomed):
    release = threading.Event()
    backend = Named(release)
    aligner = aligner_of(backend, cache)
    tasks = [asyncio.create_task(aligner.acorrect("q", "It is bad.")) for _ in range(3)]
    await all_of(joined, 3)
    while not backend.calls:
        await asyncio.sleep(0.001)
    tasks[doomed].cancel()
    release.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done.pop(doomed), asyncio.CancelledError)
    assert [c.text for c in done] == ["It is good."] * 2
    assert len(cache.flights) == 0 and backend.running == 0


@needs_timer
def test_an_interrupted_thread_takes_nobody_along(cache):
    backend = Named(threading.Event())
    aligner = aligner_of(backend, cache)
    with interrupted_when(lambda: backend.running):
        aligner.correct("q", "It is bad.")
    assert len(cache.flights) == 0 and backend.running == 0
    assert aligner.correct("q", "It is bad.").text == "It is good."


async def test_waiting_for_the_other_one_ends_at_the_deadline(cache):
    release = threading.Event()
    backend = Named(release)
    slow = asyncio.create_task(aligner_of(backend, cache).acorrect("q", "It is bad."))
    while not backend.calls:
        await asyncio.sleep(0.001)
    quick = aligner_of(Named(), cache, resilience=Resilience(deadline=0.1))
    with pytest.raises(BackendError, match="equal request"):
        await quick.acorrect("q", "It is bad.")
    with pytest.raises(BackendError, match="equal request"):
        await asyncio.to_thread(quick.correct, "q", "It is bad.")
    assert backend.running == 1  # the other one is still not done
    release.set()
    await slow


async def test_a_blocking_call_does_not_wait_for_the_task_it_blocks(cache):
    release = threading.Event()
    backend = Named(release)
    aligner = aligner_of(backend, cache)
    task = asyncio.create_task(aligner.acorrect("q", "It is bad."))
    while not backend.calls:
        await asyncio.sleep(0.001)
    assert aligner.correct("q", "It is bad.").text == "It is good."
    assert backend.running == 1
    release.set()
    assert (await task).text == "It is good."


# Age and size ---------------------------------------------------------------------------------------------------------


async def test_a_text_that_is_too_old_is_made_again(tmp_path, monkeypatch):
    now = time.time()
    monkeypatch.setattr("aligner_integrations.backends.wrappers.store.time.time", lambda: now)
    for path in (None, tmp_path / "cache.db"):
        cache, backend = Cache(path, ttl=60), Named()
        aligner = aligner_of(backend, cache)
        aligner.correct("q", "It is bad.")
        now += 59
        aligner.correct("q", "It is bad.")
        assert backend.calls == 1
        now += 2
        await aligner.acorrect("q", "It is bad.")
        assert backend.calls == 2
        now += 61
        aligner.correct("q", "Another one.")
        assert len(cache.store) == 1  # what is too old is gone for good


@pytest.mark.parametrize("where", ["memory", "file"])
def test_the_oldest_make_room(tmp_path, where):
    path = tmp_path / "cache.db"
    cache = Cache(None if where == "memory" else path, max_bytes=2**20)
    backend = Named()
    aligner = aligner_of(backend, cache)
    texts = [f"{i} " + "x" * 10_000 for i in range(300)]
    for text in texts:
        aligner.correct("q", text)
        assert cache.store.used_bytes <= 2**20
    assert 50 < len(cache.store) < 105
    if where == "file":
        assert path.stat().st_size <= 1.1 * 2**20
    calls = backend.calls
    aligner.correct("q", texts[-1])
    assert backend.calls == calls
    aligner.correct("q", texts[0])
    assert backend.calls == calls + 1


def test_a_text_larger_than_the_cache(cache):
    cache.store.max_bytes = 2**16
    aligner = aligner_of(Named(), cache)
    assert aligner.correct("q", "x" * 10**6).text == "x" * 10**6
    assert len(cache.store) == 0


def test_clear(cache):
    aligner = aligner_of(Named(), cache)
    aligner.correct("q", "a")
    assert len(cache.store) == 1
    cache.clear()
    assert len(cache.store) == 0


# The file -------------------------------------------------------------------------------------------------------------


def test_the_file_is_private_and_holds_no_question(tmp_path):
    path = tmp_path / "cache.db"
    aligner_of(Named(), Cache(path)).correct("my secret question", "It is bad, secretly.")
    files = list(tmp_path.iterdir())
    assert path in files and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    content = b"".join(file.read_bytes() for file in files)
    assert b"secret question" not in content and b"It is bad" not in content and b"It is good" in content


def test_a_score_that_is_kept_holds_no_word_of_the_answer(tmp_path):
    path = tmp_path / "cache.db"

    def score(answer):
        return score_of(answer, gap=9.0)

    cache = Cache(path)
    backend = ScoringBackend(score, fixed("A polite text."), gate=0.5)
    backend.fingerprint = ["a name"]
    aligner = aligner_of(backend, cache)
    answer = "The canary number is 4929-1234, and I hate Bob."
    first = aligner.score("q", answer)
    assert aligner.correct("q", answer).text == "A polite text."
    assert aligner.score("q", answer) == first and backend.scored == [answer]  # with its words, and from the file
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not [word for word in answer.split() if len(word) > 3 and word.encode() in content]
    cache.close()


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path):
    path = tmp_path / "cache.db"
    path.touch(0o644)
    path.chmod(0o644)
    cache = Cache(path)
    aligner_of(Named(), cache).correct("q", "It is bad.")
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    cache.close()


def test_a_file_of_an_older_version_begins_anew(tmp_path):
    path = tmp_path / "cache.db"
    Cache(path).close()
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE kept")
        database.execute("CREATE TABLE kept (key BLOB NOT NULL UNIQUE, written REAL NOT NULL, text TEXT NOT NULL)")
    database.close()
    cache, backend = Cache(path), Named()
    for _ in range(2):
        assert aligner_of(backend, cache).correct("q", "It is bad.").text == "It is good."
    assert backend.calls == 1
    cache.close()


def damaged(content, rng):
    """A file after a disk has had its way with it."""
    data, many = bytearray(content), rng.choice([1, 1, 1, 5, 50, 500])
    how = rng.choice(["flip", "flip", "zero", "cut", "double"])
    if how == "flip":
        for _ in range(many):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "zero":
        start = rng.randrange(len(data))
        data[start : start + many * 16] = bytes(len(data[start : start + many * 16]))
    elif how == "cut":
        del data[rng.randrange(len(data)) :]
    else:
        one, other = (4096 * rng.randrange(len(data) // 4096) for _ in range(2))
        data[one : one + 4096] = data[other : other + 4096]
    return bytes(data)


def test_a_damaged_file_gives_no_wrong_text(tmp_path):
    path = tmp_path / "cache.db"
    pairs = [(f"q{i}", f"bad {i}") for i in range(200)]
    cache = Cache(path)
    aligner_of(Named(), cache).correct_many(pairs)
    cache.close()
    content, rng, opened = path.read_bytes(), random.Random(5), 0
    for n in range(60):
        other = tmp_path / f"{n}.db"
        other.write_bytes(damaged(content, rng))
        try:
            cache = Cache(other)
        except ConfigurationError:
            continue
        opened += 1
        done = aligner_of(Named(), cache).correct_many(pairs)
        assert [c.text for c in done] == [f"good {i}" for i in range(200)]
        cache.close()
    assert opened > 10


def test_what_is_no_text_in_the_file_is_made_again(tmp_path):
    path = tmp_path / "cache.db"
    cache, backend = Cache(path), Named()
    aligner_of(backend, cache).correct("q", "It is bad.")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE kept SET text = x'ff00'")
    database.close()
    assert aligner_of(backend, cache).correct("q", "It is bad.").text == "It is good." and backend.calls == 2
    cache.close()


@pytest.mark.parametrize("fault", ["text", "foreign", "folder", "missing"])
def test_a_file_that_cannot_be_used(tmp_path, fault):
    path = tmp_path / "cache.db"
    if fault == "text":
        path.write_text("not a database, but quite a long text instead of one. " * 20)
    elif fault == "foreign":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE mine (x)")
        database.close()
    elif fault == "folder":
        path.mkdir()
    else:
        path = tmp_path / "nowhere" / "cache.db"
    with pytest.raises(ConfigurationError, match=r"cache\.db cannot be used as a cache"):
        Cache(path)
    if fault == "foreign":
        with sqlite3.connect(path) as database:
            assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
        database.close()


async def test_trouble_with_the_file_is_not_the_trouble_of_a_correction(tmp_path, caplog, verb):
    path = tmp_path / "cache.db"
    cache = Cache(path)
    backend = Named()
    aligner = aligner_of(backend, cache)
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE kept")
    database.close()
    for _ in range(3):
        assert (await verb(aligner)).text == "It is good."
    assert backend.calls == 3
    assert len(caplog.records) == 1 and "go on without it" in caplog.text


def test_a_score_that_somebody_has_tampered_with_is_made_again(tmp_path):
    path = tmp_path / "cache.db"
    backend = ScoringBackend(lambda answer: score_of(answer, gap=2.0), fn=mend, gate=1.0)
    backend.fingerprint = "weights"
    aligner = aligner_of(backend, Cache(path))
    for text in ("nonsense", "[]", "{}", "[[[1]]]", "[1, 2, 3, 4, 5, 6]", "null"):
        aligner.correct("q", "It is bad.")
        with sqlite3.connect(path) as database:
            database.execute("UPDATE kept SET text = ?", (text,))
        database.close()
    assert len(backend.scored) == 6


@pytest.mark.parametrize("wrong", [{"ttl": 0}, {"ttl": -1}, {"max_bytes": 10}])
def test_numbers_that_make_no_sense(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Cache(**wrong)


def test_copies_use_the_same_file(tmp_path):
    cache = Cache(tmp_path / "cache.db", ttl=9, max_bytes=2**20)
    aligner_of(Named(), cache).correct("q", "It is bad.")
    for again in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):  # noqa: S301 - our own
        assert (again.ttl, again.max_bytes, len(again.store)) == (9, 2**20, 1)
    assert len(copy.deepcopy(Cache()).store) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_begins_anew(tmp_path):
    """It must not use the parent's connection, nor wait for what the parent's threads are at."""
    cache = Cache(tmp_path / "cache.db")
    release = threading.Event()
    backend = Named(release)
    aligner = aligner_of(backend, cache)
    thread = threading.Thread(target=aligner.correct, args=("q", "It is bad."))
    thread.start()
    while not backend.calls:
        time.sleep(0.001)
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if aligner.correct("q", "It is bad.").text == "It is good." else 2
        finally:
            os._exit(code)
    release.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert aligner.correct("q", "It is bad.").text == "It is good."
    assert len(cache.store) == 1


def test_the_wrapped_backend_is_a_backend(cache):
    aligner = aligner_of(Named(), cache, resilience=Resilience())
    assert isinstance(aligner.wrapped_backend, Backend)
    assert "CachedBackend(ResilientBackend(" in repr(aligner.wrapped_backend)
