"""Judging answers in one forward pass: log-probabilities, gaps and the gate's marks for every token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aligner_integrations.backends.base import Request, Score, TokenScore
from aligner_integrations.backends.encoding import encode_completion
from aligner_integrations.backends.local.kv_cache import Rows
from aligner_integrations.backends.local.loading import Weights
from aligner_integrations.backends.local.probe import token_features
from aligner_integrations.backends.local.speculative import share_beginning

Judged = tuple[torch.Tensor, torch.Tensor, dict[int, tuple[torch.Tensor, torch.Tensor]]]
"""Of one answer: log-probabilities in nats, shape (tokens,); gaps in nats, shape (tokens,); and for each layer the hidden
states that predict and that have read each token, shape (tokens, hidden), in float32 on the CPU."""


def forward_answers(
    weights: Weights,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    *,
    layers: Sequence[int] = (),
    keep: bool = False,
) -> list[Judged]:
    """Run prompts with their answers as completions, each answer with its end token. Call it under the weights' lock.

    Args:
        weights: The loaded aligner.
        prompts: Token ids of each prompt.
        answers: Token ids of each answer, end token included.
        layers: Layers whose hidden states are wanted.
        keep: Go on from what went through the model before, and leave what this pass finds out for corrections that may
            follow, in `weights.prefixes`.
    """
    support = weights.drafts
    with torch.inference_mode():
        if not keep or support is None or not (len(prompts) == 1 or support.batches):
            return _forward_afresh(weights, prompts, answers, layers)
        share_beginning(weights.model, support, prompts, weights.prefixes)
        # The prompt's last token goes through in any case, because its logits are wanted.
        starts = [weights.prefixes.find(prompt[:-1]) for prompt in prompts]
        # Shorter rows read the end of what is known once more, instead of padding: so they have no holes.
        most = max(len(prompt) - known for prompt, (_, known) in zip(prompts, starts, strict=True))
        starts = [(prefix, max(0, len(prompt) - most)) for prompt, (prefix, _) in zip(prompts, starts, strict=True)]
        fresh = [prompt[known:] for prompt, (_, known) in zip(prompts, starts, strict=True)]
        rows = Rows(weights.model, starts)
        logits = rows.forward(fresh, answers, hidden_states=bool(layers))
        slots = len(prompts) * (max(rows.lengths) + max(map(len, answers)))
        fits = slots <= weights.prefixes.most_bytes // support.token_bytes
        results, prefixes = [], []
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            n = len(answer)
            states = {layer: rows.hidden_states[layer][i, : n + 1] for layer in layers}
            judged, choices = judge(logits[i, :n], answer, states)
            results.append(judged)
            if fits:
                prefixes.append(rows.prefix(i, prompt + answer, choices.tolist(), len(prompt) - 1))
        weights.prefixes.add(*prefixes)
        return results


def _forward_afresh(
    weights: Weights, prompts: Sequence[list[int]], answers: Sequence[list[int]], layers: Sequence[int]
) -> list[Judged]:
    rows = [p + a for p, a in zip(prompts, answers, strict=True)]
    width, longest = max(map(len, rows)), max(map(len, answers))
    device, pad = weights.model.device, weights.tokenizer.pad_token_id
    # Padding on the left lines the answers up at the right end, so that logits are made for that part only.
    ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows], device=device)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
    output = weights.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=longest + 1,
        output_hidden_states=bool(layers),
        use_cache=False,
    )
    results = []
    for i, answer in enumerate(answers):
        n = len(answer)
        states = {layer: output.hidden_states[layer][i, -n - 1 :] for layer in layers}
        results.append(judge(output.logits[i, -n - 1 : -1].float(), answer, states)[0])
    return results


def judge(logits: torch.Tensor, answer: list[int], states: dict[int, torch.Tensor]) -> tuple[Judged, torch.Tensor]:
    """Judge an answer by the logits before each of its tokens, and the hidden states before, at and after them.

    Returns:
        What is judged, and the model's own choice at each place, shape (tokens,).
    """
    tokens = torch.tensor(answer, device=logits.device)
    best = logits.max(-1)  # five times faster than argmax
    gaps = best.values - logits.gather(1, tokens[:, None])[:, 0]
    logprobs = -torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
    pairs = {layer: (s[:-1].float().cpu(), s[1:].float().cpu()) for layer, s in states.items()}
    return (logprobs.cpu(), gaps.cpu(), pairs), best.indices


def score_batch(
    weights: Weights, prompts: Sequence[list[int]], requests: Sequence[Request], *, keep: bool = True
) -> list[Score]:
    """Return the score of each request's answer; see `Score`, and for `keep` `forward_answers`."""
    answers = [answer_to_judge(weights, request) for request in requests]
    probe = weights.probe
    rows = forward_answers(weights, prompts, answers, layers=[probe.layer] if probe else [], keep=keep)
    return [score_of(weights, request, row) for request, row in zip(requests, rows, strict=True)]


def answer_to_judge(weights: Weights, request: Request) -> list[int]:
    """Return an answer's tokens as a completion, end token included."""
    end = weights.tokenizer.eos_token_id if weights.tokenizer.eos_token_id is not None else weights.stop_ids[0]
    return [*encode_completion(weights.tokenizer, request.completion_prefix, request.answer.strip()), end]


def score_of(weights: Weights, request: Request, judged: Judged) -> Score:
    """Return the score of an answer, or of its first tokens if those are what was judged."""
    logprobs, gaps, states = judged
    probe = weights.probe
    marks = probe.marks(token_features(*states[probe.layer], gaps, logprobs)).tolist() if probe else None
    spans = _spans(weights, request)[: len(logprobs)]
    tokens = tuple(
        TokenScore(request.answer[start:stop], start, stop, logprob, gap, None if marks is None else marks[i])
        for i, ((start, stop), logprob, gap) in enumerate(zip(spans, logprobs.tolist(), gaps.tolist(), strict=True))
    )
    return Score(
        tokens,
        total=float(logprobs.sum()),
        mean=float(logprobs.mean()),
        minimum=float(logprobs.min()),
        max_gap=float(gaps.max()),
        gate=None if marks is None else max(marks),
    )


def _spans(weights: Weights, request: Request) -> list[tuple[int, int]]:
    """Character span in the answer of each token, and an empty one at its end for the end token."""
    core = request.answer.strip()
    lead = len(request.answer) - len(request.answer.lstrip())
    encoded = weights.tokenizer(
        request.completion_prefix + core,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
    )
    prefix = len(request.completion_prefix)
    end = lead + len(core)
    return [(max(0, a - prefix) + lead, max(0, b - prefix) + lead) for a, b in encoded["offset_mapping"]] + [(end, end)]
