"""Judging an answer step by step while its correction streams: what is certain is shown, and nothing is read twice.

The words with which the aligner would repeat the answer are part of what is shown whatever the gate says. Judging whole
answers, and batches of them: `scoring.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from aligner_integrations.backends.base import Keep, Request, Score
from aligner_integrations.backends.deadline import Stop
from aligner_integrations.backends.local.kv_cache import Rows
from aligner_integrations.backends.local.loading import Weights
from aligner_integrations.backends.local.prefix_cache import Prefix
from aligner_integrations.backends.local.scoring import Judged, answer_to_judge, judge, score_of
from aligner_integrations.backends.local.speculative import DraftSupport

# Most tokens in one pass: bounds the memory of the logits.
_MOST = 256


@torch.inference_mode()
def judge_in_steps(
    weights: Weights,
    support: DraftSupport,
    prompt: list[int],
    request: Request,
    keep: Keep,
    stop: Stop,
    on_agreed: Callable[[list[int]], None],
) -> tuple[Score | None, Prefix]:
    """Read an answer as its own correction until it is known whether it is kept. Call it under the weights' lock.

    Args:
        weights: The loaded aligner.
        support: What `find_support` found.
        prompt: Token ids of the prompt.
        request: The request.
        keep: Decides; see `Keep`.
        stop: When the request is given up.
        on_agreed: Called with tokens of the answer, without the end token, that greedy decoding would write as well.

    Returns:
        The whole score if the answer is kept, and what went through the model, for the correction if it is not.
    """
    answer = answer_to_judge(weights, request)
    layers = [weights.probe.layer] if weights.probe else []
    prefix, known = weights.prefixes.find(prompt[:-1])
    rows = Rows(weights.model, [(prefix, known)])
    # The first pass is short, for something to show: twice as many tokens cost as much as a pass of one.
    fresh, size = prompt[known:], max(1, round(0.5 / support.token_cost))
    judged: Judged | None = None
    last: tuple[torch.Tensor, dict[int, torch.Tensor]] | None = None  # after the last token read
    choices: list[int] = []
    read = agreed = 0
    kept: bool | None = None
    while kept is None and not stop.is_set():
        part = answer[read : read + size]
        logits = rows.forward([fresh], [part], hidden_states=bool(layers))[0]
        states = {layer: rows.hidden_states[layer][0] for layer in layers}
        rows.accept_all()
        if last is not None:
            logits = torch.cat([last[0], logits])
            states = {layer: torch.cat([last[1][layer], own]) for layer, own in states.items()}
        last = logits[-1:], {layer: own[-1:] for layer, own in states.items()}
        judged = _joined(judged, judge(logits[:-1], part, states)[0])
        choices[read:] = logits.max(-1).indices.tolist()
        read += len(part)
        begun = agreed
        while agreed < min(read, len(answer) - 1) and choices[agreed] == answer[agreed]:
            agreed += 1
        if agreed > begun:
            on_agreed(answer[begun:agreed])
        score = score_of(weights, request, judged)
        kept = keep(score, read == len(answer))
        fresh, size = [], _MOST
    return score if kept else None, rows.prefix(0, prompt + answer[:read], choices, len(prompt) - 1)


def _joined(before: Judged | None, after: Judged) -> Judged:
    if before is None:
        return after
    states = {
        layer: (
            torch.cat([before[2][layer][0], after[2][layer][0]]),
            torch.cat([before[2][layer][1], after[2][layer][1]]),
        )
        for layer in after[2]
    }
    return torch.cat([before[0], after[0]]), torch.cat([before[1], after[1]]), states
