"""The script for a day on a GPU, with a tiny model on the CPU: each part runs and says what it should."""

import json

import pytest

from aligner_integrations.bench import gpu_day
from aligner_integrations.bench.random_model import MINIATURE, answers, write_model

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_each_part_runs_in_miniature(tmp_path):
    assert gpu_day.main([str(tmp_path / "day.json"), "--miniature"]) == 0
    found = json.loads((tmp_path / "day.json").read_text())
    assert tuple(found) == gpu_day.PARTS
    for part in ("copied", "rewritten"):
        assert {way["same_texts"] for way in found[part].values() if isinstance(way, dict)} == {"2 of 2"}
    assert found["lossless"]["drafts"]["same_texts"] == "2 of 2"
    assert found["embedded"]["cpu float32"]["same_texts"] == "8 of 8"
    assert found["lora_step"]["steps"] == found["full_step"]["steps"] == 4


def test_a_part_that_fails_leaves_the_others_alone(tmp_path):
    day = gpu_day.Day(MINIATURE, "cpu", "float32", 1, 2, 300, tmp_path / "model")
    assert not gpu_day.run(day, tmp_path / "day.json", 60, ("scoring", "machine"))
    found = json.loads((tmp_path / "day.json").read_text())
    assert "failed" in found["scoring"] and found["machine"]["bandwidth_gb_s"] > 0
    gpu_day.run(day, tmp_path / "day.json", 0, ("machine",))
    assert json.loads((tmp_path / "day.json").read_text())["machine"] == {"left_out": "the time was over"}


def test_without_a_gpu_it_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_day.main([str(tmp_path / "day.json")])
    assert "--miniature" in capsys.readouterr().err


def test_the_random_model_has_a_word_for_each_number(tmp_path):
    import torch
    from transformers import AutoTokenizer

    write_model(tmp_path / "model", MINIATURE, device="cpu", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(tokenizer) == MINIATURE.vocabulary
    for _, answer in answers():
        assert tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"]) == answer
