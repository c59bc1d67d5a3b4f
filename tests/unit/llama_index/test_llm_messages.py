"""What `AlignerLLM` does to the messages of an LLM: blocks, thoughts, what is withheld, and what is asked for something else."""

import copy
import logging
import pickle

import pytest
from llama_index.core import Document, PropertyGraphIndex
from llama_index.core.base.llms import types
from llama_index.core.extractors import DocumentContextExtractor
from llama_index.core.indices.property_graph import LLMSynonymRetriever, SimpleLLMPathExtractor
from llama_index.core.llms import ChatMessage, ChatResponse, ImageBlock, MockLLM, TextBlock
from llama_index.core.memory import ChatSummaryMemoryBuffer, FactExtractionMemoryBlock
from llama_index.core.postprocessor.rankGPT_rerank import RankGPTRerank
from llama_index.core.program import LLMTextCompletionProgram
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from pydantic import BaseModel

from aligner_integrations.errors import RejectedCorrectionError
from aligner_integrations.llama_index import AlignerFunctionCallingLLM, AlignerLLM, with_aligner
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    FunctionLLM,
    Recorder,
    ScriptedLLM,
    blocks_of,
    cite,
    fail,
    make_aligner,
    says,
)

WAYS = ["chat", "achat", "stream_chat", "astream_chat"]
ASKED = [ChatMessage(role="user", content="Is it?")]
IMAGE = ImageBlock(url="https://example.org/a.png")


class _Says(FunctionLLM):
    """Says one message, whole or in one piece, after thoughts in chunks of their own."""

    thoughts: tuple[str, ...] = ()
    model: str = "scripted"
    temperature: float = 0.5

    def _chunks(self):
        for thought in self.thoughts:
            kwargs = {"thinking_delta": thought}
            yield ChatResponse(message=ChatMessage(role="assistant", content=""), delta="", additional_kwargs=kwargs)
        yield self._whole(self.replies[0].content or "")

    def _whole(self, delta=None):
        kwargs = {"total_tokens": 3, "note": "a bad idea"}
        return ChatResponse(message=self.replies[0], delta=delta, raw={"text": DRAFT}, additional_kwargs=kwargs)

    def chat(self, messages, **kwargs):
        return self._whole()

    def stream_chat(self, messages, **kwargs):
        return self._chunks()


def wrapped(message, fn=None, thoughts=(), **options):
    llm = _Says(replies=[message], thoughts=thoughts)
    return AlignerFunctionCallingLLM(llm=llm, aligner=make_aligner(fn or Recorder(), **options))


async def say(llm, way, messages=ASKED):
    """Everything that comes back, in the order it comes."""
    result = getattr(llm, way)(messages)
    result = await result if way.startswith("a") else result
    if way == "astream_chat":
        return [chunk async for chunk in result]
    return list(result) if way == "stream_chat" else [result]


# Blocks -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_kept_message_is_the_upstreams_own(way):
    message = ChatMessage(
        role="assistant", blocks=[TextBlock(text="Fine."), cite("1"), TextBlock(text=" So."), cite("2")]
    )
    last = (await say(wrapped(message), way))[-1]
    assert last.message is message
    assert last.additional_kwargs["aligner"]["outcome"] == "kept"


@pytest.mark.parametrize("way", WAYS)
async def test_a_corrected_message_keeps_what_is_no_answer(way):
    message = ChatMessage(
        role="assistant",
        blocks=[TextBlock(text="A bad look."), IMAGE, TextBlock(text="So it is. "), cite("1"), TextBlock(text=DRAFT)],
    )
    chunks = await say(wrapped(message), way)
    assert blocks_of(chunks[-1].message) == ["A bad look.", "<image>", "So it is.", "<1>", f" {FIXED}"]
    assert all(blocks_of(chunk.message)[:2] == ["A bad look.", "<image>"] for chunk in chunks)
    assert "citations_lost" not in chunks[-1].additional_kwargs["aligner"]


