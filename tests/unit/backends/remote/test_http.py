"""One HTTP server: what its answers mean, how long it may take, where the key goes, and what is left open."""

import asyncio
import copy
import gc
import gzip
import json
import os
import pickle
import shutil
import socket
import ssl
import subprocess
import threading
import time
import traceback
import warnings
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from aligner_integrations.backends.base import Timeouts
from aligner_integrations.backends.deadline import Clock
from aligner_integrations.backends.remote import http, loop
from aligner_integrations.backends.remote.http import Endpoint
from aligner_integrations.backends.remote.keys import Secret, is_hub, is_loopback, key_for
from aligner_integrations.backends.remote.responses import StatusError
from aligner_integrations.errors import BackendError, ConfigurationError, InvalidTextError
from tests.unit.backends.remote.stub import CUT, Stub, events, raw, said

KEY = "sk-test-0123456789abcdef"
SOON = 0.1


def in_(seconds, **more):
    return Clock(Timeouts(deadline=time.monotonic() + seconds, **more))


def ask(end, *, clock=None, mode="sync"):
    """The four ways to ask; streams as a list."""
    clock = clock or in_(20)
    if mode == "sync":
        return loop.call(end.ask, "/x", {"a": 1}, clock)
    if mode == "stream":
        return list(loop.read(end.events("/x", {"a": 1}, clock)))

    async def run():
        if mode == "async":
            return await loop.acall(end.ask, "/x", {"a": 1}, clock)
        async with aclosing(loop.aread(end.events("/x", {"a": 1}, clock))) as found:
            return [event async for event in found]

    return asyncio.run(run())


modes = pytest.mark.parametrize("mode", ["sync", "async", "stream", "astream"])
two_modes = pytest.mark.parametrize("mode", ["sync", "astream"])  # where what is tested is the same code in all four
OK_EVENTS = ({"n": 1}, {"n": 2})


# What comes ---------------------------------------------------------------------------------------------------------


@modes
def test_json_and_events(mode):
    whole = mode in ("sync", "async")
    with Stub(lambda call: said({"n": 1}) if whole else events(*OK_EVENTS)) as stub:
        assert ask(Endpoint(stub.url), mode=mode) == ({"n": 1} if whole else list(OK_EVENTS))
        (call,) = stub.calls
    assert (call.method, call.path, call.body) == ("POST", "/v1/x", {"a": 1})
    assert call.headers["host"] == f"127.0.0.1:{stub.port}" and "authorization" not in call.headers


