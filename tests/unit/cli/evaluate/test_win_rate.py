"""`aligner evaluate win-rate` against a judge on loopback: what it leaves, and that a killed run asks nothing twice."""

import collections
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading

import pytest

from tests.unit.backends.remote.stub import Stub, said

TEXTS = re.compile(r"<text \w+>\n(.*?)\n</text \w+>", re.DOTALL)
ROWS = [
    {"question": "q1", "answer": "oh shit", "correction": "oh dear good"},
    {"question": "q2", "answer": "fine good", "correction": "worse"},
    {"question": "q3", "answer": "the same", "correction": "the same"},
]


def reply(text, reason="stop", status=200):
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return said(
        {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": reason}], "usage": usage}, status
    )


def prefers_good(prompt):
    _, first, second, *_ = TEXTS.findall(prompt)
    one, two = ("good" in text for text in (first, second))
    return "- Better: [[" + ("Equal" if one == two else "responseA" if one else "responseB") + "]]"


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return path


@pytest.fixture
def judge():
    """A judge that prefers what has "good" in it; `answers` may be set to something else."""
    with Stub(lambda call: stub.answers(call)) as stub:

        def answers(call):
            if call.path == "/v1/models":
                return said({"data": [{"id": "judge"}]})
            return reply(prefers_good(call.body["messages"][-1]["content"]))

        stub.answers = answers
        yield stub


def asked(stub):
    return [call for call in stub.calls if call.path == "/v1/chat/completions"]


def test_table_and_what_is_left(run, fake, rows, judge, tmp_path):
    keep = tmp_path / "kept"
    options = [
        "--judge",
        judge.url,
        "--aspect",
        "helpful",
        "--keep",
        keep,
        "--price",
        2,
        8,
        "--report",
        tmp_path / "p.html",
    ]
    result = run("evaluate", "win-rate", rows, *options)
    assert result.exit_code == 0, result.output
    assert "losses: judged worse than the answer" in result.stdout
    assert len(asked(judge)) == 4
    body = asked(judge)[0].body
    assert (body["temperature"], body["max_tokens"], [m["role"] for m in body["messages"]]) == (
        0,
        2048,
        ["system", "user"],
    )
    left = [json.loads(line) for line in (keep / "helpful.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in left] == ["won", "lost", "same"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in [*keep.iterdir(), tmp_path / "p.html"]} == {0o600}
    again = run("evaluate", "win-rate", rows, *options, "--json")
    assert len(asked(judge)) == 4
    data = json.loads(again.stdout)
    assert data["aspects"]["helpful"]["asked"] == 0
    assert data["cost"] == pytest.approx((400 * 2 + 40 * 8) / 1e6)


def test_a_judge_that_says_no_verdict_is_told_of(run, fake, rows, judge, tmp_path):
    def answers(call):
        return reply("Both are fine.", "length" if "q1" in call.body["messages"][-1]["content"] else "stop")

    judge.answers = answers
    options = ["--judge", judge.url, "--judge-model", "j", "--aspect", "helpful", "--keep", tmp_path / "kept"]
    result = run("evaluate", "win-rate", rows, *options)
    assert result.exit_code == 0, result.output
    told = " ".join(result.stderr.split())
    assert "helpful: 2 of 4 replies were cut before a verdict" in told
    assert "helpful: 2 of 4 replies end without the line with the verdict" in told and "helpful.jsonl" in told


def test_an_aligner_makes_what_is_judged_and_makes_it_once(run, fake, rows, judge, tmp_path):
    made = []

    def civil(prompt):
        made.append(prompt)
        return prompt.split("##Answer: ")[1].split("\n##Correction")[0].replace("shit", "good")

    fake(civil)
    options = ["--judge", judge.url, "--aspect", "helpful", "--keep", tmp_path / "kept", "--json", "-m", "mine"]
    data = json.loads(run("evaluate", "win-rate", rows, *options).stdout)
    assert data["aspects"]["helpful"]["verdicts"] == {"same": 2, "won": 1}
    assert len(made) == 3
    run("evaluate", "win-rate", rows, *options)
    assert len(made) == 3


def test_an_upstream_answers(run, fake, judge, tmp_path):
    fake(lambda prompt: "good")
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "q1"}\n{"question": "q2"}\n')

    def upstream(call):
        if call.path == "/v1/models":
            return said({"data": [{"id": "up"}]})
        assert [message["role"] for message in call.body["messages"]] == ["user"]
        if call.body["messages"][0]["content"] == "q2":
            return reply("", "content_filter")
        return reply("an answer")

    with Stub(upstream) as up:
        options = [
            "--judge",
            judge.url,
            "--aspect",
            "helpful",
            "--keep",
            tmp_path / "kept",
            "--upstream",
            up.url,
            "--json",
        ]
        result = run("evaluate", "win-rate", path, *options)
    data = json.loads(result.stdout)
    assert data["aspects"]["helpful"]["verdicts"] == {"won": 1}
    assert "1 of 2 rows were not judged: answer: BackendError" in result.stderr
    assert result.exit_code == 1


def test_a_judge_that_is_down_is_asked_again_next_time(run, fake, rows, judge, tmp_path):
    working = judge.answers
    judge.answers = lambda call: said({"error": {"message": "no credit"}}, 401)
    options = ["--judge", judge.url, "--judge-model", "j", "--aspect", "helpful", "--keep", tmp_path / "kept"]
    result = run("evaluate", "win-rate", rows, *options)
    assert result.exit_code == 1
    assert "4 requests failed. The same command again asks for these alone." in result.stderr
    judge.answers = working
    assert run("evaluate", "win-rate", rows, *options).exit_code == 0


def test_its_key_and_further_fields_are_sent_and_the_key_is_shown_nowhere(run, fake, rows, judge, tmp_path):
    keep = tmp_path / "kept"
    options = ["--judge", judge.url, "--judge-model", "j", "--aspect", "helpful", "--keep", keep]
    options += ["--judge-key-env", "JUDGE_KEY", "--judge-option", "temperature=0.05", "--judge-option", "effort=low"]
    assert "JUDGE_KEY, which is not set" in run("evaluate", "win-rate", rows, *options).stderr
    result = run("evaluate", "win-rate", rows, *options, "--json", env={"JUDGE_KEY": "sk-secret-123456"})
    assert result.exit_code == 0, result.output
    call = asked(judge)[0]
    assert call.headers["authorization"] == "Bearer sk-secret-123456"
    assert (call.body["temperature"], call.body["effort"], call.body["model"]) == (0.05, "low", "j")
    assert "sk-secret" not in result.output + "".join(path.read_text() for path in keep.iterdir())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--aspect", "funny"], "There is no wording 'funny'"),
        (["--judge-option", "x"], "is not NAME=JSON"),
        (["--aspect", "honest"], "judged with reference answers"),
        (["--wording", "none.toml"], "cannot be read as a wording"),
    ],
)
def test_wrong_options_are_a_sentence(run, fake, rows, judge, tmp_path, given, says):
    result = run("evaluate", "win-rate", rows, "--judge", judge.url, "--keep", tmp_path / "kept", *given)
    assert result.exit_code in (1, 2) and says in result.stderr
    assert not asked(judge)


def test_a_killed_run_asks_nothing_twice(judge, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"q{i}", "answer": f"a{i}", "correction": f"c{i} good"} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answered, process, lock = collections.Counter(), None, threading.Lock()
    kill_after = [0, 1, 5, 6, 17]

    def answers(call):
        prompt = call.body["messages"][-1]["content"]
        with lock:
            if kill_after and sum(answered.values()) >= kill_after[0]:
                kill_after.pop(0)
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return []
            answered[prompt] += 1
        return reply(prefers_good(prompt))

    judge.answers = answers
    words = [sys.executable, "-m", "aligner_integrations", "evaluate", "win-rate", str(path), "--json"]
    words += [
        "--judge",
        judge.url,
        "--judge-model",
        "j",
        "--aspect",
        "helpful",
        "--keep",
        str(tmp_path / "kept"),
        "--at-once",
        "1",
    ]
    codes = []
    for _ in range(6):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        output, _ = process.communicate(timeout=120)
        codes.append(process.returncode)
    assert codes == [-signal.SIGKILL] * 5 + [0]
    assert set(answered.values()) == {1} and len(answered) == 24
    assert json.loads(output)["aspects"]["helpful"]["verdicts"] == {"won": 12}
