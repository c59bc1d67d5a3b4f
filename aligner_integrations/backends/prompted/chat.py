"""A chat model that is asked as it is: the prompt is the user's message, and the completion its reply.

For judges and upstreams. A chat model that corrects is in `backend.py`; which models can be asked is said there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from aligner_integrations.backends.base import Backend
from aligner_integrations.backends.deadline import Clock
from aligner_integrations.backends.prompted.frameworks import (
    LangChainTalker,
    LlamaIndexTalker,
    Said,
    Talker,
    ThreadTalker,
)
from aligner_integrations.backends.remote.keys import Secret, key_for
from aligner_integrations.backends.remote.loop import acall, bare, call
from aligner_integrations.backends.remote.responses import is_cut, is_withheld
from aligner_integrations.backends.request import Completion, Request
from aligner_integrations.backends.side_by_side import aeach, each
from aligner_integrations.errors import AlignerError, BackendError, ConfigurationError

if TYPE_CHECKING:
    from aligner_integrations.backends.prompted.chat_completions import ChatEndpoint


class ChatBackend(Backend):
    """Asks a chat model.

    Args:
        llm: A chat model of LangChain (or a runnable that takes messages), an LLM of LlamaIndex, or the URL of an
            OpenAI-compatible API, which ends in `/v1`.
        system: The system message; empty: none.
        model: With a URL: the model's name there. None asks `/v1/models`, and wants exactly one.
        api_key: With a URL: the key, or a function that returns it.
        generation: With a URL: fields of the request; temperature 0 by default. A framework's model brings its own.
        concurrency: Most requests on the way at once.
        allow_http: With a URL: whether the key may travel unencrypted to another machine.

    Raises:
        ConfigurationError: None of these, or options that only a URL has.
    """

    concurrency: int

    def __init__(
        self,
        llm: Any,
        *,
        system: str = "",
        model: str | None = None,
        api_key: str | Callable[[], str] | Secret | None = None,
        generation: Mapping[str, Any] | None = None,
        concurrency: int = 16,
        allow_http: bool = False,
    ) -> None:
        self.llm = llm
        self.system = system
        self.model = model
        self.generation = dict(generation or {})
        self.concurrency = concurrency
        self.allow_http = allow_http
        self.api_key: Secret | None = None
        self._model: ThreadTalker
        self._chat: ChatEndpoint | None = None
        if isinstance(llm, str):
            self.api_key = key_for(llm, api_key)
            self._chat = _endpoint_of(
                llm,
                model,
                api_key=self.api_key,
                generation=self.generation,
                concurrency=concurrency,
                allow_http=allow_http,
            )
        else:
            _refuse_endpoint_options(llm, model, api_key, generation)
            self._model = _talker_of(llm)

    def __repr__(self) -> str:
        """Name the model."""
        return f"{type(self).__name__}({self.llm if isinstance(self.llm, str) else type(self.llm).__name__!r})"

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Ask side by side; a framework's model is called in threads."""
        if self._chat is not None:
            return call(self._all, self._chat, requests)
        return each(self._one, requests, self.concurrency)

    async def acomplete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """`complete` without blocking the event loop; cancelling it cancels the model's calls."""
        if self._chat is not None:
            return await acall(self._all, self._chat, requests)
        return await self._all(self._model, requests)

    def close(self) -> None:
        """Close the connections to a URL; a framework's model keeps its own."""
        if self._chat is not None:
            self._chat.endpoint.close()

    def _one(self, request: Request) -> Completion | AlignerError:
        said = Said()
        try:
            return _completion(self._model.say(self.system, request, Clock(request.timeouts), said), said)
        except AlignerError as error:
            return error

    async def _all(self, talker: Talker, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        return await aeach(partial(self._aone, talker), requests, self.concurrency)

    async def _aone(self, talker: Talker, request: Request) -> Completion | AlignerError:
        said = Said()
        try:
            return _completion(await talker.asay(self.system, request, Clock(request.timeouts), said), said)
        except AlignerError as error:
            return error if self._chat is None else bare(error)


def _talker_of(llm: Any) -> ThreadTalker:
    """Return the way to ask a framework's model.

    Raises:
        ConfigurationError: It is none.
    """
    if hasattr(llm, "invoke") and hasattr(llm, "ainvoke"):
        return LangChainTalker(llm)
    if hasattr(llm, "complete") and hasattr(llm, "acomplete"):
        return LlamaIndexTalker(llm)
    raise ConfigurationError(
        f"{type(llm).__name__} is no chat model that can be asked: give one of LangChain (with invoke and ainvoke), "
        "an LLM of LlamaIndex (with complete and acomplete), or the URL of an OpenAI-compatible API."
    )


def _endpoint_of(url: str, model: str | None, **options: Any) -> ChatEndpoint:
    """Return the way to ask a chat endpoint; its client is imported here."""
    from aligner_integrations.backends.prompted.chat_completions import ChatEndpoint

    return ChatEndpoint(url, model, **options)


def _refuse_endpoint_options(llm: Any, model: Any, api_key: Any, generation: Any) -> None:
    """Refuse what only a URL has.

    Raises:
        ConfigurationError: There is some of it.
    """
    if model is not None or api_key is not None or generation:
        raise ConfigurationError(
            f"model, api_key and generation go with a URL; {type(llm).__name__} has its own. Set them there."
        )


def _completion(text: str, said: Said) -> Completion:
    if is_withheld(said.reason):
        raise BackendError("The LLM's content filter withheld its reply.")
    return Completion(text, "length" if is_cut(said.reason) else "stop", said.usage)
