"""What follows from a thought that is changed, kept, too long, or cannot be corrected."""

import asyncio

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from aligner_integrations import AlignerMiddleware
from aligner_integrations.errors import AnswerTooLongError, BackendError, ConfigurationError
from aligner_integrations.langchain import ThoughtAlignerMiddleware
from aligner_integrations.langchain.agents.thought_middleware import AGAIN
from aligner_integrations.langchain.agents.thoughts import MAX_THOUGHT
from tests.unit.langchain.agents.support import ASKED, CANARY, Script, Weather, call, counted
from tests.unit.langchain.listening import KEY_WAYS, WAYS, check, said, thread
from tests.unit.langchain.support import aligner

pytestmark = pytest.mark.filterwarnings("ignore:The v3 streaming protocol", "ignore:astream_log")

RAN = []
BAD, GOOD = f"{CANARY} I will look in their diary.", "I will ask them."
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


def look(where: str) -> str:
    """Look somewhere."""
    RAN.append(where)
    return f"Found in {where}."


@pytest.fixture(autouse=True)
def nothing_ran():
    RAN.clear()


class Chooser(Script):
    """Says its turns in order, one a call, whatever it is asked."""

    def _say(self, messages):
        self.asked.append(messages)
        return self.turns[min(len(self.asked), len(self.turns)) - 1].model_copy()


def thinks(thought, where="diary", **more):
    more = {"response_metadata": {"model_name": "m"}, "usage_metadata": USAGE, **more}
    return AIMessage(thought, tool_calls=[call("look", where=where)], **more)


DONE = AIMessage("It is done.", response_metadata={"model_name": "m"}, usage_metadata=USAGE)


def mend(prompt):
    return GOOD if CANARY in prompt.partition("||")[2] else prompt.partition("||")[2]


def agent(
    *turns, fn=mend, middleware=(), saver=None, on="raise", tools=(look,), before=(), response_format=None, **options
):
    one = ThoughtAlignerMiddleware(aligner(fn, on_error=on, on_reject=on, on_overflow=on), **options)
    return create_agent(
        Chooser(turns=list(turns)),
        list(tools),
        middleware=[*before, one, *middleware],
        checkpointer=saver,
        response_format=response_format,
    )


def both(make, value=ASKED):
    """The messages, by invoke and by ainvoke, of an agent made anew for each."""
    for way in (lambda app: app.invoke(value), lambda app: asyncio.run(app.ainvoke(value))):
        RAN.clear()
        yield way(make())["messages"]


def record(message):
    return message.response_metadata["aligner"]


# Changed, kept -------------------------------------------------------------------------------------------------------


def test_a_thought_that_is_kept_goes_on():
    fn, prompts = counted(mend)
    for messages in both(lambda: agent(thinks("I will look."), DONE, fn=fn)):
        assert [m.text for m in messages[1:]] == ["I will look.", "Found in diary.", "It is done."] and RAN == ["diary"]
        assert (record(messages[1])["outcome"], record(messages[1])["chosen_again"]) == ("kept", 0)
        assert "aligner" not in messages[-1].response_metadata
    assert prompts == ["How is the weather?||I will look."] * 2


def test_from_a_changed_thought_the_llm_chooses_again():
    models = []

    def make():
        app = agent(thinks(BAD), thinks("", where="letter"), DONE)
        models.append(app)
        return app

    for messages in both(make):
        assert RAN == ["letter"]
        assert messages[1].text == GOOD and messages[1].tool_calls[0]["args"] == {"where": "letter"}
        assert (record(messages[1])["outcome"], record(messages[1])["chosen_again"]) == ("corrected", 1)
        assert CANARY not in repr(messages)


def test_what_the_llm_is_told_when_it_chooses_again():
    model = Chooser(turns=[thinks(BAD), thinks("", where="letter"), DONE])
    create_agent(model, [look], middleware=[ThoughtAlignerMiddleware(aligner(mend))]).invoke(ASKED)
    assert [m.text for m in model.asked[1]] == ["How is the weather?", GOOD, AGAIN]
    assert [m.type for m in model.asked[1]] == ["human", "ai", "human"]
    # Its next turn knows the corrected thought, and nothing of the way there.
    assert [m.text for m in model.asked[2]] == ["How is the weather?", GOOD, "Found in letter."]


