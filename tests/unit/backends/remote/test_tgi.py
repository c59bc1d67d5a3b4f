"""TGI's dialect, Inference Endpoints, and providers that the Hub knows."""

import asyncio
import pickle
import time

import pytest
from huggingface_hub.hf_api import InferenceProviderMapping

from aligner_integrations import Aligner
from aligner_integrations.backends.base import Backend, Timeouts
from aligner_integrations.backends.remote.tgi import TextGenerationBackend
from aligner_integrations.errors import (
    AnswerTooLongError,
    BackendError,
    ConfigurationError,
    TruncatedCorrectionError,
    UnknownTemplateError,
)
from aligner_integrations.templates import TEMPLATES
from tests.unit.backends.remote.stub import CUT, Stub, choice, events, said
from tests.unit.backends.remote.test_completions import complete, mended, request_of, stream
from tests.unit.support import TEMPLATE

TOKEN = "hf_abcdefghijklmnopqrstuv123"
modes = pytest.mark.parametrize("mode", ["sync", "async"])


def generated(text, reason="eos_token", **details):
    return said([{"generated_text": text, "details": {"finish_reason": reason, "generated_tokens": 5, **details}}])


def tokens(*texts, reason="eos_token", **options):
    rows = [{"token": {"text": text, "special": False}, "generated_text": None, "details": None} for text in texts]
    end = {
        "token": {"text": "</s>", "special": True},
        "generated_text": "".join(texts),
        "details": {"finish_reason": reason, "generated_tokens": 5},
    }
    return events(*rows, end, done=False, **options)


def tgi(call):
    if call.path.endswith("/info"):
        return said({"model_id": "aligner/aligner-7b-v1.0", "max_total_tokens": 2048})
    text = mended(call.body["inputs"])
    if call.body.get("stream"):
        return tokens(*(" " + word for word in text.split()))
    return generated(text)


@modes
def test_one_many_and_a_stream(mode):
    with Stub(tgi) as stub:
        backend = TextGenerationBackend(stub.origin)
        assert isinstance(backend, Backend)
        results = complete(backend, [request_of(f"bad {n}") for n in range(20)], mode)
        assert [r.text for r in results] == [f" good {n}" for n in range(20)]
        assert results[0].usage.completion_tokens == 5
        assert stream(backend, request_of("It is bad."), mode) == [" It", " is", " good."]
        first = next(call for call in stub.calls if call.body)
    assert (first.method, first.path) == ("POST", "/")
    assert first.body["parameters"] == {
        "do_sample": False,
        "max_new_tokens": 320,
        "return_full_text": False,
        "details": True,
    }


@modes
def test_special_token_strings_come_back_whole(mode):
    with Stub(tgi) as stub:
        backend = TextGenerationBackend(stub.origin)
        (result,) = complete(backend, [request_of("bad</s>x")], mode)
        assert result.text == " good</s>x" and "".join(stream(backend, request_of("bad</s>x"), mode)) == " good</s>x"
        assert not any("</s>" in call.body["inputs"] for call in stub.calls if call.body)


@modes
def test_a_cut_text_is_no_correction(mode):
    def cut(call):
        return tokens("It", " is", reason="length") if call.body.get("stream") else generated("It is", "length")

    with Stub(cut) as stub:
        backend = TextGenerationBackend(stub.origin)
        assert complete(backend, [request_of()], mode)[0].finish_reason == "length"
        with pytest.raises(TruncatedCorrectionError):
            stream(backend, request_of(), mode)


@modes
@pytest.mark.parametrize(
    ("answer", "retryable"),
    [(said([]), True), (said({"generated_text": 7}), True), (said([{"generated_text": "It is good."}]), False),
     (generated("It is", None), False), (generated("It is", "odd"), True)],
)  # fmt: skip
def test_odd_answers_are_errors(answer, retryable, mode):
    with Stub(lambda call: answer) as stub:
        (result,) = complete(TextGenerationBackend(stub.origin), [request_of()], mode)
    assert isinstance(result, BackendError) and result.retryable is retryable


@modes
def test_a_stream_that_just_stops_is_an_error(mode):
    with Stub(lambda call: [*list(tokens("It", " is"))[:4], CUT]) as stub, pytest.raises(BackendError) as caught:
        stream(TextGenerationBackend(stub.origin), request_of(), mode)
    assert caught.value.retryable


@modes
def test_a_limit_that_leaves_no_room_is_lowered_and_what_does_not_fit_is_too_long(mode):
    def small(call):
        if call.body["parameters"]["max_new_tokens"] <= 150 and "bad" in call.body["inputs"]:
            return tgi(call)
        reason = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 200. Given: {} `inputs` tokens and 999"
        return said(
            {"error": reason.format(50 if "bad" in call.body["inputs"] else 199), "error_type": "validation"}, 422
        )

    with Stub(small) as stub:
        backend = TextGenerationBackend(stub.origin)
        assert complete(backend, [request_of("bad")], mode)[0].text == " good"
        assert stream(backend, request_of("bad"), mode) == [" good"]
        assert isinstance(complete(backend, [request_of("long")], mode)[0], AnswerTooLongError)
        with pytest.raises(AnswerTooLongError):
            stream(backend, request_of("long"), mode)


@modes
def test_a_model_that_is_loading_says_when_to_come_back(mode):
    with Stub(lambda call: said({"error": "Model is loading", "estimated_time": 12.5}, 503)) as stub:
        (result,) = complete(TextGenerationBackend(stub.origin), [request_of()], mode)
        assert result.retryable and result.retry_after == 12.5 and len(stub.calls) == 1, "nothing is tried twice here"


