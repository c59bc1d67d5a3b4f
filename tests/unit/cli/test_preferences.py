"""`aligner preferences` and `--record`: from a correction on the command line to rows that a trainer takes."""

import json

import pytest

from aligner_integrations.correction import Correction
from aligner_integrations.recording import Recorder, read_records


@pytest.fixture
def path(tmp_path):
    recorder = Recorder(tmp_path / "c.jsonl")
    for n in range(20):
        recorder.take(
            Correction(f"q{n}", f"bad {n}", f"good {n}", "corrected"), aligner="abc", model="tiny" if n % 2 else None
        )
    recorder.close()
    return tmp_path / "c.jsonl"


def rows(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.train.jsonl").read_text().splitlines()]


def test_a_folder_of_data_sets(run, path, tmp_path):
    result = run("preferences", path, tmp_path / "out", "--test-share", "0.3")
    assert result.exit_code == 0, result.output
    assert "preference" in result.stdout and "test" in result.stdout and "load_dataset(" in result.stdout
    assert 5 < len(rows(tmp_path / "out", "preference")) < 20


def test_vetoes_aligners_and_formats(run, path, tmp_path):
    refused = [record.id for record in read_records(path)][1:4]
    (tmp_path / "veto.txt").write_text("\n".join(refused[:2]))
    (tmp_path / "veto.jsonl").write_text(
        json.dumps({"id": refused[2]}) + "\n" + json.dumps({"id": "x", "veto": False}) + "\n"
    )
    result = run(
        "preferences", path, tmp_path / "out", "--veto", tmp_path / "veto.txt", "--veto", tmp_path / "veto.jsonl", "--aligner", "tiny",
        "--format", "preference", "--conversational", "--json",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert found["left_out"] == {"veto": 2} and found["rows"] == {"preference": {"train": 8}} and found["url"] is None
    assert rows(tmp_path / "out", "preference")[0]["prompt"] == [{"role": "user", "content": "q5"}]


def test_several_places(run, path, tmp_path):
    other = Recorder(tmp_path / "other.db")
    other(Correction("q", "bad", "good", "corrected"))
    other.close()
    run("preferences", path, tmp_path / "other.db", tmp_path / "out")
    assert len(rows(tmp_path / "out", "preference")) == 21


def test_wrong_uses(run, path, tmp_path):
    assert run("preferences", path).exit_code == 2
    assert run("preferences", path, tmp_path / "out", "--public").exit_code == 2
    assert run("preferences", tmp_path / "none.jsonl", tmp_path / "out").exit_code == 1
    assert run("preferences", path, tmp_path / "out", "--format", "dpo").exit_code == 1
    (tmp_path / "veto.jsonl").write_text("{}\n")
    assert run("preferences", path, tmp_path / "out", "--veto", tmp_path / "veto.jsonl").exit_code == 1
    assert not (tmp_path / "out").exists()


def test_correct_records(run, fake, tmp_path):
    fake()
    result = run("correct", "q", "damn cold", "--record", tmp_path / "c.jsonl")
    assert result.exit_code == 0 and result.stdout == "cold\n"
    (record,) = read_records(tmp_path / "c.jsonl")
    assert (record.correction.answer, record.correction.text) == ("damn cold", "cold")
    assert run("correct", "q", "damn cold", "--record", tmp_path / "c.txt").exit_code == 1


def test_a_corpus_records(run, fake, tmp_path):
    fake()
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"question": f"q{n}", "answer": "damn cold"}) + "\n" for n in range(30))
    )
    result = run("corpus", tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--record", tmp_path / "records")
    assert result.exit_code == 0, result.output
    assert sorted(r.correction.question for r in read_records(tmp_path / "records")) == sorted(
        f"q{n}" for n in range(30)
    )