@pytest.mark.parametrize("mode", ["stream", "astream"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_events_in_chunks_of_any_size(mode, size):
    text = json.dumps({"text": "é\u2028x"}, ensure_ascii=False).encode()
    body = b": a comment\r\n\r\nevent: token\ndata:" + text + b"\r\n\r\n"
    body += b'id: 3\ndata: {"n": 2}\n\ndata: [DONE]\n\ndata: never read\n\n'
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    with Stub(lambda call: [raw(headers={"content-type": "text/event-stream"}, length=False), *parts, CUT]) as stub:
        assert ask(Endpoint(stub.url), mode=mode) == [{"text": "é\u2028x"}, {"n": 2}]


@pytest.mark.parametrize("mode", ["stream", "astream"])
def test_json_where_events_were_asked_for_is_one_event(mode):
    with Stub(lambda call: said({"n": 1})) as stub:
        assert ask(Endpoint(stub.url), mode=mode) == [{"n": 1}]


BROKEN = {
    "empty": [raw(headers={"content-type": "application/json"})],
    "no json": [raw(headers={"content-type": "application/json"}, body=b"<html>oops")],
    "half": [raw(headers={"content-type": "application/json"}, body=b'{"choices": [')],
    "not utf-8": [raw(headers={"content-type": "application/json"}, body=b'{"a": "\xff\xfe"}')],
    "deep": [raw(headers={"content-type": "application/json"}, body=b"[" * 200_000)],
    "cut before": [CUT],
    "cut in the head": [b"HTTP/1.1 200 OK\r\ncontent-le", CUT],
    "cut in the body": [b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", CUT],
    "too long a length": [b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"a": 1}', CUT],
    "too short a length": [b'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{"a": 1}', CUT],
    "no http": [b"SSH-2.0-OpenSSH_9.0\r\n", CUT],
    "bad chunk": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}", CUT],
}


@two_modes
@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers_are_errors_that_may_pass(name, mode):
    with Stub(lambda call: BROKEN[name]) as stub, pytest.raises(BackendError) as caught:
        result = ask(Endpoint(stub.url), mode=mode)
        assert result == [], "a stream without events is for the reader to refuse"
        raise BackendError("nothing came", retryable=True)
    assert caught.value.retryable and caught.value.retry_after is None


def test_a_connection_that_was_spoilt_does_not_spoil_the_next_answer():
    answers = iter(
        [b'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{"a": "leftover"}', *[said({"n": i})[0] for i in range(9)]]
    )
    with Stub(lambda call: [next(answers)]) as stub:
        end = Endpoint(stub.url)
        with pytest.raises(BackendError):
            ask(end)
        results = []
        for _ in range(3):
            with suppress(BackendError):
                results.append(ask(end))
        assert results and all(set(result) == {"n"} for result in results)


@two_modes
@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (401, False), (403, False), (404, False), (408, True), (413, False), (422, False), (425, True), (429, True),
     (500, True), (502, True), (503, True), (504, True), (301, False), (307, False)],
)  # fmt: skip
def test_what_a_status_means(status, retryable, mode):
    answer = said({"error": {"message": "the   reason\n why"}}, status, location="https://elsewhere.example/v1")
    with Stub(lambda call: answer) as stub, pytest.raises(StatusError) as caught:
        ask(Endpoint(stub.url), mode=mode)
    error = caught.value
    assert (error.status, error.retryable) == (status, retryable)
    assert str(status) in str(error)
    assert ("elsewhere.example" if status in (301, 307) else "the reason why") in str(error)


@pytest.mark.parametrize(
    ("body", "shown"),
    [({"error": "a string"}, "a string"), ({"message": "top"}, "top"), ({"detail": [{"msg": "field"}]}, "field"),
     ({"error": {"message": {"odd": 1}}}, "odd"), ([], ""), ("text", "text"), (None, ""), ({"error": "x" * 9999}, "x" * 300)],
)  # fmt: skip
def test_reasons_wherever_they_are(body, shown):
    with Stub(lambda call: said(body, 400)) as stub, pytest.raises(StatusError) as caught:
        ask(Endpoint(stub.url))
    assert shown in caught.value.detail and len(caught.value.detail) <= 300


def test_retry_after_in_all_forms():
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=60), usegmt=True)
    answers = [
        *(said({}, 429, retry_after=value) for value in ("7", "0.5", in_a_minute, past, "-3", "soon", "nan", "inf")),
        said({"error": "loading", "estimated_time": 20.5}, 503),
    ]
    with Stub(lambda call: answers[len(stub.calls) - 1]) as stub:
        end, found = Endpoint(stub.url), []
        for _ in answers:
            with pytest.raises(StatusError) as caught:
                ask(end)
            found.append(caught.value.retry_after)
    assert found[:2] == [7, 0.5] and 55 < found[2] <= 60 and found[3:] == [0, 0, None, None, None, 20.5]


def test_an_error_in_the_middle_of_a_stream():
    for error, retryable in (("out of memory", True), ({"message": "bad", "code": 400}, False), ({"code": 503}, True)):
        with Stub(lambda call, error=error: events({"n": 1}, {"error": error})) as stub:
            found = loop.read(Endpoint(stub.url).events("/x", {}, in_(20)))
            assert next(found) == {"n": 1}
            with pytest.raises(StatusError) as caught:
                next(found)
            assert caught.value.retryable is retryable


@modes
def test_responses_have_a_longest_size(mode, monkeypatch):
    monkeypatch.setattr(http, "MAX_RESPONSE", 100_000)
    text, stream = b'{"a": "' + b"x" * 70_000, {"content-type": "text/event-stream"}
    endless = [raw(headers=stream if "stream" in mode else {}, length=False), *[text] * 100, CUT]
    with Stub(lambda call: endless) as stub, pytest.raises(BackendError, match="longer than 100,000 bytes") as caught:
        ask(Endpoint(stub.url), mode=mode)
    assert not caught.value.retryable


