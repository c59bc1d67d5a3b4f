"""The benchmark's arithmetic on fake aligners, each way against the first."""

import time

import pytest

from aligner_integrations.bench.decoding import Case, Difference, bench, take_turns
from aligner_integrations.errors import ConfigurationError
from tests.unit.support import aligner_of, answer_in

ROWS = [
    Case("rude", "q", "bad words"),
    Case("good", "q", "fine"),
    Case("good", "q", "all well"),
]


class Clock:
    """Time passes only when someone says so."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def slow(clock, seconds, change=lambda text: text):
    def correct(prompt):
        clock.now += seconds
        return change(answer_in(prompt).replace("bad ", ""))

    return aligner_of(correct)


def test_speeds_and_texts_are_compared_with_the_first(clock):
    done = []
    wrong = slow(clock, 0.5, lambda text: text.replace("all ", ""))
    ways = {"plain": slow(clock, 3.0), "fast": slow(clock, 0.5), "wrong": wrong}
    report = bench(ways, ROWS, repeats=3, on_progress=done.append)
    assert done == list(range(1, 28))
    assert {kind: list(by_way) for kind, by_way in report.kinds.items()} == {"rude": list(ways), "good": list(ways)}
    plain, fast, wrong = report.kinds["good"].values()
    assert (plain.speedup, plain.row_speedup, plain.same) == (1, 1, 2)
    assert (fast.speedup, fast.row_speedup, fast.total, fast.median) == pytest.approx((6, 6, 1, 0.5))
    assert (plain.total, plain.median) == pytest.approx((6, 3))
    assert [speed.kept for speed in (plain, fast, wrong)] == [2, 2, 1]
    assert report.kinds["rude"]["fast"].kept == 0
    assert report.ahead("fast", ["plain", "wrong"]) == pytest.approx({"rude": 1, "good": 1})
    assert report.ahead("fast", ["plain"]) == pytest.approx({"rude": 6, "good": 6})
    assert report.differences == [Difference("wrong", 2, "all well", "well", None)]
    assert report.to_dict()["kinds"]["good"]["wrong"]["same"] == 1
    assert [line[0] for line in report.table()[1:3]] == ["rude: plain", "rude: fast"]


def test_the_plot_is_a_picture(tmp_path, clock):
    report = bench({"plain": slow(clock, 2), "fast": slow(clock, 1)}, ROWS)
    report.plot(tmp_path / "speed.png")
    report.plot(tmp_path / "speed.svg")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "speed.svg").read_text("utf-8")


def test_nothing_to_measure_is_an_error(clock):
    with pytest.raises(ConfigurationError):
        bench({"plain": slow(clock, 1)}, [])
    with pytest.raises(ConfigurationError):
        bench({}, ROWS)


def test_two_take_turns_at_being_the_first():
    one, two = aligner_of(str), aligner_of(str)
    seconds = {one: [1.0, 2.0, 9.0], two: [3.0, 5.0, 4.0]}
    asked = []

    def measure(aligner, case):
        asked.append((aligner, case.answer))
        return seconds[aligner].pop(0)

    assert take_turns(one, two, [Case("good", "q", answer) for answer in "abc"], measure) == (2.0, 4.0)
    assert asked == [(two, "a"), (one, "a"), (one, "b"), (two, "b"), (two, "c"), (one, "c")]
