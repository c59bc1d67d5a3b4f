"""An aligner behind any OpenAI-compatible `/v1/completions`: vLLM, SGLang, llama.cpp, TGI, `transformers serve`.

The rendered template goes to the server as a raw prompt: a chat route would wrap it into a chat template and ruin it.
What a server takes beyond that (lists of prompts, token ids) is found out (`capabilities.py`).

What lives elsewhere: HTTP and keys (`http.py`), limits (`window.py`), special-token strings (`special_tokens.py`),
scores (`prompt_logprobs.py`), trying again (`wrappers/resilient.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any

from aligner_integrations.backends.base import Backend, Completion, Request, Score, require_end
from aligner_integrations.backends.deadline import Clock, brief
from aligner_integrations.backends.encoding import load_tokenizer
from aligner_integrations.backends.remote import prompt_logprobs
from aligner_integrations.backends.remote.capabilities import LIST_REFUSALS, Dialect
from aligner_integrations.backends.remote.http import Endpoint, key_for
from aligner_integrations.backends.remote.keys import Secret
from aligner_integrations.backends.remote.parallel import aeach, each
from aligner_integrations.backends.remote.responses import (
    StatusError,
    Written,
    completion,
    only_model,
    shares,
    usage_of,
)
from aligner_integrations.backends.remote.window import Fitted, fit
from aligner_integrations.correction import Usage
from aligner_integrations.errors import AlignerError, BackendError, ConfigurationError, ModelError
from aligner_integrations.models import config_of, template_of
from aligner_integrations.templates import Template, template_for_model

_Results = dict[int, Completion | AlignerError]

_PATH = "/completions"
_ATTEMPTS = 4  # as it was meant; then without what the server refuses, one thing at a time
_TAIL = 0.5  # seconds to wait for the token counts that may follow a streamed text
_OWN = {"prompt", "model", "max_tokens", "stream", "n", "echo", "logprobs", "best_of"}


class CompletionsBackend(Backend):
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
        concurrency: Most requests on the way at once, of an event loop and of all threads together.
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
        self.generation = dict(generation or {})
        self.concurrency = concurrency
        self.allow_http = allow_http
        if wrong := sorted(_OWN & set(self.generation)):
            raise ConfigurationError(f"generation holds {', '.join(wrong)}, which the backend sets itself.")
        self.endpoint = Endpoint(url, self.api_key, allow_http=allow_http, concurrency=concurrency)
        # What is learnt about the server. Each is set to what was seen, whoever sees it first, so threads need no lock.
        self._served = model
        self._window = window
        self._loaded_tokenizer: Any = None if isinstance(tokenizer, str | Path) else tokenizer
        self._dialect = Dialect(self.generation)
        self._scores: bool | None = None

    def __repr__(self) -> str:
        """Name the server and the model."""
        return f"CompletionsBackend({self.url!r}, {self.model!r})"

    def close(self) -> None:
        """Close the connections of threads; they are also closed when the backend is no longer used."""
        self.endpoint.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop and of threads; the end of the loop closes its own, too."""
        await self.endpoint.aclose()

    # What is served -------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Ask the server which model it has, and load the tokenizer, where that is needed."""
        if self._served is None:
            self._served, window = only_model(self.endpoint.ask("/models", None, brief()), self.endpoint.host)
            self._window = self._window or window
        if self._loaded_tokenizer is None and self.tokenizer is not None:
            self._loaded_tokenizer = load_tokenizer(self.tokenizer)

    async def _aload(self) -> None:
        if self._served is None or (self._loaded_tokenizer is None and self.tokenizer is not None):
            await asyncio.to_thread(self.load)

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
    def can_score(self) -> bool:
        """Whether the server gives the log-probabilities of prompts; asks it once, with a prompt of a few tokens."""
        if self._scores is None:
            try:
                self.load()
                self._scores = prompt_logprobs.is_sound(
                    self.endpoint.ask(_PATH, prompt_logprobs.probe(self._served), brief())
                )
            except StatusError as error:
                if error.status not in LIST_REFUSALS:
                    return True  # not an answer to this question; scoring will say what is wrong
                self._scores = False
            except BackendError:
                return True
        return self._scores

    # Completions ----------------------------------------------------------------------------------------------------

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Correct a batch: in lists where the server takes them, else side by side in threads."""
        try:
            self.load()
        except BackendError as error:
            return [error] * len(requests)
        jobs, results = self._fit(requests)
        lists = self._dialect.lists(jobs)
        for done in each(self._list, lists, self.concurrency, self.close):
            results.update(done)
        rest = {i: job for i, job in jobs.items() if i not in results}
        results.update(zip(rest, each(self._one, list(rest.values()), self.concurrency, self.close), strict=True))
        self._learn(lists, rest, results)
        return [results[i] for i in range(len(requests))]

    async def acomplete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """`complete` without blocking the event loop; cancelling it closes its connections."""
        try:
            await self._aload()
        except BackendError as error:
            return [error] * len(requests)
        jobs, results = self._fit(requests)
        lists = self._dialect.lists(jobs)
        for done in await aeach(self._alist, lists, self.concurrency):
            results.update(done)
        rest = {i: job for i, job in jobs.items() if i not in results}
        results.update(zip(rest, await aeach(self._aone, list(rest.values()), self.concurrency), strict=True))
        self._learn(lists, rest, results)
        return [results[i] for i in range(len(requests))]

    def _one(self, meant: Fitted) -> Completion | AlignerError:
        job = meant
        try:
            for _ in range(_ATTEMPTS):
                written = Written(self.endpoint.host)
                try:
                    if job.request.timeouts.first_token is None:
                        written.feed(self.endpoint.ask(_PATH, self._dialect.body(self._served, [job]), _clock(job)))
                    else:  # when a token comes shows in a stream only
                        for _ in self._pieces(job, written):
                            pass
                except StatusError as refusal:
                    job = self._dialect.adapt(job, refusal)
                    continue
                self._dialect.worked(meant, job)
                return written.completion(job.broken.mend)
        except AlignerError as error:
            return error
        return _endless(self.endpoint.host)

    async def _aone(self, meant: Fitted) -> Completion | AlignerError:
        job = meant
        try:
            for _ in range(_ATTEMPTS):
                written = Written(self.endpoint.host)
                try:
                    if job.request.timeouts.first_token is None:
                        body = self._dialect.body(self._served, [job])
                        written.feed(await self.endpoint.aask(_PATH, body, _clock(job)))
                    else:
                        async with aclosing(self._apieces(job, written)) as pieces:
                            async for _ in pieces:
                                pass
                except StatusError as refusal:
                    job = self._dialect.adapt(job, refusal)
                    continue
                self._dialect.worked(meant, job)
                return written.completion(job.broken.mend)
        except AlignerError as error:
            return error
        return _endless(self.endpoint.host)

    def _list(self, group: Mapping[int, Fitted]) -> _Results:
        """Send several prompts at once; nothing comes back if the server does not take that."""
        jobs = list(group.values())
        try:
            answer = self.endpoint.ask(_PATH, self._dialect.body(self._served, jobs), _clock(jobs[0]))
            return self._read_list(answer, group)
        except StatusError as error:
            return {} if error.status in LIST_REFUSALS else dict.fromkeys(group, error)
        except AlignerError as error:
            return dict.fromkeys(group, error)

    async def _alist(self, group: Mapping[int, Fitted]) -> _Results:
        jobs = list(group.values())
        try:
            answer = await self.endpoint.aask(_PATH, self._dialect.body(self._served, jobs), _clock(jobs[0]))
            return self._read_list(answer, group)
        except StatusError as error:
            return {} if error.status in LIST_REFUSALS else dict.fromkeys(group, error)
        except AlignerError as error:
            return dict.fromkeys(group, error)

    # Streams --------------------------------------------------------------------------------------------------------

    def stream(self, request: Request) -> Generator[str, None, None]:
        """Yield text as it comes; closing the iterator closes the connection."""
        self.load()
        meant = job = self._fit_one(request)
        for _ in range(_ATTEMPTS):
            written = Written(self.endpoint.host)
            try:
                with closing(self._pieces(job, written)) as pieces:
                    yield from pieces
                self._dialect.worked(meant, job)
                require_end(written.completion(), job.limit)
                return
            except StatusError as refusal:
                if written.text:
                    raise
                job = self._dialect.adapt(job, refusal)
        raise _endless(self.endpoint.host)

    async def astream(self, request: Request) -> AsyncGenerator[str, None]:
        """`stream` without blocking the event loop."""
        await self._aload()
        meant = job = self._fit_one(request)
        for _ in range(_ATTEMPTS):
            written = Written(self.endpoint.host)
            try:
                async with aclosing(self._apieces(job, written)) as pieces:
                    async for piece in pieces:
                        yield piece
                self._dialect.worked(meant, job)
                require_end(written.completion(), job.limit)
                return
            except StatusError as refusal:
                if written.text:
                    raise
                job = self._dialect.adapt(job, refusal)
        raise _endless(self.endpoint.host)

    def _pieces(self, job: Fitted, written: Written) -> Generator[str, None, None]:
        clock, mender = _clock(job), job.broken.mender()
        body = self._dialect.body(self._served, [job], stream=True)
        with closing(self.endpoint.events(_PATH, body, clock)) as events, _tail_matters_little(written):
            for event in events:
                if piece := written.feed(event):
                    clock.token_seen()
                    if shown := mender.feed(piece):
                        yield shown
                if written.reason is not None:
                    if written.usage != Usage():
                        break
                    clock.hurry(_TAIL)
        if rest := mender.end():
            yield rest

    async def _apieces(self, job: Fitted, written: Written) -> AsyncGenerator[str, None]:
        clock, mender = _clock(job), job.broken.mender()
        body = self._dialect.body(self._served, [job], stream=True)
        async with aclosing(self.endpoint.aevents(_PATH, body, clock)) as events:
            with _tail_matters_little(written):
                async for event in events:
                    if piece := written.feed(event):
                        clock.token_seen()
                        if shown := mender.feed(piece):
                            yield shown
                    if written.reason is not None:
                        if written.usage != Usage():
                            break
                        clock.hurry(_TAIL)
        if rest := mender.end():
            yield rest

    # Scores ---------------------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """Judge each answer by the log-probabilities that the server gives for it."""
        try:
            self.load()
        except BackendError as error:
            return [error] * len(requests)
        return each(self._score, requests, self.concurrency, self.close)

    async def ascore(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """`score` without blocking the event loop."""
        try:
            await self._aload()
        except BackendError as error:
            return [error] * len(requests)
        return await aeach(self._ascore, requests, self.concurrency)

    def _score(self, request: Request) -> Score | AlignerError:
        try:
            question = prompt_logprobs.Question(self._served, request)
            return question.score(self.endpoint.ask(_PATH, question.body, Clock(request.timeouts)))
        except AlignerError as error:
            return error

    async def _ascore(self, request: Request) -> Score | AlignerError:
        try:
            question = prompt_logprobs.Question(self._served, request)
            return question.score(await self.endpoint.aask(_PATH, question.body, Clock(request.timeouts)))
        except AlignerError as error:
            return error

    # What both share ------------------------------------------------------------------------------------------------

    def _fit_one(self, request: Request) -> Fitted:
        return fit(request, self._window, self._loaded_tokenizer, ids=self._dialect.takes_ids)

    def _fit(self, requests: Sequence[Request]) -> tuple[dict[int, Fitted], _Results]:
        jobs: dict[int, Fitted] = {}
        failed: _Results = {}
        for i, request in enumerate(requests):
            try:
                jobs[i] = self._fit_one(request)
            except AlignerError as error:
                failed[i] = error
        return jobs, failed

    def _learn(self, lists: Sequence[Mapping[int, Fitted]], singles: Mapping[int, Fitted], results: _Results) -> None:
        """Tell the dialect of lists that came back unread, and whose prompts were then taken one by one."""
        for group in lists:
            if any(i in singles and isinstance(results[i], Completion) for i in group):
                self._dialect.list_worked(whole=False)

    def _read_list(self, answer: Any, group: Mapping[int, Fitted]) -> _Results:
        """Return a list's completions; none if they are not as many as the prompts."""
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise BackendError(f"The response of {self.endpoint.host} holds no choices.", retryable=True)
        rows = sorted((c for c in choices if isinstance(c.get("index"), int)), key=lambda choice: choice["index"])
        if [row["index"] for row in rows] != list(range(len(group))):
            return {}
        usage = usage_of(answer.get("usage"))
        read = shares(usage.prompt_tokens, [len(job.broken.text) for job in group.values()])
        wrote = shares(usage.completion_tokens, [len(str(row.get("text"))) for row in rows])
        results: _Results = {}
        for (i, job), row, counts in zip(group.items(), rows, zip(read, wrote, strict=True), strict=True):
            text = row.get("text")
            try:
                mended = job.broken.mend(text) if isinstance(text, str) else text
                results[i] = completion(mended, row.get("finish_reason"), Usage(*counts), self.endpoint.host)
            except BackendError as error:
                results[i] = error
        self._dialect.list_worked(whole=True)
        return results


@contextmanager
def _tail_matters_little(written: Written) -> Iterator[None]:
    """Let nothing that goes wrong after the end of the text, where token counts may come, spoil the text."""
    try:
        yield
    except BackendError:
        if written.reason is None:
            raise


def _clock(job: Fitted) -> Clock:
    return Clock(job.request.timeouts)


def _endless(host: str) -> BackendError:
    return BackendError(f"{host} refuses the prompt each time for another reason.")