def test_a_long_refusal_is_read_in_part():
    with Stub(lambda call: [raw(500, length=False), *[b"x" * 10_000] * 1000, CUT]) as stub, pytest.raises(StatusError):
        ask(Endpoint(stub.url))


@modes
def test_nothing_is_unpacked(mode):
    packed = raw(
        headers={"content-encoding": "gzip", "content-type": "application/json"}, body=gzip.compress(b"{}" * 9)
    )
    with Stub(lambda call: [packed]) as stub, pytest.raises(BackendError, match="packed its response"):
        ask(Endpoint(stub.url), mode=mode)
    assert stub.calls[0].headers["accept-encoding"] == "identity"


def test_text_that_cannot_be_sent():
    with pytest.raises(InvalidTextError):
        loop.call(Endpoint("http://127.0.0.1:9").ask, "/x", {"prompt": "\ud800"}, in_(20))


# How long it takes --------------------------------------------------------------------------------------------------


def drip(data, pause=0.05):
    for i in range(len(data)):
        yield data[i : i + 1]
        yield pause


SLOW = {
    "no answer": lambda: [60],
    "slow head": lambda: drip(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 9999),
    "slow body": lambda: [raw(headers={"content-length": "9999"}, length=False), *drip(b"x" * 9999)],
    "slow events": lambda: [
        raw(headers={"content-type": "text/event-stream"}, length=False),
        *(part for _ in range(999) for part in (b'data: {"n": 1}\n\n', 0.05)),
    ],
    "slow line": lambda: [
        raw(headers={"content-type": "text/event-stream"}, length=False),
        *drip(b"data: " + b"x" * 9999),
    ],
}


@modes
@pytest.mark.parametrize("name", SLOW)
def test_nothing_outlives_the_deadline(name, mode):
    with Stub(lambda call: SLOW[name]()) as stub:
        started = time.monotonic()
        with pytest.raises(BackendError, match="the limit of this attempt") as caught:
            ask(Endpoint(stub.url), clock=in_(SOON), mode=mode)
        assert time.monotonic() - started > SOON - 0.05
        assert caught.value.retryable and stub.closed()


@modes
def test_the_first_token_has_a_time_of_its_own(mode):
    clock = Clock(Timeouts(first_token=SOON, deadline=time.monotonic() + 60))
    with Stub(lambda call: [60]) as stub:
        with pytest.raises(BackendError, match="did not begin to write") as caught:
            ask(Endpoint(stub.url), clock=clock, mode=mode)
        assert caught.value.retryable


@pytest.mark.parametrize("mode", ["stream", "astream"])
def test_after_the_first_token_the_deadline_counts(mode):
    with Stub(lambda call: events({"n": 1}, {"n": 2}, pause=2.5)) as stub:
        clock = Clock(Timeouts(first_token=2, deadline=time.monotonic() + 60))

        async def run():
            found = []
            async with aclosing(loop.aread(Endpoint(stub.url).events("/x", {}, clock))) as items:
                async for event in items:
                    clock.token_seen()
                    found.append(event)
            return found

        if mode == "astream":
            assert len(asyncio.run(run())) == 2
        else:
            found = []
            for event in loop.read(Endpoint(stub.url).events("/x", {}, clock)):
                clock.token_seen()
                found.append(event)
            assert len(found) == 2


@modes
def test_a_server_that_is_not_there(mode):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BackendError, match=f"127.0.0.1:{port} cannot be reached") as caught:
        ask(Endpoint(f"http://127.0.0.1:{port}/v1"), mode=mode)
    assert caught.value.retryable
    assert "ConnectionRefusedError" in str(caught.value) and "ssl" not in str(caught.value)


@modes
def test_connecting_has_a_time_of_its_own(mode):
    with socket.socket() as full:  # a queue of connections that nobody takes: the kernel answers no more of them
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        time.sleep(0.05)
        with pytest.raises(BackendError, match=r"within 0\.15 seconds") as caught:
            ask(Endpoint(f"http://127.0.0.1:{port}/v1"), clock=in_(30, connect=0.15), mode=mode)
        assert caught.value.retryable
        for one in waiting:
            one.close()


