"""A real upstream answers the recipe's questions once, and says which of two rewrites is English."""

import pytest

from aligner_integrations.training.embedded import answers

pytestmark = [pytest.mark.integration, pytest.mark.slow]

QUESTIONS = ["What is tea?", "Why is the sky blue?"]


def test_questions_are_asked_once_and_the_answers_depend_on_the_seed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "_NEW_TOKENS", 30)
    path = tmp_path / "answers.jsonl"
    found = answers.ask(QUESTIONS, path, 1)
    assert list(found) == QUESTIONS and all(len(text) > 20 for text in found.values())
    assert answers.ask(QUESTIONS, tmp_path / "again.jsonl", 1) == found
    monkeypatch.setattr(answers, "load_base", pytest.fail)
    assert answers.ask(QUESTIONS[::-1], path, 1) == found
    kept = answers.answered({**found, "short": "Yes."}, [*QUESTIONS, "short"])
    assert [(pair.question, pair.kind) for pair in kept] == [(q, "SmolLM2") for q in QUESTIONS if len(found[q]) > 40]


def test_a_hole_is_less_likely_than_a_sentence():
    texts = ["who the names a variable like this", "who names a variable like this", "a", "The cat sat on the mat."]
    hole, whole, *_ = found = answers.BaseLikelihood()(texts)
    assert hole < whole < 0
    alone = [answers.BaseLikelihood()([text])[0] for text in texts[:2]]
    assert alone == pytest.approx(found[:2], abs=0.1)  # in bfloat16, beside others