# What is withheld -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [{"on_error": "block"}, {"on_reject": "block", "accept": lambda *a: False}])
@pytest.mark.parametrize("way", WAYS)
async def test_of_a_blocked_answer_no_word_is_left(way, policy):
    """Not in a thought, an earlier block, a citation, what the provider said, or what was held back of the stream."""
    message = ChatMessage(
        role="assistant",
        blocks=[
            TextBlock(text="A bad look."),
            IMAGE,
            TextBlock(text=f"<think>So bad.</think>{DRAFT}"),
            cite("a bad source"),
        ],
        additional_kwargs={"reasoning_content": "It is bad."},
    )
    fn = fail if "on_error" in policy else Recorder()
    chunks = await say(wrapped(message, fn, ("A bad", " thought"), block_message="withheld", **policy), way)
    assert " bad" not in repr(chunks)
    assert chunks[-1].message == ChatMessage(role="assistant", content="withheld")
    assert chunks[-1].additional_kwargs["total_tokens"] == 3
    if "stream" in way:
        assert "".join(chunk.delta for chunk in chunks) == "withheld"


# Thoughts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stream_chat", "astream_chat"])
async def test_thoughts_come_before_the_answer(way):
    chunks = await say(wrapped(says(DRAFT), thoughts=("One asks", " whether.")), way)
    assert [chunk.additional_kwargs.get("thinking_delta") for chunk in chunks[:3]] == ["One asks", " whether.", None]
    assert all(not chunk.delta and not chunk.message.content for chunk in chunks[:2])
    assert "".join(chunk.delta for chunk in chunks) == FIXED
    assert not any("thinking_delta" in chunk.additional_kwargs for chunk in chunks[2:])


@pytest.mark.skipif(not hasattr(types, "ThinkingBlock"), reason="this LlamaIndex has no blocks of thoughts")
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_a_block_of_thoughts(way, blocked):
    """Stays in front of the corrected answer, with its signature, and is never corrected."""
    fn = Recorder()
    thought = types.ThinkingBlock(content="A bad one asks.", additional_information={"signature": "s"})
    message = ChatMessage(role="assistant", blocks=[thought, TextBlock(text=DRAFT)])
    policy = {"on_reject": "block", "accept": lambda *a: False} if blocked else {}
    chunks = await say(wrapped(message, fn, ("A bad one asks.",), **policy), way)
    assert fn.prompts == [f"Q=Is it?;A={DRAFT};"]
    if blocked:
        assert " bad" not in repr(chunks)
    else:
        assert chunks[-1].message.blocks == [thought, TextBlock(text=FIXED)]


# The question -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_an_image_alone_is_no_question(way):
    fn, message = Recorder(), says(DRAFT)
    history = [ChatMessage(role="user", content="An old one?"), says("Yes."), ChatMessage(role="user", blocks=[IMAGE])]
    last = (await say(wrapped(message, fn), way, history))[-1]
    assert last.message is message and fn.prompts == []
    assert last.additional_kwargs["aligner"]["reason"] == "no_question"


# What is asked for something else ---------------------------------------------------------------------------------------


class _Facts(BaseModel):
    facts: list[str]


NODES = [NodeWithScore(node=TextNode(text=f"Fact {i}", id_=f"n{i}")) for i in range(3)]


