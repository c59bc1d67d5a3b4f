"""A table of win rates: sets are read as the paper takes them, answers are found by their question, cells are those of win-rate."""

import json
import random

import pytest

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.backends.wrappers.resilient import Resilience
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.asked import Kept, Model
from aligner_integrations.evaluation.html import render
from aligner_integrations.evaluation.three_h import QuestionSet, answers_for, evaluate, read_set
from tests.unit.evaluation.html.test_page import Read
from tests.unit.evaluation.test_win_rate import TEXTS, judge
from tests.unit.support import TEMPLATE, answer_in


def prefers_good(prompt):
    texts = TEXTS.findall(prompt)
    *_, first, second = texts
    one, two = ("good" in text for text in (first, second))
    better = "Equal" if one == two else "responseA" if one else "responseB"
    harmful = "Equal" if one == two else "responseB" if one else "responseA"
    return f"- Better: [[{better}]]" if "- Better" in prompt else f"- More harmful: [[{harmful}]]"


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def mend():
    return Aligner(backend=FakeBackend(lambda prompt: answer_in(prompt).replace("bad", "good")), template=TEMPLATE)


def records(*pairs):
    return [(f"row {i}", {"question": q, "answer": a}) for i, (q, a) in enumerate(pairs)]


SETS = [
    QuestionSet("One", ("helpful", "harmless"), ({"question": "q1"}, {"question": "q2"})),
    QuestionSet("Two", ("helpful",), ({"question": "q3"},)),
]


def test_a_table_by_hand(tmp_path, mend):
    upstreams = {
        "file": records(("q1", "bad"), ("q2", "well"), ("q3", "bad"), ("other", "x")),
        "model": Model("m", lambda system: FakeBackend(lambda prompt: f"fine {prompt}"), Resilience(retries=0)),
    }
    with Kept(tmp_path) as kept:
        report = evaluate(upstreams, SETS, judge(prefers_good), kept, aligner=mend, name="mine")
        again = evaluate(
            upstreams, SETS, judge(lambda prompt: pytest.fail("asked twice")), kept, aligner=mend, name="mine"
        )
    assert report.columns() == [("One", "helpful"), ("One", "harmless"), ("Two", "helpful")]
    table = report.table()
    assert table[0] == ["", "One helpful", "One harmless", "Two helpful"]
    assert [line[0] for line in table[1:]] == ["file", "model", "mean"]
    assert [line[1].split("%")[0] for line in table[1:]] == ["+50.0", "+0.0", "+25.0"]
    assert [line[3].split("%")[0] for line in table[1:]] == ["+100.0", "+0.0", "+50.0"]
    assert again.table() == table
    assert [line[1].split("%")[0] for line in report.losses()[1:]] == ["0.0", "0.0", "0.0"]
    data = json.loads(json.dumps(report.to_dict()))
    assert data["cells"]["file"]["One"]["questions"] == 2
    read = Read(render(report.page()))
    assert "file on One: 2 of 2 questions judged." in read.text
    assert not read.broken


def test_an_upstream_that_fails_costs_its_rows_only(tmp_path, mend):
    def up(prompt):
        return "" if prompt == "q1" else "bad"

    upstreams = {"model": Model("m", lambda system: FakeBackend(up), Resilience(retries=0, breaker=False))}
    with Kept(tmp_path) as kept:
        report = evaluate(upstreams, SETS, judge(prefers_good), kept, aligner=mend)
    cell = report.cells["model"]["One"]
    assert len(cell.pairs.pairs) == 1 and sum(cell.pairs.missing.values()) == 1
    assert report.failures == 1
    assert report.rate("model", "One", "helpful").omega.value == 1
    assert report.rate("model", "One", "honest") is None


def test_corrections_of_a_file_are_judged_as_they_are(tmp_path):
    given = [("row 0", {"question": "q3", "answer": "good", "correction": "bad"})]
    with Kept(tmp_path) as kept:
        report = evaluate({"file": given}, SETS[1:], judge(prefers_good), kept, aligner=None)
    assert report.rate("file", "Two", "helpful").losses.value == 1
    assert len(report.table()) == 2  # one upstream has no mean


def test_the_papers_sample(tmp_path):
    rows = [{"question": f"q{i}", "topic": "t"} for i in range(1960)]
    found = read_set("harmfulqa", str(lines(tmp_path / "h.jsonl", rows)))
    random.seed(42)
    assert [row["question"] for row in found.rows] == [row["question"] for row in random.sample(rows, 700)]
    assert (found.title, found.aspects) == ("HarmfulQA", ("helpful", "harmless"))
    assert len(read_set("harmfulqa", str(tmp_path / "h.jsonl"), limit=5).rows) == 5


def test_a_set_of_ones_own(tmp_path):
    path = lines(tmp_path / "own.jsonl", [{"question": "q", "correct": ["a"], "incorrect": ["b"]}])
    own = read_set("mine", str(path), aspects=["honest"])
    assert (own.title, own.aspects, own.rows[0]["correct"]) == ("mine", ("honest",), ("a",))
    assert read_set("mine", str(path)).aspects == ("helpful", "harmless")
    with pytest.raises(ConfigurationError, match="mine=FILE"):
        read_set("mine")


def test_a_set_from_the_hub_is_named_when_it_cannot_be_had():
    with pytest.raises(ConfigurationError, match="truthfulqa/truthful_qa"):
        read_set("truthfulqa")


def test_answers_to_other_questions():
    with pytest.raises(ConfigurationError, match="answers none of the 2 questions of One"):
        answers_for(SETS[0], records(("x", "y")))


def test_nothing_to_measure(tmp_path, mend):
    with Kept(tmp_path) as kept:
        for upstreams, sets in (({}, SETS), ({"f": records(("q1", "a"))}, [])):
            with pytest.raises(ConfigurationError, match="At least one upstream"):
                evaluate(upstreams, sets, judge(prefers_good), kept, aligner=mend)
