"""An aligner behind `/v1/completions`: what is sent to each kind of server, and what its answers become."""

import asyncio
import pickle
import signal
import threading
import time
from dataclasses import replace

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.base import Backend, Request, Timeouts
from aligner_integrations.backends.remote import base, loop
from aligner_integrations.backends.remote.completions import CompletionsBackend
from aligner_integrations.correction import Usage
from aligner_integrations.errors import (
    AlignerError,
    AnswerTooLongError,
    BackendError,
    ConfigurationError,
    ModelLoadError,
    TruncatedCorrectionError,
    UnknownTemplateError,
)
from aligner_integrations.templates import TEMPLATES
from tests.unit.backends.remote.stub import CUT, Stub, choice, completed, events, said, streamed
from tests.unit.support import TEMPLATE, tiny_tokenizer

KEY = "sk-test-0123456789abcdef"


def request_of(answer="It is bad.", question="q", **more):
    return Request(question, answer, TEMPLATE.replace("{question}", question).replace("{answer}", answer), **more)


def complete(backend, requests, mode):
    return backend.complete(requests) if mode == "sync" else asyncio.run(backend.acomplete(requests))


def stream(backend, request, mode):
    if mode == "sync":
        return list(backend.stream(request))

    async def run():
        return [piece async for piece in backend.astream(request)]

    return asyncio.run(run())


def answer_in(prompt):
    return prompt.partition(";A=")[2].removesuffix(";")


def mended(prompt):
    return " " + answer_in(prompt).replace("bad", "good")


def vllm(call):
    """Takes everything, counts tokens, and streams."""
    if call.path == "/v1/models":
        return said({"data": [{"id": "aligner/aligner-7b-v1.0", "max_model_len": 512}]})
    if call.body.get("stream"):
        words = mended(call.body["prompt"]).split(" ")
        return streamed(*(f" {word}" for word in words[1:]))
    return completed(mended(call.body["prompt"]), usage={"prompt_tokens": 10, "completion_tokens": 3})


def transformers_serve(call):
    """Takes one prompt, as text, and no field it does not know; a stream ends without [DONE]."""
    if unknown := set(call.body) - {"model", "prompt", "max_tokens", "temperature", "stream", "stream_options"}:
        return said({"detail": f"Unexpected fields in the request: {unknown}"}, 422)
    if not isinstance(call.body["prompt"], str):
        return said({"detail": "prompt must be a string."}, 400)
    if call.body.get("stream"):
        return streamed(mended(call.body["prompt"]), done=False)
    return completed(mended(call.body["prompt"]))


def llama_cpp_python(call):
    """Cannot read token ids."""
    prompt = call.body["prompt"]
    if isinstance(prompt, list):
        return said(
            {"detail": [{"type": "string_type", "loc": ["body", "prompt"], "msg": "Input should be a valid string"}]},
            422,
        )
    return streamed(mended(prompt)) if call.body.get("stream") else completed(mended(prompt))


SERVERS = {"vllm": vllm, "transformers serve": transformers_serve, "llama-cpp-python": llama_cpp_python}
modes = pytest.mark.parametrize("mode", ["sync", "async"])
servers = pytest.mark.parametrize("server", SERVERS)


# What a correction is -----------------------------------------------------------------------------------------------


def test_is_a_backend():
    assert isinstance(CompletionsBackend("http://127.0.0.1:1/v1", "aligner/aligner-7b-v1.0"), Backend)


@servers
@modes
def test_one_many_and_a_stream(server, mode):
    with Stub(SERVERS[server]) as stub:
        aligner = Aligner.from_endpoint(stub.url, "m", template=TEMPLATE)
        pairs = [("q", f"It is bad {n}.") for n in range(70)]
        if mode == "sync":
            texts = [c.text for c in aligner.correct_many(pairs)]
            again = [c.text for c in aligner.correct_many(pairs)]
            one, pieces = aligner.correct(*pairs[0]), list(aligner.stream(*pairs[1]))
        else:

            async def run():
                many = [[c.text for c in await aligner.acorrect_many(pairs)] for _ in range(2)]
                return *many, await aligner.acorrect(*pairs[0]), [p async for p in aligner.astream(*pairs[1])]

            texts, again, one, pieces = asyncio.run(run())
        assert texts == again == [f"It is good {n}." for n in range(70)]
        assert one.text == "It is good 0." and "".join(pieces) == "It is good 1."


