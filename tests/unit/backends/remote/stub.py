"""A small HTTP server on loopback that says to the byte what a test wants it to say, and how fast.

A handler takes a `Call` and returns an iterable: bytes are sent, numbers are seconds to wait, `CUT` ends the
connection. A response without `CUT` leaves it open for the next request.
"""

import json
import select
import socket
import socketserver
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

CUT = object()


@dataclass
class Call:
    method: str
    path: str
    headers: dict
    body: object
    connection: int


def raw(status=200, headers=None, body=b"", length=True):
    """A whole response."""
    lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in (headers or {}).items())]
    if length:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def said(data, status=200, **headers):
    """A JSON response; underscores in header names are hyphens."""
    headers = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return [raw(status, headers, json.dumps(data).encode())]


def events(*data, done=True, pause=0):
    """A stream of events, and the connection's end."""
    yield raw(200, {"content-type": "text/event-stream"}, length=False)
    for item in data:
        yield b"data: " + json.dumps(item).encode() + b"\n\n"
        yield pause
    if done:
        yield b"data: [DONE]\n\n"
    yield CUT


def choice(text, reason="stop", index=0):
    return {"index": index, "text": text, "finish_reason": reason}


def completed(*texts, reason="stop", **more):
    return said({"choices": [choice(t, reason, i) for i, t in enumerate(texts)], **more})


def streamed(*pieces, reason="stop", **options):
    chunks = [{"choices": [choice(piece, None)]} for piece in pieces]
    return events(*chunks, {"choices": [choice("", reason)]}, **options)


@dataclass
class Stub:
    """Starts at once; `with` stops it. `calls` is what it was asked, `open` how many connections are open."""

    handle: object
    tls: object = None
    calls: list = field(default_factory=list)
    open: int = 0
    connections: int = 0

    def __post_init__(self):
        stub = self

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self):
                with stub._lock:
                    stub.open += 1
                    stub.connections += 1
                    number = stub.connections
                try:
                    with suppress(OSError):
                        while stub._serve(self, number):
                            pass
                finally:
                    with stub._lock:
                        stub.open -= 1

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 512
            allow_reuse_address = True

            def finish_request(self, request, address):
                if stub.tls is None:
                    super().finish_request(request, address)
                    return
                with suppress(OSError), stub.tls.wrap_socket(request, server_side=True) as wrapped:
                    super().finish_request(wrapped, address)

        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.origin}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def _serve(self, handler, number):
        line = handler.rfile.readline().decode().split()
        if not line:
            return False
        headers = {}
        while (header := handler.rfile.readline().decode().strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        content = handler.rfile.read(int(headers.get("content-length", 0)))
        call = Call(line[0], line[1], headers, json.loads(content) if content else None, number)
        self.calls.append(call)
        for part in self.handle(call):
            if part is CUT:
                return False
            if isinstance(part, int | float):
                if not self._wait(part, handler.connection):
                    return False
            else:
                handler.wfile.write(part)
        return True

    def _wait(self, seconds, connection):
        """Wait unless the client goes away."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stop.is_set():
            if select.select([connection], [], [], min(left, 0.05))[0] and not connection.recv(1, socket.MSG_PEEK):
                return False
        return not self._stop.is_set()

    def closed(self, within=20.0):
        """Whether all connections are closed, now or soon."""
        end = time.monotonic() + within
        while self.open and time.monotonic() < end:
            time.sleep(0.01)
        return self.open == 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
