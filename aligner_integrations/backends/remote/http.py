"""One HTTP server: JSON in, JSON or a stream of events out, and every failure as a `BackendError`.

The key goes to this server and nowhere else: over https unless that is waived, never after a redirect, and into no
message. Responses are bounded in size. Nothing is tried twice here; `retryable` and `retry_after` say what may be.
All coroutines here run on the loop of `loop.py`, for which the connections are kept, too.

What lives elsewhere: keys and URLs (`keys.py`), proxies and certificates (`environment.py`), where an event begins and
ends (`event_data.py`), what the JSON means (`responses.py`).
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import io
import json
import math
import ssl
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aligner_integrations._version import __version__
from aligner_integrations.backends.deadline import Clock, brief
from aligner_integrations.backends.remote import loop
from aligner_integrations.backends.remote.environment import Proxy, certificates, proxy_for
from aligner_integrations.backends.remote.event_data import EventData
from aligner_integrations.backends.remote.keys import Secret, is_hub, is_loopback, split_url
from aligner_integrations.backends.remote.responses import broken_off, may_pass, refusal, shown
from aligner_integrations.errors import BackendError, ConfigurationError, InvalidTextError, require

with require("remote", "Running an aligner on a server needs aiohttp ({missing} is missing)", "aiohttp", "yarl"):
    import aiohttp
    from aiohttp.http_exceptions import HttpProcessingError
    from yarl import URL

MAX_RESPONSE = 32 * 2**20
"""Longest response in bytes."""

_MAX_REFUSAL = 64 * 2**10
_KEEP_ALIVE = 4.0
"""Seconds for which an idle connection is kept: less than the 5 after which uvicorn, and so most servers, close it."""

_LARGE = 2**20  # from here on aiohttp warns of a body in one piece

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

Json = dict[str, Any]


class Endpoint:
    """A server that is spoken to.

    Args:
        url: Where paths start, for example `https://host/v1`.
        api_key: Sent as a bearer token.
        allow_http: Whether the key may travel unencrypted to another machine.
        concurrency: Most requests on the way at once.

    Raises:
        ConfigurationError: A URL that cannot be used, one to which the key must not be sent, or a proxy that cannot be used.
    """

    def __init__(
        self, url: str, api_key: Secret | None = None, *, allow_http: bool = False, concurrency: int = 64
    ) -> None:
        parts = split_url(url)
        if concurrency < 1:
            raise ConfigurationError(f"concurrency is {concurrency}; it must be at least 1.")
        self.host = parts.hostname or ""
        if api_key is not None and parts.scheme != "https" and not is_loopback(self.host) and not allow_http:
            raise ConfigurationError(
                f"An API key for {self.host} would travel unencrypted over http. Use https, or pass allow_http=True if the "
                "network between is trusted."
            )
        self._url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._scheme = parts.scheme
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._concurrency = concurrency
        self.api_key = api_key
        if api_key is not None and not api_key.is_asked_for:
            self._refuse_hub_token(api_key)
        self._proxy()
        self._here: _Here | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Where the server is: connections do not travel, and a copy opens its own."""
        return {**vars(self), "_here": None}

    def __repr__(self) -> str:
        """Name the server."""
        return f"Endpoint({self._url})"

    def close(self) -> None:
        """Close idle connections, and those in use once they are idle. It may be used again, and opens new ones then."""
        if (here := self._here) is not None:
            here.connections = None

    # One response ---------------------------------------------------------------------------------------------------

    async def ask(self, path: str, body: Json | None, clock: Clock) -> Any:
        """Post JSON (or get, without a body) and return the JSON of the response.

        Raises:
            BackendError: Anything else came, or nothing in time.
        """
        here = self._on_this_loop()
        async with self._in_time(clock), here.free:
            reply = await self._send(here, path, body, "application/json", clock)
            try:
                return await self._whole(reply)
            finally:  # what has not been read is dropped with its connection
                reply.response.close()

    async def look_up(self, path: str, clock: Clock) -> Any:
        """Get JSON for which many may wait at once: they share one request, and each waits as long as it may itself.

        Raises:
            BackendError: As above.
        """
        asked = self._on_this_loop().asked
        if (task := asked.get(path)) is None:
            # It is nobody's own work, so it runs in nobody's context.
            task = asked[path] = contextvars.Context().run(asyncio.ensure_future, self.ask(path, None, brief()))
            # Its error is seen by those who wait; perhaps they have all gone.
            task.add_done_callback(lambda task: (asked.pop(path), task.cancelled() or task.exception()))
        async with self._in_time(clock):
            return await asyncio.shield(task)

    async def events(self, path: str, body: Json, clock: Clock) -> AsyncGenerator[Json, None]:
        """Post JSON and yield the JSON of each server-sent event; a plain JSON response is one event.

        Raises:
            BackendError: As above, also in the middle.
        """
        async with self._reply(path, body, "text/event-stream", clock) as reply:
            if not reply.is_stream:
                async with self._in_time(clock):
                    answer = await self._whole(reply)
                yield self._object(answer)
                return
            lines, chunk = EventData(), b"..."
            while chunk:
                async with self._in_time(clock):
                    chunk = await reply.response.content.readany()
                for data in lines.feed(chunk) if chunk else lines.end():
                    if data == b"[DONE]":
                        return
                    event = self._object(self._json(data))
                    if (error := event.get("error")) and not event.get("choices"):
                        raise broken_off(self.host, error, reply.key)
                    yield event
                self._enough(lines.size, MAX_RESPONSE, reply.status)

    async def _whole(self, reply: _Reply) -> Any:
        good, read, content = 200 <= reply.status < 300, bytearray(), reply.response.content
        while not content.at_eof():
            read += await content.readany()
            if self._enough(len(read), MAX_RESPONSE if good else _MAX_REFUSAL, reply.status):
                break
        if not good:
            raise refusal(self.host, reply.status, reply.response.headers, read, reply.key)
        if packed := reply.packed:
            raise BackendError(f"{self.host} packed its response ({packed[:20]}) though asked not to.")
        return self._json(read)

    # Sending --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _reply(self, path: str, body: Json | None, accept: str, clock: Clock) -> AsyncIterator[_Reply]:
        """Send a request; what has not been read of the response when the block ends is dropped with its connection."""
        async with AsyncExitStack() as stack:
            async with self._in_time(clock):
                here = self._on_this_loop()
                await stack.enter_async_context(here.free)
                reply = await self._send(here, path, body, accept, clock)
                stack.callback(reply.response.close)
            yield reply

    async def _send(self, here: _Here, path: str, body: Json | None, accept: str, clock: Clock) -> _Reply:
        connections = here.connections or await self._connected(here)
        key = await self._key()
        return _Reply(await connections.send(self._url + path, _encode(body), accept, key, clock.connect), key)

    def _on_this_loop(self) -> _Here:
        """What is open in this process; a forked child has a loop of its own, and begins anew."""
        if self._here is None or self._here.loop is not asyncio.get_running_loop():
            self._here = _Here(self._concurrency)
        return self._here

    async def _connected(self, here: _Here) -> _Connections:
        async with here.connecting:
            if (connections := here.connections) is None:
                proxy = self._proxy()
                tls = self._scheme == "https" or (proxy is not None and proxy.url.startswith("https"))
                trusted = await loop.outside(certificates) if tls else None
                connections = here.connections = _Connections(proxy, trusted)
        return connections

    def _proxy(self) -> Proxy | None:
        return proxy_for(self._scheme, self.host, self._port)

    async def _key(self) -> Secret | None:
        """The key for one request; a function is asked each time, because keys expire."""
        if self.api_key is None or not self.api_key.is_asked_for:
            return self.api_key
        key = Secret(await loop.outside(self.api_key.reveal))
        self._refuse_hub_token(key)
        return key

    def _refuse_hub_token(self, key: Secret) -> None:
        """A token of the Hub is worth more than this server: it must not learn one, not even by mistake."""
        if key.reveal().startswith("hf_") and not (is_hub(self.host) or is_loopback(self.host)):
            raise ConfigurationError(
                f"The API key for {self.host} is a token of the Hugging Face Hub, and {self.host} does not belong to the Hub. "
                "It is not sent there; give the server's own key."
            )

    @asynccontextmanager
    async def _in_time(self, clock: Clock) -> AsyncIterator[None]:
        """Keep to the clock, and turn what goes wrong on the way into an error of ours."""
        name = f"{self.host}:{self._port}"
        try:
            # Not aiohttp's own limits: they are rounded up to whole seconds.
            async with asyncio.timeout(clock.left):
                yield
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError) and clock.connect is not None and not clock.passed:
                late = f"{name} could not be reached within {clock.connect:g} seconds."
            else:
                what = "did not begin to write" if clock.waits_for_token else "was not done"
                late = f"{name} {what} within {clock.given}, the limit of this attempt; it was given up."
            loop.bare(error)
            raise BackendError(late, retryable=True) from None
        except (aiohttp.ClientError, HttpProcessingError, OSError, UnicodeError) as error:
            loop.bare(error)  # its frames hold the request's headers, and so the key
            why = f"{type(error).__name__}: {shown(str(error), self._plain_key)}"
            if isinstance(error, aiohttp.ClientConnectorCertificateError):
                raise BackendError(
                    f"The certificate of {name} is not trusted: {why}. Set SSL_CERT_FILE if it is signed by your own authority."
                ) from None
            if isinstance(error, aiohttp.ClientHttpProxyError):
                raise BackendError(
                    f"The proxy of the environment refuses the way to {name} with status {error.status}. Check HTTPS_PROXY "
                    "and its like.",
                    retryable=may_pass(error.status),
                ) from None
            if isinstance(error, aiohttp.ClientConnectorError):
                # The system's own words: aiohttp's say "ssl:default" where there is no TLS.
                why = f"{type(error.os_error).__name__}: {shown(str(error.os_error), self._plain_key)}"
                raise BackendError(f"{name} cannot be reached: {why}", retryable=True) from None
            raise BackendError(f"{name} cut or broke the connection: {why}", retryable=True) from None

    @property
    def _plain_key(self) -> Secret | None:
        return None if self.api_key is None or self.api_key.is_asked_for else self.api_key

    # What came ------------------------------------------------------------------------------------------------------

    def _enough(self, size: int, limit: int, status: int) -> bool:
        """Whether a refusal has been read as far as it matters; a response beyond the limit is an error."""
        if size > limit and 200 <= status < 300:
            raise BackendError(
                f"The response of {self.host} is longer than {limit:,} bytes; it was not read to the end."
            )
        return size > limit

    def _json(self, data: bytes | bytearray) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            what = "nothing" if not data.strip() else f"{len(data):,} bytes that are no JSON"
            raise BackendError(f"{self.host} answered with {what} where JSON was due.", retryable=True) from None

    def _object(self, value: Any) -> Json:
        if not isinstance(value, dict):
            raise BackendError(
                f"{self.host} answered with a JSON {type(value).__name__} where an object was due.", retryable=True
            )
        return value


