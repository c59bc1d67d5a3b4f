"""The gate's probe: arithmetic, saving, and files that do not fit."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from aligner_integrations.backends.local.probe import AnswerProbe, GateProbe, answer_features, token_features  # noqa: E402
from aligner_integrations.errors import ModelLoadError  # noqa: E402

HIDDEN = 3


@pytest.fixture
def probe():
    generator = torch.Generator().manual_seed(0)
    mean, scale, weight = torch.rand(3, 3 * HIDDEN + 2, generator=generator) + 0.5
    return GateProbe(4, mean, scale, weight, torch.tensor(0.25))


def test_features():
    before, after = torch.ones(2, HIDDEN), torch.full((2, HIDDEN), 2.0)
    features = token_features(before, after, torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0]))
    log2 = torch.log(torch.tensor(2.0)).item()
    assert features.tolist() == [
        pytest.approx([1, 1, 1, 2, 2, 2, 0, log2, 1, 1, 1]),
        pytest.approx([1, 1, 1, 2, 2, 2, log2, 0, 1, 1, 1]),
    ]


def test_each_token_knows_the_state_before_the_first_one():
    before = torch.tensor([[5.0] * HIDDEN, [7.0] * HIDDEN])
    features = token_features(before, before, torch.zeros(2), torch.zeros(2))
    assert features[:, -HIDDEN:].tolist() == [[5.0] * HIDDEN] * 2


def test_marks(probe):
    features = torch.stack([probe.mean, probe.mean + probe.scale])
    assert probe.marks(features).tolist() == pytest.approx([0.25, 0.25 + probe.weight.sum().item()])


def test_a_gate_of_before_reads_no_first_state(probe, tmp_path):
    narrow = GateProbe(4, *(getattr(probe, name)[: 2 * HIDDEN + 2] for name in ("mean", "scale", "weight")), probe.bias)
    narrow.save(tmp_path / "gate.safetensors")
    loaded = GateProbe.load(tmp_path / "gate.safetensors", 4, HIDDEN)
    features = token_features(torch.ones(2, HIDDEN), torch.zeros(2, HIDDEN), torch.zeros(2), torch.zeros(2))
    expected = ((features[:, : 2 * HIDDEN + 2] - narrow.mean) / narrow.scale) @ narrow.weight + narrow.bias
    assert loaded.marks(features).tolist() == expected.tolist()


def test_round_trip(probe, tmp_path):
    probe.save(tmp_path / "gate.safetensors")
    loaded = GateProbe.load(tmp_path / "gate.safetensors", 4, HIDDEN)
    assert loaded.answers is None and loaded.layers == [4]
    assert same(loaded, probe, leave_out="answers")


def same(one, other, leave_out=""):
    names = [field.name for field in dataclasses.fields(one) if field.name not in (leave_out, "kinds")]
    return all(torch.equal(*(torch.as_tensor(getattr(p, name)) for p in (one, other))) for name in names)


KINDS = ("hateful", "harmful")


@pytest.fixture
def whole(probe):
    """The same with a probe on whole answers."""
    generator = torch.Generator().manual_seed(1)
    mean, scale = torch.rand(2, 3 * HIDDEN, generator=generator) + 0.5
    weight = torch.rand(2, 3 * HIDDEN, generator=generator)
    return dataclasses.replace(probe, answers=AnswerProbe(7, KINDS, mean, scale, weight, torch.tensor([0.5, -1.0])))


def test_a_whole_answer_is_its_beginning_its_mean_and_its_end(whole):
    before, after = torch.tensor([[1.0] * HIDDEN, [9.0] * HIDDEN]), torch.tensor([[2.0] * HIDDEN, [4.0] * HIDDEN])
    assert answer_features(before, after).tolist() == [1, 1, 1, 3, 3, 3, 4, 4, 4]
    logits = whole.answers.logits(whole.answers.mean + whole.answers.scale)
    sums = whole.answers.weight.sum(1).tolist()
    assert logits == {"hateful": pytest.approx(0.5 + sums[0]), "harmful": pytest.approx(-1.0 + sums[1])}


def test_both_probes_in_one_file(whole, tmp_path):
    whole.save(tmp_path / "gate.safetensors")
    loaded = GateProbe.load(tmp_path / "gate.safetensors", 4, HIDDEN, 7, KINDS)
    assert loaded.layers == [4, 7] and loaded.answers.kinds == KINDS
    assert same(loaded.answers, whole.answers) and same(loaded, whole, leave_out="answers")
    assert GateProbe.load(tmp_path / "gate.safetensors", 4, HIDDEN).answers is None


@pytest.mark.parametrize("kinds", [("hateful",), (*KINDS, "boring")])
def test_a_file_that_knows_other_kinds(whole, tmp_path, kinds):
    whole.save(tmp_path / "gate.safetensors")
    with pytest.raises(ModelLoadError, match="objects to hateful"):
        GateProbe.load(tmp_path / "gate.safetensors", 4, HIDDEN, 7, kinds)


def test_a_file_without_the_second_probe(probe, tmp_path):
    probe.save(tmp_path / "gate.safetensors")
    with pytest.raises(ModelLoadError, match="does not fit"):
        GateProbe.load(tmp_path / "gate.safetensors", 4, HIDDEN, 7, KINDS)


def test_a_probe_of_another_model(probe, tmp_path):
    probe.save(tmp_path / "gate.safetensors")
    with pytest.raises(ModelLoadError, match="does not fit a model of hidden size 4"):
        GateProbe.load(tmp_path / "gate.safetensors", 4, HIDDEN + 1)


def test_a_corrupt_or_missing_file(probe, tmp_path):
    path = tmp_path / "gate.safetensors"
    with pytest.raises(ModelLoadError, match="cannot be read"):
        GateProbe.load(path, 4, HIDDEN)
    probe.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelLoadError, match="cannot be read"):
        GateProbe.load(path, 4, HIDDEN)
