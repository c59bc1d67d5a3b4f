"""Proxies and certificates of the environment, with real proxies and real TLS on loopback."""

import base64
import contextlib
import copy
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading

import pytest

from aligner_integrations.backends.base import Timeouts
from aligner_integrations.backends.deadline import Clock
from aligner_integrations.backends.remote import loop
from aligner_integrations.backends.remote.environment import proxy_for
from aligner_integrations.backends.remote.http import Endpoint
from aligner_integrations.backends.remote.keys import Secret
from aligner_integrations.errors import BackendError, ConfigurationError
from tests.unit.backends.remote.stub import Stub, said

KEY = "sk-test-0123456789abcdef"
PASSWORD = "p@ss:wörd/%"
ENCODED = "p%40ss%3Aw%C3%B6rd%2F%25"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT"):
            monkeypatch.delenv(name)


class Proxy:
    """A proxy that leads everything to one port on loopback, whatever its name. `asked` is what it was asked, header by header."""

    def __init__(self, target, tls=None, refuse=None):
        proxy = self
        self.asked = []

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):
                    proxy._serve(self, target, refuse)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False

            def finish_request(self, request, address):
                with (
                    contextlib.suppress(OSError),
                    tls.wrap_socket(request, server_side=True) if tls else request as client,
                ):
                    super().finish_request(client, address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def _serve(self, handler, target, refuse):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (line := handler.rfile.readline()):
                return
            head += line
        first, *headers = head.decode().strip().split("\r\n")
        self.asked.append((first, {name.lower(): value for name, _, value in (h.partition(": ") for h in headers)}))
        if refuse:
            handler.wfile.write(f"HTTP/1.1 {refuse}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        with socket.create_connection(("127.0.0.1", target)) as server:
            if first.startswith("CONNECT"):
                handler.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                server.sendall(head)
            threading.Thread(target=_pump, args=(server.recv, handler.connection.sendall), daemon=True).start()
            _pump(handler.rfile.read1, server.sendall)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


def _pump(read, write):
    with contextlib.suppress(OSError, ValueError):
        while data := read(65536):
            write(data)


def ask(end):
    return loop.call(end.ask, "/x", {"a": 1}, Clock(Timeouts(connect=10)))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that no authority of the system has signed, for loopback and for one name."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=aligner.example", "-addext",
         "subjectAltName=IP:127.0.0.1,DNS:aligner.example", "-keyout", key, "-out", cert], check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


# Through a proxy ----------------------------------------------------------------------------------------------------


def test_a_plain_request_goes_through_a_proxy_with_the_password_as_it_is_meant(monkeypatch):
    with Stub(lambda call: said({"n": 1})) as stub, Proxy(stub.port) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:{ENCODED}@127.0.0.1:{proxy.port}")
        end = Endpoint("http://aligner.example:8000/v1", Secret(KEY), allow_http=True)
        assert ask(end) == ask(copy.copy(end)) == {"n": 1}
        end.close()
    first, headers = proxy.asked[0]
    assert first == "POST http://aligner.example:8000/v1/x HTTP/1.1"
    assert base64.b64decode(headers["proxy-authorization"].removeprefix("Basic ")).decode() == f"me:{PASSWORD}"
    assert headers["authorization"] == f"Bearer {KEY}"


@needs_openssl
@pytest.mark.parametrize("kind", ["http", "https"])
def test_a_secret_request_goes_through_a_tunnel_that_sees_no_key(kind, certificate, monkeypatch):
    cert, context = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    with Stub(lambda call: said({"n": 1}), tls=context) as stub:
        with Proxy(stub.port, tls=context if kind == "https" else None) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"{kind}://me:{ENCODED}@127.0.0.1:{proxy.port}")
            end = Endpoint("https://aligner.example/v1", Secret(KEY))
            assert [ask(end), ask(end)] == [{"n": 1}] * 2
            end.close()
        assert stub.calls[0].headers["authorization"] == f"Bearer {KEY}"
        assert "proxy-authorization" not in stub.calls[0].headers
    ((first, headers),) = proxy.asked
    assert first == "CONNECT aligner.example:443 HTTP/1.1" and "authorization" not in headers
    assert base64.b64decode(headers["proxy-authorization"].removeprefix("Basic ")).decode() == f"me:{PASSWORD}"


@needs_openssl
def test_a_plain_request_through_a_proxy_over_tls(certificate, monkeypatch):
    cert, context = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    with Stub(lambda call: said({"n": 1})) as stub, Proxy(stub.port, tls=context) as proxy:
        monkeypatch.setenv("all_proxy", f"https://127.0.0.1:{proxy.port}")
        end = Endpoint("http://aligner.example/v1")
        assert ask(end) == {"n": 1} and proxy.asked[0][0].startswith("POST http://aligner.example/v1/x")
        end.close()


@pytest.mark.parametrize(("status", "passes"), [("407 Proxy Authentication Required", False), ("503 Busy", True)])
def test_a_proxy_that_refuses_is_named(status, passes, monkeypatch):
    with Proxy(0, refuse=status) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret-1@127.0.0.1:{proxy.port}")
        with pytest.raises(
            BackendError, match=f"refuses the way to aligner.example:443 with status {status[:3]}"
        ) as caught:
            ask(Endpoint("https://aligner.example/v1", Secret(KEY)))
    assert caught.value.retryable is passes and "secret-1" not in str(caught.value)


