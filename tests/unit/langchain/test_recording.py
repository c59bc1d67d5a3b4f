"""Records of corrections in LangChain belong to the run that asked for each."""

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage

from aligner_integrations import AlignerRunnable
from aligner_integrations.recording import for_request, read_records
from tests.unit.support import aligner_of, mend


class Runs(BaseCallbackHandler):
    def __init__(self):
        self.ids, self.all = {}, set()

    def on_chain_start(self, serialized, inputs, *, run_id, name=None, **kwargs):
        if name != "correction":
            self.all.add(str(run_id))
        if isinstance(inputs, dict) and "answer" in inputs and name != "correction":
            self.ids[inputs["answer"]] = str(run_id)


@pytest.fixture
def step(tmp_path):
    return AlignerRunnable(aligner_of(mend, record=tmp_path / "c.jsonl"))


def found(step):
    step.aligner.record.flush()
    return {r.correction.answer: r.request for r in read_records(step.aligner.record.path)}


def inputs(*answers):
    return [{"question": "q", "answer": answer} for answer in answers]


async def test_each_record_names_the_run_that_asked(step):
    runs = Runs()
    step.invoke(*inputs("bad 1"), config={"callbacks": [runs]})
    await step.ainvoke(*inputs("bad 2"), config={"callbacks": [runs]})
    step.batch(inputs("bad 3", "bad 4"), config={"callbacks": [runs]})
    list(step.stream(*inputs("bad 5"), config={"callbacks": [runs]}))
    [piece async for piece in step.astream(*inputs("bad 6"), config={"callbacks": [runs]})]
    by_run = found(step)
    streamed = {by_run.pop("bad 5"), by_run.pop("bad 6")}  # a stream tells its inputs at its end
    assert by_run == runs.ids and len(set(by_run.values())) == 4
    assert len(streamed) == 2 and streamed <= runs.all - set(by_run.values())


def test_what_the_application_says_counts(step):
    with for_request("mine"):
        step.invoke(*inputs("bad"))
    assert found(step) == {"bad": "mine"}


def test_a_message(step):
    step.invoke([("user", "q"), AIMessage("bad")])
    assert found(step)["bad"]
