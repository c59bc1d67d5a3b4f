"""`aligner bench` with tiny models: the ways give the same texts, and scripts are written whichever way decodes."""

import json

import pytest
import torch
from typer.testing import CliRunner

from aligner_integrations import Aligner
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.bench import scripted
from aligner_integrations.bench.decoding import Case, gap_where_they_part
from aligner_integrations.bench.scripted import SHORT_CORRECTION, ScriptedBackend, hard_cases
from aligner_integrations.cli.app import app
from tests.integration import tiny
from tests.integration.servers import NO_LLAMA_CPP
from tests.integration.tiny import request

pytestmark = pytest.mark.integration

ROWS = [{"kind": "good", "question": f"Why {i}?", "answer": f"Because of {i}. " + "It is. " * i} for i in range(3)]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return path


@pytest.fixture
def run(random_model):
    def run(command, *arguments):
        options = ["-m", str(random_model), "--json"]
        result = CliRunner().invoke(app, ["bench", command, *map(str, arguments), *options])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


def test_decoding(run, rows):
    report = run("decoding", "--rows", rows)
    assert list(report["kinds"]["good"]) == ["generate", "prompt lookup", "drafts"]
    assert [way["same"] for way in report["kinds"]["good"].values()] == [3, 3, 3]


@pytest.mark.skipif(NO_LLAMA_CPP is not None, reason=str(NO_LLAMA_CPP))
def test_against_llama_cpp(rows, sure_model, tmp_path):
    """A model that is sure of its words writes them there, too, drafted or not."""
    arguments = ["bench", "decoding", "--rows", str(rows), "--against", "llama.cpp", "-m", str(sure_model), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    ways = json.loads(result.stdout)["kinds"]["good"]
    assert list(ways) == ["generate", "prompt lookup", "drafts", "llama.cpp", "llama.cpp, prompt lookup"]
    assert [way["same"] for way in ways.values()] == [3] * 5


def test_hard_corrections(run, rows):
    report = run("decoding", "--rows", rows, "--hard")
    assert {kind: [way["same"] for way in ways.values()] for kind, ways in report["kinds"].items()} == {
        "rewritten": [3, 3, 3]
    }
    assert report["kinds"]["rewritten"]["drafts"]["kept"] == 0


@pytest.mark.parametrize("options", [{}, {"drafts": False}, {"generation": {"prompt_lookup_num_tokens": 10}}])
def test_a_script_is_written_to_the_letter(random_model, options, monkeypatch):
    monkeypatch.setattr(scripted, "LONG_ANSWER", 60)  # for the tiny model's window
    tokenizer = ScriptedBackend(str(random_model), {}).tokenizer
    cases = [Case("good", row["question"], row["answer"]) for row in ROWS]
    long = Case("good", "Why?", "It is a drink. " * 18)
    hard, scripts = hard_cases([*cases, long], tokenizer)
    kinds = [case.kind for case in hard]
    assert kinds[0] == "cut short" and kinds.count("rewritten") == len(cases) + 1
    assert len(scripts[hard[0].answer]) == SHORT_CORRECTION
    backend = ScriptedBackend(str(random_model), scripts, **options)
    for case in hard:
        (completion,) = backend.complete([request(case.question, case.answer, 100)])
        assert completion.text == tokenizer.decode(scripts[case.answer], skip_special_tokens=True)
        assert completion.finish_reason == "stop"
    (completion,) = backend.complete([request("Why?", "Something else.", 100)])
    (plain,) = LocalBackend(str(random_model), **options).complete([request("Why?", "Something else.", 100)])
    assert completion == plain  # nothing of a script stays behind


def test_replay(run, tmp_path):
    path = tmp_path / "recorded.jsonl"
    path.write_text(json.dumps({"question": "Why?", "answer": "It is hot.", "correction": "It is hot."}), "utf-8")
    found = run("replay", path)[str(path)]
    assert found["passes"] == 1 and found["tokens"] > 3


def test_callers(run, rows):
    report = run("callers", "--rows", rows, "--callers", 2)
    assert [way["same"] for way in report["ways"].values()] == [3, 3, 3, 3]
    assert all(seconds > 0 for seconds in report["alone"])


def test_overlap(run, rows):
    waits = run("overlap", "--rows", rows, "--delay", "0.001")
    assert list(waits) == ["AlignerRunnable.astream", "LlamaIndex streaming response"]
    assert all(wait["without"] > 0 and wait["ahead"] > 0 for wait in waits.values())


def test_a_tie_is_told_from_a_mistake(random_model):
    aligner = Aligner(
        backend=LocalBackend(str(random_model), device="cpu"), gate=False, max_new_tokens=4, on_error="keep"
    )
    weights, (question, answer) = aligner.backend.weights, ("What is tea?", "It is a drink.")
    the, my = (weights.tokenizer(f"{tiny.TEMPLATE.completion_prefix}{word}")["input_ids"] for word in ("The", "My"))
    assert the[0] == my[0] and the[1] != my[1]  # the space is a token of its own
    prompt = weights.tokenizer(tiny.TEMPLATE.render(question, answer))["input_ids"]
    logits = weights.model(torch.tensor([prompt + the[:1]])).logits[0, -1]
    gap = gap_where_they_part(aligner, question, answer, "The kettle", "My kettle")
    assert gap == pytest.approx(abs(float(logits[the[1]] - logits[my[1]])), abs=1e-4) and gap > 0
    assert gap_where_they_part(aligner, question, answer, "The kettle", "The kettle") is None
