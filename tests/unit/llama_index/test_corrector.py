"""What LlamaIndex adds to an aligner: evaluators as `accept`, structured answers by field, and lists of answers."""

import pytest
from llama_index.core.base.response.schema import PydanticResponse, Response
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.evaluation import BaseEvaluator, EvaluationResult, FaithfulnessEvaluator, RelevancyEvaluator

from aligner_integrations.errors import BackendError, ConfigurationError
from aligner_integrations.llama_index import (
    AlignerChatEngine,
    AlignerQueryEngine,
    AlignerSynthesizer,
    align_response,
)
from aligner_integrations.llama_index.corrector import split
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    TEXTUAL,
    Recorder,
    ScriptedLLM,
    fail,
    make_aligner,
    make_index,
    make_nodes,
    read,
    response_of,
)


class _Judge(BaseEvaluator):
    """Says the same of everything, and keeps what it was asked."""

    def __init__(self, passing):
        self.passing, self.asked = passing, []

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    async def aevaluate(self, query=None, response=None, contexts=None, **kwargs):
        self.asked.append((query, response, contexts))
        return EvaluationResult(passing=self.passing)


# Evaluators -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEXTUAL)
@pytest.mark.parametrize(("passing", "shown"), [(True, FIXED), (False, DRAFT), (None, DRAFT)])
async def test_an_evaluator_accepts_over_the_sources(align, kind, passing, shown):
    judge = _Judge(passing)
    aligner = make_aligner(accept=judge)
    aligned = await align(aligner, "Is it?", response_of(kind, DRAFT, source_nodes=make_nodes()))
    assert "".join(await read(aligned)) == shown
    assert judge.asked == [("Is it?", FIXED, ["Fact 1", "Fact 2"])]
    assert aligned.metadata["aligner"]["outcome"] == ("corrected" if passing else "rejected")
    assert aligner.policy.accept is judge  # nothing of this call is left on the shared aligner


async def test_rejection_follows_on_reject(align):
    aligner = make_aligner(accept=_Judge(False), on_reject="block", block_message="withheld")
    assert (await align(aligner, "Is it?", Response(DRAFT))).response == "withheld"


@pytest.mark.parametrize("kind", TEXTUAL)
@pytest.mark.parametrize("evaluator", [FaithfulnessEvaluator, RelevancyEvaluator])
@pytest.mark.parametrize(("verdict", "shown"), [("YES", FIXED), ("NO", DRAFT)])
async def test_llama_indexs_evaluators(align, evaluator, kind, verdict, shown):
    """Also from a running event loop, as in a notebook: every test here has one."""
    llm = ScriptedLLM(reply=verdict)
    aligner = make_aligner(accept=evaluator(llm=llm))
    aligned = await align(aligner, "Is it?", response_of(kind, DRAFT, source_nodes=make_nodes()))
    assert "".join(await read(aligned)) == shown
    assert FIXED in llm.prompts[0] and DRAFT not in llm.prompts[0]
    assert "Fact 1" in "".join(llm.prompts) and "Fact 2" in "".join(llm.prompts)
    assert aligned.metadata["aligner"]["outcome"] == ("corrected" if verdict == "YES" else "rejected")


def test_llama_indexs_evaluators_without_an_event_loop():
    aligner = make_aligner(accept=FaithfulnessEvaluator(llm=ScriptedLLM(reply="NO")))
    assert align_response(aligner, "Is it?", Response(DRAFT, make_nodes())).response == DRAFT


async def test_an_evaluator_that_fails_is_an_error_of_the_correction(align):
    class Broken(_Judge):
        async def aevaluate(self, *args, **kwargs):
            raise ValueError("no verdict")

    with pytest.raises(BackendError, match="accept raised ValueError: no verdict"):
        await align(make_aligner(accept=Broken(True)), "Is it?", Response(DRAFT, make_nodes()))
    aligned = await align(make_aligner(accept=Broken(True), on_error="keep"), "Is it?", Response(DRAFT, make_nodes()))
    assert aligned.response == DRAFT and aligned.metadata["aligner"]["outcome"] == "failed"


async def test_an_evaluator_in_every_wrapper():
    judge = _Judge(False)
    aligner, index, llm = make_aligner(accept=judge), make_index(), ScriptedLLM()
    engine = index.as_query_engine(llm=llm, similarity_top_k=3)
    assert AlignerQueryEngine(engine, aligner).query("Is it?").response == DRAFT
    synthesizer = AlignerSynthesizer(aligner=aligner, llm=llm)
    assert (await synthesizer.asynthesize("Is it?", make_nodes())).response == DRAFT
    chat = index.as_chat_engine(chat_mode="context", llm=llm, similarity_top_k=3)
    assert (await AlignerChatEngine(chat, aligner).achat("Is it?")).response == DRAFT
    assert [len(contexts) for _, _, contexts in judge.asked] == [3, 2, 3]
    assert {(question, text) for question, text, _ in judge.asked} == {("Is it?", FIXED)}


