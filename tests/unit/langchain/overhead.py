"""What finding the question costs a chain. `python -m tests.unit.langchain.overhead` prints it.

The same chain of five runs (a named sequence, its prompt, LLM, parser and function) is run with and without the recorder, in
turns, and of each the least is taken, as `timeit` advises: what is above it is the machine's other work. The look-up is
timed by itself, in that chain, for text, which takes longer than for a message with an id.
"""

import asyncio
import time

from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda

from aligner_integrations.langchain import upstream
from aligner_integrations.langchain.upstream import RECORDER
from tests.unit.langchain.support import ALIKE, PROMPT, Upstream, step

CALLS, ROUNDS = 5, 100  # short rounds, so that some of either kind are undisturbed


def _runs():
    return (PROMPT | Upstream() | StrOutputParser() | RunnableLambda(str.strip)).with_config(run_name="measured")


def _sync(chain):
    for _ in range(CALLS):
        chain.invoke({"q": "x"})


def _async(chain):
    async def run():
        for _ in range(CALLS):
            await chain.ainvoke({"q": "x"})

    asyncio.run(run())


def _seconds(ask, chain):
    started = time.process_time()
    ask(chain)
    return (time.process_time() - started) / CALLS


def recording(ask=_sync):
    """Seconds that the recorder takes of one chain."""
    chain = _runs()
    step()  # installs the hook
    with_it, without = [], []
    for _ in range(ROUNDS + 1):
        with_it.append(_seconds(ask, chain))
        with upstream.disabled():
            without.append(_seconds(ask, chain))
    return min(with_it[1:]) - min(without[1:])


def looking_up():
    """Seconds that one look-up takes, by the text of an answer."""
    step()
    least = []

    def look(answer, run_manager):
        for _ in range(ROUNDS):
            started = time.process_time()
            for _ in range(CALLS):
                RECORDER.find(ALIKE, run_manager)
            least.append((time.process_time() - started) / CALLS)
        return answer

    def find(answer, config):
        return look(answer, config["callbacks"].parent_run_id)

    (PROMPT | Upstream() | StrOutputParser() | RunnableLambda(find)).invoke({"q": "x"})
    return min(least)


if __name__ == "__main__":
    for name, seconds in (
        ("recorder, a chain of five runs", recording()),
        ("the same, asynchronous", recording(_async)),
        ("look-up by text", looking_up()),
    ):
        print(f"{name:32} {seconds * 1e6:6.0f} microseconds")  # noqa: T201 - what it is for
