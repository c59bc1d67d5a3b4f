"""A server of completions on this machine that takes a set time for each answer, so that what a client adds to it shows.

    python -m aligner_integrations.bench.loopback --seconds 0.005 --at-once 16

Its first line on standard output is its URL. It writes an answer again with "bad" made "good"; `GET /asked` says how often each prompt
came.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from aligner_integrations.errors import require

with require("remote", "A server for measuring needs {missing}", "aiohttp"):
    from aiohttp import web

MODEL = "loopback"
TEMPLATE = "Q={question};A={answer};"


def application(seconds: float, at_once: int) -> web.Application:
    """Return the server.

    Args:
        seconds: Time of one answer.
        at_once: Answers at once; further ones wait.
    """
    free, asked = asyncio.Semaphore(at_once), Counter[str]()

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        prompt = str(body["prompt"])
        asked[sha256(prompt.encode()).hexdigest()[:16]] += 1
        async with free:
            await asyncio.sleep(seconds)
        text = prompt.partition(";A=")[2].removesuffix(";").replace("bad", "good")
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
        return web.json_response({"choices": [{"index": 0, "text": text, "finish_reason": "stop"}], "usage": usage})

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL, "max_model_len": 4096}]})

    async def count(_: web.Request) -> web.Response:
        return web.json_response({"prompts": len(asked), "asked": asked.total()})

    server = web.Application()
    routes = [web.post("/v1/completions", complete), web.get("/v1/models", models), web.get("/asked", count)]
    server.add_routes(routes)
    return server


@contextmanager
def serving(seconds: float, at_once: int) -> Iterator[str]:
    """Run the server as a process of its own; gives its URL without `/v1`."""
    command = [sys.executable, "-m", __spec__.name, "--seconds", str(seconds), "--at-once", str(at_once)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this module itself
    try:
        if process.stdout is None:
            raise RuntimeError("The server has no standard output.")
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


async def _serve(seconds: float, at_once: int) -> None:
    runner = web.AppRunner(application(seconds, at_once), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.005)
    parser.add_argument("--at-once", type=int, default=16)
    chosen = parser.parse_args()
    asyncio.run(_serve(chosen.seconds, chosen.at_once))


if __name__ == "__main__":
    main()
