"""What finding the question costs a chain of LangChain: the same chain with and without the recorder's hook.

The chain is one of five runs (the sequence, its prompt, LLM, parser and function) that do next to nothing, so all of its
time is LangChain's own. With and without the hook take turns call by call, and the share is the median of their ratios:
the difference of two least times varies twice as much. All times are the processor's, so waiting for it does not count.

What lives elsewhere: the recorder (`langchain/question/recorder.py`), and the command (`cli/bench.py`).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from aligner_integrations.langchain.question import recorder  # before LangChain, because it says which extra is missing

# isort: split
from langchain_core.callbacks import CallbackManagerForChainRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda

_ANSWER = "I do not know."
_CALLS = 5  # short turns, so that the two of a pair find the machine alike


@dataclass(frozen=True, slots=True)
class Overhead:
    """One way to call the chain, each figure a median.

    Attributes:
        without: Seconds a call without the hook.
        hooked: Seconds a call with it.
        share: The hook's time, divided by that of the chain itself.
    """

    without: float
    hooked: float
    share: float


class _Upstream(BaseChatModel):
    """Says one and the same at once."""

    @property
    def _llm_type(self) -> str:
        return "at-once"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(_ANSWER))])

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return self._generate()


def bench_overhead(*, rounds: int = 100) -> tuple[dict[str, Overhead], float]:
    """Time a chain with and without the recorder's hook, and one look-up.

    Args:
        rounds: How often the two take turns.

    Returns:
        Name of a way to call the chain -> what the hook costs it; and the median seconds of one look-up by an answer's
        text, which takes longer than by a message's id.

    Raises:
        QuestionNotFoundError: The hook is switched off.
    """
    recorder.install()
    look_up = _look_up(rounds)
    chain = _chain(RunnableLambda(str.strip))
    ways: dict[str, Callable[[], None]] = {"invoke": lambda: _ask(chain), "ainvoke": lambda: asyncio.run(_aask(chain))}
    found: dict[str, Overhead] = {}
    for name, ask in ways.items():
        ask()  # the first one warms up
        pairs = [(_seconds(ask, hooked=False), _seconds(ask, hooked=True)) for _ in range(rounds)]
        without, hooked = (statistics.median(times) for times in zip(*pairs, strict=True))
        found[name] = Overhead(without, hooked, statistics.median(b / a for a, b in pairs) - 1)
    return found, look_up


def _chain(last: Runnable[str, str]) -> Runnable[dict[str, str], str]:
    prompt = ChatPromptTemplate.from_messages([("system", "Be nice."), ("human", "{question}")])
    return prompt | _Upstream() | StrOutputParser() | last


def _ask(chain: Runnable[dict[str, str], str]) -> None:
    for _ in range(_CALLS):
        chain.invoke({"question": "Why?"})


async def _aask(chain: Runnable[dict[str, str], str]) -> None:
    for _ in range(_CALLS):
        await chain.ainvoke({"question": "Why?"})


def _seconds(ask: Callable[[], None], *, hooked: bool) -> float:
    with nullcontext() if hooked else recorder.disabled():
        started = time.process_time()
        ask()
        return (time.process_time() - started) / _CALLS


def _look_up(rounds: int) -> float:
    """Median seconds of a look-up, made where an aligner would stand."""
    times = []

    def find(answer: str, run_manager: CallbackManagerForChainRun) -> str:
        for _ in range(rounds):
            started = time.process_time()
            for _ in range(_CALLS):
                recorder.RECORDER.find(answer, run_manager.parent_run_id)
            times.append((time.process_time() - started) / _CALLS)
        return answer

    _chain(RunnableLambda(find)).invoke({"question": "Why?"})
    return statistics.median(times)