async def test_what_is_asked_through_chat_and_is_no_answer():
    fn = Recorder(lambda prompt: "CHANGED")

    def llm(reply):
        return AlignerLLM(ScriptedLLM(reply=reply), make_aligner(fn))

    ranked = RankGPTRerank(llm=llm("[3] > [1] > [2]"), top_n=3).postprocess_nodes(NODES, query_str="Is it?")
    assert [node.node_id for node in ranked] == ["n2", "n0", "n1"]
    block = FactExtractionMemoryBlock(llm=llm("<facts><fact>Ann is bad.</fact></facts> and so on"), max_facts=1)
    await block.aput([ChatMessage(role="user", content="I am Ann.")])
    assert block.facts == ["Ann is bad."]
    block.facts += ["Another one."]
    await block.aput([ChatMessage(role="user", content="I am Ann.")])
    assert block.facts == ["Ann is bad."]  # condensed
    summary = ChatSummaryMemoryBuffer.from_defaults(llm=llm("A bad summary"), token_limit=4, tokenizer_fn=str.split)
    for i in range(4):
        summary.put(ChatMessage(role="user", content=f"A message, number {i}"))
    assert summary.get()[0].content == "A bad summary"
    store, node = SimpleDocumentStore(), TextNode(text="A chunk", id_="c")
    document = Document(text="A document", id_="d")
    store.add_documents([document])
    node.relationships = {"1": document.as_related_node_info()}
    for options in ({}, {"prompt": "What is this about?"}):
        extractor = DocumentContextExtractor(docstore=store, llm=llm("a bad context"), **options)
        assert (await extractor.aextract([node]))[0]["context"] == "a bad context"
    program = LLMTextCompletionProgram.from_defaults(
        output_cls=_Facts,
        prompt_template_str="Facts about {topic}",
        llm=with_aligner(_chatty('So: {"facts": ["bad"]}'), make_aligner(fn)),
    )
    assert program(topic="Ann").facts == (await program.acall(topic="Ann")).facts == ["bad"]
    assert fn.prompts == []


def _chatty(reply):
    return _Says(replies=[says(reply)])


class _Graph(MockLLM):
    """Writes triplets, and synonyms when it is asked for them."""

    def complete(self, prompt, formatted=False, **kwargs):
        text = "dog^cat" if "^" in prompt else "(dog, is, animal)"
        return super().complete(prompt, formatted, **kwargs).model_copy(update={"text": text})


@pytest.fixture
def graph():  # made outside of the event loop, which its constructor starts
    extractors = [SimpleLLMPathExtractor(llm=_Graph())]
    return PropertyGraphIndex.from_documents(
        [Document(text="dog is animal")], llm=_Graph(), embed_kg_nodes=False, kg_extractors=extractors
    )


@pytest.mark.parametrize("own", [{}, {"synonym_prompt": "Synonyms of {query_str}, {max_keywords} with ^ between them"}])
async def test_a_graph_is_searched_by_synonyms_as_they_are(graph, own):
    fn = Recorder(lambda prompt: "Dogs and cats are the words.")
    llm = with_aligner(_Graph(), make_aligner(fn))
    retriever = LLMSynonymRetriever(graph.property_graph_store, llm=llm, include_text=False, **own)
    for nodes in (retriever.retrieve("what is a dog?"), await retriever.aretrieve("what is a dog?")):
        assert [node.text for node in nodes] == ["Dog -> Is -> Animal"]
    assert fn.prompts == []


# What only the wrapped LLM has ------------------------------------------------------------------------------------------


def test_attributes_of_the_wrapped_llm():
    llm = wrapped(says(DRAFT))
    assert (llm.model, llm.temperature) == ("scripted", 0.5)
    llm.temperature = 0.1
    assert llm.llm.temperature == 0.1
    assert hasattr(llm, "model") and not hasattr(llm, "no_such_thing")
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = llm.no_such_thing
    with pytest.raises(ValueError, match="no_such_thing"):
        llm.no_such_thing = 1
    for other in (copy.copy(llm), llm.model_copy(), copy.deepcopy(llm)):
        assert other.model == "scripted" and other.chat(ASKED).message.content == FIXED


def test_a_pickle_without_its_aligner_does_not_take_the_wrapped_llms(caplog):
    """An attribute of this class that is missing is missing, and not the other one's."""
    inner = AlignerLLM(ScriptedLLM(), make_aligner())
    outer = AlignerLLM(inner, make_aligner(lambda prompt: "x"))
    with caplog.at_level(logging.ERROR):
        restored = pickle.loads(pickle.dumps(outer))  # noqa: S301
    assert getattr(restored, "aligner", None) is None


def test_a_rejection_that_is_raised():
    with pytest.raises(RejectedCorrectionError):
        wrapped(says(DRAFT), on_reject="raise", accept=lambda *a: False).chat(ASKED)
