"""The simulation of a large corpus: what it must say whatever is assumed."""

import dataclasses

import pytest

from aligner_integrations.bench.corpus_simulation import Cluster, main, simulate

SMALL = Cluster(rows=400_000, nodes=4, workers_a_node=2, rows_a_second=10.0)


def test_without_failures_nothing_is_done_twice_and_little_is_lost():
    calm = dataclasses.replace(SMALL, failures_an_hour=1e-9, restart=0.0, digest_seconds=0.0, row_bytes=0)
    outcome = simulate(calm, 500)
    assert (outcome.failures, outcome.rows_twice, outcome.shards) == (0, 0, 800)
    assert outcome.ideal_hours < outcome.hours < 1.1 * outcome.ideal_hours


def test_larger_shards_make_failures_dearer():
    stormy = dataclasses.replace(SMALL, failures_an_hour=20.0)
    small, large = simulate(stormy, 100), simulate(stormy, 5_000)
    assert 0 < small.share_twice < large.share_twice
    assert small.journal_mb > large.journal_mb


def test_each_shard_is_done_once_however_often_nodes_fail():
    outcome = simulate(dataclasses.replace(SMALL, rows=10_001, failures_an_hour=200.0), 100)
    assert outcome.shards == 101 and outcome.failures > 0


def test_it_prints_a_line_for_each_size(capsys):
    assert main(["--rows", "10000", "--shard-rows", "100", "1000"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["100", "1,000"]


@pytest.mark.parametrize("rows", [1, 99, 100])
def test_small_corpora(rows):
    assert simulate(dataclasses.replace(SMALL, rows=rows), 100).shards == 1
