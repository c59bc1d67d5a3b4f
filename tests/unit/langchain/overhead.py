"""What finding the question costs a chain. `python -m tests.unit.langchain.overhead` prints it.

The same chain of five runs (a named sequence, its prompt, LLM, parser and function) is run with and without the recorder, in
turns, and the median of their ratio is taken: the difference of two least times varies twice as much. The
look-up is timed by itself, in that chain, for text, which takes longer than for a message with an id.

The bar is 200 microseconds a chain, where that chain takes some 870 by itself. A slower or busier machine takes longer for
both, so the test asks for a share of the chain's own time, and this command prints the microseconds.
"""

import asyncio
import time
from statistics import median

from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda

from aligner_integrations.langchain.question import recorder
from aligner_integrations.langchain.question.recorder import RECORDER
from tests.unit.langchain.support import ALIKE, PROMPT, Upstream, step

CALLS, ROUNDS = 5, 100  # short rounds, so that the two of a pair find the machine alike


def _runs():
    return (PROMPT | Upstream() | StrOutputParser() | RunnableLambda(str.strip)).with_config(run_name="measured")


def _sync(runs):
    for _ in range(CALLS):
        runs.invoke({"q": "x"})


def _async(runs):
    async def run():
        for _ in range(CALLS):
            await runs.ainvoke({"q": "x"})

    asyncio.run(run())


def _seconds(ask, runs):
    started = time.process_time()
    ask(runs)
    return (time.process_time() - started) / CALLS


def recording(ask=_sync):
    """The recorder's time as a share of what one chain takes by itself, and that in seconds."""
    runs = _runs()
    step()  # installs the hook
    with_it, without = [], []
    for _ in range(ROUNDS + 1):
        with_it.append(_seconds(ask, runs))
        with recorder.disabled():
            without.append(_seconds(ask, runs))
    pairs = list(zip(with_it, without, strict=True))[1:]
    return median(a / b for a, b in pairs) - 1, median(without[1:])


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
    for name, ask in (("recorder, a chain of five runs", _sync), ("the same, asynchronous", _async)):
        share, own = recording(ask)
        print(f"{name:32} {share * own * 1e6:6.0f} microseconds, {share:.0%} of the chain's own time")  # noqa: T201
    print(f"{'look-up by text':32} {looking_up() * 1e6:6.0f} microseconds")  # noqa: T201
