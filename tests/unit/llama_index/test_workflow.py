"""Corrections in the steps of one's own workflow, also of one that is resumed."""

import asyncio
import json
import threading
from typing import Annotated, Any

from llama_index.core.workflow import Context, Event, JsonSerializer, StartEvent, StopEvent, Workflow, step
from llama_index.core.workflow.resource import Resource

from aligner_integrations import Aligner
from aligner_integrations.llama_index import aalign_response
from tests.unit.llama_index.support import FIXED, ScriptedLLM, make_aligner, make_index, mend


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


async def test_a_run_is_resumed_that_was_saved_while_it_corrected():
    """The step begins again: what it needs is in the event that it was given."""
    correcting, over = threading.Event(), threading.Event()

    def slow(prompt):
        correcting.set()
        over.wait(10)
        return mend(prompt)

    workflow = Own()
    workflow.aligner = make_aligner(slow)
    handler = workflow.run(question="Is it?")
    await asyncio.to_thread(correcting.wait, 10)
    saved = json.dumps(handler.ctx.to_dict(serializer=JsonSerializer()))
    over.set()
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
