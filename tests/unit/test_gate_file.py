"""A gate in a file: what is written is what `Aligner(gate=FILE)` decides by, and a file that is none is a sentence."""

import copy
import json
import pickle

import pytest

from aligner_integrations.errors import BackendError, ConfigurationError
from aligner_integrations.gate_file import FEATURES, LearntGate, features_of, read_gate, write_gate
from tests.unit.support import TEMPLATE, ScoringBackend, aligner_of, mend, score_of

GATE = LearntGate(0.5, (0.0,) * 7, (1.0,) * 7, (1.0, *[0.0] * 6), -1.0)


def scoring(gap):
    from aligner_integrations.aligner import Aligner

    def made(**options):
        return Aligner(
            backend=ScoringBackend(lambda answer: score_of(answer, gap=gap), mend), template=TEMPLATE, **options
        )

    return made


@pytest.mark.parametrize("gate", [2.5, GATE])
def test_what_is_written_is_read(tmp_path, gate):
    path = tmp_path / "gate.json"
    write_gate(path, gate, {"loss_rate_at_most": 0.05})
    assert read_gate(path) == gate
    assert json.loads(path.read_text())["promise"] == {"loss_rate_at_most": 0.05}


@pytest.mark.parametrize(("gap", "outcome"), [(2.0, "kept"), (3.0, "corrected")])
@pytest.mark.parametrize("gate", [2.5, LearntGate(1.5, (0.0,) * 7, (1.0,) * 7, (1.0, *[0.0] * 6), -1.0)])
def test_an_aligner_decides_by_it(tmp_path, gap, outcome, gate):
    path = tmp_path / "gate.json"
    write_gate(path, gate, {})
    for given in (path, str(path)):
        assert scoring(gap)(gate=given).correct("q", "it is bad").outcome == outcome


def test_a_learnt_gate_without_scores_is_an_error_of_the_correction(tmp_path):
    path = tmp_path / "gate.json"
    write_gate(path, GATE, {})
    with pytest.raises(BackendError, match="learnt from scores"):
        GATE("q", "a", None)
    assert aligner_of(mend, gate=str(path), on_error="keep").correct("q", "it is bad").outcome == "failed"


def test_it_can_be_copied_and_sent_and_names_itself_in_a_cache(tmp_path):
    path = tmp_path / "gate.json"
    write_gate(path, GATE, {})
    assert pickle.loads(pickle.dumps(GATE)) == copy.deepcopy(GATE) == GATE  # noqa: S301 - our own
    assert scoring(1.0)(gate=path).policy == scoring(1.0)(gate=GATE).policy


def test_features():
    features = dict(zip(FEATURES, features_of(score_of("two words", gap=4.0, marked=("words",))), strict=True))
    assert features["max_gap"] == 4.0 and features["gaps_above_1"] == 0.5 and features["mean_gap"] == 4.5
    assert len(features_of(score_of(""))) == len(FEATURES)


def broken(**changes):
    parts = {name: [1.0] * 7 for name in ("centre", "scale", "weights")}
    return {"threshold": 1, "learnt": {"features": list(FEATURES), **parts, "bias": 0, **changes}}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"threshold": "1"}',
        '{"threshold": true}',
        '{"threshold": NaN}',
        json.dumps(broken(scale=[0.0] * 7)),
        json.dumps(broken(weights=[1.0])),
        json.dumps(broken(centre="1234567")),
        json.dumps(broken(bias=None)),
        json.dumps({"threshold": 1, "learnt": 3}),
    ],
)
def test_a_file_that_is_no_gate(tmp_path, content):
    path = tmp_path / "gate.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="is no gate"):
        aligner_of(mend, gate=path)


def test_a_gate_of_another_version_and_one_that_is_not_there(tmp_path):
    path = tmp_path / "gate.json"
    path.write_text(json.dumps(broken(features=["length"])))
    with pytest.raises(ConfigurationError, match="this version does not have"):
        read_gate(path)
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        aligner_of(mend, gate=tmp_path / "none.json")