@modes
def test_a_batch_goes_out_side_by_side_and_comes_back_in_order(mode):
    def shuffled(call):
        return [0.01 * (len(stub.calls) % 5), *vllm(call)]

    with Stub(shuffled) as stub:
        backend = CompletionsBackend(stub.url, "m", concurrency=8)
        results = complete(backend, [request_of(f"bad {n}") for n in range(40)], mode)
        assert len(stub.calls) == 40 and 1 < stub.connections <= 8
    assert [r.text for r in results] == [f" good {n}" for n in range(40)]
    assert all(r.usage == Usage(10, 3) for r in results)


@modes
def test_each_of_a_batch_fails_for_itself(mode):
    def busy(call):
        return said({"error": "busy"}, 503, retry_after="3") if "worse" in call.body["prompt"] else vllm(call)

    with Stub(busy) as stub:
        requests = [request_of("bad"), request_of("worse"), request_of("bad")]
        good, failed, again = complete(CompletionsBackend(stub.url, "m"), requests, mode)
    assert good.text == again.text == " good" and failed.retryable and failed.retry_after == 3


@modes
def test_each_of_a_batch_has_time_limits_of_its_own(mode):
    late = time.monotonic() + 60
    with Stub(lambda call: [60] if "slow" in call.body["prompt"] else vllm(call)) as stub:
        limits = [Timeouts(deadline=late), Timeouts(deadline=time.monotonic() + 0.2)]
        requests = [request_of("bad", timeouts=limits[0]), request_of("slow", timeouts=limits[1])]
        good, given_up = complete(CompletionsBackend(stub.url, "m"), requests, mode)
    assert good.text == " good" and "was not done within" in str(given_up)


def test_the_body_is_a_greedy_raw_prompt_without_penalties():
    with Stub(vllm) as stub:
        CompletionsBackend(stub.url, "m", generation={"top_p": 0.9, "repetition_penalty": 1.2}).complete([request_of()])
    assert stub.calls[0].path == "/v1/completions"
    assert stub.calls[0].body == {
        "model": "m", "prompt": "Q=q;A=It is bad.;", "max_tokens": 320, "temperature": 0, "top_p": 0.9,
        "repeat_penalty": 1.0, "repetition_penalty": 1.2,
    }  # fmt: skip


@modes
def test_a_server_that_knows_no_such_field_is_asked_without_and_only_once_with(mode):
    with Stub(transformers_serve) as stub:
        backend = CompletionsBackend(stub.url, "m")
        for _ in range(3):
            assert complete(backend, [request_of()], mode)[0].text == " It is good."
        assert ["repeat_penalty" in call.body for call in stub.calls] == [True, False, False, False]


def test_fields_that_the_backend_sets_are_not_the_users():
    with pytest.raises(ConfigurationError, match="max_tokens, stream"):
        CompletionsBackend("http://127.0.0.1:1/v1", "m", generation={"stream": True, "max_tokens": 5})


# The end of a text --------------------------------------------------------------------------------------------------


@modes
@pytest.mark.parametrize("reason", ["length", "max_tokens"])
def test_a_cut_text_is_no_correction(reason, mode):
    with Stub(
        lambda c: streamed("It is", reason=reason) if c.body.get("stream") else completed("It is", reason=reason)
    ) as stub:
        backend = CompletionsBackend(stub.url, "m")
        assert complete(backend, [request_of()], mode)[0].finish_reason == "length"
        with pytest.raises(TruncatedCorrectionError, match="320 tokens"):
            stream(backend, request_of(), mode)
        with pytest.raises(TruncatedCorrectionError):
            Aligner(backend=backend, template=TEMPLATE).correct("q", "It is bad.")
        kept = Aligner(backend=backend, template=TEMPLATE, on_error="keep").correct("q", "It is bad.")
        assert (kept.text, kept.outcome) == ("It is bad.", "failed")


