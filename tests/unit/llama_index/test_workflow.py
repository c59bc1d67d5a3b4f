"""Corrections in the steps of one's own workflow, also of one that is resumed."""

import asyncio
import json
from typing import Annotated, Any

from llama_index.core.workflow import Context, Event, JsonSerializer, StartEvent, StopEvent, Workflow, step
from llama_index.core.workflow.resource import Resource

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.llama_index import aalign_response
from tests.unit.llama_index.support import FIXED, TEMPLATE, ScriptedLLM, make_aligner, make_index, mend


class Answered(Event):
    question: str
    response: Any


made = []


def make_aligner_once() -> Aligner:
    made.append(1)
    return make_aligner()


class Own(Workflow):
    aligner = make_aligner()

    @step
    async def ask(self, ev: StartEvent) -> StopEvent:
        response = await make_index().as_query_engine(llm=ScriptedLLM()).aquery(ev.question)
        return StopEvent(result=str(await aalign_response(self.aligner, ev.question, response)))


async def test_a_step_of_ones_own():
    assert await Own().run(question="Is it?") == FIXED


class Halting(FakeBackend):
    """Begins a correction and does not come to its end."""

    def __init__(self):
        super().__init__(mend)
        self.begun = asyncio.Event()

    async def acomplete(self, requests):
        self.begun.set()
        await asyncio.sleep(60)


async def test_a_run_is_resumed_that_was_saved_while_it_corrected():
    """The step begins again: what it needs is in the event that it was given."""
    workflow, backend = Own(), Halting()
    workflow.aligner = Aligner(backend=backend, template=TEMPLATE)
    handler = workflow.run(question="Is it?")
    await asyncio.wait_for(backend.begun.wait(), 30)
    saved = json.dumps(handler.ctx.to_dict(serializer=JsonSerializer()))
    assert not handler.is_done()
    await handler.cancel_run()
    resumed = Own()
    context = Context.from_dict(resumed, json.loads(saved), serializer=JsonSerializer())
    assert await resumed.run(ctx=context) == FIXED


class WithResource(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> Answered:
        return Answered(
            response=await make_index().as_query_engine(llm=ScriptedLLM()).aquery(ev.question), question=ev.question
        )

    @step
    async def align(self, ev: Answered, aligner: Annotated[Aligner, Resource(make_aligner_once)]) -> StopEvent:
        return StopEvent(result=await aalign_response(aligner, ev.question, ev.response))


async def test_the_aligner_as_a_resource():
    """LlamaIndex's own way to hand something to a step: made once for a workflow."""
    workflow = WithResource()
    for _ in range(2):
        response = await workflow.run(question="Is it?")
        assert response.response == FIXED and response.source_nodes
    assert made == [1]
