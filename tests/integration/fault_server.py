"""A server of OpenAI's completions that fails one request in five, in eight ways. Runs as a process of its own.

    python -m tests.integration.fault_server [share of faults]

prints its port. It corrects like the tests' `mend`: the answer in the prompt with "bad" made "good". `/stats` tells what
it did. Which requests fail is drawn with a seed, in the order in which they come.
"""

import asyncio
import json
import random
import sys
from collections import Counter

FAULTS = ["429", "500", "broken JSON", "cut", "empty choices", "stall", "slow drip", "wrong length"]
KEY = "sk-very-secret-key"


class Server:
    """What it has done so far, and how the next request fares."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.chance = random.Random(3)
        self.seen: Counter[str] = Counter()
        self.open = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while await self.answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            self.open -= 1
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length")), 0)
        body = await reader.readexactly(length)
        if head.startswith("get /stats"):
            return await self.send(writer, json.dumps({**self.seen, "open": self.open - 1}))
        assert f"bearer {KEY}" in head
        asked = json.loads(body)
        answer = asked["prompt"].partition(";A=")[2].removesuffix(";")
        choice = {"index": 0, "text": answer.replace("bad", "good"), "finish_reason": "stop"}
        fault = self.chance.choice(FAULTS) if self.chance.random() < self.share else "none"
        self.seen[fault] += 1
        if fault == "none":
            return await self.send(writer, json.dumps({"choices": [choice]}))
        return await self.fail(fault, reader, writer, choice)

    async def fail(self, fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, choice: dict) -> bool:
        good = json.dumps({"choices": [choice]})
        if fault == "429":
            return await self.send(writer, '{"error": {"message": "slow down"}}', "429 Too Many", {"Retry-After": "1"})
        if fault == "500":
            return await self.send(writer, f"Traceback: Bearer {KEY} is my key", "500 Oops")
        if fault == "broken JSON":
            return await self.send(writer, good[: self.chance.randrange(len(good))])
        if fault == "empty choices":
            return await self.send(writer, self.chance.choice(['{"choices": []}', "{}", "[]", "null"]))
        if fault == "cut":  # before a byte of the answer, in its head, or in its body
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(good)}\r\n\r\n{good}"
            writer.write(head[: self.chance.choice([0, 20, len(head) - 10])].encode())
            await writer.drain()
            return False
        if fault == "stall":
            await reader.read(1)  # until the client gives up
            return False
        if fault == "slow drip":  # in a minute or more it would all be there
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(good)}\r\n\r\n".encode())
            for character in good:
                writer.write(character.encode())
                await writer.drain()
                await asyncio.sleep(1)
            return True
        # A length that is too small cuts the answer, and what is left of it comes before the next one.
        wrong = len(good) + self.chance.choice([-9, 9])
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {wrong}\r\n\r\n{good}".encode())
        await writer.drain()
        return wrong < len(good)

    async def send(self, writer: asyncio.StreamWriter, text: str, status: str = "200 OK", headers: dict | None = None):
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(text)}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join([*lines, "", text]).encode())
        await writer.drain()
        return True


async def main(share: float) -> None:
    server = await asyncio.start_server(Server(share).connected, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.2))