ODD = {
    "no end": completed("It is good.", reason=None),
    "an unknown end": completed("It is good.", reason="abort"),
    "no choices": said({"choices": []}),
    "choices of another kind": said({"choices": ["It is good."]}),
    "no object": said(["It is good."]),
    "a number as text": completed(7),
}


@modes
@pytest.mark.parametrize("name", ODD)
def test_odd_answers_are_errors_that_may_pass(name, mode):
    with Stub(lambda call: ODD[name]) as stub:
        backend = CompletionsBackend(stub.url, "m")
        (result,) = complete(backend, [request_of()], mode)
        assert isinstance(result, BackendError) and result.retryable
        assert all(isinstance(r, BackendError) and r.retryable for r in complete(backend, [request_of()] * 2, mode))
        with pytest.raises(BackendError) as caught:
            stream(backend, request_of(), mode)
        assert caught.value.retryable


@modes
def test_a_stream_that_just_stops_is_an_error(mode):
    with Stub(lambda call: [*list(streamed("It", " is"))[:4], CUT]) as stub:
        with pytest.raises(BackendError, match="cut") as caught:
            stream(CompletionsBackend(stub.url, "m"), request_of(), mode)
        assert caught.value.retryable


def test_a_content_filter_is_named():
    with Stub(lambda call: completed("", reason="content_filter")) as stub:
        (result,) = CompletionsBackend(stub.url, "m").complete([request_of()])
    assert "content filter" in str(result) and not result.retryable


# What does not fit --------------------------------------------------------------------------------------------------

REFUSALS = {
    "vLLM": "This model's maximum context length is {window} tokens. However, you requested 999 tokens ({prompt} in the messages, "
    "9 in the completion). Please reduce the length of the messages or completion.",
    "vLLM, newer": "'max_tokens' or 'max_completion_tokens' is too large: 999. This model's maximum context length is {window} "
    "tokens and your request has {prompt} input tokens (999 > {window} - {prompt}).",
    "SGLang": "Requested token count exceeds the model's maximum context length of {window} tokens. You requested a total of 999 "
    "tokens: {prompt} tokens from the input messages and 999 tokens for the completion.",
    "llama-cpp-python": "This model's maximum context length is {window} tokens, however you requested 999 tokens ({prompt} in your "
    "prompt; 9 for the completion). Please reduce your prompt; or completion length.",
    "TGI": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= {window}. Given: {prompt} `inputs` tokens and 999 "
    "`max_new_tokens`",
}


@modes
@pytest.mark.parametrize("name", REFUSALS)
def test_a_limit_that_leaves_no_room_is_lowered_to_what_is_there(name, mode):
    def small(call):
        if call.body["max_tokens"] > 250:
            return said({"error": {"message": REFUSALS[name].format(window=300, prompt=50)}}, 400)
        return vllm(call)

    with Stub(small) as stub:
        backend = CompletionsBackend(stub.url, "m")
        assert complete(backend, [request_of()], mode)[0].text == " It is good."
        assert stream(backend, request_of(), mode) == [" It", " is", " good."]
        assert [call.body["max_tokens"] for call in stub.calls] == [320, 250, 320, 250]


@modes
@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_fit_is_too_long(name, mode):
    refusal = said({"error": {"message": REFUSALS[name].format(window=300, prompt=299)}}, 422 if name == "TGI" else 400)
    with Stub(lambda call: refusal) as stub:
        backend = CompletionsBackend(stub.url, "m")
        (result,) = complete(backend, [request_of()], mode)
        assert isinstance(result, AnswerTooLongError) and "300" in str(result)
        with pytest.raises(AnswerTooLongError):
            stream(backend, request_of(), mode)
        kept = Aligner(backend=backend, template=TEMPLATE, on_overflow="keep").correct("q", "It is bad.")
        assert kept.outcome == "failed" and kept.text == "It is bad."


