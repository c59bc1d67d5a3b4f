"""What the classes of this folder tell LlamaIndex's instrumentation: the start and the end of each correction.

    get_dispatcher().add_event_handler(handler)     # sees AlignStartEvent and AlignEndEvent

Traces are where the original text belongs, so these events carry it.

What lives elsewhere: the corrections that are told (`corrector.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # public, but imported there
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.span import active_span_id

from aligner_integrations.correction import Correction
from aligner_integrations.recording.requests import for_request, has_request

dispatcher = get_dispatcher(__name__)


class AlignStartEvent(BaseEvent):
    """An answer goes to the aligner.

    Attributes:
        question: The user's words.
        answer: What the upstream said.
    """

    question: str
    answer: str

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which the event is known."""
        return "AlignStartEvent"


class AlignEndEvent(BaseEvent):
    """The aligner is done with an answer.

    Attributes:
        question: The user's words.
        answer: What the upstream said.
        text: What is shown from now on.
        outcome: See `aligner_integrations.correction.Outcome`.
        reason: Why the answer was kept, skipped, rejected or failed.
    """

    question: str
    answer: str
    text: str
    outcome: str
    reason: str | None = None

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which the event is known."""
        return "AlignEndEvent"


@contextmanager
def telling(question: str, *answers: str) -> Iterator[list[Correction]]:
    """Tell that answers go to the aligner, and at the end how it went; for synchronous and asynchronous code alike.

    Yields an empty list: each correction that is put into it is told at the end. An error is told instead, once however
    many answers there are, and goes on. A stream that is closed before its end, or a cancelled call, has no end to tell.

    Args:
        question: The user's words.
        *answers: What the upstream said; several are corrected as one batch.
    """
    for answer in answers:
        dispatcher.event(AlignStartEvent(question=question, answer=answer))
    corrections: list[Correction] = []
    try:
        yield corrections
    except Exception as error:
        dispatcher.event(ExceptionEvent(exception=error))
        raise
    for correction in corrections:
        fields: dict[str, Any] = {
            name: getattr(correction, name) for name in ("question", "answer", "text", "outcome", "reason")
        }
        dispatcher.event(AlignEndEvent(**fields))


def in_span() -> AbstractContextManager[None]:
    """Around a correction: its record belongs to LlamaIndex's present span, unless the application has said to what."""
    span = active_span_id.get()
    return nullcontext() if span is None or has_request() else for_request(span)
