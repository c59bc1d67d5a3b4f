"""An aligner on Hugging Face's Inference Endpoints, on TGI, or at an inference provider that the Hub knows.

`huggingface_hub` says by which route and under which name a provider serves a model (the same way in its versions 1.31
to 2). Requests are sent from here: its own session knows neither deadlines nor bounds, waits for a server for ever
unless told otherwise, and would hand this machine's Hub token to any URL.

What lives elsewhere: who runs this, and where (`base.py`), HTTP (`http.py`), limits (`window.py`), and servers that speak `/v1/completions`
(`completions.py`): vLLM and SGLang, also as the engine of an Inference Endpoint, and the providers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from huggingface_hub.errors import HfHubHTTPError

from aligner_integrations.backends.deadline import Clock, brief
from aligner_integrations.backends.remote.base import RemoteBackend, without_own
from aligner_integrations.backends.remote.completions import CompletionsBackend
from aligner_integrations.backends.remote.http import Endpoint, Json
from aligner_integrations.backends.remote.keys import Secret, key_for
from aligner_integrations.backends.remote.loop import call, outside
from aligner_integrations.backends.remote.responses import StatusError, Written, may_pass, readable
from aligner_integrations.backends.remote.window import Fitted
from aligner_integrations.correction import Usage
from aligner_integrations.errors import AlignerError, BackendError, ConfigurationError
from aligner_integrations.models import template_of
from aligner_integrations.templates import Template, template_for_model

_ROUTER = "https://router.huggingface.co"
_OWN = {"max_new_tokens", "return_full_text", "details", "decoder_input_details", "stream"}


class TextGenerationBackend(RemoteBackend):
    """Runs an aligner on a server that speaks TGI's dialect, or at a provider.

    Args:
        model: URL of an endpoint or of a TGI server, or a Hub id that a provider serves.
        provider: Who serves a Hub id, as `huggingface_hub` names it; `"auto"` takes your first one.
        api_key: A Hub token, a provider's key, or a function that returns one. For hosts of the Hub and for providers, by
            default the token of this machine; it is sent to no other host.
        generation: Parameters for sampling; greedy by default.
        concurrency: Most requests on the way at once, of all callers together.
        allow_http: Whether the key may travel unencrypted to another machine.

    Raises:
        ConfigurationError: A URL that cannot be used, a key that must not be sent there, or a parameter that is not yours.
    """

    def __init__(
        self,
        model: str,
        *,
        provider: str = "auto",
        api_key: str | Callable[[], str] | Secret | None = None,
        generation: Mapping[str, Any] | None = None,
        concurrency: int = 64,
        allow_http: bool = False,
    ) -> None:
        self.model = model
        self.provider = provider
        self.generation = without_own(generation, _OWN)
        self.concurrency = concurrency
        self.allow_http = allow_http
        self._is_url = model.startswith(("http://", "https://"))
        self.api_key = key_for(model if self._is_url else _ROUTER, api_key)
        self._endpoint = self._endpoint_at(model) if self._is_url else None
        self._provided: CompletionsBackend | None = None
        self._served: str | None = None if self._is_url else model

    def __repr__(self) -> str:
        """Name the model or the URL."""
        return f"TextGenerationBackend({self.model!r})"

    @property
    def fingerprint(self) -> list[Any]:
        """What decides its texts, as far as a client can know; see `Cache`."""
        return [self.model, self.provider, sorted(self.generation.items())]

    def close(self) -> None:
        """Close the connections; they are also closed when the backend is no longer used."""
        for part in (self._endpoint, self._provided):
            if part is not None:
                part.close()

    @property
    def template(self) -> Template:
        """The template of the model; a server of one's own is asked which model it has (TGI's `/info`).

        Raises:
            UnknownTemplateError: None is known for it; the message lists the choices.
            BackendError: The server cannot be asked.
        """
        if self._endpoint is None:
            return template_of(self.model)
        if self._served is None:
            try:
                info = call(self._endpoint.look_up, "/info", brief())
            except StatusError as error:
                if error.retryable:
                    raise
                info = {}
            served = info.get("model_id") if isinstance(info, dict) else None
            self._served = served if isinstance(served, str) else f"the model at {self._endpoint.host}"
        # Never as a folder here or on the Hub: a server may call its model what it likes.
        return template_for_model(self._served)

    def load(self) -> None:
        """Ask the Hub how the provider serves the model; nothing for a URL."""
        call(self._ready, brief())

    async def _ready(self, clock: Clock) -> RemoteBackend:
        if self._endpoint is None and self._provided is None:
            url, name, dialect = await outside(partial(_where, self.model, self.provider, self.api_key))
            if dialect == "inputs":
                self._endpoint = self._endpoint_at(url)
            else:
                self._provided = CompletionsBackend(
                    url.removesuffix("/completions"),
                    name,
                    api_key=self.api_key,
                    generation=self.generation,
                    concurrency=self.concurrency,
                )
        return self._provided or self

    def _endpoint_at(self, url: str) -> Endpoint:
        return Endpoint(url, self.api_key, allow_http=self.allow_http, concurrency=self.concurrency)

    # Completions ----------------------------------------------------------------------------------------------------

    @property
    def _server(self) -> Endpoint:
        if self._endpoint is None:
            raise BackendError(f"{self!r} has no route yet; call load() first.")
        return self._endpoint

    def _asked(self, job: Fitted, *, stream: bool) -> tuple[str, Json]:
        own = {"max_new_tokens": job.limit, "return_full_text": False, "details": True}
        body: Json = {"inputs": job.broken.text, "parameters": {"do_sample": False, **self.generation, **own}}
        return "", {**body, "stream": True} if stream else body

    def _written(self) -> _Generated:
        return _Generated(self._server.host)


class _Generated(Written):
    """What a server has written so far, in TGI's dialect."""

    __slots__ = ()

    def take(self, answer: Any) -> None:
        """Take a whole response; through TGI's older route it comes as a list of one."""
        answer = answer[0] if isinstance(answer, list) and answer else answer
        text = answer.get("generated_text") if isinstance(answer, dict) else None
        if text is None:
            raise BackendError(f"The response of {self.host} holds no generated_text.", retryable=True)
        self.text = readable(text, self.host)
        self._end(answer.get("details"))
        if self.reason is None:
            raise BackendError(
                f"{self.host} gives no details, so nobody can tell whether the correction is complete: it is no TGI server. "
                "Serve the aligner with TGI, or with vLLM and Aligner.from_endpoint."
            )

    def feed(self, event: Json) -> str:
        """Take an event of a stream; return its text."""
        token = event.get("token")
        if not isinstance(token, dict) or token.get("text") is None:
            raise BackendError(f"An event of {self.host} holds no token.", retryable=True)
        self._end(event.get("details"))
        text = "" if token.get("special") else readable(token["text"], self.host)
        self.text += text
        return text

    def _end(self, details: Any) -> None:
        if isinstance(details, dict):
            self.reason = details.get("finish_reason")
            count = details.get("generated_tokens")
            self.usage = Usage(0, count if isinstance(count, int) else 0)


def _where(model: str, provider: str, api_key: Secret | None) -> tuple[str, str, str]:
    """Ask the Hub where a provider serves a model: (URL, the model's name there, field of the prompt)."""
    from huggingface_hub.inference._providers import get_provider_helper

    try:
        helper = get_provider_helper(provider, "text-generation", model)  # type: ignore[arg-type]
        prepared = helper.prepare_request(
            inputs="", parameters={}, headers={}, model=model, api_key=None if api_key is None else api_key.reveal()
        )
    except AlignerError:
        raise
    except ValueError as error:  # no such provider, or it does not serve this model
        raise ConfigurationError(f"{model} cannot be run at provider {provider!r}: {error}") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise BackendError(
            f"The Hub does not say who serves {model}: it answered with status {status}.",
            retryable=status is None or may_pass(status),
        ) from None
    except Exception as error:  # noqa: BLE001 - the HTTP client below huggingface_hub differs between its versions
        raise BackendError(
            f"The Hub cannot be asked who serves {model} ({type(error).__name__}).", retryable=True
        ) from None
    return prepared.url, prepared.model or model, "inputs" if "inputs" in (prepared.json or {}) else "prompt"
