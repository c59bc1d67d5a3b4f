"""One HTTP server: JSON in, JSON or a stream of events out, and every failure as a `BackendError`.

The key goes to this server and nowhere else: over https unless that is waived, never after a redirect, and into no
message. Responses are bounded in size. Nothing is tried twice here; `retryable` and `retry_after` say what may be.

What lives elsewhere: connections and deadlines (`connection.py`), what the JSON means (the backends).
"""

from __future__ import annotations

import ipaddress
import json
import math
import time
import urllib.parse
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from huggingface_hub import constants, get_token

from aligner_integrations._version import __version__
from aligner_integrations.backends.deadline import Clock
from aligner_integrations.backends.remote.connection import Connections, Headers
from aligner_integrations.backends.remote.keys import Secret, redact
from aligner_integrations.backends.remote.responses import StatusError
from aligner_integrations.errors import BackendError, ConfigurationError, InvalidTextError

MAX_RESPONSE = 32 * 2**20
"""Longest response in bytes."""

_MAX_REFUSAL = 64 * 2**10
_RETRYABLE = {408, 425, 429}

Json = dict[str, Any]


class Endpoint:
    """A server that is spoken to.

    Args:
        url: Where paths start, for example `https://host/v1`.
        api_key: Sent as a bearer token.
        allow_http: Whether the key may travel unencrypted to another machine.
        concurrency: Most requests on the way at once, of an event loop and of all threads together.

    Raises:
        ConfigurationError: A URL that cannot be used, or one to which the key must not be sent.
    """

    def __init__(
        self, url: str, api_key: Secret | None = None, *, allow_http: bool = False, concurrency: int = 64
    ) -> None:
        parts = _parts(url)
        if concurrency < 1:
            raise ConfigurationError(f"concurrency is {concurrency}; it must be at least 1.")
        self.host = parts.hostname or ""
        loopback = is_loopback(self.host)
        if api_key is not None and parts.scheme != "https" and not loopback and not allow_http:
            raise ConfigurationError(
                f"An API key for {self.host} would travel unencrypted over http. Use https, or pass allow_http=True if the "
                "network between is trusted."
            )
        self.path = parts.path.rstrip("/")
        self.api_key = api_key
        if api_key is not None and not api_key.is_asked_for:
            self._refuse_hub_token()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        # The host header names the port only where it is not the usual one.
        self._authority = parts.netloc
        self.connections = Connections(parts.scheme, self.host, port, loopback=loopback, limit=concurrency)

    def __repr__(self) -> str:
        """Name the server."""
        return f"Endpoint({self.connections.scheme}://{self._authority}{self.path})"

    def close(self) -> None:
        """Close connections that threads used."""
        self.connections.close()

    async def aclose(self) -> None:
        """Close connections that this event loop and threads used."""
        await self.connections.aclose()

    # One response ---------------------------------------------------------------------------------------------------

    def ask(self, path: str, body: Json | None, clock: Clock) -> Any:
        """Post JSON (or get, without a body) and return the JSON of the response.

        Raises:
            BackendError: Anything else came, or nothing in time.
        """
        content = _encode(body)
        with self.connections.open(*self._request(path, content), clock, self._key) as reply:
            limit = _limit(reply.status)
            read = bytearray()
            for chunk in reply.chunks:
                read += chunk
                if self._enough(len(read), limit, reply.status):
                    break
        return self._value(reply.status, reply.headers, bytes(read))

    async def aask(self, path: str, body: Json | None, clock: Clock) -> Any:
        """`ask` without blocking the event loop; cancelling it closes the connection."""
        content = _encode(body)
        async with self.connections.aopen(*self._request(path, content), clock, self._key) as reply:
            limit = _limit(reply.status)
            read = bytearray()
            async for chunk in reply.chunks:
                read += chunk
                if self._enough(len(read), limit, reply.status):
                    break
        return self._value(reply.status, reply.headers, bytes(read))

    # Server-sent events ---------------------------------------------------------------------------------------------

    def events(self, path: str, body: Json, clock: Clock) -> Generator[Json, None, None]:
        """Post JSON and yield the JSON of each event; a plain JSON response is one event.

        Raises:
            BackendError: As above, also in the middle.
        """
        content = _encode(body)
        with self.connections.open(*self._request(path, content, "text/event-stream"), clock, self._key) as reply:
            if not _is_stream(reply.status, reply.headers):
                read = bytearray()
                for chunk in reply.chunks:
                    read += chunk
                    if self._enough(len(read), _limit(reply.status), reply.status):
                        break
                yield self._object(self._value(reply.status, reply.headers, bytes(read)))
                return
            lines = _Lines()
            for chunk in reply.chunks:
                for data in lines.feed(chunk):
                    if data == b"[DONE]":
                        return
                    yield self._event(data)
                self._enough(lines.size, MAX_RESPONSE, reply.status)

    async def aevents(self, path: str, body: Json, clock: Clock) -> AsyncGenerator[Json, None]:
        """`events` without blocking the event loop; closing it closes the connection."""
        content = _encode(body)
        async with self.connections.aopen(
            *self._request(path, content, "text/event-stream"), clock, self._key
        ) as reply:
            if not _is_stream(reply.status, reply.headers):
                read = bytearray()
                async for chunk in reply.chunks:
                    read += chunk
                    if self._enough(len(read), _limit(reply.status), reply.status):
                        break
                yield self._object(self._value(reply.status, reply.headers, bytes(read)))
                return
            lines = _Lines()
            async for chunk in reply.chunks:
                for data in lines.feed(chunk):
                    if data == b"[DONE]":
                        return
                    yield self._event(data)
                self._enough(lines.size, MAX_RESPONSE, reply.status)

    # What both share ------------------------------------------------------------------------------------------------

    def _request(self, path: str, content: bytes, accept: str = "application/json") -> tuple[str, str, Headers, bytes]:
        headers = [
            (b"host", self._authority.encode()),
            (b"user-agent", f"aligner-integrations/{__version__}".encode()),
            (b"accept", accept.encode()),
            (b"accept-encoding", b"identity"),  # what is sent packed could be of any size when it is unpacked
        ]
        if content:
            headers += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        return "POST" if content else "GET", self.path + path or "/", headers, content

    def _key(self) -> Headers:
        if self.api_key is None:
            return []
        self._refuse_hub_token()
        return [(b"authorization", b"Bearer " + self.api_key.reveal().encode())]

    def _refuse_hub_token(self) -> None:
        """A token of the Hub is worth more than this server: it must not learn one, not even by mistake."""
        if (
            self.api_key is not None
            and self.api_key.reveal().startswith("hf_")
            and not (is_hub(self.host) or is_loopback(self.host))
        ):
            raise ConfigurationError(
                f"The API key for {self.host} is a token of the Hugging Face Hub, and {self.host} does not belong to the Hub. "
                "It is not sent there; give the server's own key."
            )

    def _enough(self, size: int, limit: int, status: int) -> bool:
        """Whether a refusal has been read as far as it matters; a response beyond the limit is an error."""
        if size > limit and 200 <= status < 300:
            raise BackendError(
                f"The response of {self.host} is longer than {limit:,} bytes; it was not read to the end."
            )
        return size > limit

    def _value(self, status: int, headers: Mapping[str, str], read: bytes) -> Any:
        if not 200 <= status < 300:
            raise self._refusal(status, headers, read)
        if headers.get("content-encoding", "identity") != "identity":
            raise BackendError(
                f"{self.host} packed its response ({headers['content-encoding'][:20]}) though asked not to."
            )
        return self._json(read)

    def _json(self, data: bytes) -> Any:
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

    def _event(self, data: bytes) -> Json:
        event = self._object(self._json(data))
        if (error := event.get("error")) and not event.get("choices"):
            detail = self._shown(_message(error))
            code = error.get("code") if isinstance(error, dict) else None
            refused = isinstance(code, int) and 400 <= code < 500 and code not in _RETRYABLE
            raise StatusError(
                f"{self.host} broke off its stream: {detail or 'it does not say why'}",
                status=code if isinstance(code, int) else 0,
                detail=detail,
                retryable=not refused,
                retry_after=None,
            )
        return event

    def _refusal(self, status: int, headers: Mapping[str, str], read: bytes) -> StatusError:
        try:
            data = json.loads(read)
        except (ValueError, RecursionError):
            data = None
        detail = self._shown(_message(data))
        if 300 <= status < 400:
            target = urllib.parse.urlsplit(headers.get("location", ""))
            detail = f"it redirects to {self._shown(target.hostname or target.path)}; give that server's URL yourself"
        hint = {
            401: " Check api_key.",
            403: " Check that api_key may use this model.",
            404: " Check the URL (it ends in /v1) and the model's name.",
        }.get(status, "")
        return StatusError(
            f"{self.host} answered with status {status}{': ' + detail if detail else ''}.{hint}",
            status=status,
            detail=detail,
            retryable=status in _RETRYABLE or status >= 500,
            retry_after=_retry_after(headers.get("retry-after"), data),
        )

    def _shown(self, text: str) -> str:
        """Text of a server as part of a message: one line, short, without keys."""
        line = " ".join(text.split())
        return redact("".join(c for c in line if c.isprintable()), self.api_key)[:300].rstrip(". ")