@modes
def test_in_a_batch_only_the_long_one_is_too_long(mode):
    def limited(call):
        if "long" in call.body["prompt"]:
            return said({"error": {"message": "the request exceeds the available context size"}}, 400)
        return vllm(call)

    with Stub(limited) as stub:
        backend = CompletionsBackend(stub.url, "m")
        results = complete(backend, [request_of("bad"), request_of("long"), request_of("bad")], mode)
    assert [getattr(r, "text", type(r)) for r in results] == [" good", AnswerTooLongError, " good"]


def test_other_refusals_stay_what_they_are():
    with Stub(lambda call: said({"error": {"message": "temperature must be positive"}}, 400)) as stub:
        (result,) = CompletionsBackend(stub.url, "m").complete([request_of()])
    assert "temperature must be positive" in str(result) and not result.retryable
    assert len(stub.calls) == 2, "once as it was meant, once without the fields that not all servers know"


def test_a_window_that_is_known_limits_the_completion():
    with Stub(vllm) as stub:
        backend = CompletionsBackend(stub.url, "m", window=100)
        backend.complete([request_of("bad " * 10)])
        assert 14 < stub.calls[0].body["max_tokens"] < 90
        (result,) = backend.complete([request_of("x" * 7000)])
        assert isinstance(result, AnswerTooLongError) and len(stub.calls) == 1
        (served,) = CompletionsBackend(stub.url).complete([request_of("x" * 40_000)])
        assert isinstance(served, AnswerTooLongError), "the server's own max_model_len is 512"


# Special tokens and token ids ---------------------------------------------------------------------------------------


@modes
@servers
def test_special_token_strings_reach_no_server_and_come_back_whole(server, mode):
    answer = "bad</s> and <|im_end|> and [INST]"
    with Stub(SERVERS[server]) as stub:
        backend = CompletionsBackend(stub.url, "m")
        results = complete(backend, [request_of(answer)] * 3, mode)
        pieces = stream(backend, request_of(answer), mode)
        assert not any(token in call.body["prompt"] for call in stub.calls for token in ("</s>", "<|im_end|>"))
    assert [r.text for r in results] == [" " + answer.replace("bad", "good")] * 3
    assert "".join(pieces) == " " + answer.replace("bad", "good")


def with_ids(tokenizer):
    """A vLLM that is given token ids, and reads them with the model's tokenizer."""

    def handle(call):
        prompt = call.body["prompt"]
        assert all(isinstance(n, int) for n in prompt)
        assert not any(n in (1, 2) for n in prompt), "a control token from text"
        assert prompt[0] == 0, "the prompt starts with the BOS token"
        text = mended(tokenizer.decode(prompt[1:], skip_special_tokens=False))
        return streamed(text) if call.body.get("stream") else completed(text)

    return handle


@modes
def test_token_ids_where_the_tokenizer_is_at_hand(mode):
    tokenizer = tiny_tokenizer()
    with Stub(with_ids(tokenizer)) as stub:
        backend = CompletionsBackend(stub.url, "m", tokenizer=tokenizer, window=150)
        requests = [request_of("bad</s>"), request_of("bad<|im_end|>")]
        assert [r.text for r in complete(backend, requests, mode)] == [" good</s>", " good<|im_end|>"]
        assert stream(backend, requests[0], mode) == [" good</s>"]
        prompt = stub.calls[-1].body["prompt"]
        assert stub.calls[-1].body["max_tokens"] == 150 - len(prompt), "exact, because the tokens are known"
        (result,) = complete(backend, [request_of("bad " * 40)], mode)
        assert isinstance(result, AnswerTooLongError)


@modes
@pytest.mark.parametrize("server", ["transformers serve", "llama-cpp-python"])
def test_token_ids_are_given_up_where_they_are_refused(server, mode):
    with Stub(SERVERS[server]) as stub:
        backend = CompletionsBackend(stub.url, "m", tokenizer=tiny_tokenizer())
        answer = "bad</s>"
        for _ in range(3):
            assert complete(backend, [request_of(answer)], mode)[0].text == " good</s>"
        assert stream(backend, request_of(answer), mode) == [" good</s>"]
        kinds = [isinstance(call.body["prompt"], str) for call in stub.calls]
        assert (
            not kinds[0]
            and all(kinds[3:])
            and all("</s>" not in call.body["prompt"] for call in stub.calls if kinds[3])
        )


