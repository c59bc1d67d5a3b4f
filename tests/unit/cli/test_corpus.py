"""`aligner corpus`: its options reach the run, and what it says."""

import json

import pytest

from aligner_integrations.cli import options
from aligner_integrations.cli.options import AlignerOptions
from aligner_integrations.errors import EmptyCorrectionError

ROWS = [
    {"id": 7, "question": "q1", "answer": "this is shit"},
    {"question": "q2", "answer": "all \ud800 is well"},  # cannot be encoded: this row alone fails
    {"question": "q3", "answer": "fine\x1b"},
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_rows_from_file_to_file(run, fake, source, tmp_path):
    fake()
    out = tmp_path / "out.jsonl"
    result = run("corpus", source, out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith(f"{out}: 3 rows: 1 corrected, 1 kept, 1 dead letter; 3 of them now, in ")
    assert result.stderr.endswith(f"\nWhich rows those are, and why: {out}.dead.jsonl\n")
    one, two = rows_of(out)
    assert (one["id"], one["correction"], one["outcome"]) == (7, "this is bad", "corrected")
    assert (two["correction"], two["outcome"], two["reason"]) == ("fine\x1b", "kept", "unchanged")
    assert [letter["row"] for letter in rows_of(tmp_path / "out.jsonl.dead.jsonl")] == [2]


def test_rows_that_nobody_could_correct_are_not_passed_over_in_silence(run, fake, tmp_path):
    """Triples, for example, whose column would be written over."""
    asked = []
    fake(lambda prompt: asked.append(prompt) or "better")
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"question": "q", "answer": "a", "correction": "c"}) + "\n")
    result = run("corpus", source, out)
    assert (result.exit_code, asked) == (0, [])
    assert result.stderr == (
        f"{out} is finished (1 row: 1 dead letter); the aligner was not asked.\n"
        f"Which rows those are, and why: {out}.dead.jsonl\n"
    )
    (letter,) = rows_of(tmp_path / "out.jsonl.dead.jsonl")
    assert "prefix" in letter["reason"]


def test_options_reach_the_aligner_and_the_run(run, fake, tmp_path):
    asked = fake(lambda prompt: "better")
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("ask,said\n" + f"q,{name}\n" * 3)
    arguments = ["--question-column", "ask", "--answer-column", "said", "--prefix", "new_", "--limit", "4", "--no-gate"]
    arguments += [
        "-m",
        "some/model",
        "--template",
        "{question}{answer}{tone}",
        "--field",
        "tone=kind",
        "--edits",
        "all",
    ]
    result = run("corpus", tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "out.jsonl", *arguments)
    assert result.exit_code == 0, result.stderr
    assert [row["said"] for row in rows_of(tmp_path / "out.jsonl")] == ["a", "a", "a", "b"]
    assert all(row["new_correction"] == "better" for row in rows_of(tmp_path / "out.jsonl"))
    which = AlignerOptions(model="some/model", template="{question}{answer}{tone}")
    assert asked == [{"which": which, "gate": False, "edits": options.Edits.ALL, "on_error": options.OnError.RAISE}]


@pytest.mark.parametrize("policy", ["keep", "block"])
def test_a_failure_that_on_error_answers_is_a_row(run, fake, source, tmp_path, policy):
    def fail(prompt):
        raise EmptyCorrectionError("nothing came")

    fake(fail)
    assert run("corpus", source, tmp_path / "out.jsonl", "--on-error", policy).exit_code == 0
    assert [row["outcome"] for row in rows_of(tmp_path / "out.jsonl")] == ["failed"] * 3


def test_errors_stop(run, fake, source, tmp_path):
    fake()
    result = run("corpus", source, tmp_path / "out.jsonl", "--errors", "stop")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {source}, row 2: InvalidTextError: ")


def test_parts(run, fake, source, tmp_path):
    fake()
    one = run("corpus", source, tmp_path / "out.jsonl", "--shard", "1/2", "--shard-rows", "1", "--json")
    assert json.loads(one.stdout)["finished"] is False
    assert one.stderr.startswith("Part 1 of 2 is done (2 rows: 1 corrected, 1 kept by all so far).")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "a/b", "2", "-1/2", "1/0"])
def test_parts_that_do_not_exist(run, fake, source, tmp_path, shard):
    fake()
    result = run("corpus", source, tmp_path / "out.jsonl", f"--shard={shard}")
    assert result.exit_code == 2 and "--shard" in result.stderr


def test_ctrl_c(run, fake, source, tmp_path):
    def interrupt(prompt):
        raise KeyboardInterrupt

    fake(interrupt)
    result = run("corpus", source, tmp_path / "out.jsonl")
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")
    assert not (tmp_path / "out.jsonl").exists()


def test_at_once_goes_with_a_server(run, source, tmp_path):
    result = run("corpus", source, tmp_path / "out.jsonl", "--at-once", "4")
    assert result.exit_code == 2 and "--at-once" in result.stderr
    aligner = options.make_aligner(AlignerOptions(endpoint="http://127.0.0.1:9/v1"), at_once=200)
    assert (aligner.backend.concurrency, aligner.resilience.concurrency) == (200, 200)


def test_no_such_input(run, fake, tmp_path):
    fake()
    result = run("corpus", tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}/none.jsonl: there is no such file")


def test_workers_that_are_no_number(run, fake, source, tmp_path):
    fake()
    result = run("corpus", source, tmp_path / "out.jsonl", "--engine", "ray", "--workers", "two")
    assert result.exit_code == 2 and "--workers" in result.stderr


def test_a_page_to_look_at(run, fake, source, tmp_path):
    fake()
    page = tmp_path / "page.html"
    result = run("corpus", source, tmp_path / "out.jsonl", "--report", page)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.endswith(f"To look at: {page}\n")
    text = page.read_text()
    for words in ("Corpus out.jsonl", "this is", "shit", "Dead letters", "cannot be encoded", "<svg", "corrected"):
        assert words in text
    assert "\x1b" not in text


def test_a_page_of_csv_with_a_prefix(run, fake, tmp_path):
    fake()
    (tmp_path / "in.csv").write_text("question,answer\nq,oh shit\n")
    page = tmp_path / "page.html"
    result = run("corpus", tmp_path / "in.csv", tmp_path / "out.csv", "--prefix", "new_", "--report", page)
    assert result.exit_code == 0, result.stderr
    assert "oh" in page.read_text()


def test_records_beside(run, fake, source, tmp_path):
    fake()
    result = run("corpus", source, tmp_path / "out.jsonl", "--record", tmp_path / "records.jsonl")
    assert result.exit_code == 0, result.stderr
    assert run("records", tmp_path / "records.jsonl", "--json").exit_code == 0


def test_records_of_a_cluster_lie_elsewhere(run, fake, source, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'aligner-integrations[ray]'")
    fake()
    result = run("corpus", source, tmp_path / "out.jsonl", "--engine", "ray", "--record", tmp_path / "r.jsonl")
    assert result.exit_code == 2 and "--record" in result.stderr
