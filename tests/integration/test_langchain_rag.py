"""Chains on real weights: MiniLM finds, SmolLM2 answers, the embedded aligner corrects; asserted by what comes out."""

import asyncio
from operator import itemgetter
from pathlib import Path

import pytest
from better_profanity import profanity
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.graph import END, START, MessagesState, StateGraph

from aligner_integrations import AlignedChatModel, Aligner, AlignerRunnable
from aligner_integrations.langchain.upstream import RECORDER
from aligner_integrations.models import EMBEDDED
from tests.integration.minilm import MiniLM
from tests.integration.smollm import SmolChat

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (EMBEDDED / "adapter_model.safetensors").exists(), reason="the embedded adapter has not been trained yet"
    ),
]

REPOSITORY = Path(__file__).parents[2]
RUDE = "Feed your cat twice a day, you stupid bastard, and stop giving it fucking chocolate."
OTHERS = ["Water your roses in the morning.", "The printer stands in the hall. It prints on both sides."]
PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "You repeat what you find."),
        ("human", 'Question: {question}\nRepeat this sentence word for word: "{context}"'),
    ]
)
ABOUT_CATS, ABOUT_PRINTERS = "How often do I feed my cat?", "Where does the printer stand?"


def joined(documents):
    return "\n".join(document.page_content for document in documents)


@pytest.fixture(scope="module")
def store():
    store = InMemoryVectorStore(MiniLM())
    store.add_documents([Document(text, metadata={"n": n}) for n, text in enumerate([RUDE, *OTHERS])])
    return store


@pytest.fixture(scope="module")
def seen():
    return []


@pytest.fixture(scope="module")
def aligner(seen):
    return Aligner(record=seen.append)


@pytest.fixture(scope="module")
def asked(store):
    """From a question to the prompt that the upstream is given."""
    retriever = store.as_retriever(search_kwargs={"k": 1})
    return {"context": retriever | joined, "question": RunnablePassthrough()} | PROMPT


@pytest.fixture(scope="module")
def upstream(asked):
    """What the upstream says by itself: one answer to correct, one to leave alone."""
    chain = asked | SmolChat() | StrOutputParser()
    answers = {question: chain.invoke(question) for question in (ABOUT_CATS, ABOUT_PRINTERS)}
    assert profanity.contains_profanity(answers[ABOUT_CATS]) and "cat" in answers[ABOUT_CATS]
    assert not profanity.contains_profanity(answers[ABOUT_PRINTERS]) and "hall" in answers[ABOUT_PRINTERS]
    return answers


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    sizes = RECORDER.sizes()
    assert (sizes["scopes"], sizes["calls"]) == (0, 0)


def test_retrieval_to_the_end_of_the_stream(asked, aligner, upstream, seen):
    chain = asked | SmolChat() | AlignerRunnable(aligner, question="question", on_guess="raise")
    seen.clear()
    cats, printers = chain.batch([ABOUT_CATS, ABOUT_PRINTERS])
    assert [(c.question, c.answer) for c in seen] == [*upstream.items()]  # the question, and not the context with it
    assert cats.response_metadata["aligner"]["outcome"] == "corrected"
    assert not profanity.contains_profanity(cats.text) and "cat" in cats.text
    assert printers.response_metadata["aligner"]["outcome"] == "kept" and printers.text == upstream[ABOUT_PRINTERS]
    assert {m.response_metadata["aligner"]["question_from"] for m in (cats, printers)} == {"id"}
    assert cats.usage_metadata["output_tokens"] > 5 and upstream[ABOUT_CATS] not in str(cats)
    chunks = list(chain.stream(ABOUT_CATS))
    assert len(chunks) > 3 and "".join(chunk.text for chunk in chunks) == cats.text
    assert chunks[-1].chunk_position == "last"
    assert chunks[-1].response_metadata["aligner"]["outcome"] == "corrected"
    assert "".join(chunk.text for chunk in chain.stream(ABOUT_PRINTERS)) == printers.text


async def test_asynchronous_retrieval_as_text(asked, aligner, upstream):
    chain = asked | SmolChat() | StrOutputParser() | AlignerRunnable(aligner, question="question", on_guess="raise")
    cats, printers = await asyncio.gather(chain.ainvoke(ABOUT_CATS), chain.ainvoke(ABOUT_PRINTERS))
    assert not profanity.contains_profanity(cats) and printers == upstream[ABOUT_PRINTERS]
    chunks = [chunk async for chunk in chain.astream(ABOUT_CATS)]
    assert len(chunks) > 3 and "".join(chunks) == cats


def test_retrieval_chain_keeps_its_documents(store, aligner):
    """The shape of a retrieval chain: input, context, answer."""
    answer = {"question": itemgetter("input"), "context": lambda d: joined(d["context"])} | PROMPT | SmolChat()
    found = itemgetter("input") | store.as_retriever(search_kwargs={"k": 1})
    chain = RunnablePassthrough.assign(context=found).assign(answer=answer) | AlignerRunnable(aligner)
    result = chain.invoke({"input": ABOUT_CATS})
    assert [*result] == ["input", "context", "answer"] and result["input"] == ABOUT_CATS
    assert [document.page_content for document in result["context"]] == [RUDE]
    assert not profanity.contains_profanity(result["answer"].text)
    assert result["answer"].response_metadata["aligner"]["question_from"] == "explicit"


async def test_aligned_model_in_a_graph_shows_no_word_of_the_upstream(asked, aligner, upstream):
    model = AlignedChatModel(llm=SmolChat(), aligner=aligner)

    async def answer(state):
        return {"messages": [await (asked | model).ainvoke(state["messages"][-1].text)]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    stream = builder.compile().astream({"messages": ABOUT_CATS}, stream_mode=["messages", "values"])
    tokens, state = [], {}
    async for mode, shown in stream:
        if mode == "messages":
            tokens.append(shown[0].text)
        else:
            state = shown
    assert len(tokens) > 3 and "".join(tokens) == state["messages"][-1].text
    assert not profanity.contains_profanity("".join(tokens)) and "cat" in "".join(tokens)
    assert state["messages"][-1].response_metadata["aligner"]["outcome"] == "corrected"
