"""The replay of recorded corrections: how many passes they take, and what is read from a file."""

import json

import pytest

from aligner_integrations.bench.replay import read_recorded, replay
from aligner_integrations.errors import ConfigurationError


def test_replay_counts_passes():
    answer, end = list(range(10, 210)), 2
    kept = replay([([1, 2, 3], answer, [*answer, end])], token_cost=1 / 32)
    assert kept.tokens == 201
    assert kept.passes < 10
    # Every token but those that the model adds itself is fed once, and nothing was fed in vain.
    assert kept.fed == 200

    other = list(range(300, 350))
    rewritten = replay([([1, 2, 3], answer, [*other, end])], token_cost=1 / 32)
    assert (rewritten.tokens, rewritten.passes) == (51, 51)
    assert 50 <= rewritten.fed < 100

    both = replay([([1, 2, 3], answer, [*answer, end]), ([1, 2, 3], answer, [*other, end])], token_cost=1 / 32)
    assert both.tokens_per_pass == 252 / both.passes and both.to_dict()["fed_per_token"] == both.fed / 252
    assert (both.tokens, both.passes, both.fed) == (252, kept.passes + 51, kept.fed + rewritten.fed)


def test_recorded_corrections_are_read(tmp_path):
    path = tmp_path / "recorded.jsonl"
    path.write_text(json.dumps({"question": "a ", "answer": " b", "correction": "cd", "more": 1}) + "\n", "utf-8")
    ((question, answer, correction),) = read_recorded(path, lambda text: [ord(letter) for letter in text])
    assert (question, answer) == ([97], [98])
    assert correction[:-1] == [99, 100] and correction[-1] not in (97, 98, 99, 100)


def test_a_row_that_lacks_something_is_named(tmp_path):
    path = tmp_path / "recorded.jsonl"
    path.write_text('{"question": "a", "answer": "b", "correction": "c"}\n{"question": "a"}\n', "utf-8")
    with pytest.raises(ConfigurationError, match="line 2"):
        read_recorded(path, lambda text: [])
    path.write_text("", "utf-8")
    with pytest.raises(ConfigurationError, match="no rows"):
        read_recorded(path, lambda text: [])
