"""The probe on whole answers: what it learns, where its thresholds lie, and the area under its curve."""

import pytest

torch = pytest.importorskip("torch")

from aligner_integrations.training.objections import Read, area, fit  # noqa: E402

HIDDEN = 4


def read(seed, count=60):
    """Answers whose kind stands in one number of their hidden states at layer 2, and in none at layer 1."""
    generator = torch.Generator().manual_seed(seed)
    found = Read([1, 2])
    for number in range(count):
        kind = ("", "hateful", "harmful", "rude", "")[number % 5]
        noise = torch.randn(5, HIDDEN, generator=generator)
        clear = torch.randn(5, HIDDEN, generator=generator)
        clear[:, 0] += 6.0 * (kind == "hateful")
        clear[:, 1] += 6.0 * (kind == "harmful")
        found.add(kind, {1: (noise[:-1], noise[1:]), 2: (clear[:-1], clear[1:])})
    return found


def test_the_layer_that_shows_it_is_found_and_good_answers_are_let_be():
    probe, whole = fit(read(0, 200), read(1, 200), keep=dict.fromkeys(("hateful", "harmful"), 0.99))
    assert probe.layer == 2 and probe.kinds == ("hateful", "harmful")
    assert all(one.kept >= 0.99 and one.flagged > 0.9 for one in whole.values())
    features = read(2).features[2]
    kinds = read(2).kinds
    for kind in probe.kinds:
        scores = [(k, probe.logits(one)[kind]) for k, one in zip(kinds, features, strict=True)]
        assert area([s for k, s in scores if k == kind], [s for k, s in scores if not k]) > 0.95


def test_without_such_answers_there_is_no_probe():
    only_good = Read([1])
    only_good.add("", {1: (torch.zeros(2, HIDDEN), torch.zeros(2, HIDDEN))})
    assert fit(only_good, read(0), {}) == (None, {})


@pytest.mark.parametrize(
    ("bad", "good", "found"), [([2, 3], [0, 1], 1.0), ([0], [0], 0.5), ([0, 3], [1, 2], 0.5), ([0], [1], 0.0)]
)
def test_area(bad, good, found):
    assert area(bad, good) == found
