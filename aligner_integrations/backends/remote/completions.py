"""An aligner behind any OpenAI-compatible `/v1/completions`: vLLM, SGLang, llama.cpp, TGI, `transformers serve`.

The rendered template goes to the server as a raw prompt: a chat route would wrap it into a chat template and ruin it.
What a server takes beyond that (token ids) is found out (`capabilities.py`). Prompts go one by one, side by side: servers
batch by themselves, and each request keeps its own time limits.

What lives elsewhere: who runs this, and where (`base.py`), HTTP (`http.py`), limits (`window.py`), special-token strings
(`special_tokens.py`), scores (`prompt_logprobs.py`), trying again (`wrappers/resilient.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from aligner_integrations.backends.deadline import Clock, brief
from aligner_integrations.backends.encoding import load_tokenizer
from aligner_integrations.backends.remote import prompt_logprobs
from aligner_integrations.backends.remote.base import RemoteBackend, longest, settled, without_own
from aligner_integrations.backends.remote.capabilities import Dialect
from aligner_integrations.backends.remote.http import Endpoint, Json
from aligner_integrations.backends.remote.keys import Secret, key_for
from aligner_integrations.backends.remote.loop import acall, call, outside
from aligner_integrations.backends.remote.responses import StatusError, Written, only_model
from aligner_integrations.backends.remote.window import Fitted, fit
from aligner_integrations.backends.request import Request
from aligner_integrations.backends.score import Score
from aligner_integrations.backends.side_by_side import aeach
from aligner_integrations.errors import AlignerError, BackendError, ModelError
from aligner_integrations.models import config_of, template_of
from aligner_integrations.templates import Template, template_for_model

_PATH = "/completions"
_NO_SCORES = {400, 404, 405, 413, 415, 422, 500, 501}  # politely, or by an assertion that fails
_OWN = {"prompt", "model", "max_tokens", "stream", "n", "echo", "logprobs", "best_of"}


class CompletionsBackend(RemoteBackend):
    """Runs an aligner on a server that speaks OpenAI's completions.

    Args:
        url: The server's API, as OpenAI clients take it: it ends in `/v1`.
        model: Its name there. None asks `/v1/models`, and wants exactly one.
        api_key: The key, or a function that returns it. For hosts of the Hugging Face Hub, this machine's token.
        tokenizer: The aligner's tokenizer (a transformers tokenizer, a folder or a Hub id), if it is at hand: prompts go
            as token ids where the server takes them, and limits are exact.
        window: The model's context in tokens, for servers that do not keep to it themselves.
        generation: Fields of the request, for sampling; greedy by default. The paper samples with top_k=10, top_p=0.95,
            temperature=0.3, frequency_penalty=1.2.
        concurrency: Most requests on the way at once, of all callers together.
        allow_http: Whether the key may travel unencrypted to another machine.

    Raises:
        ConfigurationError: A URL that cannot be used, a key that must not be sent there, or a field that is not yours.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        api_key: str | Callable[[], str] | Secret | None = None,
        tokenizer: Any = None,
        window: int | None = None,
        generation: Mapping[str, Any] | None = None,
        concurrency: int = 64,
        allow_http: bool = False,
    ) -> None:
        self.url = url
        self.model = model
        self.api_key = key_for(url, api_key)
        self.tokenizer = tokenizer
        self.window = window
        self.generation = without_own(generation, _OWN)
        self.concurrency = concurrency
        self.allow_http = allow_http
        self.endpoint = Endpoint(url, self.api_key, allow_http=allow_http, concurrency=concurrency)
        # What is learnt about the server. Each is set to what was seen, whoever sees it first.
        self._served = model
        self._window = window
        self._loaded_tokenizer: Any = None if isinstance(tokenizer, str | Path) else tokenizer
        self._dialect = Dialect(self.generation)
        self._scores: bool | None = None

    def __repr__(self) -> str:
        """Name the server and the model."""
        return f"CompletionsBackend({self.url!r}{'' if self.model is None else f', {self.model!r}'})"

    def close(self) -> None:
        """Close the connections; they are also closed when the backend is no longer used."""
        self.endpoint.close()

    # What is served -------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Ask the server which model it has, and load the tokenizer, where that is needed."""
        call(self._ready, brief())

    async def _ready(self, clock: Clock) -> CompletionsBackend:
        if self._served is None:
            self._served, window = only_model(await self.endpoint.look_up("/models", clock), self.endpoint.host)
            self._window = self._window or window
        if self._loaded_tokenizer is None and self.tokenizer is not None:
            self._loaded_tokenizer = await outside(partial(load_tokenizer, self.tokenizer))
        return self

    @property
    def template(self) -> Template:
        """The template of the model; without a name the server is asked for it.

        Raises:
            UnknownTemplateError: None is known for it; the message lists the choices.
            BackendError: The server cannot be asked.
        """
        if self.model is None:
            # What a server calls its model is looked up in the registry, never as a folder here or on the Hub.
            self.load()
            return template_for_model(self._served or "")
        if self._folder is None and "/" not in self.model:  # a name that its server gave it; no id of the Hub
            return template_for_model(self.model)
        try:
            return template_of(self.model)
        except ModelError:  # no model that can be looked at from here
            return template_for_model(self.model)

    @property
    def fingerprint(self) -> list[Any]:
        """What decides its texts, as far as a client can know; see `Cache`."""
        if self.model is None:
            self.load()
        return [self.url, self.model or self._served, sorted(self.generation.items())]

    @property
    def gate(self) -> float | None:
        """The threshold of a model whose folder is here, if its gate is one that log-probabilities can decide."""
        config = None if self._folder is None else config_of(self._folder)
        # A probe reads hidden states, which no server shows.
        return config.gate if config is not None and config.gate_layer is None else None

    @property
    def minimal(self) -> bool:
        """Whether the configuration in the model's folder says so."""
        config = None if self._folder is None else config_of(self._folder)
        return config is not None and config.edits == "minimal"

    @property
    def _folder(self) -> str | None:
        return (
            self.model if self.model is not None and (self.model == "embedded" or Path(self.model).is_dir()) else None
        )

    @property
    def can_score(self) -> bool | None:
        """Whether the server gives the log-probabilities of prompts; asks it once, with a prompt of a few tokens."""
        if self._scores is None:
            with suppress(BackendError):  # no answer to this question; scoring will say what is wrong
                self._scores = call(self._probe)
        return self._scores

    async def _probe(self) -> bool:
        await self._ready(brief())
        try:
            probe = prompt_logprobs.probe(self._served)
            return prompt_logprobs.is_sound(await self.endpoint.ask(_PATH, probe, brief()))
        except StatusError as error:
            if error.status in _NO_SCORES:
                return False
            raise

    # Completions ----------------------------------------------------------------------------------------------------

    @property
    def _server(self) -> Endpoint:
        return self.endpoint

    async def _fitted(self, request: Request) -> Fitted:
        fitting = partial(fit, request, self._window, self._loaded_tokenizer, ids=self._dialect.takes_ids)
        # A tokenizer takes its time.
        return fitting() if self._loaded_tokenizer is None else await outside(fitting)

    def _asked(self, job: Fitted, *, stream: bool) -> tuple[str, Json]:
        return _PATH, self._dialect.body(self._served, job, stream=stream)

    def _written(self) -> Written:
        return Written(self.endpoint.host)

    def _adapted(self, job: Fitted, refusal: StatusError) -> Fitted:
        return self._dialect.adapt(job, refusal)

    def _worked(self, meant: Fitted, sent: Fitted) -> None:
        self._dialect.worked(meant, sent)

    # Scores ---------------------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """Judge each answer by the log-probabilities that the server gives for it."""
        return call(self._score, requests)

    async def ascore(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """`score` without blocking the event loop."""
        return await acall(self._score, requests)

    async def _score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        try:
            await self._ready(longest(requests))
        except BackendError as error:
            return [error] * len(requests)
        return await aeach(lambda request: settled(self._score_one(request)), requests, self.concurrency)

    async def _score_one(self, request: Request) -> Score:
        question = prompt_logprobs.Question(self._served, request)
        return question.score(await self.endpoint.ask(_PATH, question.body, Clock(request.timeouts)))
