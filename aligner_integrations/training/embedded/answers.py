"""Answers of a real upstream, SmolLM2-135M-Instruct, to the data's questions: the paper's way to rows that fit (section 3).

To ordinary questions its answers are good enough to be left alone; to harmful ones it often does what was asked. Sampled with a
seed, in batches of like lengths; each batch is on disk before the next one begins, so that a killed run goes on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from aligner_integrations.backends.local.devices import quick_dtype
from aligner_integrations.backends.local.loading import load_base
from aligner_integrations.jsonl import read_jsonl
from aligner_integrations.training.embedded.sources import Pair

logger = logging.getLogger(__name__)

ANSWERS_FILE = "upstream_answers.jsonl"
_BATCH = 64
_NEW_TOKENS = 96


def ask(questions: Sequence[str], path: Path, seed: int) -> dict[str, str]:
    """Return question -> answer; what is in the file is not asked again.

    Args:
        questions: What to ask.
        path: Where answers are kept.
        seed: Of the sampling.
    """
    known = {row["question"]: row["answer"] for _, row in read_jsonl(path)} if path.exists() else {}
    missing = sorted(set(questions) - known.keys(), key=lambda question: (len(question), question))
    if missing:
        model, tokenizer = load_base("embedded")  # a step of 64 tokens takes three times as long in bfloat16 on a CPU
        tokenizer.padding_side = "left"
        model.eval()
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        torch.manual_seed(seed + len(known))  # the same for a run that goes on
        texts = [
            tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True)
            for q in batch
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                max_new_tokens=_NEW_TOKENS,
                do_sample=True,
                temperature=0.7,
                top_k=50,
                pad_token_id=tokenizer.eos_token_id,
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        with path.open("a", encoding="utf-8") as file:
            for question, tokens in zip(batch, new, strict=True):
                known[question] = _whole(tokenizer.decode(tokens, skip_special_tokens=True).strip())
                file.write(json.dumps({"question": question, "answer": known[question]}, ensure_ascii=False) + "\n")
        logger.info("upstream: %d of %d questions answered", len(known), len(known.keys() | set(missing)))
    return {question: known[question] for question in questions}


def answered(known: dict[str, str], questions: Sequence[str]) -> list[Pair]:
    """Return questions with their answers, those without words left out."""
    return [Pair(q, known[q], "SmolLM2") for q in questions if len(known.get(q, "")) > 40]


def _whole(text: str) -> str:
    """Cut at the token limit, an answer ends with its last whole sentence or line."""
    if not text or text[-1] in ".!?`|)\"'":
        return text
    end = max(text.rfind(mark) for mark in (". ", "! ", "? ", "\n"))
    return text[: end + 1].strip() if end > 0 else text


class BaseLikelihood:
    """The base model's mean log-probability a token of texts, in nats."""

    def __init__(self, batch_tokens: int = 4096) -> None:
        self._batch_tokens = batch_tokens

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Return one number a text."""
        model, tokenizer = load_base("embedded", dtype=quick_dtype())
        model.eval()
        ids = [tokenizer("\n" + text)["input_ids"] for text in texts]
        found = [0.0] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
        while order:
            width = len(ids[order[0]])
            batch: list[int] = []
            while order and len(ids[order[0]]) * (len(batch) + 1) <= max(self._batch_tokens, width):
                batch.append(order.pop(0))
            width = len(ids[batch[-1]])
            rows = torch.tensor([ids[i] + [tokenizer.eos_token_id] * (width - len(ids[i])) for i in batch])
            with torch.inference_mode():
                logits = model(input_ids=rows).logits[:, :-1].float()
            wanted = rows[:, 1:]
            flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
            likely = -flat.view_as(wanted)
            for row, i in enumerate(batch):
                found[i] = float(likely[row, : len(ids[i]) - 1].mean())
        return found
