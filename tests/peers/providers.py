"""What goes back to a provider once an aligner has changed a message is what the provider itself said, but for the words.

Tried with the functions by which langchain-anthropic and langchain-openai write requests; `make test-peers` runs it, because
only there are those packages installed. The messages are those of `tests/unit/langchain/provider_messages.py`, where they
are checked without the packages.
"""

import copy

import pytest
from langchain_anthropic.chat_models import _format_messages
from langchain_core.messages import HumanMessage
from langchain_openai.chat_models.base import _construct_responses_api_input, _convert_message_to_dict

from tests.unit.langchain.provider_messages import ANSWER, MESSAGES, RAW
from tests.unit.langchain.support import aligner, repeat, step, total

GOOD = ANSWER.replace(RAW, "good")


def good(prompt):
    return prompt.partition("||")[2].replace(RAW, "good")


def history(message):
    return copy.deepcopy([HumanMessage("Why?"), message, HumanMessage("And then?")])


def anthropic(message):
    return _format_messages(history(message), model="claude-sonnet-5")[1]


def openai_responses(message):
    return _construct_responses_api_input(history(message))


def openai_responses_unstored(message):
    return _construct_responses_api_input(history(message), store=False)


def openai_chat(message):
    return [_convert_message_to_dict(one) for one in history(message)]


PROVIDERS = pytest.mark.parametrize(
    "request_of",
    [anthropic, openai_responses, openai_responses_unstored, openai_chat],
    ids=lambda function: function.__name__,
)
# Blocks that are plain strings come from no provider, and langchain-openai drops them.
NAMES = pytest.mark.parametrize("name", [name for name in MESSAGES if name != "strings"])


def ways(message, runnable):
    """The message behind the step, whole and as the sum of its stream."""
    value = {"question": "Why?", "answer": message}
    yield runnable.invoke(value)["answer"]
    yield total(runnable.stream(value))["answer"]


def merged(request):
    """A request with neighbours that differ in their words alone as one, without what points at those words."""
    if isinstance(request, dict):
        return {k: merged(v) for k, v in request.items() if k not in ("citations", "annotations", "index")}
    if not isinstance(request, list):
        return request
    parts = []
    for part in map(merged, request):
        before = parts[-1] if parts else None
        words = next((key for key in ("text", "content") if isinstance(part, dict) and key in part), None)
        if words and isinstance(before, dict) and {**before, words: part[words]} == part and words in before:
            parts[-1] = {**part, words: merged(before[words] + part[words])}
        else:
            parts.append(part)
    return parts


def replaced(request):
    if isinstance(request, dict):
        return {key: replaced(value) for key, value in request.items()}
    if isinstance(request, list):
        return [replaced(part) for part in request]
    return request.replace(ANSWER, GOOD) if isinstance(request, str) else request


@NAMES
@PROVIDERS
def test_a_changed_message_goes_back_as_it_was_but_for_its_words(request_of, name):
    wanted = replaced(merged(request_of(MESSAGES[name])))
    assert GOOD in str(wanted)
    for after in ways(MESSAGES[name], step(good)):
        assert merged(request_of(after)) == wanted


@NAMES
@PROVIDERS
def test_a_message_that_is_kept_goes_back_as_it_was(request_of, name):
    for after in ways(MESSAGES[name], step(repeat)):
        assert merged(request_of(after)) == merged(request_of(MESSAGES[name]))
    assert request_of(step(repeat).invoke([HumanMessage("Why?"), MESSAGES[name]])[-1]) == request_of(MESSAGES[name])


@NAMES
@PROVIDERS
def test_nothing_of_a_blocked_message_goes_back(request_of, name):
    runnable = step()
    runnable.aligner = aligner(
        lambda p: "good", accept=lambda q, a, c: False, on_reject="block", block_message="Withheld"
    )
    for after in ways(MESSAGES[name], runnable):
        assert RAW not in str(request_of(after)) and "Withheld" in str(request_of(after))
        assert "id" not in str(request_of(after)[1])


def parts(request):
    return [part.get("type") for part in request]


@NAMES
def test_a_message_without_its_reasoning_is_valid(name):
    for after in ways(MESSAGES[name], step(good, keep_reasoning=False)):
        assert "thinking" not in str(anthropic(after))
        items = openai_responses(after)
        # OpenAI refuses the id of a message without that of the reasoning which led to it.
        assert "reasoning" not in parts(items)
        if "reasoning" in parts(openai_responses(MESSAGES[name])):
            assert not any(str(item.get("id", "")).startswith("msg_") for item in items)
