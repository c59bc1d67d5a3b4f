import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.corpus import correct_corpus
from aligner_integrations.corpus.records import Columns
from aligner_integrations.corpus.store import on_disk
from aligner_integrations.errors import (
    BackendError,
    CircuitOpenError,
    ConfigurationError,
    DiskError,
    EmptyCorrectionError,
    InputError,
)
from tests.unit.corpus.worker import aligner_that_tells
from tests.unit.support import TEMPLATE, ScoringBackend, mend, score_of

ROWS = [{"id": i, "question": f"q{i}", "answer": f"{'word ' * (i * 7 % 5)}bad {i}."} for i in range(20)]


@pytest.fixture
def asked(tmp_path):
    return tmp_path / "asked.txt"


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.jsonl", ROWS)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answers(asked):
    return rows_of(asked) if asked.exists() else []


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_same_rows_with_new_columns_in_their_order(source, tmp_path, asked):
    out = tmp_path / "out.jsonl"
    summary = correct_corpus(source, out, aligner_that_tells(asked), shard_rows=6)
    rows = rows_of(out)
    assert [{name: row[name] for name in ("id", "question", "answer")} for row in rows] == ROWS
    assert [row["correction"] for row in rows] == [row["answer"].replace("bad", "good") for row in ROWS]
    assert {"outcome": "corrected", "reason": None, "score": None, "model": "FakeBackend"}.items() <= rows[3].items()
    assert 0 < rows[3]["changed_share"] < 1
    assert (summary.rows, summary.dead, summary.asked, summary.outcomes) == (20, 0, 20, {"corrected": 20})
    assert summary.finished
    assert names(tmp_path) == ["asked.txt", "in.jsonl", "out.jsonl", "out.jsonl.manifest.json"]


def test_a_line_stays_to_the_letter(tmp_path, asked):
    line = '{"question":"q","n":1.0,  "big":12345678901234567890,"answer":"bad \\u00e9\\ud83d\\ude00" , "x":[1,\t2]}'
    (tmp_path / "in.jsonl").write_text(line + "\r\n\n")
    correct_corpus(tmp_path / "in.jsonl", tmp_path / "out.jsonl", aligner_that_tells(asked))
    text = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert text.startswith(line[:-1] + ', "correction": "good é😀", ') and text.endswith("}\n")
    assert json.loads(text)["outcome"] == "corrected"


def test_the_score_of_the_gate(source, tmp_path):
    backend = ScoringBackend(lambda answer: score_of(answer, marked=["bad"], probe=True), mend, gate=2.0)
    correct_corpus(
        source, tmp_path / "out.jsonl", Aligner(backend=backend, template="Q={question};A={answer};"), limit=3
    )
    assert [row["score"] for row in rows_of(tmp_path / "out.jsonl")] == [9.0] * 3


def test_other_columns_and_a_prefix(tmp_path, asked):
    rows = [{"prompt": "q", "reply": "bad", "correction": "by hand"}]
    columns = Columns("prompt", "reply", "aligner_")
    correct_corpus(write(tmp_path / "in.jsonl", rows), tmp_path / "o.jsonl", aligner_that_tells(asked), columns=columns)
    (row,) = rows_of(tmp_path / "o.jsonl")
    assert (row["correction"], row["aligner_correction"], row["aligner_outcome"]) == ("by hand", "good", "corrected")


def test_batches_are_of_like_length(source, tmp_path):
    batches = []

    class Watched(FakeBackend):
        def complete(self, requests):
            batches.append([len(r.question) + len(r.answer) for r in requests])
            return super().complete(requests)

    rows = [{"question": "q", "answer": f"bad {'x' * (i * 37 % 101)}"} for i in range(101)]
    aligner = Aligner(backend=Watched(mend), template="Q={question};A={answer};")
    correct_corpus(write(source, rows), tmp_path / "out.jsonl", aligner)
    assert [len(batch) for batch in batches] == [32, 32, 32, 5]
    assert [size for batch in batches for size in batch] == sorted(len(r["question"]) + len(r["answer"]) for r in rows)
    assert [row["answer"] for row in rows_of(tmp_path / "out.jsonl")] == [row["answer"] for row in rows]


# Exactly once ---------------------------------------------------------------------------------------------------------


