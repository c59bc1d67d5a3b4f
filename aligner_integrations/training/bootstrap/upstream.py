"""An upstream that runs here: its answers, as texts, and how likely it finds other answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from aligner_integrations.backends.local.devices import default_device
from aligner_integrations.backends.local.loading import load_base
from aligner_integrations.training.bootstrap.questions import GoodAnswer


class Upstream:
    """A causal language model with its tokenizer, in float32.

    Args:
        name: Hub id or folder; "embedded" is the base of the embedded aligner.
        revision: Commit on the Hub.
    """

    def __init__(self, name: str | Path, revision: str | None = None) -> None:
        self.model, self.tokenizer = load_base(str(name), revision)
        self.model.to(default_device()).eval()
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "left"

    def prompt(self, question: str) -> str:
        """What stands before its answer: the question in the model's own chat template, or alone if it has none."""
        if self.tokenizer.chat_template is None:
            return question
        asked = [{"role": "user", "content": question}]
        return str(self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))

    def answers(
        self, questions: Sequence[str], *, max_new_tokens: int, temperature: float | None = None, seed: int = 0
    ) -> list[str]:
        """Answer questions as one batch.

        Args:
            questions: What is asked.
            max_new_tokens: Longest answer.
            temperature: Draw at this temperature; None: greedy.
            seed: Of the drawing.
        """
        inputs = self._encoded([self.prompt(question) for question in questions])
        ends = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id} - {None}
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=temperature is not None,
            **({"temperature": temperature, "top_k": 0} if temperature is not None else {}),
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(ids),
        )
        torch.manual_seed(seed)
        with torch.inference_mode():
            out = self.model.generate(**inputs, generation_config=settings)
        texts = self.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [str(text).strip() for text in texts]

    def perplexity(self, good: Sequence[GoodAnswer], on_progress: Callable[[int], None] | None = None) -> float:
        """How surprised it is by good answers: exp of the mean negative log-likelihood of their tokens, in nats."""
        total, count = 0.0, 0
        for number, (question, answer) in enumerate(good, start=1):
            # As strings, so that prompt and answer are split where generation splits them.
            prompt = self._ids(self.prompt(question))
            ids = prompt + self._ids(answer, special=False)
            ids = ids[: self._window]
            if len(ids) > len(prompt):
                with torch.inference_mode():
                    logits = self.model(torch.tensor([ids], device=self.model.device)).logits[0, len(prompt) - 1 : -1]
                target = torch.tensor(ids[len(prompt) :], device=logits.device)
                total += float(torch.nn.functional.cross_entropy(logits.float(), target, reduction="sum"))
                count += len(target)
            if on_progress is not None:
                on_progress(number)
        return math.exp(total / count) if count else math.nan

    @property
    def _window(self) -> int:
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2048)

    def _ids(self, text: str, *, special: bool = True) -> list[int]:
        templated = self.tokenizer.chat_template is not None
        ids: list[int] = self.tokenizer(text, add_special_tokens=special and not templated)["input_ids"]
        return ids

    def _encoded(self, prompts: Sequence[str]) -> Any:
        templated = self.tokenizer.chat_template is not None  # which says itself what begins a text
        return self.tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=not templated).to(
            self.model.device
        )
