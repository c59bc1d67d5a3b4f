"""The `aligner` program: its commands, and how errors are answered.

Exit codes: 0 done, 1 the command failed, 2 the command line was wrong, 130 interrupted. A failure is one sentence on
standard error, with `--json` an object on standard output; a traceback only with ALIGNER_DEBUG=1.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from aligner_integrations._version import __version__
from aligner_integrations.cli import (
    bench,
    bootstrap,
    cache,
    calibrate,
    cookbook,
    corpus,
    correct,
    demo,
    doctor,
    evaluate,
    export,
    models,
    preferences,
    records,
    score,
    train,
)
from aligner_integrations.cli.console import echo, echo_json, note
from aligner_integrations.errors import AlignerError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class _Group(TyperGroup):
    """The root command, which answers every error of every command."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run and exit. Typer's own error display is off: it knows neither `--json` nor what a terminal must not see."""
        arguments = list(sys.argv[1:] if args is None else args)
        words = arguments[: arguments.index("--")] if "--" in arguments else arguments
        try:
            code = super().main(
                arguments,
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the last place where an error can become a sentence
            code = _answer(error, as_json="--json" in words)
        if code == INTERRUPTED:
            _say("Interrupted", "Interrupted.", as_json="--json" in words)
        sys.exit(code if isinstance(code, int) else 0)  # without an exit code, typer returns what the command returned


def _answer(error: Exception, *, as_json: bool) -> int:
    """Say what went wrong and return the exit code."""
    if os.environ.get("ALIGNER_DEBUG") == "1":
        note("".join(traceback.format_exception(error)))
    kind, code, hint = type(error).__name__, 1, ""
    # Typer carries click within itself or beside itself, by version; its errors are known by what they can do.
    if (describe := getattr(error, "format_message", None)) is not None:
        kind, message, code = "UsageError", str(describe()), int(getattr(error, "exit_code", 2))
        if (context := getattr(error, "ctx", None)) is not None:
            hint = f"See: {context.command_path} --help"
    elif isinstance(error, AlignerError):
        message = str(error)
    elif isinstance(error, OSError):
        message = f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)
    else:
        message = f"Unexpected {kind}: {error}. This is a mistake in aligner-integrations; ALIGNER_DEBUG=1 shows where."
    _say(kind, message, hint, retryable=bool(getattr(error, "retryable", False)), as_json=as_json)
    return code


def _say(kind: str, message: str, hint: str = "", *, retryable: bool = False, as_json: bool) -> None:
    if as_json:
        echo_json({"error": {"type": kind, "message": message, "retryable": retryable}})
        return
    note(f"error: {message}" if kind != "Interrupted" else message)
    if hint:
        note(hint)


app = typer.Typer(
    name="aligner",
    cls=_Group,
    help="Correct the answers of any LLM with a small model (Aligner, arXiv 2402.02416).",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# One line a command.
app.command("demo")(demo.demo)
app.command("correct")(correct.correct)
app.command("corpus")(corpus.corpus)
app.command("score")(score.score)
app.add_typer(evaluate.app, name="evaluate")
app.command("calibrate")(calibrate.calibrate)
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)
app.command("records")(records.records)
app.command("preferences")(preferences.preferences)
app.command("train")(train.train)
app.command("bootstrap")(bootstrap.bootstrap)
app.command("export")(export.export)
app.command("models")(models.models)
app.command("cache")(cache.cache)
app.command("cookbook")(cookbook.cookbook)


def _show_version(value: bool) -> None:
    if value:
        echo(f"aligner-integrations {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Correct the answers of any LLM with a small model (Aligner, arXiv 2402.02416)."""
    if context.invoked_subcommand is None:
        echo(context.get_help())


def run() -> None:
    """Run the program on the process's arguments and exit."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8 shows what it lacks as an escape instead of ending in a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:  # what libraries say to their own developers; `python -W default` shows it
        warnings.simplefilter("ignore")
    app(prog_name="aligner")
