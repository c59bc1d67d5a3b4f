"""Outcomes over time: bars that fit, and nothing lost when they grow wider."""

import pytest

from aligner_integrations.correction import Correction
from aligner_integrations.evaluation.timeline import Timeline
from aligner_integrations.recording import Record


def record(time, outcome="kept"):
    return Record(str(time), time, Correction("q", "a", "a", outcome))


@pytest.mark.parametrize(
    ("apart", "bar"),
    [(0.5, "second"), (10, "10 seconds"), (60, "minute"), (3_600, "hour"), (86_400, "day"), (2_419_200, "4 weeks")],
)
def test_a_bar_is_as_wide_as_it_has_to_be(apart, bar):
    chart = Timeline(record(1.8e9 + n * apart) for n in range(55)).chart()
    assert f"answers per {bar}" in chart.svg


@pytest.mark.parametrize("order", [1, -1])
def test_nothing_is_lost_when_bars_are_put_together(order):
    times = [1.8e9 + 37.5 * n for n in range(2_000)][::order]
    timeline = Timeline(record(time, "failed" if n % 4 == 0 else "kept") for n, time in enumerate(times))
    assert timeline._width == 3_600
    assert sum(timeline._counts.values()) == 2_000
    assert sum(n for (outcome, _), n in timeline._counts.items() if outcome == "failed") == 500
    assert all(bar == int(times[0] // 3_600) or n <= 96 for (_, bar), n in timeline._counts.items())


def test_no_records():
    assert "answers per second" in Timeline().chart().svg