def test_a_finished_output_asks_nothing(source, tmp_path, asked):
    out = tmp_path / "out.jsonl"
    first = correct_corpus(source, out, aligner_that_tells(asked))
    before = out.read_bytes(), out.stat().st_mtime_ns
    again = correct_corpus(source, out, aligner_that_tells(asked))
    assert (again.rows, again.outcomes, again.asked, again.finished) == (first.rows, first.outcomes, 0, True)
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before
    assert len(answers(asked)) == 20
    assert names(tmp_path) == ["asked.txt", "in.jsonl", "out.jsonl", "out.jsonl.manifest.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"limit": 5}, "other limit"),
        ({"shard_rows": 7}, "other shard_rows"),
        ({"columns": Columns(prefix="x_")}, "other columns"),
        ({"fields": {"a": "b"}}, "other fields"),
        ({"aligner": {"max_new_tokens": 9}}, "other aligner"),
        ({"input": True}, "other input"),
    ],
)
def test_another_input_or_configuration_is_an_error_and_nothing_is_mixed(source, tmp_path, asked, change, words):
    out = tmp_path / "out.jsonl"
    correct_corpus(source, out, aligner_that_tells(asked))
    before = out.read_bytes()
    if change.pop("input", False):
        write(source, [{"question": "q", "answer": "bad"}, *ROWS[1:]])
    aligner = aligner_that_tells(asked, **change.pop("aligner", {}))
    with pytest.raises(ConfigurationError, match=words):
        correct_corpus(source, out, aligner, **change)
    assert out.read_bytes() == before and len(answers(asked)) == 20


def test_the_same_input_elsewhere_is_the_same(source, tmp_path, asked):
    out = tmp_path / "out.jsonl"
    correct_corpus(source, out, aligner_that_tells(asked))
    moved = source.rename(tmp_path / "moved.jsonl")
    assert correct_corpus(moved, out, aligner_that_tells(asked)).asked == 0


def test_an_output_of_somebody_else_is_left_alone(source, tmp_path, asked):
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(ConfigurationError, match="there already"):
        correct_corpus(source, out, aligner_that_tells(asked))
    assert out.read_text() == "mine" and names(tmp_path) == ["in.jsonl", "out.jsonl"]


def test_an_output_that_was_cut_later_is_told(source, tmp_path, asked):
    out = tmp_path / "out.jsonl"
    correct_corpus(source, out, aligner_that_tells(asked))
    out.write_bytes(out.read_bytes()[:-9])
    with pytest.raises(ConfigurationError, match="no longer"):
        correct_corpus(source, out, aligner_that_tells(asked))


def start(source, out, asked, seconds="0.02", shard_rows="4", part="1/1"):
    command = [
        sys.executable,
        "-m",
        "tests.unit.corpus.worker",
        *map(str, (source, out, asked, seconds, shard_rows, part)),
    ]
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(command, stderr=subprocess.PIPE, cwd=root, env=environment, text=True)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path, asked):
    """Killed once so many answers were asked; each run asks at most one shard's rows that were asked before."""
    rows = [{"question": f"q{i}", "answer": f"bad {i}"} for i in range(40)]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    correct_corpus(source, tmp_path / "undisturbed.jsonl", aligner_that_tells(tmp_path / "other.txt"), shard_rows=8)
    kills = 0
    for most in (1, 5, 8, 9, 17, 30, 39):
        process = start(source, out, asked, shard_rows="8")
        while process.poll() is None and len(answers(asked)) < most + 8 * kills:
            threading.Event().wait(0.002)
        process.kill()
        process.communicate()
        kills += 1
    last = start(source, out, asked, shard_rows="8")
    last.communicate(timeout=120)
    assert last.returncode == 0
    assert out.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()
    said = answers(asked)
    assert set(said) == {row["answer"] for row in rows} and len(said) - 40 <= 8 * kills


def test_a_shard_does_not_depend_on_what_was_corrected_before_it(source, tmp_path):
    """As scores do, in their last digits, where an aligner goes on from earlier texts that it has kept."""

    class Remembers(FakeBackend):
        fingerprint = ("remembers",)
        read = 0

        def __init__(self):
            super().__init__(self._count)

        def forget(self):
            self.read = 0

        def _count(self, prompt):
            self.read += 1
            return f"text {self.read}"

    def correct(out, part):
        correct_corpus(source, out, Aligner(backend=Remembers(), template=TEMPLATE), shard_rows=3, part=part)

    correct(tmp_path / "whole.jsonl", (1, 1))
    for part in ((1, 2), (2, 2)):
        correct(tmp_path / "parts.jsonl", part)
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_an_interrupt_ends_it_and_the_next_run_goes_on(source, tmp_path, asked):
    out = tmp_path / "out.jsonl"
    process = start(source, out, asked, seconds="0.05")
    for line in process.stderr:
        if line.startswith("correcting 8"):
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0 and "KeyboardInterrupt" in process.stderr.read()
    process.stderr.close()
    assert not out.exists()
    before = len(answers(asked))
    summary = correct_corpus(source, out, aligner_that_tells(asked), shard_rows=4)
    assert 4 <= summary.asked <= 16 and len(answers(asked)) == before + summary.asked
    assert [row["id"] for row in rows_of(out)] == list(range(20))


