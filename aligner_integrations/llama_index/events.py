"""What the classes of this folder tell LlamaIndex's instrumentation: the start and the end of each correction.

    get_dispatcher().add_event_handler(handler)     # sees AlignStartEvent and AlignEndEvent

Traces are where the original text belongs, so these events carry it.
"""

from __future__ import annotations

from typing import Any

from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # public, but imported there
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.exception import ExceptionEvent

from aligner_integrations.correction import Correction

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


def started(question: str, answer: str) -> None:
    """Tell that a correction starts."""
    dispatcher.event(AlignStartEvent(question=question, answer=answer))


def ended(correction: Correction) -> None:
    """Tell how a correction ended."""
    fields: dict[str, Any] = {
        name: getattr(correction, name) for name in ("question", "answer", "text", "outcome", "reason")
    }
    dispatcher.event(AlignEndEvent(**fields))


def failed(error: Exception) -> None:
    """Tell that a correction ended in an error."""
    dispatcher.event(ExceptionEvent(exception=error))
