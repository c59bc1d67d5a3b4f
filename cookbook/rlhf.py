"""The paper's third way to teach an upstream by corrections (section 4): RLHF, on the data that `aligner preferences` writes.

    aligner preferences corrections.jsonl pairs --conversational
    python cookbook/rlhf.py --data pairs --upstream HuggingFaceTB/SmolLM2-135M-Instruct --output rlhf

First a reward model learns to prefer corrections to the answers they correct (TRL's RewardTrainer). Then the upstream answers the same
questions, several times each, and moves towards the answers that the reward model prefers to the mean of the others (RLOO), held near
to where it was by a KL term (`--beta`). In the paper this made Alpaca-7B more harmless and much less helpful (helpfulness -38.9%, table 4),
where SFT on corrections made it both (+14.0%); so SFT, or DPO with an SFT term, is what `aligner bootstrap` does, and this is a script
to start from. Measure what comes out before you use it. It needs `pip install 'aligner-integrations[train]'`.
"""

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer, RLOOConfig, RLOOTrainer


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder written by aligner preferences --conversational")
    parser.add_argument("--upstream", required=True, help="what is taught: Hub id or folder")
    parser.add_argument("--reward-base", help="what becomes the reward model; default: the upstream")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument(
        "--steps", type=int, default=-1, help="at most so many updates of each training; default: one pass"
    )
    parser.add_argument("--batch", type=int, default=16, help="rows a step")
    parser.add_argument("--generations", type=int, default=4, help="answers to a question that are compared")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--beta", type=float, default=0.05, help="weight of the KL term")
    parser.add_argument("--reward-rate", type=float, default=1e-5)
    parser.add_argument("--rate", type=float, default=1e-6)
    return parser.parse_args()


def shared(given: argparse.Namespace, folder: Path) -> dict:
    """What both trainings are told."""
    on_cpu = not torch.cuda.is_available()
    return {
        "output_dir": str(folder), "max_steps": given.steps, "num_train_epochs": 1, "use_cpu": on_cpu, "bf16": not on_cpu,
        "per_device_train_batch_size": given.batch, "dataloader_pin_memory": not on_cpu, "logging_steps": 1, "report_to": [],
    }  # fmt: skip


def tokenizer_of(name: str):
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def train_reward(given: argparse.Namespace) -> Path:
    """A reward model that prefers corrections to the answers they correct."""
    folder, base = given.output / "reward", given.reward_base or given.upstream
    tokenizer = tokenizer_of(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    config = RewardConfig(**shared(given, folder), learning_rate=given.reward_rate)
    pairs = load_dataset(given.data, "preference", split="train")
    trainer = RewardTrainer(model, args=config, train_dataset=pairs, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    return folder


def train_upstream(given: argparse.Namespace, reward: Path) -> Path:
    """The upstream, moved towards what the reward model prefers."""
    folder = given.output / "upstream"
    questions = load_dataset(given.data, "sft", split="train").select_columns(["prompt"])
    config = RLOOConfig(
        **shared(given, folder), learning_rate=given.rate, beta=given.beta, num_generations=given.generations,
        max_completion_length=given.max_new_tokens,
    )  # fmt: skip
    trainer = RLOOTrainer(
        given.upstream,
        reward_funcs=str(reward),
        args=config,
        train_dataset=questions,
        processing_class=tokenizer_of(given.upstream),
    )
    trainer.train()
    trainer.save_model()
    return folder


if __name__ == "__main__":
    given = arguments()
    print("reward model:", reward := train_reward(given))
    print("upstream:", train_upstream(given, reward))
