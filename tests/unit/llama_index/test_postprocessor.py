"""`AlignerNodePostprocessor`: retrieved text, copied and corrected; the index and the answer are not touched."""

import logging
import pickle

import pytest
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, QueryBundle

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index import AlignerNodePostprocessor
from tests.unit.llama_index.support import DRAFT, Recorder, ScriptedLLM, make_aligner, make_index, make_nodes


def rude(prompt: str) -> str:
    return prompt.partition(";A=")[2].removesuffix(";").replace("Fact 1", "Finding 1")


@pytest.fixture(params=["sync", "async"])
def process(request):
    async def call(postprocessor, nodes, query="Is it?"):
        bundle = None if query is None else QueryBundle(query)
        if request.param == "sync":
            return postprocessor.postprocess_nodes(nodes, bundle)
        return await postprocessor.apostprocess_nodes(nodes, bundle)

    return call


async def test_changed_nodes_are_copies(process):
    fn, nodes = Recorder(rude), make_nodes()
    before = [node.to_json() for node in nodes]
    first, second = await process(AlignerNodePostprocessor(aligner=make_aligner(fn)), nodes)
    assert [node.to_json() for node in nodes] == before
    assert (first.node.get_content(MetadataMode.NONE), first.node.node_id, first.score) == ("Finding 1", "n1", 1 / 7)
    assert first.node.metadata["aligner"]["outcome"] == "corrected"
    assert first.node.metadata["page"] == 1
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert "aligner" not in first.node.get_content(mode)
    assert "Fact" not in str(first.node.metadata)
    assert second is nodes[1]
    assert fn.questions == ["Is it?", "Is it?"]


async def test_without_a_query(process):
    fn = Recorder(rude)
    assert (await process(AlignerNodePostprocessor(aligner=make_aligner(fn)), make_nodes(), None))[
        0
    ].text == "Finding 1"
    assert fn.questions == ["", ""]
    assert await process(AlignerNodePostprocessor(aligner=make_aligner()), []) == []


async def test_the_original_is_kept_if_asked_for(process):
    postprocessor = AlignerNodePostprocessor(aligner=make_aligner(rude), include_original=True)
    assert (await process(postprocessor, make_nodes()))[0].node.metadata["aligner"]["original"] == "Fact 1"


async def test_in_an_engine_the_answer_is_not_its_business():
    llm = ScriptedLLM()
    postprocessor = AlignerNodePostprocessor(aligner=make_aligner(rude))
    index = make_index()
    engine = index.as_query_engine(llm=llm, similarity_top_k=3, node_postprocessors=[postprocessor])
    assert postprocessor.callback_manager is engine.callback_manager
    for response in (engine.query("Is it?"), await engine.aquery("Is it?")):
        assert response.response == DRAFT
        assert any("Finding 1" in node.text for node in response.source_nodes)
    assert "Finding 1" in llm.prompts[0] and "Fact 1" not in llm.prompts[0]
    assert any("Fact 1" in node.get_content() for node in index.docstore.docs.values())


def test_json():
    postprocessor = AlignerNodePostprocessor(aligner=make_aligner(rude), citations="drop")
    data = postprocessor.to_dict()
    assert data == {
        "citations": "drop",
        "include_original": False,
        "class_name": "AlignerNodePostprocessor",
    }
    postprocessor.to_json()
    restored = AlignerNodePostprocessor.from_dict(data, aligner=make_aligner(rude))
    assert restored.citations == "drop"
    assert restored.postprocess_nodes(make_nodes(), query_str="Is it?")[0].text == "Finding 1"
    with pytest.raises(ConfigurationError, match=r"no aligner.*set its \.aligner"):
        AlignerNodePostprocessor.from_dict(data).postprocess_nodes(make_nodes())


def test_pickle_of_an_aligner_that_can_be_pickled():
    postprocessor = pickle.loads(pickle.dumps(AlignerNodePostprocessor(aligner=make_aligner(rude))))  # noqa: S301
    assert postprocessor.postprocess_nodes(make_nodes(), query_str="Is it?")[0].text == "Finding 1"


def test_pickle_of_an_aligner_that_cannot(caplog):
    postprocessor = AlignerNodePostprocessor(aligner=make_aligner(lambda prompt: "x"), include_original=True)
    with caplog.at_level(logging.WARNING):
        restored = pickle.loads(pickle.dumps(postprocessor))  # noqa: S301
    assert "aligner" in caplog.text
    assert restored.include_original is True
    with pytest.raises(ConfigurationError, match=r"no aligner.*set its \.aligner"):
        restored.postprocess_nodes(make_nodes())
    restored.aligner = make_aligner(rude)
    assert restored.postprocess_nodes(make_nodes())[0].text == "Finding 1"


def test_the_class():
    assert issubclass(AlignerNodePostprocessor, BaseNodePostprocessor)
    assert AlignerNodePostprocessor.class_name() == "AlignerNodePostprocessor"
