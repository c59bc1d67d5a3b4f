"""Judging answers: log-probabilities, gaps and the gate's marks for every token.

Whole answers, and batches of them, in one forward pass; or one step by step while its correction streams, so that what is
certain is shown and nothing is read twice. The words with which the aligner would repeat the answer are part of what is
shown whatever the gate says. The gate's arithmetic: `probe.py`. What is done with the scores: `backend.py`, `streaming.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from aligner_integrations.backends.deadline import Stop
from aligner_integrations.backends.encoding import encode_completion
from aligner_integrations.backends.local.kv_cache import Rows
from aligner_integrations.backends.local.loading import Weights
from aligner_integrations.backends.local.prefix_cache import Prefix
from aligner_integrations.backends.local.probe import answer_features, token_features
from aligner_integrations.backends.local.speculative import DraftSupport, share_beginning
from aligner_integrations.backends.request import Request
from aligner_integrations.backends.score import Keep, Score, TokenScore

# Most tokens in one step: bounds the memory of the logits.
_MOST_TOKENS = 256

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
    # Padding on the left lines the answers up at the right end, so that logits are made for that part only.
    ids, mask = weights.padded([p + a for p, a in zip(prompts, answers, strict=True)])
    output = weights.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=max(map(len, answers)) + 1,
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
    rows = forward_answers(weights, prompts, answers, layers=probe.layers if probe else [], keep=keep)
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
    spans = _spans(weights, request)
    objections: dict[str, float] = {}
    if probe and probe.answers and len(logprobs) == len(spans):
        objections = probe.answers.logits(answer_features(*states[probe.answers.layer]))
    spans = spans[: len(logprobs)]
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
        objections=objections,
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
    layers = weights.probe.layers if weights.probe else []
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
        fresh, size = [], _MOST_TOKENS
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