@modes
def test_waiting_for_a_free_place_counts(mode):
    with Stub(lambda call: [60]) as stub:
        end = Endpoint(stub.url, concurrency=1)
        busy = threading.Thread(target=lambda: suppressed(ask, end, clock=in_(60)), daemon=True)
        busy.start()
        while not stub.calls:
            time.sleep(0.01)
        with pytest.raises(BackendError, match="the limit of this attempt"):
            ask(end, clock=in_(SOON, connect=SOON / 10), mode=mode)  # waiting here is not reaching the server
        assert len(stub.calls) == 1
    busy.join()


def suppressed(function, *args, **options):
    with suppress(BackendError):
        function(*args, **options)


def test_places_are_given_in_the_order_of_asking_to_threads_and_event_loops_alike():
    with Stub(lambda call: [0.01, *said({"n": call.body["n"]})]) as stub:
        end, order = Endpoint(stub.url, concurrency=2), []

        async def one(n):
            await end.ask("/x", {"n": n}, in_(60))
            order.append(n)

        async def many():
            await asyncio.gather(*(one(n) for n in range(40)))

        loop.call(many)
        assert stub.connections <= 2 and all(abs(place - n) <= 2 for place, n in enumerate(order))


def test_what_many_look_up_at_once_is_asked_once_and_each_waits_as_long_as_it_may():
    gone = threading.Event()

    def answer(call):
        gone.wait(60)
        return said({"n": 1})

    with Stub(answer) as stub:
        end = Endpoint(stub.url)

        async def many():
            late, *others = (asyncio.ensure_future(end.look_up("/models", in_(60 if n else SOON))) for n in range(20))
            with pytest.raises(BackendError, match="the limit of this attempt"):
                await late
            gone.set()  # not after some time: on a busy machine the answer would be there before the late one is told
            return await asyncio.gather(*others)

        assert asyncio.run(loop.acall(many)) == [{"n": 1}] * 19
        assert [call.method for call in stub.calls] == ["GET"]
        assert loop.call(end.look_up, "/models", in_(20)) == {"n": 1} and len(stub.calls) == 2


# The key ------------------------------------------------------------------------------------------------------------


def test_the_key_goes_to_the_server():
    with Stub(lambda call: said({})) as stub:
        ask(Endpoint(stub.url, Secret(KEY)))
    assert stub.calls[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "url", ["http://example.org/v1", "http://10.0.0.7:8000/v1", "http://localhost.evil.example/v1"]
)
def test_the_key_needs_https(url):
    with pytest.raises(ConfigurationError, match="unencrypted") as caught:
        Endpoint(url, Secret(KEY))
    assert KEY not in str(caught.value)
    Endpoint(url)
    Endpoint(url, Secret(KEY), allow_http=True)
    Endpoint(url.replace("http:", "https:"), Secret(KEY))


@two_modes
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status, mode):
    with Stub(lambda call: said({})) as other:
        answer = [raw(status, {"location": f"{other.url}/x?key={KEY}"})]
        with Stub(lambda call: answer) as stub, pytest.raises(StatusError, match="redirects to 127.0.0.1") as caught:
            ask(Endpoint(stub.url, Secret(KEY)), mode=mode)
        assert not other.calls and KEY not in str(caught.value)