def test_parts_are_done_by_several_processes_and_the_last_one_writes(source, tmp_path, asked):
    out = tmp_path / "out.jsonl"
    one = correct_corpus(source, out, aligner_that_tells(asked), shard_rows=3, part=(2, 3))
    assert not one.finished and not out.exists() and one.asked == 6
    assert not correct_corpus(source, out, aligner_that_tells(asked), shard_rows=3, part=(1, 3)).finished
    assert correct_corpus(source, out, aligner_that_tells(asked), shard_rows=3, part=(3, 3)).finished
    assert [row["id"] for row in rows_of(out)] == list(range(20)) and len(answers(asked)) == 20


def test_two_processes_do_not_do_the_same(source, tmp_path, asked):
    out = tmp_path / "out.jsonl"
    process = start(source, out, asked, seconds="0.2")
    for line in process.stderr:
        if line.startswith("correcting"):
            break
    try:
        with pytest.raises(ConfigurationError, match="Another process"):
            correct_corpus(source, out, aligner_that_tells(asked), shard_rows=4)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_damaged_shard_and_a_torn_journal_are_done_again(source, tmp_path, asked):
    out = tmp_path / "out.jsonl"
    stopped = Aligner(backend=Stops("bad 13."), template="Q={question};A={answer};")
    with pytest.raises(KeyboardInterrupt):
        correct_corpus(source, out, stopped, shard_rows=4, name="fake")
    folder = tmp_path / "out.jsonl.shards"
    journal = folder / "1-of-1.journal"
    journal.write_bytes(journal.read_bytes()[:-20])  # the third line is torn
    (folder / "0000001.rows").unlink()
    summary = correct_corpus(source, out, aligner_that_tells(asked), shard_rows=4, name="fake")
    assert sorted(answers(asked)) == sorted(row["answer"] for row in ROWS[4:])
    assert summary.rows == 20 and [row["id"] for row in rows_of(out)] == list(range(20))


class Stops(FakeBackend):
    """Ctrl-C when it is asked for a certain answer."""

    def __init__(self, at):
        super().__init__(mend)
        self.at = at

    def complete(self, requests):
        if any(self.at in request.answer for request in requests):
            raise KeyboardInterrupt
        return super().complete(requests)


# Rows that cannot be corrected ------------------------------------------------------------------------------------------


def fails_at(number, error):
    def fn(prompt):
        if f"bad {number}." in prompt:
            raise error
        return mend(prompt)

    return Aligner(backend=FakeBackend(fn), template="Q={question};A={answer};")


def test_a_row_that_fails_is_a_dead_letter(source, tmp_path):
    out = tmp_path / "out.jsonl"
    summary = correct_corpus(source, out, fails_at(7, EmptyCorrectionError("nothing came")))
    assert (summary.rows, summary.dead) == (19, 1)
    assert [row["id"] for row in rows_of(out)] == [i for i in range(20) if i != 7]
    (letter,) = rows_of(tmp_path / "out.jsonl.dead.jsonl")
    assert letter == {"file": str(source), "row": 8, "reason": "EmptyCorrectionError: nothing came"}


def test_errors_stop_says_which_row_and_keeps_what_is_done(source, tmp_path, asked):
    out = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match=r"in\.jsonl, row 8: EmptyCorrectionError: nothing came"):
        correct_corpus(
            source, out, fails_at(7, EmptyCorrectionError("nothing came")), errors="stop", shard_rows=4, name="fake"
        )
    assert not out.exists()
    assert correct_corpus(source, out, aligner_that_tells(asked), shard_rows=4, name="fake").asked == 16


def test_a_passing_outage_is_asked_again_and_costs_no_row(source, tmp_path):
    failed = set()

    def fn(prompt):
        if any(f"bad {i}." in prompt for i in (3, 9)) and prompt not in failed:
            failed.add(prompt)
            raise BackendError("gone for a moment", retryable=True)
        return mend(prompt)

    aligner = Aligner(backend=FakeBackend(fn), template="Q={question};A={answer};")
    summary = correct_corpus(source, tmp_path / "out.jsonl", aligner)
    assert (summary.rows, summary.dead) == (20, 0) and len(failed) == 2


@pytest.mark.parametrize("error", [BackendError("all is down"), CircuitOpenError("left alone")])
def test_an_outage_ends_the_run_and_makes_no_dead_letters(source, tmp_path, asked, error):
    out = tmp_path / "out.jsonl"
    down = Aligner(backend=FakeBackend(lambda prompt: raises(error)), template="Q={question};A={answer};")
    with pytest.raises(BackendError, match=r"shard \(0\) is left undone"):
        correct_corpus(source, out, down, name="fake")
    summary = correct_corpus(source, out, aligner_that_tells(asked), name="fake")
    assert (summary.rows, summary.dead) == (20, 0)


