"""The keyword arguments of `Aligner` and of the ways to make one: typed, so that editors and mypy see them, and checked.

What lives elsewhere: those that decide on a correction, and their own checks (`policy.py`), and what they mean (`Aligner`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aligner_integrations.errors import ConfigurationError, UnknownOptionError, did_you_mean
from aligner_integrations.job import Record
from aligner_integrations.policy import Options, Policy
from aligner_integrations.recording.recorder import Recorder, recorder_of

if TYPE_CHECKING:
    from aligner_integrations.backends.base import Backend
    from aligner_integrations.backends.remote.keys import Secret
    from aligner_integrations.backends.wrappers.cached import Cache
    from aligner_integrations.backends.wrappers.resilient import Resilience
    from aligner_integrations.templates import Template


class Own(Options, total=False):
    """The options of `Aligner` itself and those of its policy."""

    resilience: Resilience | None
    cache: Cache | str | Path | None
    record: str | Path | Recorder | Record | None


class Changes(Own, total=False):
    """What `Aligner.with_options` takes."""

    template: str | Template | None


class OfEndpoint(Own, total=False):
    """What `Aligner.from_endpoint` takes beyond its own arguments: options of `CompletionsBackend` and of `Aligner`."""

    tokenizer: Any
    window: int | None
    generation: Mapping[str, Any] | None
    concurrency: int
    allow_http: bool


class OfChatModel(Changes, total=False):
    """What `Aligner.from_chat_model` takes: options of `ChatModelBackend` and of `Aligner`."""

    principles: Sequence[str]
    instruction: str
    model: str | None
    api_key: str | Callable[[], str] | Secret | None
    generation: Mapping[str, Any] | None
    concurrency: int
    allow_http: bool


def refuse_unknown(options: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse names that are no option, and name the one that was meant.

    Raises:
        UnknownOptionError: One of them is not known.
    """
    names = sorted(known)
    for name in options:
        if name not in names:
            hint = did_you_mean(name, names) or f" It has {', '.join(names)}."
            raise UnknownOptionError(f"{where} has no option {name!r}.{hint}")


def checked_resilience(value: Any) -> Resilience | None:
    """Return `resilience` as it was given.

    Raises:
        ConfigurationError: It is no `Resilience`.
    """
    if value is None:
        return None
    from aligner_integrations.backends.wrappers.resilient import Resilience

    if isinstance(value, Resilience):
        return value
    way = "Resilience(), with deadline=, retries=, timeout= and others as you need them"
    if isinstance(value, int | float) and not isinstance(value, bool):
        way = f"Resilience(deadline={value!r}) if that is the seconds that a correction may take"
    elif isinstance(value, Mapping):
        way = "Resilience(**settings)"
    raise ConfigurationError(f"resilience is {_shown(value)}; give {way}, from aligner_integrations, or None.")


def checked_cache(value: Any) -> Cache | None:
    """Return `cache`; a path is made a cache in that file.

    Raises:
        ConfigurationError: It is neither.
    """
    if value is None:
        return None
    from aligner_integrations.backends.wrappers.cached import Cache

    if isinstance(value, str | Path) and str(value):
        return Cache(value)
    if isinstance(value, Cache):
        return value
    raise ConfigurationError(
        f'cache is {_shown(value)}; give a file such as "corrections.db", or Cache() from aligner_integrations, which is '
        "in memory, or None."
    )


def check_model(value: Any) -> None:
    """Refuse what cannot be the name of a model.

    Raises:
        ConfigurationError: It is something else, and the message says where that goes.
    """
    if isinstance(value, str) and not value.startswith(("http://", "https://")):
        return
    if isinstance(value, Path):
        return
    if isinstance(value, str):
        raise ConfigurationError(
            f"{value!r} is a URL. An aligner on a server is Aligner.from_endpoint(url); a chat model on one that is told "
            "to correct is Aligner.from_chat_model(url)."
        )
    way = "name a model (a Hub id, a folder or 'embedded')"
    if hasattr(value, "invoke") or hasattr(value, "complete") or hasattr(value, "chat"):
        way = "use Aligner.from_chat_model(llm) for an LLM that is told to correct, or backend= for a backend"
    raise ConfigurationError(f"model is a {type(value).__name__}: {way}.")


