"""What the commands share: common options, groups of commands, and the one place where an `Aligner` is made."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from aligner_integrations.cli.console import echo
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.models import KNOWN_MODELS
from aligner_integrations.templates import TEMPLATES

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

_T = TypeVar("_T")


class OnError(StrEnum):
    """Choices of `--on-error`; the policies of `Aligner`."""

    RAISE = "raise"
    KEEP = "keep"
    BLOCK = "block"


class Edits(StrEnum):
    """Choices of `--edits`."""

    ALL = "all"
    MARKED = "marked"
    GUARDED = "guarded"


def _names_of(known: dict[str, Any]) -> Callable[[str], list[str]]:
    """Return what a shell completes a name from."""
    return lambda incomplete: [name for name in known if name.startswith(incomplete)]


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help='Hub id, folder or "embedded". Default: the variable ALIGNER_MODEL, else embedded.',
        metavar="MODEL",
        autocompletion=_names_of(KNOWN_MODELS),
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        help="Prompt template, if not the checkpoint's own (aligner models --templates).",
        metavar="NAME",
        autocompletion=_names_of(TEMPLATES),
    ),
]
FieldOption = Annotated[
    list[str] | None,
    typer.Option("--field", help="An extra field of the template, such as aspects=Empathy.", metavar="NAME=TEXT"),
]
GateOption = Annotated[bool, typer.Option(help="Leave answers alone that the aligner's own gate finds good.")]
EditsOption = Annotated[
    Edits | None,
    typer.Option(
        help="all: the aligner's own text; marked, guarded: take back edits that the gate does not ask for. "
        "Default: as the aligner says of itself."
    ),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Take only the first N rows of each kind.", metavar="N")]
RecordOption = Annotated[
    str | None,
    typer.Option(
        help="Also keep each correction: in a .jsonl file, a folder, or SQLite (aligner records).", metavar="PLACE"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON to standard output; errors too.")]


def name_of(model: str | None) -> str:
    """Return the name of the local aligner that `--model` means."""
    return model or os.environ.get("ALIGNER_MODEL") or "embedded"


def group(words: str) -> typer.Typer:
    """Return a group of commands, which shows its help where no command is named."""

    def root(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            echo(context.get_help())

    return typer.Typer(help=words, callback=root, invoke_without_command=True)


def fields_of(named: Sequence[str] | None) -> dict[str, str]:
    """Return the template's extra fields that a command was given.

    Raises:
        typer.BadParameter: One has no name.
    """
    found = {}
    for option in named or ():
        name, equals, text = option.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{option!r} is not NAME=TEXT.", param_hint="--field")
        found[name] = text
    return found


# Which aligner --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignerOptions:
    """The options that say which aligner is meant. A command takes them all with one parameter; see `takes_options`.

    Attributes:
        model: Hub id, folder, "embedded", or None for the default; with a server, the model's name there.
        endpoint: URL of a server that runs an aligner (OpenAI's completions).
        chat_model: URL of a chat model that is told to correct (OpenAI's chat completions).
        api_key_env: The environment variable that holds the server's key.
        template: Template name or text, or None for the checkpoint's own.
    """

    model: ModelOption = None
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="An aligner on a server: its URL, which ends in /v1. --model: its name there.", metavar="URL"
        ),
    ] = None
    chat_model: Annotated[
        str | None,
        typer.Option(
            help="No aligner but a chat model on a server that is told to correct: its URL, which ends in /v1.",
            metavar="URL",
        ),
    ] = None
    api_key_env: Annotated[
        str | None, typer.Option(help="The environment variable that holds the server's key.", metavar="NAME")
    ] = None
    template: TemplateOption = None

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises:
            typer.BadParameter: They do not.
            ConfigurationError: The variable that should hold the key is not set.
        """
        if self.endpoint is not None and self.chat_model is not None:
            raise typer.BadParameter("it goes without --endpoint: one of them corrects.", param_hint="--chat-model")
        if self.api_key_env is None:
            return
        if self.endpoint is None and self.chat_model is None:
            raise typer.BadParameter("it goes with --endpoint or --chat-model.", param_hint="--api-key-env")
        if not os.environ.get(self.api_key_env):
            raise ConfigurationError(f"--api-key-env names the variable {self.api_key_env}, which is not set.")


def takes_options(command: Callable[..., _T]) -> Callable[..., _T]:
    """Let a command take groups of options: each parameter whose type is a dataclass becomes its fields on the command line.

    The group's own `check`, if it has one, refuses options that do not go together.

    Example:
        >>> @takes_options
        ... def score(question: str, *, which: AlignerOptions, as_json: JsonOption = False) -> None:
        ...     aligner = options.make_aligner(which)
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {}
    keyword = []
    for parameter in signature.parameters.values():
        if not is_dataclass(parameter.annotation):
            keyword.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        group = cast("type[Any]", parameter.annotation)
        groups[parameter.name] = group
        hints = inspect.get_annotations(group, eval_str=True)
        for one in fields(group):
            default = one.default if one.default is not MISSING else inspect.Parameter.empty
            keyword.append(
                inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[one.name])
            )

    @functools.wraps(command)
    def wrapped(**values: Any) -> _T:
        for name, group in groups.items():
            values[name] = group(**{one.name: values.pop(one.name) for one in fields(group)})
        for name in groups:
            getattr(values[name], "check", lambda: None)()
        return command(**values)

    # Typer reads both, and calls by name, so each may stand anywhere.
    vars(wrapped).update(__signature__=signature.replace(parameters=keyword))
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword}
    return wrapped


def make_aligner(
    which: AlignerOptions | None = None,
    *,
    gate: bool = True,
    edits: Edits | None = None,
    on_error: OnError = OnError.RAISE,
    at_once: int | None = None,
) -> Aligner:
    """Return the aligner a command works with. Weights load, and servers are asked, at its first use.

    Args:
        which: The aligner that is meant; None for the default.
        gate: Whether the aligner's own gate is on.
        edits: Which edits are taken over, or None for as the aligner says of itself.
        on_error: What is shown when there is no correction, be it by an error or because the answer is too long.
        at_once: Most requests on the way to a server at once; None for what its backend says.

    Raises:
        AlignerError: The options do not fit, or the model cannot be had.
    """
    from aligner_integrations.aligner import Aligner

    which = which or AlignerOptions()
    rules: dict[str, Any] = {
        "template": which.template,
        "gate": None if gate else False,
        "edits": None if edits is None else edits.value,
        "on_error": on_error.value,
        "on_overflow": on_error.value,
    }
    url = which.endpoint or which.chat_model
    if url is None:
        if at_once is not None:
            raise typer.BadParameter("it goes with --endpoint or --chat-model.", param_hint="--at-once")
        return Aligner(which.model, **rules)
    from aligner_integrations.backends.wrappers.resilient import Resilience

    rules["resilience"] = Resilience()
    if at_once is not None:
        rules |= {"concurrency": at_once, "resilience": Resilience(concurrency=at_once)}
    key = None if which.api_key_env is None else functools.partial(_key_in, which.api_key_env)
    if which.endpoint is not None:
        return Aligner.from_endpoint(url, which.model, api_key=key, **rules)
    return Aligner.from_chat_model(url, model=which.model, api_key=key, **rules)


def load(aligner: Aligner) -> None:
    """Load weights that are here now, so that no correction's seconds hold that."""
    from aligner_integrations.backends.local.backend import LocalBackend

    if isinstance(aligner.backend, LocalBackend):
        aligner.load()


@contextmanager
def recording(aligner: Aligner, place: str | None) -> Iterator[Aligner]:
    """The aligner, and at the end all of its records on the disk.

    Raises:
        ConfigurationError: The place cannot be recorded to.
        RecordingError: Not all of them got there.
    """
    if place is None:
        yield aligner
        return
    from aligner_integrations.recording.recorder import Recorder

    recorder = Recorder(place)
    try:
        yield aligner.with_options(record=recorder)
    finally:
        recorder.close()


def _key_in(variable: str) -> str:
    """Not the key itself, so that it survives a way to another process, which has the variable, too."""
    return os.environ.get(variable, "")