def raises(error):
    raise error


def test_a_row_that_a_server_always_fails_at_is_a_dead_letter(source, tmp_path):
    summary = correct_corpus(source, tmp_path / "out.jsonl", fails_at(7, BackendError("status 500")))
    assert (summary.rows, summary.dead) == (19, 1)


def plain():
    return Aligner(backend=FakeBackend(mend), template="Q={question};A={answer};")


def test_a_disk_that_takes_no_more_is_told_and_the_run_goes_on_after(source, tmp_path, asked):
    """A limit on the size of files stands for the disk: the system refuses to write on, in the middle of a shard."""
    resource = pytest.importorskip("resource")
    out = tmp_path / "out.jsonl"
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    correct_corpus(source, tmp_path / "other.jsonl", plain(), name="x", shard_rows=5)
    with pytest.raises(KeyboardInterrupt):
        aligner = Aligner(backend=Stops("bad 13."), template="Q={question};A={answer};")
        correct_corpus(source, out, aligner, name="x", shard_rows=5)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
    try:
        with pytest.raises(DiskError, match="cannot be written. What was done is kept"):
            correct_corpus(source, out, plain(), name="x", shard_rows=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not [name for name in names(tmp_path / "out.jsonl.shards") if name.endswith(".new")]
    summary = correct_corpus(source, out, aligner_that_tells(asked), name="x", shard_rows=5)
    assert summary.asked < 20 and out.read_bytes() == (tmp_path / "other.jsonl").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_called_so():
    with pytest.raises(DiskError, match="The disk is full: /dev/full cannot be written"), on_disk(Path("/dev/full")):
        Path("/dev/full").write_text("a")


# Options ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"part": (0, 3)}, "Part 0 of 3"),
        ({"part": (4, 3)}, "Part 4 of 3"),
        ({"limit": 0}, "limit is 0"),
        ({"shard_rows": 0}, "shard_rows is 0"),
        ({"errors": "keep"}, "errors is 'keep'"),
    ],
)
def test_options_that_make_no_sense(source, tmp_path, options, words):
    with pytest.raises(ConfigurationError, match=words):
        correct_corpus(source, tmp_path / "out.jsonl", plain(), **options)
    assert names(tmp_path) == ["in.jsonl"]


@pytest.mark.parametrize("made", [lambda: Columns("a", "a"), lambda: Columns("q", "reason")])
def test_columns_that_make_no_sense(made):
    with pytest.raises(ConfigurationError):
        made()


def test_a_table_with_other_columns_says_how_to_name_them(tmp_path):
    table = tmp_path / "in.csv"
    table.write_text("id,prompt,response\n1,q,a\n")
    with pytest.raises(ConfigurationError, match="it has id, prompt, response.* --question-column and --answer-column"):
        correct_corpus(table, tmp_path / "out.csv", plain())


def test_a_mistake_of_the_caller_is_no_dead_letter(source, tmp_path):
    aligner = Aligner(backend=FakeBackend(mend), template="{question}{answer}{aspects}")
    with pytest.raises(ConfigurationError, match="aspects"):
        correct_corpus(source, tmp_path / "out.jsonl", aligner)


def test_progress(source, tmp_path):
    told = []
    correct_corpus(source, tmp_path / "out.jsonl", plain(), shard_rows=8, on_progress=lambda *one: told.append(one))
    assert told[0][0] == "reading" and told[0][2] == source.stat().st_size
    assert [one[1:] for one in told if one[0] == "correcting"] == [(0, 20), (8, 20), (16, 20), (20, 20)]


def test_a_server_is_asked_side_by_side_and_no_more_than_it_takes(source, tmp_path):
    rows = [{"question": "q", "answer": f"bad {i}"} for i in range(100)]

    class Busy(FakeBackend):
        concurrency = 8

        def __init__(self):
            super().__init__(mend)
            self.now, self.most, self.guard = 0, 0, threading.Lock()

        def complete(self, requests):
            with self.guard:
                self.now += len(requests)
                self.most = max(self.most, self.now)
            threading.Event().wait(0.002)
            with self.guard:
                self.now -= len(requests)
            return super().complete(requests)

    backend = Busy()
    correct_corpus(
        write(source, rows), tmp_path / "out.jsonl", Aligner(backend=backend, template="Q={question};A={answer};")
    )
    assert 2 < backend.most <= 16
    assert [row["answer"] for row in rows_of(tmp_path / "out.jsonl")] == [row["answer"] for row in rows]
