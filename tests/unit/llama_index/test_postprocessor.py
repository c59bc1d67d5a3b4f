"""`AlignerNodePostprocessor`: retrieved text, copied and corrected; the index and the answer are not touched."""

import logging
import pickle

import pytest
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import ImageNode, IndexNode, MetadataMode, NodeWithScore, QueryBundle, TextNode

from aligner_integrations.errors import BackendError, ConfigurationError, MisplacedError
from aligner_integrations.llama_index import AlignerNodePostprocessor, AlignerSynthesizer
from aligner_integrations.llama_index import postprocessor as module
from tests.unit.llama_index.support import (
    DRAFT,
    Engine,
    Recorder,
    ScriptedLLM,
    fail,
    make_aligner,
    make_index,
    make_nodes,
)


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


async def test_an_object_behind_a_node_is_not_copied(process):
    """An IndexNode may hold a whole engine, which nothing here has to copy."""
    engine = Engine(lambda query: None)
    nodes = [NodeWithScore(node=IndexNode(text="Fact 1", index_id="i", obj=engine, excluded_llm_metadata_keys=["a"]))]
    [node] = await process(AlignerNodePostprocessor(make_aligner(rude)), nodes)
    assert type(node.node) is IndexNode and node.node.obj is engine
    assert (node.text, nodes[0].text) == ("Finding 1", "Fact 1")
    assert node.node.excluded_llm_metadata_keys == ["a", "aligner"]
    assert nodes[0].node.excluded_llm_metadata_keys == ["a"] and nodes[0].node.metadata == {}


async def test_nodes_without_text(process):
    fn = Recorder(rude)
    nodes = [NodeWithScore(node=ImageNode(image="aGk=")), NodeWithScore(node=TextNode(text="Empty Response"))]
    assert await process(AlignerNodePostprocessor(make_aligner(fn)), nodes) == nodes
    assert fn.prompts == []


async def test_policies_are_the_aligners(process):
    with pytest.raises(BackendError, match="the aligner is down"):
        await process(AlignerNodePostprocessor(make_aligner(fail)), make_nodes())
    kept = make_nodes()
    assert await process(AlignerNodePostprocessor(make_aligner(fail, on_error="keep")), kept) == kept


async def test_where_the_node_is_the_answer(process):
    """With no_text and a bare retriever it is the retrieved text that is shown."""
    postprocessor = AlignerNodePostprocessor(make_aligner(rude))
    synthesizer = AlignerSynthesizer(aligner=make_aligner(), response_mode="no_text")
    engine = RetrieverQueryEngine(make_index().as_retriever(similarity_top_k=3), synthesizer, [postprocessor])
    response = engine.query("Is it?")
    assert response.response == "" and any(node.text.startswith("Finding 1") for node in response.source_nodes)


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


# For those who look for the answer here ------------------------------------------------------------------------------


async def test_says_once_that_the_answer_stays_as_it_is(process, caplog):
    module._tell_once.cache_clear()
    for _ in range(2):
        await process(AlignerNodePostprocessor(aligner=make_aligner(rude)), make_nodes())
    (line,) = [record for record in caplog.records if record.name == module.__name__]
    assert line.levelno == logging.WARNING
    assert "The LLM's answer stays as it is" in line.getMessage() and "AlignerQueryEngine" in line.getMessage()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_aligner_in_the_place_of_a_postprocessor_says_where_it_goes(asynchronous):
    engine = make_index().as_query_engine(llm=ScriptedLLM(), node_postprocessors=[make_aligner(rude)])
    with pytest.raises(MisplacedError, match=r"Put it behind the engine: AlignerQueryEngine\(index\.as_query_engine"):
        await engine.aquery("q") if asynchronous else engine.query("q")
