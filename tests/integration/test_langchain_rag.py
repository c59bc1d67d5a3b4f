"""Chains on real weights: MiniLM finds, SmolLM2 answers, the embedded aligner corrects; asserted by what comes out."""

import asyncio
from operator import itemgetter

import pytest
from better_profanity import profanity
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.graph import END, START, MessagesState, StateGraph

from aligner_integrations import AlignedChatModel, Aligner, AlignerRunnable
from aligner_integrations.langchain.question.recorder import RECORDER
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

RUDE = "What the hell is wrong with this stupid update?"
OTHERS = ["Water your roses in the morning.", "The printer stands in the hall. It prints on both sides."]
# Small as it is, the upstream keeps to what was found if it is to repeat it.
PROMPT = ChatPromptTemplate.from_template(
    'Repeat this sentence word for word: "{context}"\n(It answers the question: {question})'
)
ABOUT_UPDATE, ABOUT_PRINTER = "What do people say about the update?", "Where does the printer stand?"


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
    answers = {question: chain.invoke(question) for question in (ABOUT_UPDATE, ABOUT_PRINTER)}
    assert profanity.contains_profanity(answers[ABOUT_UPDATE]) and "update" in answers[ABOUT_UPDATE]
    assert not profanity.contains_profanity(answers[ABOUT_PRINTER]) and "hall" in answers[ABOUT_PRINTER]
    return answers


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    sizes = RECORDER.sizes()
    assert (sizes["scopes"], sizes["calls"]) == (0, 0)


def test_retrieval_to_the_end_of_the_stream(asked, aligner, upstream, seen):
    chain = asked | SmolChat() | AlignerRunnable(aligner, question="question", on_guess="raise")
    seen.clear()
    update, printer = chain.batch([ABOUT_UPDATE, ABOUT_PRINTER])
    assert [(c.question, c.answer) for c in seen] == [*upstream.items()]  # the question, and not the context with it
    assert update.response_metadata["aligner"]["outcome"] == "corrected"
    assert not profanity.contains_profanity(update.text) and "update" in update.text
    assert printer.response_metadata["aligner"]["outcome"] == "kept" and printer.text == upstream[ABOUT_PRINTER]
    assert {m.response_metadata["aligner"]["question_from"] for m in (update, printer)} == {"id"}
    assert update.usage_metadata["output_tokens"] > 5 and upstream[ABOUT_UPDATE] not in str(update)
    chunks = list(chain.stream(ABOUT_UPDATE))
    assert len(chunks) > 2 and "".join(chunk.text for chunk in chunks) == update.text
    assert chunks[-1].chunk_position == "last"
    assert chunks[-1].response_metadata["aligner"]["outcome"] == "corrected"
    assert "".join(chunk.text for chunk in chain.stream(ABOUT_PRINTER)) == printer.text


async def test_asynchronous_retrieval_as_text(asked, aligner, upstream):
    chain = asked | SmolChat() | StrOutputParser() | AlignerRunnable(aligner, question="question", on_guess="raise")
    update, printer = await asyncio.gather(chain.ainvoke(ABOUT_UPDATE), chain.ainvoke(ABOUT_PRINTER))
    assert not profanity.contains_profanity(update) and printer == upstream[ABOUT_PRINTER]
    chunks = [chunk async for chunk in chain.astream(ABOUT_UPDATE)]
    assert len(chunks) > 2 and "".join(chunks) == update


def test_retrieval_chain_keeps_its_documents(store, aligner):
    """The shape of a retrieval chain: input, context, answer."""
    answer = {"question": itemgetter("input"), "context": lambda d: joined(d["context"])} | PROMPT | SmolChat()
    found = itemgetter("input") | store.as_retriever(search_kwargs={"k": 1})
    chain = RunnablePassthrough.assign(context=found).assign(answer=answer) | AlignerRunnable(aligner)
    result = chain.invoke({"input": ABOUT_UPDATE})
    assert [*result] == ["input", "context", "answer"] and result["input"] == ABOUT_UPDATE
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
    stream = builder.compile().astream({"messages": ABOUT_UPDATE}, stream_mode=["messages", "values"])
    tokens, state = [], {}
    async for mode, shown in stream:
        if mode == "messages":
            tokens.append(shown[0].text)
        else:
            state = shown
    assert len(tokens) > 2 and "".join(tokens) == state["messages"][-1].text
    assert not profanity.contains_profanity("".join(tokens)) and "update" in "".join(tokens)
    assert state["messages"][-1].response_metadata["aligner"]["outcome"] == "corrected"