@modes
def test_all_time_limits_hold(mode):
    with Stub(lambda call: [30]) as stub:
        backend = TextGenerationBackend(stub.origin)
        for timeouts in (Timeouts(deadline=time.monotonic() + 0.15), Timeouts(first_token=0.15)):
            (result,) = complete(backend, [request_of(timeouts=timeouts)], mode)
            assert isinstance(result, BackendError) and result.retryable and "given up" in str(result)
        assert stub.closed()


def test_the_server_says_which_model_it_has():
    with Stub(tgi) as stub:
        assert TextGenerationBackend(stub.origin).template is TEMPLATES["aligner-7b"]
    for answer in (said({"model_id": "/repository"}), said({}, 404), said([])):
        with Stub(lambda call, answer=answer: answer) as stub, pytest.raises(UnknownTemplateError):
            Aligner(backend=TextGenerationBackend(stub.origin)).correct("q", "a")
    with Stub(lambda call: said({}, 503)) as stub:
        kept = Aligner(backend=TextGenerationBackend(stub.origin), on_error="keep").correct("q", "bad")
        assert kept.outcome == "failed"


def test_this_machines_hub_token_stays_here(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Stub(tgi) as stub:
        backend = TextGenerationBackend(stub.origin)
        backend.complete([request_of()])
        Aligner(backend=backend, template=TEMPLATE).correct("q", "bad")
    assert stub.calls and not any("authorization" in call.headers for call in stub.calls)
    hosted = TextGenerationBackend("https://x.us-east-1.aws.endpoints.huggingface.cloud")
    assert hosted.api_key.reveal() == TOKEN
    assert TOKEN not in repr(hosted) + str(vars(hosted)) and TOKEN.encode() not in pickle.dumps(hosted)
    with pytest.raises(ConfigurationError, match="token of the Hugging Face Hub"):
        TextGenerationBackend("https://tgi.example.org", api_key=TOKEN)


# Providers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mapping(monkeypatch):
    """What the Hub would say: featherless serves the aligner under a name of its own."""
    rows = [
        InferenceProviderMapping(
            provider=provider, hf_model_id="m", providerId="their/name", status="live", task="text-generation"
        )
        for provider in ("featherless-ai", "together")
    ]
    monkeypatch.setattr(
        "huggingface_hub.inference._providers._common._fetch_inference_provider_mapping", lambda model: rows
    )
    monkeypatch.setattr("huggingface_hub.inference._providers._fetch_inference_provider_mapping", lambda model: rows)


def provider(call):
    text = mended(call.body["prompt"])
    if call.body.get("stream"):
        return events({"choices": [choice(text, None)]}, {"choices": [choice("", "stop")]})
    return said({"choices": [choice(text)]})


@modes
@pytest.mark.parametrize(("name", "route"), [("auto", "/v1/completions"), ("together", "/v1/completions")])
def test_a_provider_gets_the_raw_prompt_at_its_route(name, route, mode, mapping, monkeypatch):
    with Stub(provider) as stub:
        # Straight to the provider with a key of its own, so that its address is one that can be put on loopback.
        for module, variable in (("featherless_ai", "_API_URL"), ("together", "_BASE_URL")):
            monkeypatch.setattr(f"huggingface_hub.inference._providers.{module}.{variable}", stub.origin, raising=False)
        from huggingface_hub.inference._providers import PROVIDERS

        for served in ("featherless-ai", "together"):
            monkeypatch.setattr(PROVIDERS[served]["text-generation"], "base_url", stub.origin)
        backend = TextGenerationBackend("aligner/aligner-7b-v1.0", provider=name, api_key="provider-key-1")
        assert backend.template is TEMPLATES["aligner-7b"] and not stub.calls
        assert complete(backend, [request_of("bad")], mode)[0].text == " good"
        assert stream(backend, request_of("bad"), mode) == [" good"]
        call = stub.calls[0]
    assert (call.path, call.body["model"], call.body["max_tokens"]) == (route, "their/name", 320)
    assert call.headers["authorization"] == "Bearer provider-key-1"


def test_with_a_hub_token_providers_are_reached_by_the_hubs_router(mapping):
    backend = TextGenerationBackend("m/m", provider="together", api_key=TOKEN)
    backend.load()
    assert backend._provided.url == "https://router.huggingface.co/together/v1"


@modes
def test_a_model_that_nobody_serves_is_a_mistake_and_a_hub_that_is_down_is_not(mode, mapping, monkeypatch):
    with pytest.raises(ConfigurationError, match="nobody"):
        complete(TextGenerationBackend("m/m", provider="nobody", api_key=TOKEN), [request_of()], mode)

    def down(model):
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.inference._providers._fetch_inference_provider_mapping", down)
    (result,) = complete(TextGenerationBackend("m/m", api_key=TOKEN), [request_of()], mode)
    assert isinstance(result, BackendError) and result.retryable


def test_has_no_scores_and_takes_no_fields_of_its_own():
    backend = TextGenerationBackend("http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="probabilities"):
        Aligner(backend=backend, template=TEMPLATE, gate=0.5).correct("q", "a")
    with pytest.raises(BackendError):
        backend.score([request_of()])
    with pytest.raises(BackendError):
        asyncio.run(backend.ascore([request_of()]))
    with pytest.raises(ConfigurationError, match="details"):
        TextGenerationBackend("http://127.0.0.1:1", generation={"details": False})
    assert Aligner(backend=backend, template=TEMPLATE).fingerprint
