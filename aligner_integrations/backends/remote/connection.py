"""Connections to one server: pooled, timed, and closed once nobody needs them.

Synchronous callers share one pool, which threads may use at once. Each event loop has a pool of its own, which ends
with the loop or with its owner, whichever is first. httpcore is used without httpx around it, because only here can a
blocking read be given what is left of a deadline: a read timeout alone starts anew with every byte of a slow drip.

What lives elsewhere: requests, JSON, keys and what a status means (`http.py`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aligner_integrations.backends.deadline import Clock
from aligner_integrations.errors import BackendError, require

with require("remote", "Running an aligner on a server needs httpcore ({missing} is missing)", "anyio", "httpcore"):
    import anyio  # noqa: F401 - httpcore only asks for it when it is too late
    import httpcore

_KEEP_ALIVE = 4.0
"""Seconds for which an idle connection is kept: less than the 5 after which uvicorn, and so most servers, close it."""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Reply:
    """The head of a response, and its body as it comes."""

    status: int
    headers: dict[str, str]
    chunks: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class AsyncReply:
    """The asynchronous twin of `Reply`."""

    status: int
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]


class Connections:
    """All connections to one server.

    Args:
        scheme: `"http"` or `"https"`.
        host: Its name or address.
        port: Its port.
        loopback: Whether it is on this machine; no proxy is asked then.
        limit: Most connections of an event loop, and of all threads together.
    """

    def __init__(self, scheme: str, host: str, port: int, *, loopback: bool, limit: int) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.loopback = loopback
        self.limit = limit
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Where the server is: sockets and locks do not travel, and a copy opens its own."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._pool: httpcore.ConnectionPool | None = None
        self._loops: weakref.WeakKeyDictionary[Any, _LoopPool] = weakref.WeakKeyDictionary()

    @contextmanager
    def open(
        self, method: str, target: str, headers: Headers, content: bytes, clock: Clock, key: Callable[[], Headers]
    ) -> Iterator[Reply]:
        """Send a request; what has not been read of the response when the block ends is dropped with its connection.

        Args:
            method: The HTTP method.
            target: Path on the server.
            headers: All but the one with the key.
            content: The body.
            clock: How long it may take.
            key: Gives the header with the key. It is in no variable here, because errors carry variables along.

        Raises:
            BackendError: The server cannot be reached, is too slow, or cuts the connection.
        """
        with ExitStack() as stack:
            with self._explained(clock), _until(clock.point):
                response = stack.enter_context(
                    self._threads_pool().stream(
                        method,
                        self._url(target),
                        headers=[*headers, *key()],
                        content=content,
                        extensions={"timeout": {"connect": clock.connect, "pool": _positive(clock.left)}},
                    )
                )
            yield Reply(response.status, _plain(response.headers), self._chunks(response, clock))

    def _chunks(self, response: httpcore.Response, clock: Clock) -> Iterator[bytes]:
        chunks = response.iter_stream()
        while True:
            with self._explained(clock), _until(clock.point):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    @asynccontextmanager
    async def aopen(
        self, method: str, target: str, headers: Headers, content: bytes, clock: Clock, key: Callable[[], Headers]
    ) -> AsyncIterator[AsyncReply]:
        """`open` without blocking the event loop; cancelling it closes the connection."""
        async with AsyncExitStack() as stack:
            with self._explained(clock):
                async with asyncio.timeout(clock.left):
                    here = await self._loops_pool()
                    await stack.enter_async_context(here.free)
                    response = await stack.enter_async_context(
                        here.pool.stream(
                            method,
                            self._url(target),
                            headers=[*headers, *key()],
                            content=content,
                            extensions={"timeout": {"connect": clock.connect}},
                        )
                    )
            yield AsyncReply(response.status, _plain(response.headers), self._achunks(response, clock))

    async def _achunks(self, response: httpcore.Response, clock: Clock) -> AsyncIterator[bytes]:
        chunks = response.aiter_stream()
        while True:
            with self._explained(clock):
                async with asyncio.timeout(clock.left):
                    chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk

    def close(self) -> None:
        """Close what threads used. It may be used again, and opens new connections then."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    async def aclose(self) -> None:
        """Close what this event loop used, and what threads used."""
        self.close()
        if (here := self._drop(asyncio.get_running_loop())) is not None:
            await here.keeper.aclose()

    # Pools ----------------------------------------------------------------------------------------------------------

    def _threads_pool(self) -> httpcore.ConnectionPool:
        with self._lock:
            self._check_process()
            if self._pool is None:
                self._pool = httpcore.ConnectionPool(network_backend=_TimedBackend(), **self._options())
                weakref.finalize(self, _close, self._pool, self._process)
            return self._pool

    async def _loops_pool(self) -> _LoopPool:
        loop = asyncio.get_running_loop()
        with self._lock:
            self._check_process()
            if (here := self._loops.get(loop)) is not None:
                return here
            for other in [other for other in self._loops if other.is_closed()]:
                del self._loops[other]
            pool = httpcore.AsyncConnectionPool(**self._options())
            keeper = _keep(pool, weakref.ref(self), weakref.ref(loop))
            here = self._loops[loop] = _LoopPool(pool, keeper, asyncio.Semaphore(self.limit))
        await anext(keeper)  # does not wait, so no other task comes between
        return here

    def _drop(self, loop: Any) -> _LoopPool | None:
        with self._lock:
            return self._loops.pop(loop, None)

    def _check_process(self) -> None:
        """A forked child must not talk over its parent's connections."""
        if self._process != os.getpid():
            self._process, self._pool, self._loops = os.getpid(), None, weakref.WeakKeyDictionary()

    def _options(self) -> dict[str, Any]:
        """What both kinds of pool are made with; certificates and proxies are those that the environment names."""
        proxy = None
        if not self.loopback and not urllib.request.proxy_bypass(self.host):
            proxies = urllib.request.getproxies()
            proxy = proxies.get(self.scheme) or proxies.get("all")
        return {
            "ssl_context": _certificates() if self.scheme == "https" or (proxy or "").startswith("https") else None,
            "proxy": None if proxy is None else _proxy(proxy),
            "max_connections": self.limit,
            "keepalive_expiry": _KEEP_ALIVE,
        }

    def _url(self, target: str) -> httpcore.URL:
        return httpcore.URL(scheme=self.scheme, host=self.host, port=self.port, target=target)

    @contextmanager
    def _explained(self, clock: Clock) -> Iterator[None]:
        """Turn what goes wrong on the way into an error of ours.

        The frames of the original error hold the request's headers, and so the key: they go no further.
        """
        try:
            yield
        except (httpcore.TimeoutException, TimeoutError) as error:
            _forget_frames(error)
            raise BackendError(self._late(error, clock), retryable=True) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, OSError) as error:
            _forget_frames(error)
            name = f"{self.host}:{self.port}"
            if isinstance(error, httpcore.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise BackendError(
                    f"The certificate of {name} is not trusted: {error}. Set SSL_CERT_FILE if it is signed by your own authority."
                ) from None
            verb = "cannot be reached" if isinstance(error, httpcore.ConnectError) else "cut or broke the connection"
            raise BackendError(f"{name} {verb}: {type(error).__name__}: {error}", retryable=True) from None

    def _late(self, error: Exception, clock: Clock) -> str:
        name = f"{self.host}:{self.port}"
        if isinstance(error, httpcore.ConnectTimeout) and (clock.left is None or clock.left > 0):
            return f"{name} could not be reached within {clock.connect:g} seconds."
        what = "did not begin to write in time" if clock.waits_for_token else "was not done at the deadline"
        return f"{name} {what}; the request was given up."


def _forget_frames(error: BaseException | None) -> None:
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


@dataclass(slots=True)
class _LoopPool:
    """What one event loop uses. Waiting is done at `free`: it is fair, and thousands may wait at little cost."""

    pool: httpcore.AsyncConnectionPool
    keeper: AsyncGenerator[None, None]
    free: asyncio.Semaphore = field(repr=False)


def _close(pool: httpcore.ConnectionPool, process: int) -> None:
    if os.getpid() == process:  # the connections of a forked child's parent are the parent's
        pool.close()


async def _keep(
    pool: httpcore.AsyncConnectionPool, owner: weakref.ref[Connections], loop: weakref.ref[Any]
) -> AsyncGenerator[None, None]:
    """Close the pool when this generator ends.

    Event loops end the generators that are left when they are shut down, and those that nobody holds any more. So
    connections are closed on their own loop, whether the loop goes first or the backend does.
    """
    try:
        yield
    finally:
        if (connections := owner()) is not None and (here := loop()) is not None:
            connections._drop(here)
        await pool.aclose()


def _certificates() -> ssl.SSLContext:
    # certifi's, or what SSL_CERT_FILE and SSL_CERT_DIR name.
    if "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ:
        return ssl.create_default_context()
    return httpcore.default_ssl_context()


def _proxy(url: str) -> httpcore.Proxy:
    parts = urllib.parse.urlsplit(url)
    auth = None if parts.username is None else (parts.username, parts.password or "")
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 1080)
    return httpcore.Proxy(
        httpcore.URL(scheme=parts.scheme, host=parts.hostname or "", port=port, target="/"), auth=auth
    )


def _plain(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


# Blocking reads and writes that keep a deadline -------------------------------------------------------------------

_due = threading.local()


@contextmanager
def _until(point: float | None) -> Iterator[None]:
    """What this thread does on the network in here ends at that point of `time.monotonic()`."""
    before = getattr(_due, "point", None)
    _due.point = point
    try:
        yield
    finally:
        _due.point = before


def _left(timeout: float | None, late: type[Exception]) -> float | None:
    point = getattr(_due, "point", None)
    if point is None:
        return timeout
    left: float = point - time.monotonic()
    if left <= 0:
        raise late("the deadline has passed")
    return left if timeout is None else min(left, timeout)


def _positive(seconds: float | None) -> float | None:
    return None if seconds is None else max(seconds, 0.001)


class _TimedBackend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        timeout = _left(timeout, httpcore.ConnectTimeout)
        return _TimedStream(self._inner.connect_tcp(host, port, timeout, local_address, socket_options))


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        # Closing alone would not wake a thread that is reading, as after Ctrl-C in another.
        with suppress(OSError):
            self._inner.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TimedStream(
            self._inner.start_tls(ssl_context, server_hostname, _left(timeout, httpcore.ConnectTimeout))
        )

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