@dataclass(frozen=True, slots=True)
class _Reply:
    """The head of a response, its body as it comes, and the key that was sent."""

    response: aiohttp.ClientResponse
    key: Secret | None

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def packed(self) -> str | None:
        """How the body is packed, if it is."""
        encoding = self.response.headers.get("content-encoding", "identity")
        return None if encoding == "identity" else encoding

    @property
    def is_stream(self) -> bool:
        kind = self.response.headers.get("content-type", "").lower()
        return 200 <= self.status < 300 and not self.packed and not kind.startswith("application/json")


class _Here:
    """What an endpoint has on one loop. Waiting is done at `free`: it is fair, and thousands may wait at little cost."""

    def __init__(self, limit: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.free = asyncio.Semaphore(limit)
        self.connecting = asyncio.Lock()
        self.connections: _Connections | None = None
        self.asked: dict[str, asyncio.Future[Any]] = {}


class _Connections:
    """Open connections. They are closed once nobody holds this object: neither its endpoint nor a request under way."""

    def __init__(self, proxy: Proxy | None, trusted: ssl.SSLContext | None) -> None:
        self._proxy = proxy
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE, ssl=trusted or True)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        )
        loop.kept.add(self._session)
        weakref.finalize(self, _close, self._session, asyncio.get_running_loop()).atexit = False

    async def send(
        self, url: str, content: bytes, accept: str, key: Secret | None, connect: float | None
    ) -> aiohttp.ClientResponse:
        headers = {
            "User-Agent": f"aligner-integrations/{__version__}",
            "Accept": accept,
            "Accept-Encoding": "identity",  # what is sent packed could be of any size when it is unpacked
        }
        if content:
            headers["Content-Type"] = "application/json"
        if self._proxy is not None and url.startswith("http:"):
            headers |= self._proxy.headers
        return await self._session.request(
            "POST" if content else "GET",
            URL(url, encoded=True),
            data=io.BytesIO(content) if len(content) >= _LARGE else content or None,
            # The key is in no variable of ours, because errors carry variables along.
            headers=headers if key is None else {**headers, "Authorization": f"Bearer {key.reveal()}"},
            proxy=None if self._proxy is None else self._proxy.url,
            proxy_headers=None if self._proxy is None else self._proxy.headers,
            allow_redirects=False,
            timeout=_connect_within(connect),
        )


@functools.lru_cache(16)
def _connect_within(seconds: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=seconds, ceil_threshold=math.inf)


def _close(session: aiohttp.ClientSession, its_loop: asyncio.AbstractEventLoop) -> None:
    if session in loop.kept:  # else it is that of a forked child's parent
        loop.kept.discard(session)
        asyncio.run_coroutine_threadsafe(session.close(), its_loop)


def _encode(body: Json | None) -> bytes:
    if body is None:
        return b""
    try:
        return _JSON.encode(body).encode()
    except UnicodeEncodeError as error:
        raise InvalidTextError(f"The prompt cannot be encoded as UTF-8: {error.reason}.") from None
