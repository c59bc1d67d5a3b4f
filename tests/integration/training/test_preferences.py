"""Exports train unchanged in TRL's trainers: SFT, DPO, KTO and reward models, on tiny models, plain and conversational."""

import math

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.recording import read_records
from aligner_integrations.training.preferences.export import export
from tests.unit.support import TEMPLATE, mend

pytestmark = pytest.mark.integration

CHAT = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Corrections as an aligner records them."""
    path = tmp_path_factory.mktemp("records") / "corrections.jsonl"
    aligner = Aligner(backend=FakeBackend(mend), template=TEMPLATE, record=path)
    words = ["tea", "water", "kettle", "drink", "advice", "milk", "cup", "pot"]
    pairs = [
        (f"What is {one} with {other}?", f"The {one} is {'bad' if i % 3 else 'fine'}, so take {other}, {i}.")
        for i, (one, other) in enumerate((one, other) for one in words for other in words)
    ]
    aligner.correct_many(pairs)
    aligner.record.close()
    return path


@pytest.fixture(params=[False, True], ids=["plain", "conversational"])
def folder(records, tmp_path, request):
    found = export(read_records(records), tmp_path / "data", conversational=request.param)
    assert found.rows["preference"]["train"] > 30
    return tmp_path / "data"


def parts(folder, kind, model, tmp_path):
    """Rows as `datasets` reads them by the card alone, the model and its tokenizer."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = load_dataset(str(folder), kind, split="train", cache_dir=str(tmp_path / "cache"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template, tokenizer.pad_token = CHAT, tokenizer.eos_token
    return rows, AutoModelForCausalLM.from_pretrained(model), tokenizer


def arguments(tmp_path, **more):
    return {
        "output_dir": str(tmp_path / "out"), "max_steps": 3, "per_device_train_batch_size": 4, "use_cpu": True,
        "report_to": [], "save_strategy": "no", "logging_steps": 1, "bf16": False, "dataloader_pin_memory": False, **more,
    }  # fmt: skip


def losses(trainer):
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(found) == 3 and all(map(math.isfinite, found))
    return found


def test_sft(folder, random_model, tmp_path):
    from trl import SFTConfig, SFTTrainer

    rows, model, tokenizer = parts(folder, "sft", random_model, tmp_path)
    trainer = SFTTrainer(model, SFTConfig(**arguments(tmp_path)), train_dataset=rows, processing_class=tokenizer)
    assert losses(trainer)


def test_dpo_with_an_sft_term(folder, random_model, tmp_path):
    from trl import DPOConfig, DPOTrainer

    rows, model, tokenizer = parts(folder, "preference", random_model, tmp_path)
    options = DPOConfig(**arguments(tmp_path), loss_type=["sigmoid", "sft"], loss_weights=[1.0, 1.0])
    trainer = DPOTrainer(model, args=options, train_dataset=rows, processing_class=tokenizer)
    assert losses(trainer)


def test_kto(folder, random_model, tmp_path):
    from trl import KTOConfig, KTOTrainer

    rows, model, tokenizer = parts(folder, "kto", random_model, tmp_path)
    assert set(rows["label"]) == {True, False}
    trainer = KTOTrainer(model, args=KTOConfig(**arguments(tmp_path)), train_dataset=rows, processing_class=tokenizer)
    assert losses(trainer)


def test_reward(folder, random_model, tmp_path):
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    rows, _, tokenizer = parts(folder, "preference", random_model, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(random_model, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    trainer = RewardTrainer(
        model, args=RewardConfig(**arguments(tmp_path)), train_dataset=rows, processing_class=tokenizer
    )
    assert losses(trainer)
