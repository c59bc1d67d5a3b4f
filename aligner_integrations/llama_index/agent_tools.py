"""`DirectTool`: a tool that answers in the agent's place (`return_direct`), with a corrected output.

Such an output is in an event, the scratchpad and the memory before the agent is asked again, so it is corrected where it
comes from. Outputs that the LLM goes on to read stay as they are.

What lives elsewhere: the agents (`agent.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import AsyncBaseTool, FunctionTool, ToolOutput

from aligner_integrations.errors import AlignerError
from aligner_integrations.llama_index.corrector import Corrector
from aligner_integrations.llama_index.messages import response_with_text, with_text

_CONTEXT = "_aligner_context"


class AlignedOutput(ToolOutput):
    """A corrected output, and what the agent has to know of the correction.

    Attributes:
        record: The record of the correction; empty if there is an error.
        error: Why there is none. A tool cannot raise: the LLM would be told, and the run would go on.
    """

    _record: dict[str, Any] = PrivateAttr(default_factory=dict)
    _error: AlignerError | None = PrivateAttr(default=None)

    @property
    def record(self) -> dict[str, Any]:
        """The record of the correction."""
        return self._record

    @property
    def error(self) -> AlignerError | None:
        """Why there is no correction."""
        return self._error


class DirectTool(FunctionTool):
    """Runs a tool and corrects its output.

    A `FunctionTool`, because to those a workflow hands its context, and the context knows the question.
    """

    def __init__(self, tool: AsyncBaseTool, corrector: Callable[[], Corrector]) -> None:
        super().__init__(async_fn=tool.acall, metadata=tool.metadata)
        self.requires_context, self.ctx_param_name = True, _CONTEXT
        self._tool = tool
        self._corrector = corrector

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Call the tool; the answer is its output, corrected."""
        ctx = kwargs.pop(_CONTEXT)
        tool = self._tool
        if isinstance(tool, FunctionTool) and tool.requires_context and tool.ctx_param_name is not None:
            kwargs[tool.ctx_param_name] = ctx
        output = await tool.acall(*args, **kwargs)
        return output if output.is_error else await self._corrected(ctx, output)

    async def _corrected(self, ctx: Any, output: ToolOutput) -> AlignedOutput:
        question = await ctx.store.get("user_msg_str", default=None) or ""
        fields: dict[str, Any] = {"tool_name": output.tool_name, "raw_input": output.raw_input}
        aligned = AlignedOutput(**fields)
        corrector = self._corrector()
        try:
            correction, aligned._record = await corrector.arecorded(question, output.content, sources_of([output]))
        except AlignerError as error:
            aligned._error = error
            return aligned
        aligned.blocks, aligned.raw_output = output.blocks, output.raw_output
        if correction.changed:
            aligned.blocks = with_text(ChatMessage(blocks=output.blocks), correction.text).blocks
            aligned.raw_output = response_with_text(output.raw_output, correction.text)
        return aligned


def sources_of(outputs: list[ToolOutput]) -> list[NodeWithScore]:
    """What tools have found: source nodes where a tool gives them, else its output as one."""
    nodes: list[NodeWithScore] = []
    for output in outputs:
        found = getattr(output.raw_output, "source_nodes", None)
        if isinstance(found, list):
            nodes += found
        else:
            nodes.append(NodeWithScore(node=TextNode(text=output.content or "")))
    return nodes
