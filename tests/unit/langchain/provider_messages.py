"""Answers in the shapes in which providers' packages give them: in each the words "RAW words" are to become good ones.

What is said before the answer is "I will search."; every thought has the word RAW too, and no aligner reads it. The shapes
are those of langchain-anthropic, langchain-openai, langchain-aws, langchain-google-genai and langchain-deepseek; `make
test-peers` gives the corrected ones back to the first two packages.
"""

from langchain_core.messages import AIMessage

RAW = "RAW"
ANSWER = "RAW words about 3 towns."
SEARCH = "I will search."
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}

THINKING = {"type": "thinking", "thinking": "RAW plan", "signature": "c2ln"}
TOOL_USE = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "towns"}}
TOOL_RESULT = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
CITATION = {
    "type": "web_search_result_location",
    "cited_text": "RAW",
    "url": "https://example.org",
    "title": "t",
    "encrypted_index": "x",
}
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "RAW plan"}],
    "encrypted_content": "x",
}
SEARCH_CALL = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "query": "towns"},
}
URL = {"type": "url_citation", "start_index": 0, "end_index": 3, "title": "RAW", "url": "https://example.org"}


def text(words, **more):
    return {"type": "text", "text": words, **more}


def anthropic(*blocks):
    metadata = {"model_provider": "anthropic", "model_name": "claude", "stop_reason": "end_turn", "id": "msg_1"}
    return AIMessage(list(blocks), response_metadata=metadata, usage_metadata=USAGE)


def openai(*blocks, version="responses/v1"):
    metadata = {"model_provider": "openai", "model_name": "gpt", "id": "resp_1", "output_version": version}
    return AIMessage(list(blocks), response_metadata=metadata, usage_metadata=USAGE)


MESSAGES = {
    "anthropic": anthropic(text(ANSWER)),
    "anthropic thinking": anthropic(THINKING, text(ANSWER)),
    "anthropic redacted thinking": anthropic({"type": "redacted_thinking", "data": "x"}, text(ANSWER)),
    "anthropic interleaved": anthropic(
        THINKING,
        text(SEARCH),
        TOOL_USE,
        TOOL_RESULT,
        {**THINKING, "signature": "c2ln2"},
        text("RAW words about ", citations=[CITATION]),
        text("3 towns."),
    ),
    "anthropic streamed": anthropic(
        {**THINKING, "index": 0},
        text(SEARCH, index=1),
        {**TOOL_USE, "index": 2},
        {**TOOL_RESULT, "index": 3},
        text(ANSWER, index=4),
    ),
    "openai": openai(text(ANSWER, id="msg_1", annotations=[URL])),
    "openai search": openai(REASONING, SEARCH_CALL, text(ANSWER, id="msg_1", annotations=[URL])),
    "openai phases": openai(
        REASONING,
        text(SEARCH, id="msg_1", annotations=[], phase="commentary"),
        text(ANSWER, id="msg_2", annotations=[URL], phase="final_answer"),
    ),
    "openai two parts": openai(
        text("RAW words ", id="msg_1", annotations=[URL]), text("about 3 towns.", id="msg_1", annotations=[])
    ),
    "openai v1": openai(
        {"type": "reasoning", "id": "rs_1", "reasoning": "RAW plan", "extras": {"encrypted_content": "x"}},
        text(SEARCH, id="msg_1", annotations=[], extras={"phase": "commentary"}),
        text(ANSWER, id="msg_2", annotations=[], extras={"phase": "final_answer"}),
        version="v1",
    ),
    "bedrock": AIMessage(
        [{"type": "reasoning_content", "reasoning_content": {"text": "RAW plan", "signature": "c2ln"}}, text(ANSWER)]
    ),
    "gemini": AIMessage(
        [
            {"type": "thinking", "thinking": "RAW plan"},
            text(SEARCH),
            {"type": "executable_code", "executable_code": "3"},
            text(ANSWER, extras={"signature": "c2ln"}),
            text("", extras={"signature": "c2ln2"}),
        ]
    ),
    "deepseek": AIMessage(ANSWER, additional_kwargs={"reasoning_content": "RAW plan", "refusal": None}),
    "think tags": AIMessage(f"<think>\nRAW plan\n</think>\n\n{ANSWER}"),
    "think tags in a block": AIMessage([text(f"<think>RAW plan</think>{ANSWER}")]),
    "strings": AIMessage([SEARCH, {"type": "image", "url": "https://example.org/x.png"}, ANSWER]),
}
