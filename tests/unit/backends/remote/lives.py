"""What happens to a process that talks to a server: it forks, it ends in the middle, its readers go away. Each is a program.

python -W error -m tests.unit.backends.remote.lives forked
"""

import asyncio
import gc
import multiprocessing
import os
import sys
import threading
import time
import warnings

from aligner_integrations.backends.base import Request
from aligner_integrations.backends.remote.completions import CompletionsBackend
from tests.unit.backends.remote.stub import Stub, completed, streamed

REQUEST = Request("q", "bad", "Q=q;A=bad;")
HANGS = Request("q", "hang", "hang")


def handle(call):
    if call.body.get("stream"):
        return streamed(*["word "] * 500, pause=0.02)
    return [60] if call.body["prompt"] == "hang" else completed("good")


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def busy(stub, backend):
    """Make the backend one that is used: a call and a stream are under way."""
    assert backend.complete([REQUEST])[0].text == "good"
    threading.Thread(target=backend.complete, args=([HANGS],), daemon=True).start()
    stream = backend.stream(REQUEST)
    next(stream)
    while len(stub.calls) < 3:
        time.sleep(0.01)
    return stream


def corrects(backend):
    say("child", backend.complete([REQUEST])[0].text, asyncio.run(backend.acomplete([REQUEST]))[0].text)


def forked(stub, backend):
    stream, other = busy(stub, backend), backend.stream(REQUEST)
    next(other)
    child = os.fork()
    if child == 0:
        corrects(backend)
        stream.close()  # the parent's
        del other
        say("child", next(backend.stream(REQUEST)))
        backend.close()
        gc.collect()
        sys.exit(7)  # with all that the interpreter does at its end
    say("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    say("parent", next(stream), next(other), backend.complete([REQUEST])[0].text)
    stream.close()
    other.close()


def started(method):
    def run(stub, backend):
        stream = busy(stub, backend)
        process = multiprocessing.get_context(method).Process(target=corrects, args=(backend,))
        process.start()
        process.join(60)
        say("ended with", process.exitcode)
        say("parent", next(stream))
        process.close()

    return run


def ended(stub, backend):
    busy(stub, backend)


def loops(stub, backend):
    for _ in range(20):
        assert [done.text for done in asyncio.run(backend.acomplete([REQUEST] * 3))] == ["good"] * 3
    say("at most 3 connections:", stub.connections <= 3)


def left(stub, backend):
    async def leave():
        await anext(backend.astream(REQUEST))

    asyncio.run(leave())
    next(backend.stream(REQUEST))
    loop = asyncio.new_event_loop()
    stream = backend.astream(REQUEST)
    loop.run_until_complete(anext(stream))
    loop.close()  # without a word to its generators
    del stream
    gc.collect()
    backend.close()
    say("all closed:", stub.closed(20))


LIVES = {
    "forked": forked,
    "fork": started("fork"),
    "spawn": started("spawn"),
    "ended": ended,
    "loops": loops,
    "left": left,
}

if __name__ == "__main__":
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # forks with threads, which is the point
    server = Stub(handle)
    LIVES[sys.argv[1]](server, CompletionsBackend(server.url, "m"))
    say("done")
