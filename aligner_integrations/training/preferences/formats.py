"""Rows as trainers take them: TRL's preference, unpaired preference and prompt-completion formats, and triples for an aligner.

preference   {"prompt", "chosen", "rejected"}     DPOTrainer, RewardTrainer: the correction is chosen, the answer rejected (paper, section 4)
kto          {"prompt", "completion", "label"}    KTOTrainer
sft          {"prompt", "completion"}             SFTTrainer, of the upstream: corrections, and answers that were left alone
triples      {"question", "answer", "correction"} `aligner train`, of another aligner; identity pairs among them
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aligner_integrations.correction import Correction

FORMATS = ("preference", "kto", "sft", "triples")


def rows_of(correction: Correction, kind: str, *, conversational: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows that one correction makes.

    Args:
        correction: One that is fit to learn from.
        kind: One of `FORMATS`.
        conversational: Texts as messages, so that a trainer puts its model's chat template around them.
    """
    question, answer, text = correction.question, correction.answer, correction.text
    if kind == "triples":
        yield {"question": question, "answer": answer, "correction": text}
        return

    def said(text: str) -> Any:
        return [{"role": "assistant", "content": text}] if conversational else text

    prompt: Any = [{"role": "user", "content": question}] if conversational else question
    if kind == "sft":
        yield {"prompt": prompt, "completion": said(text)}
    elif kind == "kto":
        yield {"prompt": prompt, "completion": said(text), "label": True}
        if correction.changed:
            yield {"prompt": prompt, "completion": said(answer), "label": False}
    elif correction.changed:
        yield {"prompt": prompt, "chosen": said(text), "rejected": said(answer)}