async def test_the_callers_repair_goes_first(align):
    aligner = make_aligner(
        lambda prompt: "Blue Skye.", repair=lambda answer, correction: correction.replace("Skye", "sky")
    )
    aligned = await align(aligner, "Is it?", Response("The damn blue sky [1].", make_nodes()))
    assert aligned.response == "Blue sky."
    aligned = await align(aligner, "Is it?", Response("Blue damn sky [1].", make_nodes()))
    assert aligned.response == "Blue sky [1]."


def test_outside_of_llama_index_an_evaluator_is_an_error():
    with pytest.raises(ConfigurationError, match="accept is _Judge"):
        make_aligner(accept=_Judge(True)).correct("Is it?", DRAFT)


# Structured answers -----------------------------------------------------------------------------------------------------


class _Fact(BaseModel):
    text: str
    count: int = 1


async def test_a_field_by_name(align):
    fact, fn = _Fact(text=DRAFT), Recorder()
    upstream = PydanticResponse(fact, make_nodes(), {"a": 1})
    aligned = await align(make_aligner(fn), "Is it?", upstream, pydantic_field="text")
    assert type(aligned) is PydanticResponse
    assert aligned.response == _Fact(text=FIXED)
    assert fact.text == DRAFT and upstream.response is fact
    assert aligned.metadata["a"] == 1 and aligned.metadata["aligner"]["outcome"] == "corrected"
    assert fn.questions == ["Is it?"]


@pytest.mark.parametrize("name", ["count", "nothing"])
async def test_a_field_that_is_no_text(align, name):
    with pytest.raises(ConfigurationError, match=f"_Fact.{name} is no string"):
        await align(make_aligner(), "Is it?", PydanticResponse(_Fact(text=DRAFT)), pydantic_field=name)


# A list of answers ------------------------------------------------------------------------------------------------------

LIST = "Response 1: It is bad [1].\n---------------------\nResponse 2: Empty Response\n---------------------\nResponse 3: Fine."


async def test_accumulated_answers_are_corrected_one_by_one(align):
    fn, records = Recorder(), []
    aligner = make_aligner(fn, record=records.append)
    aligned = await align(aligner, "Is it?", Response(LIST, make_nodes()))
    assert aligned.response == LIST.replace("bad [1]", "good")  # the sentence that cited says something else now
    assert fn.prompts == ["Q=Is it?;A=It is bad [1].;", "Q=Is it?;A=Fine.;"]
    record = aligned.metadata["aligner"]
    assert (record["outcome"], record["reason"], record["rounds"]) == ("corrected", None, 1)
    assert record["citations_lost"] == ["[1]"]
    assert [(r.answer, r.text) for r in records] == [("It is bad [1].", "It is good."), ("Fine.", "Fine.")]


async def test_accumulated_answers_are_judged_one_by_one(align):
    judge = _Judge(False)
    aligned = await align(make_aligner(accept=judge), "Is it?", Response(LIST, make_nodes()))
    assert aligned.response == LIST
    assert aligned.metadata["aligner"]["outcome"] == "rejected"
    assert judge.asked == [("Is it?", "It is good.", ["Fact 1", "Fact 2"])]


async def test_one_failure_among_accumulated_answers_is_told(align):
    def fn(prompt):
        return fail(prompt) if "Fine" in prompt else "It is good [1]."

    aligned = await align(make_aligner(fn, on_error="block", block_message="withheld"), "Is it?", Response(LIST))
    assert aligned.response.endswith("Response 3: withheld") and "It is good" in aligned.response
    assert aligned.metadata["aligner"]["outcome"] == "failed"
    with pytest.raises(BackendError):
        await align(make_aligner(fn), "Is it?", Response(LIST))


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ("Response 1: A.", ["A."]),
        ("Response 1: A.\n---------------------\nResponse 7: B.", ["A.\n---------------------\nResponse 7: B."]),
        ("Response 2: A.", []),
        ("He said:\n---------------------\nResponse 1: A.", []),
        ("Response one: A.", []),
        ("", []),
    ],
)
def test_what_is_a_list_of_answers(answer, texts):
    parts = split(answer)
    assert [text for _, text in parts] == texts
    assert not parts or "".join(map("".join, parts)) == answer


# What is recorded -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_what_is_recorded_is_what_was_shown(align, kind):
    """In a live stream, too, where invented citations are taken out on the way."""
    records = []
    aligner = make_aligner(lambda prompt: "Blue sky [2].", record=records.append)
    aligned = await align(aligner, "Is it?", response_of(kind, "Bad sky.", source_nodes=make_nodes()))
    assert "".join(await read(aligned)) == "Blue sky."
    assert [record.text for record in records] == ["Blue sky."]