class _Lines:
    """Splits a stream of bytes into the data of its events, whatever the chunks."""

    def __init__(self) -> None:
        self.size = 0
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        self.size += len(chunk)
        self._rest += chunk
        if b"\n" not in chunk:  # or a line that comes byte by byte would be searched again with each
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and (data := line[5:].strip()):
                yield bytes(data)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_hub(host: str) -> bool:
    """Whether a host belongs to the Hugging Face Hub, its router, or its Inference Endpoints."""
    own = urllib.parse.urlsplit(constants.ENDPOINT).hostname  # HF_ENDPOINT, for those with a Hub of their own
    return host == own or any(
        host == hub or host.endswith("." + hub) for hub in ("huggingface.co", "hf.co", "huggingface.cloud")
    )


def key_for(url: str, api_key: str | Callable[[], str] | Secret | None) -> Secret | None:
    """Return the key to send to a server: the one given, else for a host of the Hub the token this machine has for it."""
    if api_key is not None:
        return api_key if isinstance(api_key, Secret) else Secret(api_key)
    parts = _parts(url)
    if parts.scheme == "https" and is_hub(parts.hostname or "") and get_token():
        return Secret(_hub_token)
    return None


def _hub_token() -> str:
    return get_token() or ""


def _parts(url: str) -> urllib.parse.SplitResult:
    """Split a URL; what does not belong into it is not repeated in the message, because it may be a secret."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except (ValueError, TypeError, AttributeError):
        raise ConfigurationError("The URL of the server cannot be read. It looks like https://host:8000/v1.") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            f"The URL of {parts.hostname or 'the server'} holds a user name, a password, a query or a fragment. Give "
            "scheme, host and path alone, and the key as api_key."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigurationError(f"{url!r} is not the URL of a server. It looks like https://host:8000/v1.")
    if (
        not parts.netloc.isascii()
        or not parts.path.isascii()
        or not (parts.netloc + parts.path).isprintable()
        or " " in url
    ):
        raise ConfigurationError(f"{url!r} has characters that a URL cannot have; encode them first.")
    return parts


def _encode(body: Json | None) -> bytes:
    if body is None:
        return b""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidTextError(f"The prompt cannot be encoded as UTF-8: {error.reason}.") from None


def _limit(status: int) -> int:
    return MAX_RESPONSE if 200 <= status < 300 else _MAX_REFUSAL


def _is_stream(status: int, headers: Mapping[str, str]) -> bool:
    packed = headers.get("content-encoding", "identity") != "identity"
    return 200 <= status < 300 and not packed and not headers.get("content-type", "").startswith("application/json")


def _message(data: Any) -> str:
    """What an error object says: servers differ in where they say it."""
    for _ in range(3):
        inner = (
            next((data[key] for key in ("error", "message", "detail") if data.get(key)), None)
            if isinstance(data, dict)
            else None
        )
        if inner is None:
            break
        data = inner
    return data if isinstance(data, str) else json.dumps(data) if data else ""


def _retry_after(value: str | None, data: Any) -> float | None:
    """Seconds from a Retry-After header (seconds or a date), or from what the Hub says of a model that is loading."""
    if value is None:
        value = str(data.get("estimated_time", "")) if isinstance(data, dict) else ""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