def test_the_llm_may_answer_instead():
    for messages in both(lambda: agent(thinks(BAD), AIMessage("I had better not."))):
        assert not RAN and [m.text for m in messages[1:]] == ["I had better not."]
        assert record(messages[-1])["chosen_again"] == 1


def test_the_new_thought_is_looked_at_as_well():
    fn, prompts = counted(mend)
    for messages in both(lambda: agent(thinks(BAD), thinks("I will read the letter.", where="letter"), DONE, fn=fn)):
        assert messages[1].text == "I will read the letter." and RAN == ["letter"] and len(prompts) == 2
        assert record(messages[1])["outcome"] == "corrected" and record(messages[1])["chosen_again"] == 1
        prompts.clear()
    for messages in both(lambda: agent(thinks(BAD), thinks(GOOD, where="letter"), DONE, fn=fn)):
        assert messages[1].text == GOOD and len(prompts) == 1  # its own words
        prompts.clear()


# Bounds and blocking ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_a_thought_that_is_changed_again_and_again_is_blocked(attempts):
    models = []

    def make():
        models.append(Chooser(turns=[thinks(BAD)]))
        one = ThoughtAlignerMiddleware(aligner(mend), attempts=attempts)
        return create_agent(models[-1], [look], middleware=[one])

    for messages in both(make):
        assert not RAN and messages[-1].text == aligner().policy.block_message and not messages[-1].tool_calls
        assert len(models[-1].asked) == attempts + 1
        kept = record(messages[-1])
        assert (kept["outcome"], kept["reason"], kept["chosen_again"]) == ("rejected", "thought", attempts)
        assert messages[-1].usage_metadata["total_tokens"] == 3 * (attempts + 1)
        assert CANARY not in repr(messages)


def test_after_a_block_the_next_turn_works():
    saver = InMemorySaver()
    content = [
        {"type": "thinking", "thinking": BAD, "signature": "s"},
        {"type": "tool_use", "id": "1", "name": "look", "input": {}},
    ]
    app = agent(thinks(content), thinks("I will look."), DONE, attempts=0, saver=saver)
    first = app.invoke(ASKED, thread())["messages"]
    assert first[-1].content == aligner().policy.block_message and not first[-1].tool_calls
    second = app.invoke(ASKED, thread())["messages"]
    assert [m.type for m in second] == ["human", "ai", "human", "ai", "tool", "ai"] and second[-1].text == "It is done."


def test_policies_are_the_aligners():
    def broken(prompt):
        raise ValueError("cannot do that")

    with pytest.raises(BackendError, match="cannot do that"):
        agent(thinks(BAD), fn=broken).invoke(ASKED)
    for messages in both(lambda: agent(thinks(BAD), DONE, fn=broken, on="keep")):
        assert RAN == ["diary"] and record(messages[1])["outcome"] == "failed"
    for messages in both(lambda: agent(thinks(BAD), DONE, fn=broken, on="block")):
        assert (
            not RAN
            and messages[-1].text == aligner().policy.block_message
            and record(messages[-1])["outcome"] == "failed"
        )


def test_a_thought_beyond_all_bounds_is_an_overflow():
    fn, prompts = counted(mend)
    long = thinks("x" * (MAX_THOUGHT + 1))
    with pytest.raises(AnswerTooLongError, match="8001 characters"):
        agent(long, fn=fn).invoke(ASKED)
    for messages in both(lambda: agent(long, DONE, fn=fn, on="keep")):
        assert RAN == ["diary"] and record(messages[1])["reason"] == "AnswerTooLongError"
    for messages in both(lambda: agent(long, DONE, fn=fn, on="block")):
        assert not RAN and messages[-1].text == aligner().policy.block_message
    assert not prompts


# What is no thought ----------------------------------------------------------------------------------------------------


