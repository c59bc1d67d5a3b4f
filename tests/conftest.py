"""No unit test reaches the network: the Hub is offline for them, and only loopback can be connected to."""

import signal
import socket

import hypothesis
import pytest


@pytest.fixture(autouse=True)
def _no_network(request, monkeypatch):
    if "unit" not in request.path.parts:
        return
    # The constant and not the variable: a library first imported here would keep the variable for later tests.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def local(host):
        return host in (None, "localhost", "::1") or str(host).startswith("127.")

    def guarded_connect(self, address):
        if isinstance(address, tuple) and not local(address[0]):
            raise OSError(f"a unit test tried to connect to {address}")
        return connect(self, address)

    def guarded_look_up(host, *args, **kwargs):
        if not local(host):
            raise OSError(f"a unit test tried to look up {host}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)


# An example may take any time: a busy machine says nothing of the code.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# Some tests press Ctrl-C. What a script starts in the background inherits that it is ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