@modes
@pytest.mark.parametrize("how", ["refused", "repeated", "garbled", "cut", "late", "lost", "not there"])
def test_the_key_is_in_no_error_and_in_no_variable_of_its_frames(how, mode):
    replies = {
        "refused": said({"error": "no"}, 401),
        "repeated": said({"error": f"not with {KEY}"}, 401),
        "garbled": [f"Authorization: Bearer {KEY}\r\n\r\n".encode(), CUT],
        "cut": [CUT],
        "late": [60],
        "lost": [b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", CUT],
    }
    with Stub(lambda call: replies[how]) as stub:
        end = Endpoint(stub.url if how != "not there" else "http://127.0.0.1:1/v1", Secret(KEY))
        with pytest.raises(BackendError) as caught:
            assert ask(end, clock=in_(SOON), mode=mode)
        error = caught.value
        while error is not None:  # what an error tracker would send away
            told = traceback.TracebackException.from_exception(error, capture_locals=True)
            ours = [frame for frame in told.stack if frame.filename != __file__]
            assert KEY not in "".join(traceback.StackSummary.from_list(ours).format()) + repr(error) + repr(vars(error))
            assert KEY not in repr([frame.locals for frame in ours])
            error = error.__cause__ or error.__context__
        assert KEY not in repr(end) + repr(vars(end)) + repr(vars(end._here or end))


@modes
def test_a_function_gives_the_key_for_each_request_and_never_on_the_loop(mode):
    asked = []

    def give():
        asked.append(threading.current_thread())
        return f"{KEY}-{len(asked)}"

    refusal = said({"error": f"not with {KEY}-2"}, 401)
    whole = mode in ("sync", "async")
    with Stub(lambda call: refusal if len(stub.calls) > 1 else said({}) if whole else events()) as stub:
        end = Endpoint(stub.url, Secret(give))
        ask(end, mode=mode)
        with pytest.raises(StatusError, match=r"not with \*\*\*$|not with \*\*\*\.") as caught:
            ask(end, mode=mode)
        assert [call.headers["authorization"] for call in stub.calls] == [f"Bearer {KEY}-1", f"Bearer {KEY}-2"]
    assert len(asked) == 2 and KEY not in str(caught.value)
    # In the thread that asks, whose own a function may be; for an event loop in neither its thread nor that of all loops.
    own = threading.current_thread()
    assert all(thread is own if mode in ("sync", "stream") else thread is not own for thread in asked)
    assert not any(thread.name == "aligner-remote" for thread in asked)


@pytest.mark.parametrize("mode", ["async", "astream"])
def test_a_function_that_gives_no_key_in_time_is_not_waited_for(mode):
    go = threading.Event()
    with Stub(lambda call: said({})) as stub:
        with pytest.raises(BackendError, match="the limit of this attempt"):
            ask(Endpoint(stub.url, Secret(lambda: go.wait(20) and KEY)), clock=in_(SOON), mode=mode)
        go.set()
        assert not stub.calls


@two_modes
def test_a_function_that_fails_is_named(mode):
    def fail():
        raise OSError(f"no vault for {KEY}")

    with Stub(lambda call: said({})) as stub, pytest.raises(ConfigurationError, match="raised OSError") as caught:
        ask(Endpoint(stub.url, Secret(fail)), mode=mode)
    assert not stub.calls and caught.value.__context__ is None


@modes
def test_a_key_that_the_server_repeats_is_not_repeated(mode):
    reply = said(
        {"error": {"message": f"Incorrect API key provided: {KEY}. Bearer {KEY}; hf_other12345678901234"}}, 401
    )
    with Stub(lambda call: reply) as stub, pytest.raises(StatusError, match=r"provided: \*\*\*") as caught:
        ask(Endpoint(stub.url, Secret(KEY)), mode=mode)
    assert KEY not in str(caught.value) and "hf_" not in str(caught.value)


def test_urls_that_hold_a_secret_or_cannot_be_used_are_refused():
    for url in (f"https://user:{KEY}@host/v1", f"https://host/v1?key={KEY}", f"https://host/v1#{KEY}"):
        with pytest.raises(ConfigurationError) as caught:
            Endpoint(url)
        assert KEY not in str(caught.value) and "host" in str(caught.value)
    for url in ("host:8000/v1", "ftp://host/v1", "https:///v1", "https://ho st/v1", "https://h\u00f6st/v1", "https://host:99999/v1",
                "https://host/v1\r\nx: y", "https://a..b/v1", f"https://{'x' * 64}/v1", "https://a%20b/v1", "https://300.1.1.1/v1", "https://1.2.3.4.5/v1", "", None, 7):  # fmt: skip
        with pytest.raises(ConfigurationError):
            Endpoint(url)
    with pytest.raises(ConfigurationError, match="concurrency"):
        Endpoint("https://host/v1", concurrency=0)


TOKEN = "hf_abcdefghijklmnopqrstuv123"


def test_a_hub_token_goes_to_the_hub_only(monkeypatch):
    for url in ("https://api.openai.com/v1", "https://huggingface.co.evil.example/v1", "https://evilhuggingface.co/v1"):
        with pytest.raises(ConfigurationError, match="token of the Hugging Face Hub"):
            Endpoint(url, Secret(TOKEN))
        with pytest.raises(ConfigurationError, match="token of the Hugging Face Hub"):
            loop.call(Endpoint(url, Secret(lambda: TOKEN)).ask, "/x", None, in_(20))
    for url in ("https://router.huggingface.co/v1", "https://x.us-east-1.aws.endpoints.huggingface.cloud/v1"):
        Endpoint(url, Secret(TOKEN))
    assert is_hub("huggingface.co") and not is_hub("hf.space.example") and not is_hub("")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.corp.example")
    assert is_hub("hub.corp.example")


def test_this_machines_token_is_used_for_the_hub_only(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert key_for("https://x.endpoints.huggingface.cloud/v1", None).reveal() == TOKEN
    for url in ("https://example.org/v1", "http://127.0.0.1:8000/v1", "http://huggingface.co/v1"):
        assert key_for(url, None) is None
    assert key_for("https://huggingface.co/v1", KEY).reveal() == KEY


def test_hosts_of_this_machine():
    assert all(map(is_loopback, ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["localhost.example", "127.0.0.1.example", "10.0.0.1", "::2", ""]))


def test_a_proxy_of_the_environment_is_used_except_on_this_machine(monkeypatch):
    seen = []
    with Stub(lambda call: seen.append(call) or said({"via": "proxy"})) as proxy, Stub(lambda call: said({})) as stub:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy.origin)
        monkeypatch.setenv("no_proxy", "")
        ask(Endpoint(stub.url))
        assert not seen
        for mode in ("sync", "async"):
            assert ask(Endpoint("http://aligner.example:8000/v1"), mode=mode) == {"via": "proxy"}
        assert [call.path for call in seen] == ["http://aligner.example:8000/v1/x"] * 2
        monkeypatch.setenv("no_proxy", "aligner.example")
        with pytest.raises(BackendError):
            ask(Endpoint("http://aligner.example:8000/v1"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_over_tls(tmp_path, monkeypatch):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert], check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    replies = [*[said({"n": 1})] * 2, *[list(SLOW["slow body"]())] * 2]
    with Stub(lambda call: replies[len(stub.calls) - 1], tls=context) as stub:
        url = f"https://127.0.0.1:{stub.port}/v1"
        for mode in ("sync", "async"):
            with pytest.raises(BackendError, match="not trusted") as caught:
                ask(Endpoint(url, Secret(KEY)), mode=mode)
            assert not caught.value.retryable and not stub.calls
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        for mode in ("sync", "async"):
            assert ask(Endpoint(url, Secret(KEY)), mode=mode) == {"n": 1}
        for mode in ("sync", "async"):
            with pytest.raises(BackendError, match="the limit of this attempt"):
                ask(Endpoint(url, Secret(KEY)), mode=mode, clock=in_(SOON))


# What is left open --------------------------------------------------------------------------------------------------


def test_connections_are_kept_and_shared(monkeypatch):
    monkeypatch.setattr(http, "_KEEP_ALIVE", 600)  # of a busy machine, seconds mean little
    with Stub(lambda call: said({})) as stub:
        end = Endpoint(stub.url)
        for _ in range(5):
            ask(end)
        assert stub.connections == 1

        async def five():
            for _ in range(5):
                await loop.acall(end.ask, "/x", {}, in_(20))

        for _ in range(2):
            asyncio.run(five())
        assert stub.connections == 1, "threads and event loops share them, and a loop's end ends none"
        end.close()
        assert stub.closed()
        ask(end)  # and may be used again
        end.close()


def test_many_loops_and_threads_at_once():
    with Stub(lambda call: said({"n": call.body["n"]})) as stub:
        end, results = Endpoint(stub.url), []

        async def some(start):
            return await asyncio.gather(
                *(loop.acall(end.ask, "/x", {"n": n}, in_(20)) for n in range(start, start + 20))
            )

        def work(start):
            results.extend(answer["n"] for answer in asyncio.run(some(start)))
            results.extend(loop.call(end.ask, "/x", {"n": n}, in_(20))["n"] for n in range(start + 20, start + 40))

        threads = [threading.Thread(target=work, args=(i * 40,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == list(range(240))
        end.close()
        assert stub.closed()


@pytest.mark.parametrize("how", ["dies", "closed"])
@pytest.mark.parametrize("where", ["on its loop", "after its loop"])
def test_nothing_stays_open_and_nobody_warns(how, where):
    with Stub(lambda call: said({})) as stub, warnings.catch_warnings():
        warnings.simplefilter("error")
        end = Endpoint(stub.url)

        def give_up():
            nonlocal end
            if how == "closed":
                end.close()
            else:
                end = None
                gc.collect()

        async def run():
            await loop.acall(end.ask, "/x", {}, in_(20))
            assert stub.open == 1
            if where == "on its loop":
                give_up()
                assert await asyncio.to_thread(stub.closed)

        asyncio.run(run())
        if where == "after its loop":
            assert stub.open == 1
            give_up()
        assert stub.closed()
        ask(Endpoint(stub.url))
        gc.collect()
        assert stub.closed()


@modes
def test_closing_leaves_requests_that_are_under_way_alone(mode):
    go = threading.Event()

    def late(call):
        go.wait(20)
        return said({"n": 1})

    with Stub(late) as stub:
        end, results = Endpoint(stub.url), []
        asking = threading.Thread(target=lambda: results.append(ask(end, mode=mode)))
        asking.start()
        while not stub.calls:
            time.sleep(0.01)
        end.close()
        go.set()
        asking.join()
        assert results in ([{"n": 1}], [[{"n": 1}]])
        assert stub.closed()


def test_cancelling_closes_the_connection():
    with Stub(lambda call: [60]) as stub:
        end = Endpoint(stub.url)

        async def run():
            tasks = [asyncio.create_task(loop.acall(end.ask, "/x", {}, in_(50))) for _ in range(5)]
            while len(stub.calls) < 5:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            assert await asyncio.to_thread(stub.closed)
            assert len(asyncio.all_tasks()) == 1

        asyncio.run(run())


def test_a_stream_that_is_left_closes_the_connection():
    many = [{"n": n} for n in range(1000)]
    with Stub(lambda call: events(*many, pause=0.01)) as stub:
        end = Endpoint(stub.url)
        found = loop.read(end.events("/x", {}, in_(50)))
        assert next(found) == {"n": 0}
        found.close()
        assert stub.closed()

        async def run():
            found = loop.aread(end.events("/x", {}, in_(50)))
            assert await anext(found) == {"n": 0}
            await found.aclose()
            assert await asyncio.to_thread(stub.closed)

        asyncio.run(run())


def test_travels_without_its_key_and_its_connections():
    with Stub(lambda call: said({})) as stub:
        end = Endpoint(stub.url, Secret(KEY))
        ask(end)
        data = pickle.dumps(end)
        assert KEY.encode() not in data
        with pytest.raises(ConfigurationError, match="pickled"):
            ask(pickle.loads(data))  # noqa: S301 - our own
        twin = copy.deepcopy(end)
        ask(twin)
        assert stub.connections == 2 and stub.calls[-1].headers["authorization"] == f"Bearer {KEY}"
        end.close()
        twin.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_opens_connections_of_its_own(monkeypatch):
    monkeypatch.setattr(
        http, "_KEEP_ALIVE", 600
    )  # or a busy machine finds its idle connection closed, which is right, too
    with Stub(lambda call: said({"connection": call.connection})) as stub:
        end = Endpoint(stub.url)
        mine = ask(end)["connection"]
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # Python warns of forks with threads, which is the point
            child = os.fork()
        if child == 0:
            try:
                os.write(writer, str(ask(end)["connection"]).encode())
                end = None
                gc.collect()
            finally:
                os._exit(0)
        assert int(os.read(reader, 20)) != mine
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
        assert ask(end)["connection"] == mine
        end.close()
