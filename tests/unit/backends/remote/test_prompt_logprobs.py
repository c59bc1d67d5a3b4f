"""Gates on a server: the answer's log-probabilities out of an echoed prompt, in the ways in which servers give them."""

import asyncio
import math
import re

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.remote import prompt_logprobs
from aligner_integrations.backends.remote.completions import CompletionsBackend
from aligner_integrations.errors import BackendError, ConfigurationError
from tests.unit.backends.remote.stub import Stub, completed, said
from tests.unit.backends.remote.test_completions import mended, request_of
from tests.unit.support import TEMPLATE

modes = pytest.mark.parametrize("mode", ["sync", "async"])


def echoing(*, bos=False, shows_end=True, shift=0, ends=True, tops=2, loops=False):
    """A server that echoes: each word is a token; "bad" has gap 4, all others are the first choice.

    Args:
        bos: Whether a BOS token comes first and is counted in the offsets, as with vLLM.
        shows_end: Whether the end token is among the written ones, as with vLLM; llama-cpp-python leaves it out.
        shift: By how many tokens the log-probabilities are off.
        ends: Whether the model would end after the answer.
        tops: How many first choices come with each token.
        loops: Whether it would write the same word again and again.
    """

    def handle(call):
        prompt, count = call.body["prompt"], call.body["max_tokens"]
        if not call.body.get("echo"):
            return completed(mended(prompt))
        words = (["<s>"] if bos else []) + re.findall(r"\s*[^\s;=]+|[;=]", prompt)
        echoed = len(words)
        if count > 1:
            words += [" same"] * count if loops else [f" w{i}" for i in range(count)]
        elif not ends:
            words += [" more"]
        elif shows_end:
            words += [""]
        offsets = [sum(map(len, words[:i])) for i in range(len(words))]
        own = [-4.5 if "bad" in word else -0.5 for word in words]
        first = [{word: -0.5, "other": -3.0} if "bad" not in word else {"good": -0.5, word: -4.5} for word in words]
        own, first = own[shift:] + own[:shift], [{"off": -0.1, **top} if shift else top for top in first]
        rows = {
            "tokens": words,
            "token_logprobs": [None, *own[1:]],
            "top_logprobs": [None, *(dict(list(top.items())[:tops]) for top in first[1:])],
            "text_offset": offsets,
        }
        usage = {"prompt_tokens": echoed, "completion_tokens": len(words) - echoed}
        reason = "stop" if ends and count == 1 else "length"
        return said(
            {"choices": [{"index": 0, "text": prompt, "finish_reason": reason, "logprobs": rows}], "usage": usage}
        )

    return handle


def score(backend, request, mode="sync"):
    return (backend.score([request]) if mode == "sync" else asyncio.run(backend.ascore([request])))[0]


@modes
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("shows_end", [True, False])
def test_each_token_of_the_answer_is_judged(bos, shows_end, mode):
    with Stub(echoing(bos=bos, shows_end=shows_end)) as stub:
        backend = CompletionsBackend(stub.url, "m")
        assert backend.can_score
        result = score(backend, request_of(" It is bad here\n", completion_prefix=" "), mode)
        assert stub.calls[-1].body["max_tokens"] == 1 and stub.calls[-1].body["prompt"].endswith("; It is bad here")
    assert [(t.text, t.start, t.end, t.gap) for t in result.tokens] == [
        ("It", 1, 3, 0), (" is", 3, 6, 0), (" bad", 6, 10, 4), (" here", 10, 15, 0), ("", 15, 15, 0),
    ]  # fmt: skip
    assert (result.max_gap, result.minimum, result.gate) == (4, -4.5, None)
    end = -0.5 if shows_end else 0
    assert result.total == -6 + end and result.mean == result.total / 5


def test_an_answer_that_the_aligner_would_continue_is_never_kept():
    with Stub(echoing(ends=False)) as stub:
        result = score(CompletionsBackend(stub.url, "m"), request_of("It is fine."))
        assert result.max_gap == math.inf and result.tokens[-1].logprob == -math.inf
        assert (
            Aligner.from_endpoint(stub.url, "m", template=TEMPLATE, gate=1000.0).correct("q", "It is fine.").rounds == 1
        )


