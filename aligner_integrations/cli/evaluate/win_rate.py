"""`aligner evaluate win-rate`: corrections before a judge. The measures live in `evaluation/win_rate.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import note, progress
from aligner_integrations.cli.evaluate.family import ColumnOption, ReportOptions, SplitOption, columns_of
from aligner_integrations.cli.options import AlignerOptions
from aligner_integrations.errors import ConfigurationError

if TYPE_CHECKING:
    from aligner_integrations.evaluation.asked import Model
    from aligner_integrations.evaluation.judge import Wording

KeepOption = Annotated[
    Path,
    typer.Option(
        help="Folder where all that was asked is kept: the same command again goes on where a killed one was.",
        metavar="DIR",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions:
    """Options that say who judges, and by which words. A command takes them all with one parameter; see `options.takes_options`.

    Attributes:
        judge: URL of its API.
        judge_model: Its name there.
        judge_key_env: The environment variable that holds its key.
        judge_option: Further fields of each request, as NAME=JSON.
        judge_tokens: Longest reply.
        aspect: The package's own wordings.
        wording: Wordings of one's own, as files.
        at_once: Most requests on the way.
        price: US dollars for a million tokens read, and written.
    """

    judge: Annotated[
        str, typer.Option(help="The judge: URL of an OpenAI-compatible chat API, which ends in /v1.", metavar="URL")
    ]
    judge_model: Annotated[str | None, typer.Option(help="The judge's name there.", metavar="NAME")] = None
    judge_key_env: Annotated[
        str | None, typer.Option(help="The environment variable that holds the judge's key.", metavar="NAME")
    ] = None
    judge_option: Annotated[
        list[str] | None,
        typer.Option(help="A further field of each request, such as temperature=0.05.", metavar="NAME=JSON"),
    ] = None
    judge_tokens: Annotated[int, typer.Option(min=1, help="Longest reply of the judge, in tokens.")] = 2048
    aspect: Annotated[
        list[str] | None,
        typer.Option(
            help="helpful, harmless, empathic or honest; may be given several times. Default: helpful, harmless."
        ),
    ] = None
    wording: Annotated[
        list[Path] | None,
        typer.Option(help="Another wording, as a TOML file (see evaluation/wordings/).", metavar="FILE"),
    ] = None
    at_once: Annotated[int, typer.Option(min=1, help="Most requests on the way at once.")] = 8
    price: Annotated[
        tuple[float, float] | None, typer.Option(help="US dollars for a million tokens read, and written.")
    ] = None

    def wordings(self) -> list[Wording]:
        """Return the words by which it judges."""
        from aligner_integrations.evaluation.judge import Wording

        own = [Wording.read(path) for path in self.wording or ()]
        names = self.aspect or ([] if own else ["helpful", "harmless"])
        return [*(Wording.of(name) for name in names), *own]

    def model(self) -> Model:
        """Return the judge."""
        return chat_model(
            self.judge,
            self.judge_model,
            self.judge_key_env,
            option="--judge-key-env",
            generation=_fields(self.judge_option or ()),
            at_once=self.at_once,
            max_new_tokens=self.judge_tokens,
        )


def chat_model(
    url: str,
    model: str | None,
    key_env: str | None,
    *,
    option: str,
    generation: dict[str, object] | None = None,
    at_once: int = 8,
    max_new_tokens: int | None = 2048,
) -> Model:
    """Return a model behind a chat API that is asked under the package's rules for servers.

    Raises:
        ConfigurationError: The variable that should hold its key is not set, or the URL is none.
    """
    from aligner_integrations.backends.prompted.chat import ChatBackend
    from aligner_integrations.backends.wrappers.resilient import Resilience
    from aligner_integrations.evaluation.asked import Model

    if key_env is not None and not os.environ.get(key_env):
        raise ConfigurationError(f"{option} names the variable {key_env}, which is not set.")

    def backend(system: str) -> ChatBackend:
        key = None if key_env is None else os.environ.get(key_env, "")
        return ChatBackend(url, system=system, model=model, api_key=key, generation=generation, concurrency=at_once)

    backend("")  # so that a URL that is none is found before anything is made
    name = f"{model} at {url}" if model else url
    if generation:
        name += f" with {json.dumps(generation, sort_keys=True)}"
    return Model(name, backend, Resilience(concurrency=at_once), at_once, max_new_tokens)


def _fields(given: list[str] | tuple[str, ...]) -> dict[str, object]:
    found: dict[str, object] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{one!r} is not NAME=JSON.", param_hint="--judge-option")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text  # a word needs no quotation marks
    return found


@options.takes_options
def win_rate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ROWS",
            help="Rows with question, answer and correction: a JSON Lines, CSV or Parquet file, a folder of these, or a data set on "
            "the Hub.",
        ),
    ],
    *,
    keep: KeepOption,
    judging: JudgeOptions,
    which: AlignerOptions,
    gate: Annotated[bool, typer.Option(help="Correct with the aligner's own gate, or without any.")] = True,
    upstream: Annotated[
        str | None,
        typer.Option(help="Answers come from this chat API instead of the rows; its URL ends in /v1.", metavar="URL"),
    ] = None,
    upstream_model: Annotated[str | None, typer.Option(help="The upstream's name there.", metavar="NAME")] = None,
    upstream_key_env: Annotated[
        str | None, typer.Option(help="The environment variable that holds the upstream's key.", metavar="NAME")
    ] = None,
    column: ColumnOption = None,
    split: SplitOption = "train",
    shown: ReportOptions,
) -> None:
    """Let a judge say how often corrections are better than the answers, and how often worse, in both orders.

    The rows' corrections are judged, or, where an aligner is named or they have none, the aligner's. With --aspect honest a row also
    has "correct" and "incorrect": right and wrong reference answers. For each aspect a win-rate file is left in --keep.
    """
    from aligner_integrations.evaluation.asked import Kept
    from aligner_integrations.evaluation.pairs import make_pairs, read_pairs
    from aligner_integrations.evaluation.win_rate import evaluate, write_rows
    from aligner_integrations.triples import read_records

    wordings, judge = judging.wordings(), judging.model()
    rows = read_pairs(read_records(source, split=split, columns=columns_of(column))[: shown.limit])
    named = which.model or which.endpoint or which.chat_model
    makes = named is not None or not any("correction" in row for row in rows)
    answering = None
    if upstream is not None:
        answering = chat_model(
            upstream, upstream_model, upstream_key_env, option="--upstream-key-env", at_once=judging.at_once
        )
    with Kept(keep) as kept:
        with progress("answers and corrections", len(rows)) as done:
            made = make_pairs(
                rows,
                kept,
                upstream=answering,
                aligner=options.make_aligner(which, gate=gate) if makes else None,
                on_progress=lambda _, count: done(count),
            )
        names = [wording.name for wording in wordings]
        total = 2 * sum(not pair.same for pair in made.pairs)
        with progress("judging", total * len(names)) as done:
            report = evaluate(
                made.pairs,
                judge,
                wordings,
                kept,
                prices=judging.price,
                on_progress=lambda name, count: done(names.index(name) * total + count),
            )
        for name, judged in report.judged.items():
            write_rows(keep / f"{name}.jsonl", judged)
    shown.show(report)
    for name, one in report.aspects.items():
        _note_silence(name, one.replies, keep)
    for what, count in made.missing.items():
        note(f"{count} of {len(rows)} rows were not judged: {what}")
    if failed := report.failures + sum(made.missing.values()):
        note(f"{failed} requests failed. The same command again asks for these alone.")
        raise typer.Exit(1)


def _note_silence(aspect: str, replies: Mapping[str, int], keep: Path) -> None:
    """Say why replies have no verdict, and where they can be read; nothing where all have one."""
    total = sum(replies.values())
    if cut := replies.get("cut"):
        note(f"{aspect}: {cut} of {total} replies were cut before a verdict; --judge-tokens lets them be longer.")
    if unparsed := replies.get("unparsed"):
        note(
            f"{aspect}: {unparsed} of {total} replies end without the line with the verdict that they were told to end with. They are in "
            f"{keep / f'{aspect}.jsonl'}; a small model may not be fit to judge."
        )
