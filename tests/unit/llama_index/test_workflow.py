"""`AlignerWorkflow`, and a step of one's own."""

from typing import Annotated, Any

import pytest
from llama_index.core.base.response.schema import Response
from llama_index.core.workflow import Event, StartEvent, StopEvent, Workflow, step
from llama_index.core.workflow.resource import Resource

from aligner_integrations import Aligner
from aligner_integrations.llama_index import AlignedEvent, AlignerWorkflow, AlignRequest, aalign_response
from tests.unit.llama_index.support import DRAFT, FIXED, Recorder, ScriptedLLM, make_aligner, make_index, make_nodes


class Rag(AlignerWorkflow):
    @step
    async def ask(self, ev: StartEvent) -> AlignRequest:
        return AlignRequest(question=ev.question, response=ev.response, payload={"n": 1})

    @step
    async def show(self, ev: AlignedEvent) -> StopEvent:
        return StopEvent(result=(ev.question, ev.response, ev.payload))


async def test_a_response_and_a_string():
    fn = Recorder()
    question, response, payload = await Rag(make_aligner(fn)).run(
        question="Is it?", response=Response(DRAFT, make_nodes())
    )
    assert (question, response.response, payload) == ("Is it?", FIXED, {"n": 1})
    assert response.source_nodes == make_nodes()
    assert response.metadata["aligner"]["outcome"] == "corrected"
    assert (await Rag(make_aligner(fn)).run(question="Is it?", response=DRAFT))[1] == FIXED
    assert fn.questions == ["Is it?"] * 2


async def test_options():
    workflow = Rag(make_aligner(lambda prompt: "Blue sky [1]."), citations="drop", include_original=True, timeout=30)
    _, response, _ = await workflow.run(question="Is it?", response=Response("Damn blue sky [1].", make_nodes()))
    assert response.response == "Blue sky."
    assert response.metadata["aligner"]["original"] == "Damn blue sky [1]."


class Answered(Event):
    question: str
    response: Any


made = []


def make_aligner_once() -> Aligner:
    made.append(1)
    return make_aligner()


class Own(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> StopEvent:
        response = await make_index().as_query_engine(llm=ScriptedLLM()).aquery(ev.question)
        return StopEvent(result=await aalign_response(make_aligner(), ev.question, response))


async def test_a_step_of_ones_own():
    assert (await Own().run(question="Is it?")).response == FIXED


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


async def test_an_error_ends_the_run():
    with pytest.raises(Exception, match="Only LlamaIndex's own response types"):
        await Rag(make_aligner()).run(question="Is it?", response=7)
