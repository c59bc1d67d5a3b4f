"""A chat model by rule that can do everything the standard tests of LangChain ask for."""

import json
import re
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool

TEXT = "Hello, I see what you mean and can tell you a story about cats."
MEDIA = ("image", "image_url", "file", "audio", "input_audio", "video")


class Scripted(BaseChatModel):
    """Calls the first tool it is offered when a human speaks; says `TEXT`, and what media it was shown, otherwise."""

    model: str = "scripted-1"

    @property
    def _llm_type(self):
        return "scripted"

    @property
    def _identifying_params(self):
        return {"model": self.model}

    def _get_ls_params(self, stop=None, **kwargs):
        return {**super()._get_ls_params(stop=stop, **kwargs), "ls_model_name": kwargs.get("model") or self.model}

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **choice, **kwargs)

    def _answer(self, messages, stop=None, **kwargs):
        metadata = {"model_name": kwargs.get("model") or self.model, "model_provider": "scripted"}
        usage = {
            "input_tokens": 20,
            "output_tokens": 9,
            "total_tokens": 29,
            "input_token_details": {"audio": 3, "cache_read": 5, "cache_creation": 7},
            "output_token_details": {"audio": 2, "reasoning": 4},
        }
        told = {"response_metadata": metadata, "usage_metadata": usage}
        last = messages[-1]
        if kwargs.get("response_format"):
            return AIMessage('{"setup": "Why?", "punchline": "Cats."}', **told)
        if kwargs.get("tools") and isinstance(last, HumanMessage):
            call = {
                "name": "",
                "args": {},
                "id": "call_1",
                **self._call(kwargs["tools"], kwargs.get("tool_choice"), last),
            }
            return AIMessage("", tool_calls=[call], **told)
        blocks = [b for m in messages if isinstance(m.content, list) for b in m.content if isinstance(b, dict)]
        shown = [block["type"] for block in blocks if block.get("type") in MEDIA]
        text = f"{TEXT} {' '.join(shown)}".strip()
        for word in stop or []:
            text = text.partition(word)[0]
        return AIMessage(text, **told)

    def _call(self, tools, choice, message):
        """The name and arguments of a call that fits the tool's schema."""
        functions = {tool["function"]["name"]: tool["function"] for tool in tools}
        function = functions.get(choice) or next(iter(functions.values()))
        quoted = re.search("'(.*?)'", message.text)
        args: dict[str, Any] = {}
        for name, schema in function["parameters"].get("properties", {}).items():
            if "enum" in schema:
                args[name] = schema["enum"][0]
            elif schema.get("type") == "integer":
                args[name] = 3
            else:
                args[name] = quoted[1] if quoted else "some words"
        return {"name": function["name"], "args": args}

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages, stop, **kwargs))])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        answer = self._answer(messages, stop, **kwargs)
        calls = [
            {"name": c["name"], "args": json.dumps(c["args"]), "id": c["id"], "index": i, "type": "tool_call_chunk"}
            for i, c in enumerate(answer.tool_calls)
        ]
        end = AIMessageChunk(
            content="",
            tool_call_chunks=calls,
            usage_metadata=answer.usage_metadata,
            response_metadata=answer.response_metadata,
            chunk_position="last",
        )
        for message in (*(AIMessageChunk(content=piece) for piece in re.findall(r"\S+\s*", answer.content)), end):
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
