"""`AlignerWorkflow`: a workflow with a step that corrects.

What lives elsewhere: agents (`agent.py`); a step of your own is one line with `aalign_response` (`response.py`).
"""

from __future__ import annotations

from typing import Any

from llama_index.core.workflow import Event, Workflow, step

from aligner_integrations.aligner import Aligner
from aligner_integrations.llama_index.citations import Citations
from aligner_integrations.llama_index.corrector import Corrector, aligner_from
from aligner_integrations.llama_index.response import aalign


class AlignRequest(Event):
    """Asks for a correction.

    Attributes:
        question: The user's words.
        response: The answer: a string, or one of LlamaIndex's responses.
        payload: Passed on as it is.
    """

    question: str
    response: Any
    payload: Any = None


class AlignedEvent(Event):
    """A correction is done.

    Attributes:
        question: The user's words.
        response: The corrected answer, of the type that came in.
        payload: What came with the request.
    """

    question: str
    response: Any
    payload: Any = None


class AlignerWorkflow(Workflow):
    """A base for workflows: a step that returns `AlignRequest` is followed by one that takes `AlignedEvent`.

    Example:
        >>> class Rag(AlignerWorkflow):
        ...     @step
        ...     async def ask(self, ev: StartEvent) -> AlignRequest:
        ...         return AlignRequest(question=ev.question, response=await engine.aquery(ev.question))
        ...
        ...     @step
        ...     async def show(self, ev: AlignedEvent) -> StopEvent:
        ...         return StopEvent(result=ev.response)
        >>> await Rag(aligner=aligner).run(question="Which plants are toxic to cats?")

    Args:
        aligner: Corrects the answers. Default: `Aligner()`.
        citations: What becomes of citation markers: `"keep"`, `"drop"` or `"original_if_lost"`; see `align_response`.
        include_original: Also put the upstream's text into the record.
        pydantic_field: The field of a structured response that holds the answer; such responses are left alone
            without it.
        **options: Those of `Workflow`.
    """

    def __init__(
        self,
        aligner: Aligner | None = None,
        *,
        citations: Citations = "keep",
        include_original: bool = False,
        pydantic_field: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._corrector = Corrector(aligner_from(aligner), citations, include_original, pydantic_field)

    @step
    async def align(self, ev: AlignRequest) -> AlignedEvent:
        """Correct what was asked for."""
        if isinstance(ev.response, str):
            response: Any = (await self._corrector.acorrect(ev.question, ev.response)).text
        else:
            response = await aalign(self._corrector, ev.question, ev.response)
        return AlignedEvent(question=ev.question, response=response, payload=ev.payload)
