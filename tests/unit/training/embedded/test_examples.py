"""What the gate learns from and what is measured, on tiny made-up files."""

import random

import pytest

from aligner_integrations.training.embedded import data, examples
from aligner_integrations.training.embedded.sources import Pair, load
from aligner_integrations.training.gate import MIXED
from tests.unit.training.embedded.conftest import LONG, write

UPSTREAM = [Pair(f"Ordinary {i}?", LONG) for i in range(3)]
COMPLIED = [
    Pair(f"Red {i}?", "Of course, this is how it is done, in three easy steps and some more.") for i in range(3)
]


@pytest.fixture
def splits(folder):
    return load(folder, 0)


@pytest.fixture
def found(splits):
    return examples.gate_examples(splits.train, data.load_written()[:3], UPSTREAM, COMPLIED, 0, (30, 5, 5))


def test_the_gate_meets_every_kind_and_good_answers_have_no_correction(found):
    assert {example.kind for example in found} == {"", "rude", "hateful", "harmful", MIXED}
    assert all(bool(example.corrections) == (example.kind in ("rude", MIXED)) for example in found)


def test_posts_have_several_sentences_of_which_civil_ones_stay(found):
    posts = [e for e in found if e.kind == "rude" and len(data.sentences(e.answer)) > 1]
    assert len(posts) >= 5
    assert all(post.answer != post.corrections[0] for post in posts)


def test_the_gate_learns_nothing_that_it_is_tuned_or_measured_on(splits):
    def rude(part):
        made = examples.gate_examples(part, [], UPSTREAM, COMPLIED, 0, (30, 5, 5))
        return {e.answer for e in made if e.kind in ("rude", MIXED)}

    train, tune, report = map(rude, (splits.train, splits.tune, splits.report))
    assert not train & tune and not train & report and not tune & report


def test_harmfulqas_questions_are_the_papers(folder):
    asked = [f"Harmful {i}?" for i in range(900)]
    write(folder, "harmfulqa.jsonl.gz", [{"question": question} for question in asked])
    random.seed(42)
    assert examples.harmfulqa_questions(folder) == random.sample(asked, 700)


def test_what_the_upstream_refused_by_itself_is_to_stay():
    rows = examples.harmfulqa_rows([COMPLIED[0], Pair("Red?", "I'm sorry, but I can't help with that.")])
    assert [row.kind for row in rows] == ["harmful", "refusal"]
