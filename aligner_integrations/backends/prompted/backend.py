"""A chat model as a prompted aligner: no aligner's weights, but an instruction to correct.

How a model is asked is in `chat.py`: it may be LangChain's, LlamaIndex's (`frameworks.py`), or behind an OpenAI-compatible chat
endpoint (`chat_completions.py`). The instruction and the reading of replies are in `prompt.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Any

from aligner_integrations.backends.deadline import Clock
from aligner_integrations.backends.prompted.chat import ChatBackend
from aligner_integrations.backends.prompted.frameworks import Said, Talker
from aligner_integrations.backends.prompted.prompt import INSTRUCTION, PRINCIPLES, PROMPTED, Reply, system_message
from aligner_integrations.backends.remote.keys import Secret
from aligner_integrations.backends.remote.loop import aread, bare, read
from aligner_integrations.backends.remote.responses import is_cut, is_withheld
from aligner_integrations.backends.request import Completion, Request, require_end
from aligner_integrations.errors import AlignerError, BackendError, ConfigurationError
from aligner_integrations.templates import Template


class ChatModelBackend(ChatBackend):
    """Corrects with a chat model that is told how.

    Args:
        llm: A chat model of LangChain (or a runnable that takes messages), an LLM of LlamaIndex, or the URL of an
            OpenAI-compatible API, which ends in `/v1`.
        principles: The restriction rules. Default: harmlessness, as in the paper's data.
        instruction: What the model's task is. Default: that of the paper's annotators.
        model: With a URL: the model's name there. None asks `/v1/models`, and wants exactly one.
        api_key: With a URL: the key, or a function that returns it.
        generation: With a URL: fields of the request; temperature 0 by default. A framework's model brings its own.
        concurrency: Most requests on the way at once.
        allow_http: With a URL: whether the key may travel unencrypted to another machine.

    A framework's model cannot be interrupted when it is called synchronously: at the deadline its call is left to itself,
    so give it a timeout of its own, too.

    Raises:
        ConfigurationError: None of these, or options that only a URL has.
    """

    template: Template = PROMPTED
    concurrency: int

    def __init__(
        self,
        llm: Any,
        *,
        principles: Sequence[str] = PRINCIPLES,
        instruction: str = INSTRUCTION,
        model: str | None = None,
        api_key: str | Callable[[], str] | Secret | None = None,
        generation: Mapping[str, Any] | None = None,
        concurrency: int = 16,
        allow_http: bool = False,
    ) -> None:
        if isinstance(principles, str):
            raise ConfigurationError("principles is a string; give a list of rules.")
        self.principles = tuple(principles)
        self.instruction = instruction
        super().__init__(
            llm,
            system=system_message(instruction, self.principles),
            model=model,
            api_key=api_key,
            generation=generation,
            concurrency=concurrency,
            allow_http=allow_http,
        )

    def stream(self, request: Request) -> Generator[str, None, None]:
        """Yield text as it comes; an answer that is to stay as it is comes whole."""
        if self._chat is not None:
            yield from read(self._written(self._chat, request))
            return
        turn = _Turn(request)
        with closing(self._shown(turn)) as pieces:
            yield from pieces
        yield from turn.rest()

    def astream(self, request: Request) -> AsyncGenerator[str, None]:
        """`stream` without blocking the event loop."""
        if self._chat is not None:
            return aread(self._written(self._chat, request))
        return self._written(self._model, request)

    # In threads -----------------------------------------------------------------------------------------------------

    def _one(self, request: Request) -> Completion | AlignerError:
        turn = _Turn(request)
        try:
            if request.timeouts.first_token is None:
                text = turn.reply.feed(self._model.say(self.system, turn.request, turn.clock, turn.said))
            else:  # when a token comes shows in a stream only
                text = "".join(self._shown(turn))
            return turn.completion(text)
        except AlignerError as error:
            return error

    def _shown(self, turn: _Turn) -> Generator[str, None, None]:
        with closing(self._model.pieces(self.system, turn.request, turn.clock, turn.said)) as pieces:
            for piece in pieces:
                if shown := turn.feed(piece):
                    yield shown

    # On event loops -------------------------------------------------------------------------------------------------

    async def _aone(self, talker: Talker, request: Request) -> Completion | AlignerError:
        turn = _Turn(request)
        try:
            if request.timeouts.first_token is None:
                text = turn.reply.feed(await talker.asay(self.system, turn.request, turn.clock, turn.said))
            else:
                async with aclosing(self._ashown(talker, turn)) as pieces:
                    text = "".join([piece async for piece in pieces])
            return turn.completion(text)
        except AlignerError as error:
            return error if self._chat is None else bare(error)  # a framework's own error stays its cause

    async def _written(self, talker: Talker, request: Request) -> AsyncGenerator[str, None]:
        turn = _Turn(request)
        async with aclosing(self._ashown(talker, turn)) as pieces:
            async for piece in pieces:
                yield piece
        for piece in turn.rest():
            yield piece

    async def _ashown(self, talker: Talker, turn: _Turn) -> AsyncGenerator[str, None]:
        async with aclosing(talker.apieces(self.system, turn.request, turn.clock, turn.said)) as pieces:
            async for piece in pieces:
                if shown := turn.feed(piece):
                    yield shown

    @property
    def fingerprint(self) -> list[Any] | None:
        """What decides its texts, if it is the name of a model on a server; see `Cache`."""
        if not isinstance(self.llm, str) or self.model is None:
            return None
        return [self.llm, self.model, self.instruction, self.principles, sorted(self.generation.items())]


class _Turn:
    """One request while it runs: what is sent, what has come, and how long it may take."""

    __slots__ = ("clock", "reply", "request", "said")

    def __init__(self, request: Request) -> None:
        self.reply = Reply(request.question, request.answer)
        self.clock = Clock(request.timeouts)
        self.said = Said()
        # A template of the user's own has no place for the code.
        missing = self.reply.code not in request.prompt
        self.request = (
            replace(request, prompt=f"{request.prompt}\n\nThe code is {self.reply.code}.") if missing else request
        )

    def feed(self, piece: str) -> str:
        """Take a piece of the reply; return what of the correction can be shown now."""
        if piece:
            self.clock.token_seen()
        return self.reply.feed(piece)

    def rest(self) -> Iterator[str]:
        """Yield what is left to show, once the reply is over.

        Raises:
            TruncatedCorrectionError: It was cut.
        """
        done = self.completion("")
        require_end(done, self.request.max_new_tokens)
        if done.text:
            yield done.text

    def completion(self, shown: str) -> Completion:
        """Return the completion, of which a part has been shown, once the reply is over."""
        if is_cut(self.said.reason):
            return Completion(shown, "length", self.said.usage)
        if is_withheld(self.said.reason):
            raise BackendError("The LLM's content filter withheld the correction.")
        return Completion(shown + self.reply.end(), "stop", self.said.usage)
