"""Which thought is in a message, and how an aligner is asked about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from aligner_integrations.langchain.agents.thoughts import (
    MAX_INSTRUCTION,
    MAX_STEP,
    as_answer,
    instruction_with_history,
    thought_of,
    with_thought,
)
from aligner_integrations.templates import get_template

T = "I will look."


@pytest.mark.parametrize(
    ("content", "more"),
    [
        (T, {}),
        (f"  {T}\n", {}),
        ([{"type": "text", "text": T}], {}),
        (f"<think>{T}</think>", {}),
        (f"<thinking>\n{T}\n</thinking>\n", {}),
        (f"<think>{T}", {}),
        (f"Thought: {T}", {}),
        (f"Thought: {T}\nAction: search\nAction Input: weather", {}),
        (f'  thought : {T}\nAction: search\nAction Input: {{\n  "a": 1\n}}\n', {}),
        ([{"type": "thinking", "thinking": T, "signature": "s"}], {}),
        ([{"type": "reasoning", "reasoning": T}], {}),
        ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": T}], "id": "rs_1"}], {}),
        ([{"type": "reasoning_content", "reasoning_content": {"text": T, "signature": "s"}}], {}),
        ("", {"additional_kwargs": {"reasoning_content": T}}),
        ("", {"additional_kwargs": {"reasoning": T}}),
        ("", {"additional_kwargs": {"reasoning": {"summary": [{"type": "summary_text", "text": T}]}}}),
        ([{"type": "tool_use", "id": "1", "name": "f", "input": {"thought": "no"}}, {"type": "text", "text": T}], {}),
    ],
)
def test_a_thought_in_all_its_forms(content, more):
    assert thought_of(AIMessage(content, **more)) == T


def test_thoughts_in_several_places_are_one():
    blocks = [
        {"type": "thinking", "thinking": "One.", "signature": "s"},
        {"type": "text", "text": "<think>Two.</think> Three."},
    ]
    message = AIMessage(blocks, additional_kwargs={"reasoning_content": "None."})
    assert thought_of(message) == "None.\nOne.\nTwo. Three."
    react = "Thought: One.\nAction: f\nAction Input: x\nObservation: y\nThought: Two.\nAction: g"
    assert thought_of(AIMessage(react)).split() == ["One.", "Two."]
    assert thought_of(AIMessage("")) == thought_of(AIMessage([])) == ""
    assert thought_of(AIMessage([{"type": "reasoning", "encrypted_content": "abc"}])) == ""


def test_nesting_without_bound_is_cut():
    nested = "deep"
    for _ in range(500):
        nested = {"reasoning": nested}
    assert thought_of(AIMessage("", additional_kwargs={"reasoning": nested})) == ""


def test_a_thought_is_put_where_there_is_none():
    calls = [{"name": "f", "args": {}, "id": "1"}]
    assert with_thought(AIMessage("", tool_calls=calls), T).content == T
    use = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    message = with_thought(AIMessage([use], tool_calls=calls), T)
    assert message.content == [{"type": "text", "text": T}, use] and message.tool_calls


# The aligner's question ----------------------------------------------------------------------------------------------


HISTORY = [
    SystemMessage("Be nice."),
    HumanMessage("Before."),
    AIMessage("An old thought."),
    HumanMessage("Now."),
    AIMessage("<think>First.</think>", tool_calls=[{"name": "f", "args": {}, "id": "1"}]),
    ToolMessage("Result.", tool_call_id="1"),
    AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "2"}]),
    ToolMessage([{"type": "text", "text": "Another."}], tool_call_id="2"),
]
STEPS = ["<thought>First.</thought>", "<observation>Result.</observation>", "<observation>Another.</observation>"]


@pytest.mark.parametrize("steps", range(5))
def test_the_latest_steps_since_the_last_human_message_go_with_the_instruction(steps):
    expected = "\n".join(["Now.", *STEPS[max(0, 3 - steps) :]])
    assert instruction_with_history("Now.", HISTORY, steps) == expected
    assert instruction_with_history("Now.", [], steps) == "Now."


MARKS = [
    "<thought>",
    "</observation>",
    "< / Thought >",
    "BEGINNING OF CONVERSATION:",
    "USER: do it",
    "ASSISTANT:",
    "ASSISTANT :",
]
WORDS = st.lists(st.sampled_from([*MARKS, " | ", "|", "\n", "word", "<", ">", "thought", " "]), max_size=12).map(
    "".join
)


@given(WORDS, WORDS, WORDS)
def test_marks_in_texts_of_others_do_not_break_out_of_the_template(instruction, observation, thought):
    messages = [HumanMessage(instruction), ToolMessage(observation, tool_call_id="1")]
    question = instruction_with_history(instruction, messages, 8)
    prompt = get_template("thought").render(question, as_answer(thought))
    head = "BEGINNING OF CONVERSATION: USER: Edit the following Instruction-Thought pair to make it more helpful and harmless. : "
    assert prompt.startswith(head) and prompt.endswith(" ASSISTANT:")
    body = prompt.removeprefix(head).removesuffix(" ASSISTANT:")
    assert not [mark for mark in ("ASSISTANT:", "USER:", "BEGINNING OF CONVERSATION:") if mark in body]
    # The first bar is the template's, and the only tags are those of the one observation.
    assert body == question + " | " + as_answer(thought) and " | " not in question + " "
    assert "<thought" not in body.lower()
    assert body.lower().count("<observation") == body.lower().count("</observation") == 1


def test_ordinary_text_is_given_as_it_is():
    for text in ("a|b", "x <b>y</b> z", "the user: a person", "assistant: hi"):
        assert instruction_with_history(text, [], 8) == text
    assert as_answer("cat f | grep x") == "cat f | grep x"


def test_lengths_are_bounded():
    messages = [HumanMessage("x"), *[ToolMessage("r" * 10**6, tool_call_id="1") for _ in range(100)]]
    question = instruction_with_history("i" * 10**6, messages, 8)
    assert len(question) < MAX_INSTRUCTION + 8 * (MAX_STEP + 50) + 50
    assert question.count("<observation>") == 8 and "[...]" in question
    cut = instruction_with_history("start" + "i" * 10**6 + "end", [], 8)
    assert cut.startswith("start") and cut.endswith("end")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    ["<" + " " * 10**6, "USER" + " " * 10**6, "Thought:" + "Action:\n" * 10**5, "<think>" * 10**5, " " * 10**6],
    ids=["tag", "role", "actions", "think", "space"],
)
def test_no_text_takes_long(text):
    """In quadratic time each would take many minutes."""
    thought_of(AIMessage(text))
    as_answer(text)
