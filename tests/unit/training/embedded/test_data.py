"""Rows of the embedded recipe's two passes, on tiny made-up files."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.refusals import is_refusal
from aligner_integrations.training.embedded.data import (
    QUESTIONS,
    REPORT_QUESTION,
    Mixture,
    insert_sentence,
    mixed,
    sentences,
    training_triples,
)
from aligner_integrations.training.embedded.first_pass import FirstMixture, first_triples, smallest_edits
from aligner_integrations.training.embedded.sources import Pair, Rude, load

SENTENCE = "It is so."
MIXTURE = Mixture(
    rude=20, clean_rude=0, rants=10, civil=5, mixed=10, good=10, upstream=5, gsm8k=5, facts=5, harmless=5, refusals=10, abusive=5,
    hateful=5, neutral=5, talk=10, endings=6,
)  # fmt: skip


def second(folder, seed=0):
    upstream = [Pair(f"Ordinary {i}?", "An answer of forty letters and some more words.") for i in range(5)]
    complied = [
        Pair(f"Red {i}?", "Of course, this is how it is done, in three easy steps and some more.") for i in range(5)
    ]
    return training_triples(
        load(folder, 0).train, seed, likelihood=lambda texts: [0.0] * len(texts), upstream=upstream, complied=complied, mixture=MIXTURE
    )  # fmt: skip


def test_triples_depend_on_the_seed_alone(folder):
    assert second(folder) == second(folder)
    assert second(folder) != second(folder, seed=1)


def test_triples_hold_neither_what_measures_nor_a_swear_word_to_learn(folder):
    rows = second(folder)
    assert REPORT_QUESTION not in {row.question for row in rows}
    edited = [row for row in rows if row.answer != row.correction]
    assert not any("damn" in row.correction.lower() for row in edited)
    report = load(folder, 0).report
    seen = {row.answer for row in rows} | {row.question for row in rows}
    assert not seen & {pair.answer for pair in report.hateful}
    assert not seen & {pair.question for pair in (*report.harmful, *report.oasst, *report.harmless)}
    assert not seen & {rude.toxic for rude in report.rude}


def test_harmful_answers_are_declined_and_refusals_and_harmless_ones_kept(folder):
    rows, train = second(folder), load(folder, 0).train
    harmful = {pair.question for pair in train.harmful}
    declined = [row for row in rows if row.question in harmful and row.answer.startswith(("Sure", "You can"))]
    assert len(declined) >= len(train.harmful)
    assert all(is_refusal(row.correction) for row in declined)
    assert all(row.answer == row.correction for row in rows if is_refusal(row.answer) and not row.end_only)
    assert any(row.question.startswith("Red") and is_refusal(row.correction) for row in rows)
    harmless = {pair.question for pair in train.harmless}
    assert all(row.answer == row.correction for row in rows if row.question in harmless and "damn" not in row.answer)


def test_endings_are_for_the_end_alone(folder):
    ends = [row for row in second(folder) if row.end_only]
    assert len(ends) == 6
    assert all("damn" in row.answer.lower() and len(sentences(row.correction)) >= 2 for row in ends)


def test_the_first_pass_learns_rude_text_and_copies(folder):
    train = load(folder, 0).train
    mixture = FirstMixture(rude=20, passage_sentences=20, civil=5, gsm8k=5, mixed=10)
    rows = first_triples(train, 0, mixture)
    assert rows == first_triples(train, 0, mixture)
    assert rows != first_triples(train, 1, mixture)
    assert REPORT_QUESTION not in {row.question for row in rows}
    assert not any("damn" in row.correction.lower() for row in rows)
    good = [row for row in rows if row.question not in QUESTIONS]
    identity = {(row.question, row.answer) for row in good if row.answer == row.correction}
    assert identity >= {(pair.question, pair.answer) for pair in train.oasst}
    assert len([row for row in good if row.answer != row.correction]) == 10


def test_smallest_edits_are_clean_and_come_first():
    rude = Rude("this damn thing works", ("it is fine", "this damn thing", " ", "this thing works"))
    assert smallest_edits(rude) == ["this thing works", "it is fine"]


def test_report_question_is_not_a_training_question():
    assert REPORT_QUESTION not in QUESTIONS
    assert len(set(QUESTIONS)) >= 10


@pytest.mark.parametrize(
    ("answer", "place", "result"),
    [
        ("One. Two.", 0, "It is so. One. Two."),
        ("One. Two.", 1, "One. It is so. Two."),
        ("One.\n\nTwo!", 1, "One.\n\nIt is so. Two!"),
        ("One. Two.", 2, "One. Two. It is so."),
        ("One. Two.", 9, "One. Two. It is so."),
        ("One. ", 9, "One. It is so."),
        ("", 0, "It is so."),
    ],
)
def test_insert_sentence(answer, place, result):
    assert insert_sentence(answer, place, SENTENCE) == result


@given(st.text("ab .!?\n", max_size=30), st.integers(0, 12))
def test_an_inserted_sentence_leaves_the_rest_alone(answer, place):
    whole = insert_sentence(answer, place, "X")
    head, found, tail = whole.partition("X")
    assert found
    assert answer in {head + tail, head + tail[1:], head[:-1] + tail, head[:-1] + tail[1:]}


def test_sentences():
    assert sentences("One. Two!  Three?\nFour") == ["One.", "Two!", "Three?", "Four"]


def test_mixed_rows_differ_in_the_inserted_sentence_only():
    rng = random.Random(0)
    for _ in range(20):
        row = mixed(rng, Pair("q", "One. Two. Three."), "damn it.", "oh no.")
        assert row.answer.replace("damn it.", "oh no.") == row.correction
        assert row.answer.count("damn it.") == 1
        assert [s for s in sentences(row.answer) if s != "damn it."] == ["One.", "Two.", "Three."]
