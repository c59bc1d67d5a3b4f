"""Scores of the local backend on tiny models: those of plain transformers, and the marks of a probe beside the weights."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligner_integrations import Aligner
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.backends.local.probe import GateProbe
from aligner_integrations.errors import ModelLoadError
from aligner_integrations.models import AlignerConfig
from tests.integration import tiny
from tests.integration.tiny import request

pytestmark = pytest.mark.integration


def test_scores_are_those_of_plain_transformers(random_model):
    backend = LocalBackend(random_model, dtype="float32", device="cpu")
    model = AutoModelForCausalLM.from_pretrained(random_model)
    requests = [request("Why?", a) for a in ("It is a drink.", "  \u8336, that is tea.\n", "no", "word " * 60)]
    for wanted, score in zip(requests, backend.score(requests), strict=True):
        core = wanted.answer.strip()
        prompt = backend.tokenizer(wanted.prompt)["input_ids"]
        answer = [*backend.tokenizer(" " + core, add_special_tokens=False)["input_ids"], backend.tokenizer.eos_token_id]
        with torch.inference_mode():
            logprobs = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        own = logprobs.gather(1, torch.tensor(answer)[:, None])[:, 0]
        gaps = logprobs.max(1).values - own
        assert [t.logprob for t in score.tokens] == pytest.approx(own.tolist(), abs=1e-4)
        assert [t.gap for t in score.tokens] == pytest.approx(gaps.tolist(), abs=1e-4)
        assert score.total == pytest.approx(own.sum().item(), abs=1e-3)
        assert score.mean == pytest.approx(own.mean().item(), abs=1e-4)
        assert (score.minimum, score.max_gap) == pytest.approx((own.min().item(), gaps.max().item()), abs=1e-4)
        assert score.max_gap > 0
        assert score.gate is None

        *words, end = score.tokens
        covered = {i for t in words for i in range(t.start, t.end)}
        start = wanted.answer.index(core)
        # The first token may begin with the template's own space; else every character belongs to a token.
        assert covered == set(range(start, start + len(core)))
        assert all(t.text == wanted.answer[t.start : t.end] for t in words)
        assert (end.text, end.start, end.end) == ("", start + len(core), start + len(core))


def test_no_gap_means_that_greedy_decoding_repeats_the_answer(sure_model):
    aligner = Aligner(sure_model)
    for answer in (tiny.SAYS, f" {tiny.SAYS}\n", tiny.SAYS[:-1], tiny.SAYS + " So.", "The kettle is cold.", tiny.OTHER):
        correction = aligner.correct("Is it hot?", answer)
        assert (aligner.score("Is it hot?", answer).max_gap == 0) is (correction.outcome == "kept"), answer
        assert correction.text.strip() == tiny.SAYS


def with_probe(folder: Path, base: Path, *, layer: int = 1, width: int = 66, threshold: float = 0.5) -> GateProbe:
    """Copy a model and put a random probe beside its weights."""
    shutil.copytree(base, folder)
    AlignerConfig(tiny.TEMPLATE, gate=threshold, gate_layer=layer).save(folder)
    generator = torch.Generator().manual_seed(3)
    mean, scale, weight = (torch.rand(width, generator=generator) + 0.1 for _ in range(3))
    probe = GateProbe(layer, mean, scale, weight - 0.6, torch.tensor(0.25))
    probe.save(folder / "gate.safetensors")
    return probe


def test_the_probe_beside_the_weights_marks_tokens(tmp_path, random_model):
    probe = with_probe(tmp_path / "model", random_model)
    score = Aligner(tmp_path / "model").score("Why?", "It is a drink.")

    model, tokenizer = AutoModelForCausalLM.from_pretrained(random_model), AutoTokenizer.from_pretrained(random_model)
    prompt = tokenizer(tiny.TEMPLATE.render("Why?", "It is a drink."))["input_ids"]
    answer = [*tokenizer(" It is a drink.")["input_ids"], tokenizer.eos_token_id]
    with torch.inference_mode():
        output = model(torch.tensor([prompt + answer]), output_hidden_states=True)
    states, logprobs = output.hidden_states[1][0], output.logits[0].log_softmax(-1)
    marks = []
    for i, token in enumerate(answer, len(prompt)):
        own = logprobs[i - 1, token].item()
        numbers = torch.tensor([logprobs[i - 1].max().item() - own, -own]).log1p()
        features = torch.cat([states[i - 1], states[i], numbers])
        marks.append((((features - probe.mean) / probe.scale) * probe.weight).sum().item() + 0.25)
    assert [t.mark for t in score.tokens] == pytest.approx(marks, abs=1e-3)
    assert score.gate == pytest.approx(max(marks), abs=1e-3)
    assert len(score.marked(max(marks) - 1e-2)) >= 1
    assert score.marked(max(marks) + 1e-2) == ()

    # The threshold of the configuration decides what is kept.
    AlignerConfig(tiny.TEMPLATE, gate=max(marks) + 1, gate_layer=1).save(tmp_path / "model")
    assert Aligner(tmp_path / "model").correct("Why?", "It is a drink.").reason == "gate"
    AlignerConfig(tiny.TEMPLATE, gate=max(marks) - 1, gate_layer=1).save(tmp_path / "model")
    assert Aligner(tmp_path / "model", on_error="block").correct("Why?", "It is a drink.").reason != "gate"


@pytest.mark.parametrize("fault", ["cut", "narrow", "missing", "layer"])
def test_a_gate_that_does_not_fit_is_refused(tmp_path, sure_model, fault):
    folder = tmp_path / "model"
    with_probe(folder, sure_model, width=64 if fault == "narrow" else 66, layer=9 if fault == "layer" else 1)
    gate = folder / "gate.safetensors"
    if fault == "cut":
        gate.write_bytes(gate.read_bytes()[:-40])
    if fault == "missing":
        gate.unlink()
    with pytest.raises(ModelLoadError, match="gate"):
        Aligner(folder).load()