def test_answers_calls_without_a_thought_and_structured_output_are_left_alone():
    fn, prompts = counted(lambda prompt: "changed")
    for messages in both(lambda: agent(thinks(""), DONE, fn=fn)):
        assert RAN == ["diary"] and record(messages[1])["reason"] == "no_thought" and messages[-1].text == "It is done."
    answer = AIMessage("Some words.", tool_calls=[call("Weather", rain=True)])
    result = agent(answer, fn=fn, tools=[], response_format=ToolStrategy(Weather)).invoke(ASKED)
    assert result["structured_response"] == Weather(rain=True) and result["messages"][1].text == "Some words."
    assert not prompts


def test_options():
    fn, prompts = counted(mend)
    one = agent(
        thinks(BAD), DONE, fn=fn, question=lambda messages: "Picked.", history=0, include_original=True, name="mine"
    )
    messages = one.invoke({"messages": [HumanMessage("x")]})["messages"]
    assert prompts == [f"Picked.||{BAD}"] and record(messages[-1])["original"] == BAD
    for options in ({"attempts": -1}, {"history": -1}, {"aligner": "x"}):
        with pytest.raises(ConfigurationError):
            ThoughtAlignerMiddleware(**options)
    assert ThoughtAlignerMiddleware(template="thought").aligner.template.name == "thought"


def test_the_history_since_the_last_human_message_is_given():
    fn, prompts = counted(mend)
    agent(thinks("First."), thinks("Second."), DONE, fn=fn).invoke(ASKED)
    assert prompts[1] == (
        "How is the weather?\n<thought>First.</thought>\n<observation>Found in diary.</observation>||Second."
    )


# Streams, usage, other middleware ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_no_thought_is_shown_before_it_was_looked_at(way):
    app = agent(thinks(BAD), thinks("", where="letter"), DONE, saver=InMemorySaver())
    state = check(way, WAYS[way](app, ASKED, thread()), app)
    assert [m.text for m in state["messages"]][1:] == [GOOD, "Found in letter.", "It is done."]


def test_no_usage_is_made_up_where_none_was_reported():
    turns = [thinks(BAD, usage_metadata=None), thinks("", usage_metadata=None), AIMessage("It is done.")]
    for messages in both(lambda: agent(*turns)):
        assert [message.usage_metadata for message in messages if message.type == "ai"] == [None, None]


def test_usage_of_all_attempts_is_counted():
    with get_usage_metadata_callback() as usage:
        messages = agent(thinks(BAD), thinks(""), DONE).invoke(ASKED)["messages"]
    assert [m.usage_metadata["total_tokens"] for m in messages if m.type == "ai"] == [6, 3]
    assert usage.usage_metadata["m"]["total_tokens"] == 9


def test_below_an_aligner_of_answers():
    """Thoughts by one aligner, the answer by another; each leaves its record on its own message."""
    outer = AlignerMiddleware(aligner(lambda prompt: "A kind answer."))
    for way in KEY_WAYS:
        app = agent(
            thinks(BAD), thinks("", where="letter"), AIMessage(f"{CANARY} end."), before=[outer], saver=InMemorySaver()
        )
        state = check(way, WAYS[way](app, ASKED, thread()), app)
        assert list(said(state["messages"]).values()) == [GOOD, "A kind answer."]
        thought, answer = (m for m in state["messages"] if m.type == "ai")
        assert record(thought)["chosen_again"] == 1 and record(answer)["outcome"] == "corrected"


def test_a_human_is_asked_about_the_new_action_and_nothing_is_asked_twice():
    fn, prompts = counted(mend)
    human = HumanInTheLoopMiddleware(interrupt_on={"look": True})
    app = agent(thinks(BAD), thinks("", where="letter"), DONE, fn=fn, middleware=[human], saver=InMemorySaver())
    app.invoke(ASKED, thread())
    (stopped,) = app.get_state(thread()).interrupts
    assert stopped.value["action_requests"][0]["args"] == {"where": "letter"} and not RAN
    messages = app.invoke(Command(resume={"decisions": [{"type": "approve"}]}), thread())["messages"]
    assert RAN == ["letter"] and messages[-1].text == "It is done." and len(prompts) == 1
