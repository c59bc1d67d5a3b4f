"""`aligner evaluate three-h` against a judge and an upstream on loopback. The numbers: tests/unit/evaluation."""

import json

import pytest

from tests.unit.backends.remote.stub import Stub
from tests.unit.cli.evaluate.test_win_rate import reply
from tests.unit.evaluation.test_three_h import lines, prefers_good


@pytest.fixture
def server():
    """Judges with a system message, answers without one."""

    def handle(call):
        messages = call.body["messages"]
        return reply(prefers_good(messages[-1]["content"]) if len(messages) == 2 else "oh shit")

    with Stub(handle) as stub:
        yield stub


def test_upstreams_and_sets(run, fake, server, tmp_path):
    fake(lambda prompt: prompt.split("##Answer: ")[1].split("\n##Correction")[0].replace("shit", "good"))
    answers = lines(
        tmp_path / "a.jsonl", [{"question": "q1", "answer": "fine"}, {"question": "q2", "answer": "oh shit"}]
    )
    questions = lines(tmp_path / "q.jsonl", [{"question": "q1"}, {"question": "q2"}])
    options = ["--judge", server.url, "--judge-model", "j", "--keep", tmp_path / "kept"]
    options += ["--upstream", f"file={answers}", "--upstream", f"model={server.url}"]
    options += ["--set", f"mine:helpful={questions}", "--set", f"harmfulqa={questions}"]
    result = run("evaluate", "three-h", *options, "--report", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert "HarmfulQA harmless" in result.stdout and "Losses: corrections" in result.stdout
    assert "+50.0%" in result.stdout and "+100.0%" in result.stdout
    assert {call.body["model"] for call in server.calls} == {"j", "model"}
    before = len(server.calls)
    data = json.loads(run("evaluate", "three-h", *options, "--json").stdout)
    assert len(server.calls) == before
    assert data["cells"]["model"]["mine"]["aspects"]["helpful"]["verdicts"] == {"won": 2}
    assert "<article" in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--upstream", "x", "--set", "a=b"], "is not NAME=FILE or NAME=URL"),
        (["--upstream", "x={file}", "--set", "mine"], "mine=FILE"),
        (["--upstream", "x={file}", "--set", "a={file}", "--aspect", "helpful"], "each set says"),
        (["--upstream", "x={file}", "--set", "a:odd={file}"], "no wording 'odd'"),
    ],
)
def test_wrong_options_are_a_sentence(run, fake, server, tmp_path, given, says):
    fake()
    path = lines(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a"}])
    words = [one.format(file=path) for one in given]
    result = run("evaluate", "three-h", "--judge", server.url, "--keep", tmp_path / "kept", *words)
    assert result.exit_code in (1, 2) and says in result.stderr
    assert not server.calls