def test_spans_are_those_of_the_answer_also_where_special_tokens_were_broken_up():
    with Stub(echoing()) as stub:
        answer = "It </s> is bad"
        result = score(CompletionsBackend(stub.url, "m"), request_of(answer))
        assert "< /s>" in stub.calls[-1].body["prompt"]
    assert "".join(token.text for token in result.tokens) == answer
    assert all(token.text == answer[token.start : token.end] for token in result.tokens)


@pytest.mark.parametrize("options", [{"shift": 1}, {"tops": 1}, {"loops": True}])
def test_numbers_that_make_no_sense_are_not_used(options):
    with Stub(echoing(**options)) as stub:
        assert not CompletionsBackend(stub.url, "m").can_score


BAD_ROWS = [
    {}, {"logprobs": None}, {"logprobs": {"tokens": ["a"]}},
    {"logprobs": {"tokens": ["a", "b"], "token_logprobs": [None], "top_logprobs": [None, None], "text_offset": [0, 1]}},
    {"logprobs": {"tokens": ["a", 7], "token_logprobs": [None, -1], "top_logprobs": [None, {"b": -1}], "text_offset": [0, 1]}},
    {"logprobs": {"tokens": ["a", "b"], "token_logprobs": [None, "x"], "top_logprobs": [None, {"b": -1}], "text_offset": [0, 1]}},
]  # fmt: skip


@modes
@pytest.mark.parametrize("rows", BAD_ROWS)
def test_a_server_that_gives_no_log_probabilities_has_no_gate(rows, mode):
    answer = {
        "choices": [{"index": 0, "text": "x", "finish_reason": "stop", **rows}],
        "usage": {"completion_tokens": 0},
    }
    with Stub(lambda call: said(answer)) as stub:
        backend = CompletionsBackend(stub.url, "m")
        assert not backend.can_score
        with pytest.raises(ConfigurationError, match="probabilities"):
            Aligner(backend=backend, template=TEMPLATE, gate=0.5).correct("q", "It is bad.")
        assert isinstance(score(backend, request_of(), mode), BackendError)
        assert (
            Aligner(backend=backend, template=TEMPLATE, gate=lambda q, a, s: s is None).correct("q", "a").reason
            == "gate"
        )


def test_a_refusal_is_an_answer_and_a_failure_is_none():
    with Stub(lambda call: said({"error": "logprobs is not supported"}, 500)) as stub:
        assert CompletionsBackend(stub.url, "m").can_score is False
    for status in (429, 503):
        with Stub(lambda call, status=status: said({}, status)) as stub:
            backend = CompletionsBackend(stub.url, "m")
            assert backend.can_score is None, "it is asked again"
            kept = Aligner(backend=backend, template=TEMPLATE, gate=0.5, on_error="keep").correct("q", "It is bad.")
            assert kept.outcome == "failed"
    assert CompletionsBackend("http://127.0.0.1:1/v1", "m").can_score is None


@modes
def test_a_gate_on_a_server(mode):
    with Stub(echoing(bos=True)) as stub:
        aligner = Aligner.from_endpoint(stub.url, "m", template=TEMPLATE, gate=3)
        correct = aligner.correct if mode == "sync" else lambda *pair: asyncio.run(aligner.acorrect(*pair))
        kept, corrected = correct("q", "It is fine."), correct("q", "It is bad.")
        assert (kept.reason, kept.text, corrected.text) == ("gate", "It is fine.", "It is good.")
        probes = [call for call in stub.calls if call.body.get("echo") and call.body["max_tokens"] > 1]
        assert len(probes) == 1, "what the server can do is asked once"


def test_the_probe_is_small():
    assert len(prompt_logprobs.probe("m")["prompt"]) < 40 and prompt_logprobs.probe("m")["max_tokens"] < 8