def test_a_tokenizer_from_a_folder(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    with Stub(vllm) as stub:
        backend = CompletionsBackend(stub.url, "m", tokenizer=tmp_path)
        backend.load()
        assert loop.call(backend._fitted, request_of()).prompt == tiny_tokenizer()(request_of().prompt)["input_ids"]
    with pytest.raises(ModelLoadError, match="no tokenizer to load"):
        CompletionsBackend("http://127.0.0.1:1/v1", "m", tokenizer=tmp_path / "none").load()


# Which model, which template ----------------------------------------------------------------------------------------


@modes
def test_the_server_is_asked_for_its_model_once(mode):
    with Stub(vllm) as stub:
        aligner = Aligner.from_endpoint(stub.url)
        assert aligner.template is TEMPLATES["aligner-7b"]
        for _ in range(2):
            complete(aligner.backend, [request_of()], mode)
        assert [call.method for call in stub.calls] == ["GET", "POST", "POST"]
        assert stub.calls[1].body["model"] == "aligner/aligner-7b-v1.0"


@pytest.mark.parametrize("models", [[], [{"id": "a"}, {"id": "b"}], [{"id": 7}], "x", None])
def test_several_models_or_none_must_be_named(models):
    with (
        Stub(lambda call: said({"data": models})) as stub,
        pytest.raises(ConfigurationError, match="name one with model="),
    ):
        CompletionsBackend(stub.url).complete([request_of()])


@pytest.mark.parametrize("model", ["my-aligner", "somebody/aligner-of-his", None])
def test_an_unknown_template_is_asked_for(model):
    served = said({"data": [{"id": "/etc"}]})
    with Stub(lambda call: served) as stub, pytest.raises(UnknownTemplateError, match="aligner-7b.*metaaligner-hh"):
        Aligner.from_endpoint(stub.url, model).correct("q", "a")


def test_a_name_from_the_server_is_no_folder_here(tmp_path):
    (tmp_path / "aligner_config.json").write_text("{")
    with Stub(lambda call: said({"data": [{"id": str(tmp_path)}]})) as stub, pytest.raises(UnknownTemplateError):
        _ = CompletionsBackend(stub.url).template


def test_a_folder_of_the_caller_brings_its_template():
    backend = CompletionsBackend("http://127.0.0.1:1/v1", "embedded")
    assert backend.template is not None and backend.gate is None, "its gate reads hidden states, which no server shows"


@modes
def test_a_server_that_is_down_is_for_on_error(mode):
    aligner = Aligner.from_endpoint("http://127.0.0.1:1/v1", on_error="keep")
    correct = aligner.correct if mode == "sync" else lambda *a: asyncio.run(aligner.acorrect(*a))
    kept = correct("q", "It is bad.")
    assert (kept.outcome, kept.text) == ("failed", "It is bad.") and "cannot be reached" in kept.reason
    with pytest.raises(BackendError):
        Aligner.from_endpoint("http://127.0.0.1:1/v1").correct("q", "a")


def test_options_go_where_they_belong():
    aligner = Aligner.from_endpoint("http://127.0.0.1:1/v1", "m", KEY, TEMPLATE, window=9, rounds=2, on_error="keep")
    assert (aligner.backend.window, aligner.policy.rounds, aligner.policy.on_error) == (9, 2, "keep")
    with pytest.raises(TypeError, match="colour"):
        Aligner.from_endpoint("http://127.0.0.1:1/v1", colour="red")


# Time limits --------------------------------------------------------------------------------------------------------


@modes
@pytest.mark.parametrize("count", [1, 3])
def test_all_time_limits_hold(count, mode):
    def slow(call):
        return [30]

    limits = {"was not done": Timeouts(deadline=time.monotonic() + 0.1), "write": Timeouts(first_token=0.1)}
    with Stub(slow) as stub:
        backend = CompletionsBackend(stub.url, "m")
        for word, timeouts in limits.items():
            results = complete(backend, [request_of(timeouts=timeouts)] * count, mode)
            assert all(isinstance(r, BackendError) and r.retryable and word in str(r) for r in results)
            with pytest.raises(BackendError):
                stream(backend, request_of(timeouts=timeouts), mode)
        assert stub.closed()


@modes
def test_a_first_token_in_time_is_seen_in_a_stream_also_for_a_whole_completion(mode):
    with Stub(lambda call: streamed("It", " is", " good.", pause=0.75)) as stub:
        backend = CompletionsBackend(stub.url, "m")
        (result,) = complete(backend, [request_of(timeouts=Timeouts(first_token=2))], mode)
        assert result.text == "It is good." and stub.calls[0].body["stream"] is True


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs a signal to one thread")
@pytest.mark.parametrize("count", [1, 3])
def test_an_interrupt_ends_what_hangs(count):
    def hang(call):
        if len(stub.calls) == count:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return [60]

    with Stub(hang) as stub:
        backend = CompletionsBackend(stub.url, "m")
        loop.the_loop()  # its thread stays
        threads = threading.active_count()
        with pytest.raises(KeyboardInterrupt):
            backend.complete([request_of()] * count)
        assert threading.active_count() <= threads + count, "no more than those of the server here"
        assert stub.closed()


# Keys and copies ----------------------------------------------------------------------------------------------------


def test_the_key_is_shown_nowhere():
    with Stub(lambda call: said({"error": {"message": f"wrong key {KEY}"}}, 401)) as stub:
        backend = CompletionsBackend(stub.url, "m", api_key=KEY)
        (error,) = backend.complete([request_of()])
        data = pickle.dumps((backend, replace(request_of())))
        assert isinstance(error, AlignerError) and not error.retryable
        shown = (
            f"{backend!r} {vars(backend)} {error!r} {error} {Aligner(backend=backend, template=TEMPLATE).fingerprint}"
        )
        assert KEY not in shown and KEY.encode() not in data


def test_identity_is_that_of_the_same_backend_elsewhere():
    def made(**more):
        backend = CompletionsBackend("http://127.0.0.1:1/v1", **{"model": "m", "api_key": KEY, **more})
        return Aligner(backend=backend, template=TEMPLATE).fingerprint

    assert made() == made() == made(api_key="another-key-of-mine")
    assert len({made(), made(model="n"), made(generation={"top_p": 0.5}), made(window=9)}) == 4


def test_a_copy_in_another_process_works():
    with Stub(vllm) as stub:
        backend = pickle.loads(pickle.dumps(CompletionsBackend(stub.url, "m")))  # noqa: S301 - our own
        assert backend.complete([request_of()])[0].text == " It is good."


@modes
@pytest.mark.parametrize("tail", ["counts", "none", "cut", "slow", "broken"])
def test_token_counts_may_follow_a_streamed_text_and_nothing_there_can_spoil_it(tail, mode, monkeypatch):
    monkeypatch.setattr(base, "_TAIL", 0.1 if tail == "slow" else 20)
    counts = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}
    ends = {"counts": [counts], "none": [], "cut": [], "slow": [], "broken": [{"choices": 7}]}

    def handle(call):
        assert call.body["stream_options"] == {"include_usage": True}
        parts = list(
            events(
                {"choices": [choice(" It is", None)]}, {"choices": [], "usage": None}, {"choices": [choice(" good.")]}, *ends[tail],
                done=tail != "cut",
            )
        )  # fmt: skip
        return [*parts[:-2], 30] if tail == "slow" else parts

    with Stub(handle) as stub:
        backend = CompletionsBackend(stub.url, "m")
        assert stream(backend, request_of(), mode) == [" It is", " good."]
        (result,) = complete(backend, [request_of(timeouts=Timeouts(first_token=9))], mode)
    assert (result.text, result.usage) == (" It is good.", Usage(9, 4) if tail == "counts" else Usage())