def test_a_proxy_that_is_not_there_is_an_error_that_may_pass(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret-1@127.0.0.1:1")
    with pytest.raises(BackendError, match="aligner.example:443 cannot be reached") as caught:
        ask(Endpoint("https://aligner.example/v1"))
    assert caught.value.retryable and "secret-1" not in str(caught.value)


WRONG = {
    "me:secret-1@proxy.example:3128": "has no scheme",
    "localhost:3128": "has no scheme",
    "http://me:secret-1@proxy.example:port": "a host or a port that cannot be one",
    "http://me:secret-1@proxy.example:99999": "a host or a port that cannot be one",
    "http://me:secret-1@proxy.example:0": "a host or a port that cannot be one",
    "http://me:secret-1@": "a host or a port that cannot be one",
    "http://me:secret-1@prox y:80": "a host or a port that cannot be one",
    "http://me:secret-1@a..b:80": "a host or a port that cannot be one",
    "http://me:secret-1@[::1:80": "a host or a port that cannot be one",
    f"http://me:secret-1@{'x' * 64}:80": "a host or a port that cannot be one",
    "ftp://me:secret-1@proxy.example": "begins with ftp://",
    "socks5://me:secret-1@proxy.example:1080": "SOCKS proxy, which is not supported.*NO_PROXY",
    "socks5h://proxy.example": "SOCKS proxy, which is not supported",
    "SOCKS4://proxy.example": "SOCKS proxy, which is not supported",
}


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("value", WRONG)
def test_a_proxy_that_cannot_be_used_is_known_at_once_and_named_by_its_variable(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"{name} names .*{WRONG[value]}") as caught:
        Endpoint("https://aligner.example/v1")
    assert "secret-1" not in str(caught.value) + repr(caught.value.__context__)
    Endpoint("https://127.0.0.1/v1")
    monkeypatch.setenv("NO_PROXY", "aligner.example")
    Endpoint("https://aligner.example/v1")


def test_the_own_variable_of_a_scheme_comes_first_and_empty_ones_name_none(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://all.example:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://own.example")
    assert proxy_for("https", "a.example", 443).url == "http://own.example:80"
    assert proxy_for("http", "a.example", 80).url == "http://all.example:1"
    monkeypatch.setenv("HTTPS_PROXY", "https://[2001:db8::1]")
    assert proxy_for("https", "a.example", 443).url == "https://[2001:db8::1]:443"
    monkeypatch.setenv("HTTPS_PROXY", "")
    monkeypatch.setenv("ALL_PROXY", "")
    assert proxy_for("https", "a.example", 443) is None


@pytest.mark.parametrize(
    ("entry", "exempt"),
    [("*", True), ("aligner.example", True), (".example", True), ("example", True), ("other.example,aligner.example", True),
     ("aligner.example:443", True), ("aligner.example:8000", False), ("ligner.example", False), ("", False),
     ("10.0.0.0/8", False)],
)  # fmt: skip
def test_hosts_without_a_proxy(entry, exempt, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", entry)
    assert (proxy_for("https", "aligner.example", 443) is None) is exempt


@pytest.mark.parametrize(
    ("host", "entry", "exempt"),
    [("10.1.2.3", "10.0.0.0/8", True), ("10.1.2.3", "x, 10.1.2.3", True), ("10.1.2.3", "10.1.2.3:443", True),
     ("10.1.2.3", "10.1.2.3:80", False), ("11.1.2.3", "10.0.0.0/8", False), ("10.1.2.3", "10.0.0.0/99", False),
     ("2001:db8::7", "2001:db8::/32", True), ("2001:db8::7", "2001:db8::7", True), ("2001:db8::7", "[2001:db8::7]", True),
     ("2001:db9::7", "2001:db8::/32", False)],
)  # fmt: skip
def test_addresses_without_a_proxy(host, entry, exempt, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", entry)
    assert (proxy_for("https", host, 443) is None) is exempt


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "a.localhost"])
def test_this_machine_is_never_reached_through_a_proxy(host, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    assert proxy_for("http", host, 80) is None


# Whom to trust ------------------------------------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_an_authority_of_ones_own_is_trusted_when_it_is_named(name, certificate, tmp_path, monkeypatch):
    cert, context = certificate
    with Stub(lambda call: said({"n": 1}), tls=context) as stub:
        url = f"https://127.0.0.1:{stub.port}/v1"
        with pytest.raises(BackendError, match="not trusted.*SSL_CERT_FILE") as caught:
            ask(Endpoint(url, Secret(KEY)))
        assert not caught.value.retryable and not stub.calls
        if name == "SSL_CERT_DIR":
            hashed = subprocess.run(
                ["openssl", "x509", "-hash", "-noout", "-in", cert], check=True, capture_output=True, text=True
            )
            shutil.copy(cert, tmp_path / f"{hashed.stdout.strip()}.0")
        monkeypatch.setenv(name, str(cert if name == "SSL_CERT_FILE" else tmp_path))
        end = Endpoint(url, Secret(KEY))
        assert ask(end) == {"n": 1}
        end.close()
        with pytest.raises(BackendError, match="not trusted"):  # it is for another name
            ask(Endpoint(url.replace("127.0.0.1", "localhost")))
