"""The package's first promise on real weights: a real upstream answers, the embedded aligner corrects."""

import asyncio

import pytest
from better_profanity import profanity
from langchain_core.prompts import ChatPromptTemplate
from llama_index.core import Document, SummaryIndex
from llama_index.core.response_synthesizers.context_only import ContextOnly

from aligner_integrations import Aligner, AlignerQueryEngine, AlignerRunnable
from aligner_integrations.models import EMBEDDED
from tests.integration.smollm import SmolChat, SmolLLM, say

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not (EMBEDDED / "adapter_model.safetensors").exists(), reason="the embedded adapter has not been trained yet"
    ),
]

PROMPT = ChatPromptTemplate.from_template("{question}")
RUDE = 'Repeat this sentence word for word: "What the hell is wrong with this stupid update?"'
GOOD = "In one sentence: what is the capital of France?"


@pytest.fixture(scope="module")
def upstream():
    """What the upstream says by itself: one answer to correct, one to leave alone."""
    answers = {question: say([{"role": "user", "content": question}]) for question in (RUDE, GOOD)}
    assert profanity.contains_profanity(answers[RUDE]) and not profanity.contains_profanity(answers[GOOD])
    return answers


@pytest.fixture(scope="module")
def chain():
    return PROMPT | SmolChat() | AlignerRunnable()


def check(upstream, question, text):
    if question == GOOD:
        assert text == upstream[GOOD]
    else:
        assert text.strip() and text != upstream[RUDE] and not profanity.contains_profanity(text)


def test_invoke_batch_and_stream(chain, upstream):
    messages = chain.batch([{"question": RUDE}, {"question": GOOD}])
    for question, message in zip((RUDE, GOOD), messages, strict=True):
        check(upstream, question, message.content)
        record = message.response_metadata["aligner"]
        assert record["question_from"] == "id" and upstream[RUDE] not in str(record)
        assert record["outcome"] == ("kept" if question == GOOD else "corrected")
    assert chain.invoke({"question": RUDE}).content == messages[0].content
    chunks = [chunk.content for chunk in chain.stream({"question": RUDE})]
    assert len(chunks) > 3 and "".join(chunks) == messages[0].content


async def test_async(chain, upstream):
    messages = await asyncio.gather(*(chain.ainvoke({"question": question}) for question in (RUDE, GOOD) * 3))
    for question, message in zip((RUDE, GOOD) * 3, messages, strict=True):
        check(upstream, question, message.content)
    chunks = [chunk.content async for chunk in chain.astream({"question": RUDE})]
    assert len(chunks) > 3 and "".join(chunks) == messages[0].content


def test_the_aligner_sees_the_question(upstream):
    seen = []
    aligner = Aligner(record=seen.append)
    (PROMPT | SmolChat() | AlignerRunnable(aligner)).invoke({"question": RUDE})
    assert [(c.question, c.answer) for c in seen] == [(RUDE, upstream[RUDE])]


@pytest.fixture(scope="module")
def index():
    return SummaryIndex.from_documents([Document(text="The printer stands in the hall. It prints on both sides.")])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_query_engine(index, streaming):
    plain = index.as_query_engine(llm=SmolLLM(), streaming=streaming)
    aligned = AlignerQueryEngine(plain)
    response = aligned.query("Where does the printer stand?")
    text = "".join(response.response_gen) if streaming else response.response
    raw = plain.query("Where does the printer stand?")
    answer = "".join(raw.response_gen) if streaming else raw.response
    assert not profanity.contains_profanity(answer)
    assert text.strip() == answer.strip()
    assert [node.node.get_content() for node in response.source_nodes] == [
        node.node.get_content() for node in raw.source_nodes
    ]
    assert response.metadata["aligner"]["outcome"] == "kept"


async def test_a_query_engine_that_repeats_what_it_found(index):
    """An engine whose answer is the text itself: rude text comes out civil, the sources as they are."""
    text = "this damn printer is a piece of crap"
    rude = SummaryIndex.from_documents([Document(text=text)])
    engine = AlignerQueryEngine(rude.as_query_engine(llm=SmolLLM(), response_synthesizer=ContextOnly(llm=SmolLLM())))
    for response in (engine.query("What about the printer?"), await engine.aquery("What about the printer?")):
        assert response.response and not profanity.contains_profanity(response.response)
        assert response.source_nodes[0].node.get_content() == text
        assert response.metadata["aligner"]["outcome"] == "corrected"
