"""Whose words are the question: the user's last message, not a program's, and never one of an older turn."""

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, SummarizationMiddleware
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from aligner_integrations import AlignedChatModel
from aligner_integrations.langchain import AlignerMiddleware, AlignerNode, ThoughtAlignerMiddleware
from aligner_integrations.langchain.question.user import last_question
from tests.unit.langchain.agents.support import Script, call, counted, lookup
from tests.unit.langchain.listening import WAYS
from tests.unit.langchain.support import Upstream, aligner, called, step, total, want

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
OLD = [HumanMessage("An old one?"), AIMessage("Yes.")]
NEW = HumanMessage("Is it?")


def program(text="A reminder.", name=None, **marks):
    return HumanMessage(text, name=name, additional_kwargs=marks)


@pytest.mark.parametrize(
    ("messages", "question"),
    [
        ([*OLD, NEW], "Is it?"),
        ([*OLD, HumanMessage([{"type": "text", "text": "Is it?"}, IMAGE])], "Is it?"),
        ([*OLD, ChatMessage("Is it?", role="user")], "Is it?"),
        ([*OLD, NEW, AIMessage("", tool_calls=[call("f")]), ToolMessage("3", tool_call_id="call-f-1")], "Is it?"),
        # The user's own message is not passed over for its want of words.
        ([*OLD, HumanMessage([IMAGE])], ""),
        ([*OLD, HumanMessage("")], ""),
        ([*OLD, HumanMessage(" \n")], ""),
        # What a program wrote is.
        ([*OLD, NEW, program(lc_source="summarization")], "Is it?"),
        ([*OLD, NEW, program(lc_source="async_subagent", lc_data={"task_id": "1"})], "Is it?"),
        ([*OLD, NEW, program(hide_from_ui=True)], "Is it?"),
        ([*OLD, NEW, program(name="todo_reminder")], "Is it?"),
        ([*OLD, NEW, program(name="summary")], "Is it?"),
        ([*OLD, HumanMessage([IMAGE]), program(hide_from_ui=True)], ""),
        ([program(lc_source="summarization"), AIMessage("Yes.")], ""),
        # A name, or a mark that says no, is none.
        ([*OLD, HumanMessage("Is it?", name="ann", additional_kwargs={"hide_from_ui": False})], "Is it?"),
        # A prompt without a human message.
        ([SystemMessage("Say if it is.")], "Say if it is."),
        ([ChatMessage("Say if it is.", role="developer")], "Say if it is."),
        ([ToolMessage("3", tool_call_id="1")], None),
        ([AIMessage("Yes.")], None),
        ([], None),
    ],
)
def test_the_last_message_of_the_user(messages, question):
    assert last_question(messages) == question


def test_what_nobody_can_know_is_asked_of_the_caller():
    reminder = program("<reminder>Be brief.</reminder>")

    def is_user(message):
        assert isinstance(message, HumanMessage) and not message.additional_kwargs
        return not message.text.startswith("<reminder>")

    assert last_question([*OLD, NEW, reminder]) == reminder.text
    assert last_question([*OLD, NEW, reminder, program(hide_from_ui=True)], is_user) == "Is it?"
    assert last_question([reminder], is_user) == ""


# In every class -------------------------------------------------------------------------------------------------------


def model(messages, **options):
    return AlignedChatModel(llm=Upstream(), aligner=aligner(), **options).invoke(messages)


def streamed(messages, **options):
    return total(AlignedChatModel(llm=Upstream(), aligner=aligner(), **options).stream(messages))


def pipe(messages, **options):
    return (Upstream() | step(**options)).invoke(messages)


def given(messages, **options):
    return step(**options).invoke([*messages, AIMessage("I do not know.")])[-1]


def node(messages, **options):
    return AlignerNode(aligner(), **options).invoke({"messages": [*messages, AIMessage("I do not know.", id="m")]})[
        "messages"
    ][0]


def agent(messages, **options):
    app = create_agent(Upstream(), middleware=[AlignerMiddleware(aligner(), **options)])
    return app.invoke({"messages": messages})["messages"][-1]


CLASSES = pytest.mark.parametrize("ask", [model, streamed, pipe, given, node, agent], ids=lambda ask: ask.__name__)


@CLASSES
def test_programs_messages_are_passed_over(ask):
    for reminder in (program(lc_source="x"), program(hide_from_ui=True), program(name="loop_warning")):
        assert ask([*OLD, NEW, reminder]).text == want("Is it?")
    answer = ask([*OLD, NEW, program("<reminder>")], is_user=lambda message: "<reminder>" not in message.text)
    assert answer.text == want("Is it?")


@CLASSES
def test_an_answer_to_no_words_is_left_alone(ask):
    for messages in ([*OLD, HumanMessage([IMAGE])], [program(lc_source="summarization"), *OLD[1:]]):
        answer = ask(messages)
        record = answer.response_metadata["aligner"]
        assert answer.text == "I do not know."
        assert (record["outcome"], record["reason"], record["question_from"]) == ("skipped", "no_question", None)


def test_an_empty_string_beside_an_answer_is_the_callers_wish():
    for result in called(step(), {"question": "", "answer": "I do not know."}):
        assert result["answer"] == want("")


class Turns(Script):
    """Says its turns one after the other, whatever becomes of the messages; for one conversation."""

    def _say(self, messages):
        return self.turns.pop(0)


def test_after_a_summary_that_took_the_question_away_nothing_is_guessed():
    fn, prompts = counted()
    turns = [AIMessage("", tool_calls=[call("lookup", place, city="Oslo")]) for place in range(3)]
    summary = SummarizationMiddleware(
        Script(turns=[AIMessage("The user wants x.")]), trigger=("messages", 6), keep=("messages", 2)
    )
    for way in ("invoke", "ainvoke"):
        script = Turns(turns=[*turns, AIMessage("Done.")])
        app = create_agent(script, [lookup], middleware=[AlignerMiddleware(aligner(fn)), summary])
        messages = WAYS[way](app, {"messages": "Is it?"}, {})[0]
        last = messages["messages"][-1]
        assert last.type == "ai" and not prompts
        assert last.response_metadata["aligner"]["reason"] == "no_question"


class Reminding(AgentMiddleware):
    """Reminds the LLM by a human message, as many agents do."""

    def wrap_model_call(self, request, handler):
        return handler(request.override(messages=[*request.messages, program("Mind the list.", hide_from_ui=True)]))


def test_thoughts_have_the_users_instruction_too():
    fn, prompts = counted(lambda prompt: prompt.partition("||")[2])
    turns = [AIMessage("I look.", tool_calls=[call("lookup", place, city="Oslo")]) for place in range(2)]
    one = ThoughtAlignerMiddleware(aligner(fn))
    script = Turns(turns=[*turns, AIMessage("Done.")])
    create_agent(script, [lookup], middleware=[Reminding(), one]).invoke({"messages": [*OLD, NEW]})
    assert [prompt.splitlines()[0] for prompt in prompts] == ["Is it?||I look.", "Is it?"]
    assert "<thought>I look.</thought>" in prompts[1] and "Mind the list." not in prompts[1]
    prompts.clear()
    script = Turns(turns=[turns[0], AIMessage("Done.")])
    messages = create_agent(script, [lookup], middleware=[one]).invoke({"messages": [*OLD, HumanMessage([IMAGE])]})
    assert not prompts
    assert messages["messages"][3].response_metadata["aligner"]["reason"] == "no_question"
