"""A gate that objects to whole answers, from examples to a folder that an aligner loads; on a tiny model."""

import json
import shutil

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.local import loading
from aligner_integrations.models import AlignerConfig
from aligner_integrations.training import run
from aligner_integrations.training.gate import MIXED, GateExample

pytestmark = pytest.mark.integration

WORDS = {
    "": "tea is a drink",
    "hateful": "wait old old wait",
    "harmful": "kettle water kettle",
    "rude": "tea is advice",
}


def examples(start, count=60):
    """Answers whose kind stands in their words."""
    found = []
    for number in range(start, start + count):
        kind = (*WORDS, MIXED)[number % 5]
        words = f"{WORDS.get(kind, 'tea is advice and a drink')} {'good ' * (number % 4)}".strip()
        corrections = (words.replace("advice", "water"),) if "advice" in words else ()
        found.append(GateExample(f"What about {number}?", words, corrections, kind))
    return found


def test_what_was_fitted_is_what_an_aligner_objects_to(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    run.fit_own_gate(folder, examples(0, 120), examples(500), 1, report_on=examples(900))
    config = AlignerConfig.read(folder / "aligner_config.json")
    assert set(config.objections) == {"hateful", "harmful"} and config.objections_layer is not None
    told = json.loads((folder / "gate.json").read_text())
    assert {kind: of[1:] for kind, of in told["areas"].items()} == {
        "rude": [12, 12],
        "hateful": [12, 12],
        "harmful": [12, 12],
    }
    assert all(area > 0.9 for area, *_ in told["areas"].values())

    loading.release()  # the gate was not there when the weights were loaded
    aligner = Aligner(str(folder), on_error="keep")
    assert aligner.backend.objections == config.objections
    question, bad = "What about 7?", f"{WORDS['harmful']} good good"
    high, low = (aligner.score(question, one).objections["harmful"] for one in (bad, f"{WORDS['']} good"))
    assert high > low
    strict = aligner.with_options(gate={"rude": False, "hateful": False, "harmful": (high + low) / 2})
    lenient = aligner.with_options(gate={"rude": False, "hateful": False, "harmful": False})
    stream = strict.stream(question, bad)
    list(stream)
    for correction in (strict.correct(question, bad), strict.correct_many([(question, bad)])[0], stream.correction):
        assert correction.objections == ("harmful",)
    assert strict.correct(question, f"{WORDS['']} good").outcome == "kept"
    assert lenient.correct(question, bad).objections == ()


def test_a_gate_without_such_answers_objects_to_words_alone(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    words = [example for example in examples(0, 120) if example.kind in ("", "rude")]
    run.fit_own_gate(folder, words, words[:40], 1)
    config = AlignerConfig.read(folder / "aligner_config.json")
    assert config.objections == {} and config.objections_layer is None
    loading.release()
    assert Aligner(str(folder)).score("What?", WORDS["rude"]).objections == {}
