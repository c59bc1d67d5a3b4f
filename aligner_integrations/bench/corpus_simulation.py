"""A corpus of 10^8 rows on a cluster whose nodes fail: how long, how much twice, how large what is kept, and for how much money.

    python -m aligner_integrations.bench.corpus_simulation

Each shard is an event, each failure takes a node with its workers' shards away for a while, and now and then the node that reads and
writes is among them: then all open shards are lost, and the input is read again up to where the work goes on. Figures of one machine
(rows a second that are read and written, bytes of a line of the journal) were measured; see the defaults.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import random
import sys
from dataclasses import dataclass
from typing import Any

from aligner_integrations.corpus.store import ShardEntry


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is assumed.

    Attributes:
        rows: Rows of the corpus.
        nodes: Nodes with workers.
        workers_a_node: Workers of each: GPUs.
        rows_a_second: What one worker corrects.
        spread: How much the time of a shard differs, as a share of it (one standard deviation).
        failures_an_hour: Nodes that fail, of all of them.
        restart: Seconds until a node that failed works again: its start, and loading the weights.
        driver_rows_a_second: Rows that one process reads, parses and writes.
        skip_rows_a_second: Rows that it passes over when it goes on.
        digest_seconds: Reading the whole input to tell it from another, where it lies under another time stamp.
        row_bytes: Of a corrected row.
        price: Of a worker's hour, in dollars.
    """

    rows: int = 100_000_000
    nodes: int = 8
    workers_a_node: int = 8
    rows_a_second: float = 40.0
    spread: float = 0.3
    failures_an_hour: float = 1.0
    restart: float = 300.0
    driver_rows_a_second: float = 40_000.0
    skip_rows_a_second: float = 900_000.0
    digest_seconds: float = 120.0
    row_bytes: int = 1_500
    price: float = 3.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        shard_rows: Rows of a shard.
        shards: How many shards, each a file while the work goes on.
        journal_mb: Size of the journal at the end, which each start reads.
        hours: How long it took.
        ideal_hours: How long it would have taken with no failure and no waiting.
        failures: Nodes that failed; `driver_failures` of them the one that reads and writes.
        driver_failures: See above.
        rows_twice: Rows that were corrected twice.
        share_twice: The same as a share.
        dollars: What the workers cost.
        dollars_lost: More than they would have cost ideally.
        disk_gb: Most that lies on the disk at once: shards and the output made of them.
    """

    shard_rows: int
    shards: int
    journal_mb: float
    hours: float
    ideal_hours: float
    failures: int
    driver_failures: int
    rows_twice: int
    share_twice: float
    dollars: float
    dollars_lost: float
    disk_gb: float


def simulate(cluster: Cluster, shard_rows: int, seed: int = 0) -> Outcome:
    """Run the corpus once.

    Args:
        cluster: What is assumed.
        shard_rows: Rows of a shard.
        seed: Of what fails when.
    """
    rng = random.Random(seed)
    workers, shards = cluster.nodes * cluster.workers_a_node, -(-cluster.rows // shard_rows)
    mean = shard_rows / cluster.rows_a_second
    now, next_shard, done, twice = 0.0, 0, 0, 0
    failures = driver_failures = 0
    returned: list[int] = []
    working: dict[int, tuple[int, int]] = {}  # worker -> (shard, ticket)
    tickets = 0
    ends: list[tuple[float, int, int]] = []
    driver_free = cluster.digest_seconds
    next_failure = rng.expovariate(cluster.failures_an_hour / 3600)
    ready: list[tuple[float, int]] = [(cluster.restart, worker) for worker in range(workers)]
    heapq.heapify(ready)

    def give_out() -> None:
        nonlocal next_shard, tickets, driver_free
        while ready and (returned or next_shard < shards):
            at, worker = heapq.heappop(ready)
            shard = returned.pop() if returned else next_shard
            next_shard += shard == next_shard
            # One process reads and writes for all.
            driver_free = max(driver_free, at, now) + shard_rows / cluster.driver_rows_a_second
            tickets += 1
            end = driver_free + max(0.1 * mean, rng.gauss(mean, cluster.spread * mean))
            working[worker] = (shard, tickets)
            heapq.heappush(ends, (end, tickets, worker))

    while done < shards:
        give_out()
        end, ticket, worker = ends[0]
        if next_failure < end:
            now = next_failure
            next_failure = now + rng.expovariate(cluster.failures_an_hour / 3600)
            failures += 1
            node = rng.randrange(cluster.nodes)
            lost = [one for one in working if one // cluster.workers_a_node == node]
            if node == 0:  # the driver runs there, too
                driver_failures += 1
                lost = list(working)
                going_on = now + cluster.restart + done * shard_rows / cluster.skip_rows_a_second
                driver_free = max(driver_free, going_on)
            for one in lost:
                shard, _ = working.pop(one)
                returned.append(shard)
                # On average half of a shard was done.
                twice += shard_rows // 2
                heapq.heappush(ready, (now + cluster.restart, one))
            continue
        heapq.heappop(ends)
        if working.get(worker, (0, 0))[1] != ticket:
            continue  # it failed meanwhile
        now = end
        del working[worker]
        done += 1
        heapq.heappush(ready, (now, worker))
    # At the end one process makes one file of all shards.
    now += cluster.rows * cluster.row_bytes / 500e6
    line = json.dumps(
        dataclasses.asdict(ShardEntry(shards, shard_rows, 3, {"corrected": 300, "kept": 200}, 10**6, "0" * 64))
    )
    ideal = cluster.rows / (workers * cluster.rows_a_second) / 3600
    dollars = now / 3600 * workers * cluster.price
    return Outcome(
        shard_rows,
        shards,
        shards * (len(line) + 1) / 1e6,
        now / 3600,
        ideal,
        failures,
        driver_failures,
        twice,
        twice / cluster.rows,
        dollars,
        dollars - ideal * workers * cluster.price,
        2 * cluster.rows * cluster.row_bytes / 1e9,
    )


def table(outcomes: list[Outcome]) -> list[list[str]]:
    """Return the outcomes as lines of cells."""
    lines = [["rows a shard", "shards", "journal", "hours (ideal)", "failures", "rows twice", "lost"]]
    for one in outcomes:
        lines.append(
            [
                f"{one.shard_rows:,}",
                f"{one.shards:,}",
                f"{one.journal_mb:.1f} MB",
                f"{one.hours:.2f} ({one.ideal_hours:.2f})",
                f"{one.failures} ({one.driver_failures} of the driver)",
                f"{one.rows_twice:,} ({one.share_twice:.3%})",
                f"${one.dollars_lost:,.0f} of ${one.dollars:,.0f}",
            ]
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Simulate several sizes of shards, and print what came of each."""
    parser = argparse.ArgumentParser(prog="python -m aligner_integrations.bench.corpus_simulation", description=__doc__)
    for one in dataclasses.fields(Cluster):
        default: Any = one.default
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--shard-rows", type=int, nargs="+", default=[128, 512, 2048, 8192, 32768])
    chosen = vars(parser.parse_args(arguments))
    sizes = chosen.pop("shard_rows")
    outcomes = [simulate(Cluster(**chosen), size) for size in sizes]
    lines = table(outcomes)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        sys.stdout.write("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