def _shown(value: Any) -> str:
    """What was given, unless it is long."""
    text = repr(value) if isinstance(value, bool | int | float | str) else ""
    return text if 0 < len(text) <= 60 else f"a {type(value).__name__}"


CHECKS: dict[str, Callable[[Any], Any]] = {
    "resilience": checked_resilience,
    "cache": checked_cache,
    "record": recorder_of,
}
"""Options that a policy does not hold -> what is kept of the value that was given."""


_ENGINE = (
    "An Aligner is no node postprocessor, and a node postprocessor never sees the LLM's answer. Put it behind the engine: "
    "AlignerQueryEngine(index.as_query_engine(), aligner=aligner), or with_aligner(engine, aligner) of "
    "aligner_integrations.llama_index. AlignerNodePostprocessor corrects the retrieved text instead."
)
_STEP = "An Aligner is no step of a chain: AlignerRunnable(aligner) is one, and AlignedChatModel(llm=llm, aligner=aligner) a chat model."
ELSEWHERE = {"postprocess_nodes": _ENGINE, "apostprocess_nodes": _ENGINE, "invoke": _STEP, "ainvoke": _STEP}
"""A method that frameworks look for in an aligner -> what they should have been given."""


def described(aligner: Mapping[str, Any]) -> list[str]:
    """Return the options of an aligner that are not the default, as its `repr` shows them.

    Args:
        aligner: Its attributes.
    """
    template, policy, plain = aligner["_template"], aligner["policy"], Policy()
    shown = [] if template is None else [f"template={template.name!r}"]
    for name in Options.__annotations__:
        if (value := getattr(policy, name)) != getattr(plain, name):
            shown.append(f"{name}={getattr(value, '__name__', None) or repr(value)}")
    for name in CHECKS:
        if (value := aligner[name]) is not None:
            shown.append(f"{name}={getattr(value, '__name__', None) or repr(value)}")
    return shown


# Ways to make one -----------------------------------------------------------------------------------------------------


def endpoint(
    url: str,
    model: str | None,
    api_key: str | Callable[[], str] | Secret | None,
    timeout: float | None,
    options: dict[str, Any],
) -> tuple[Backend, Own]:
    """Return the backend of `Aligner.from_endpoint` and the options of the aligner; see there."""
    from aligner_integrations.backends.remote.completions import CompletionsBackend
    from aligner_integrations.backends.wrappers.resilient import Resilience

    refuse_unknown(options, {*OfEndpoint.__optional_keys__, "timeout"}, "from_endpoint")
    if timeout is not None:
        if "resilience" in options:
            raise ConfigurationError("Give either timeout or resilience, whose deadline is the same.")
        options["resilience"] = Resilience(deadline=timeout)
    options.setdefault("resilience", Resilience())
    backend = CompletionsBackend(url, model, api_key=api_key, **_taken(options, OfEndpoint))
    return backend, cast("Own", options)


def chat_model(llm: Any, options: dict[str, Any]) -> tuple[Backend, Changes]:
    """Return the backend of `Aligner.from_chat_model` and the options of the aligner; see there."""
    from aligner_integrations.backends.prompted.backend import ChatModelBackend

    refuse_unknown(options, OfChatModel.__optional_keys__, "from_chat_model")
    return ChatModelBackend(llm, **_taken(options, OfChatModel)), cast("Changes", options)


def _taken(options: dict[str, Any], kind: Any) -> dict[str, Any]:
    """Take the options that `kind` adds to those of every aligner, and so are the backend's, out of all that were given."""
    mine = kind.__optional_keys__ - Changes.__optional_keys__
    return {name: options.pop(name) for name in mine if name in options}
