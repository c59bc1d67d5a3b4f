"""What the middleware knows of LangChain's agents: their types, or else what to install, and how a turn reads.

What lives elsewhere: the middleware itself (`middleware.py`, `thought_middleware.py`).
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from aligner_integrations.errors import require

with require(
    "agents",
    "The middleware needs langchain itself, not only langchain-core",
    "langchain.agents.middleware.types",
    "langgraph.types",
):
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langchain.agents.middleware.types import ToolCallRequest
    from langgraph.types import Command

__all__ = [
    "Command",
    "ModelRequest",
    "ModelResponse",
    "NamedMiddleware",
    "ToolCallRequest",
    "conversation",
    "goes_on",
]


class NamedMiddleware(AgentMiddleware[Any, Any, Any]):
    """Middleware that is given its name, because an agent can have one of a name only."""

    _name: str

    @property
    def name(self) -> str:
        """Name of the middleware, which an agent can have only once."""
        return self._name


def conversation(request: ModelRequest[Any]) -> list[BaseMessage]:
    """Return all that an LLM is given."""
    system = [request.system_message] if request.system_message else []
    return [*system, *request.messages]


def goes_on(response: ModelResponse[Any], message: AIMessage) -> bool:
    """Return whether tools are to be run for a message: not if the response holds their results already."""
    answered = {result.tool_call_id for result in response.result if isinstance(result, ToolMessage)}
    return any(call["id"] not in answered for call in message.tool_calls)
