"""Corrections that are as hard on drafting as can be: the model is made to write a script instead of its own choice.

The answers are no draft of such corrections, so whatever drafting costs shows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from aligner_integrations.backends.encoding import encode_prompt
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.backends.local.kv_cache import cache_argument
from aligner_integrations.backends.request import Completion, Request
from aligner_integrations.bench.decoding import Case
from aligner_integrations.errors import AlignerError

LONG_ANSWER, SHORT_CORRECTION = 400, 20
"""Tokens of an answer that is cut short, and of what is left of it."""

Script = tuple[int, ...]
"""Token ids of a completion, without the end token."""


class ScriptedBackend(LocalBackend):
    """Writes a script for some answers and corrects all others as usual; for one request at a time.

    Args:
        model: As for `LocalBackend`.
        scripts: Answer -> what is written for it.
        options: Further arguments of `LocalBackend`.
    """

    def __init__(self, model: str, scripts: Mapping[str, Script], **options: Any) -> None:
        super().__init__(model, **options)
        self.scripts = scripts

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Write the script of the request's answer, if it has one."""
        (request,) = requests
        script = self.scripts.get(request.answer)
        if script is None:
            return super().complete(requests)
        prompt = encode_prompt(self.tokenizer, request.prompt)
        with forced(self.model, len(prompt), [*script, self.weights.stop_ids[0]]):
            return super().complete(requests)


@contextmanager
def forced(model: Any, start: int, script: Sequence[int]) -> Iterator[None]:
    """Make a model choose the tokens of a script after its first `start` tokens, whichever way it is decoded."""

    def force(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        logits = output.logits
        read = kwargs[cache_argument(model)].get_seq_length()  # this pass's tokens included
        first = read - logits.shape[1] - start + 1  # place in the script that the first logits choose
        for i in range(max(0, -first), min(logits.shape[1], len(script) - first)):
            logits[0, i, script[first + i]] = torch.finfo(logits.dtype).max

    hook = model.register_forward_hook(force, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def hard_cases(cases: Sequence[Case], tokenizer: Any, seed: int = 0) -> tuple[list[Case], dict[str, Script]]:
    """Make adversarial cases of answers.

    Args:
        cases: Where questions and answers come from; two answers at least.
        tokenizer: The aligner's.
        seed: Which unrelated tokens are written.

    Returns:
        Cases of two kinds, "cut short" (400 tokens become 20 unrelated ones) and "rewritten" (each answer becomes another
        one of its length), and the script of each of their answers.
    """
    rng = random.Random(seed)
    special = set(tokenizer.all_special_ids)
    words = [token for token in range(len(tokenizer)) if token not in special]
    encoded = [tokenizer(case.answer.strip(), add_special_tokens=False)["input_ids"] for case in cases]
    made: list[Case] = []
    scripts: dict[str, Script] = {}

    def make(kind: str, number: int, answer: str, script: Sequence[int]) -> None:
        made.append(Case(kind, cases[number].question, answer))
        scripts[answer] = tuple(script)

    flat = [token for tokens in encoded for token in tokens]
    for number, place in enumerate(range(0, len(flat) - LONG_ANSWER, LONG_ANSWER)):
        text = tokenizer.decode(flat[place : place + LONG_ANSWER], skip_special_tokens=True)
        make("cut short", number, text, rng.choices(words, k=SHORT_CORRECTION))
    for number, (case, tokens) in enumerate(zip(cases, encoded, strict=True)):
        other = encoded[(number + 1) % len(encoded)]
        while len(other) < len(tokens):
            other = other * 2
        make("rewritten", number, case.answer, other[: len(tokens)])
    return made, scripts
