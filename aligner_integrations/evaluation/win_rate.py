"""How often a judge finds corrections better than the answers, and how often worse: `aligner evaluate win-rate`.

Each correction is judged against its answer twice, once in each order, because judges like one place better than the other; what
that does to the figures, and how it is taken out again, stands in `intervals.py`. A correction that is the answer to the letter is
a tie that nobody is asked about. Replies without a verdict are counted and never dropped: they are in `undecided`, and the figures
say between which two they would lie if all of them were losses, or wins. What lives elsewhere: the words (`judge.py`), asking and
keeping (`asked.py`).
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aligner_integrations._version import __version__
from aligner_integrations.correction import Usage
from aligner_integrations.errors import AlignerError, ConfigurationError
from aligner_integrations.evaluation.asked import Kept, Model, Said, ask
from aligner_integrations.evaluation.html import Example, Page, Table
from aligner_integrations.evaluation.html.charts import Chart, bars
from aligner_integrations.evaluation.intervals import Vote, WinRate, win_rate
from aligner_integrations.evaluation.judge import Wording
from aligner_integrations.evaluation.report import failures as failures_cell

Verdict = Literal["won", "lost", "tied", "same", "undecided"]
"""won, lost: the judge prefers the correction, or the answer, taking both orders together. tied: it finds them equal, or says one
thing in one order and the other in the other. same: the correction is the answer. undecided: no reply says anything."""

_ORDERS = ("answer first", "correction first")


@dataclass(frozen=True, slots=True)
class Pair:
    """An answer and its correction, to be judged.

    Attributes:
        question: The question.
        answer: The upstream's answer.
        correction: What the aligner made of it.
        correct: Right reference answers, where the judge asks with references.
        incorrect: Wrong ones.
        score: The gate's score of the answer, for `aligner calibrate`; None: unknown.
    """

    question: str
    answer: str
    correction: str
    correct: tuple[str, ...] = ()
    incorrect: tuple[str, ...] = ()
    score: float | None = None

    @property
    def same(self) -> bool:
        """Whether the correction is the answer, but for outer white space."""
        return self.answer.strip() == self.correction.strip()


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair with what the judge said, answer first and correction first; nothing for one that is the same.

    Attributes:
        pair: The pair.
        votes: What each reply says of the correction.
        replies: The replies, or why there is none.
    """

    pair: Pair
    votes: tuple[Vote, ...]
    replies: tuple[Said | AlignerError, ...]

    @property
    def verdict(self) -> Verdict:
        """What both orders say together."""
        if self.pair.same:
            return "same"
        told = [vote for vote in self.votes if vote is not None]
        if not told:
            return "undecided"
        return "won" if sum(told) > 0 else "lost" if sum(told) < 0 else "tied"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: a row of a win-rate file, as `aligner calibrate` reads it."""
        replies = [one.text if isinstance(one, Said) else f"{type(one).__name__}: {one}" for one in self.replies]
        texts = {name: getattr(self.pair, name) for name in ("question", "answer", "correction", "score")}
        return {**texts, "verdict": self.verdict, "votes": self.votes, "replies": replies}


@dataclass(frozen=True, slots=True)
class AspectFigures:
    """Figures of one aspect.

    Attributes:
        rates: Win rate and loss rate; None if the judge gave no verdict at all.
        verdicts: How many pairs have which verdict.
        split: Pairs of which the judge says one thing in one order, and the contrary in the other.
        replies: How many replies there are: with a "verdict", "unparsed", or "cut" before one.
        failures: How many requests failed, by type of error; they are asked again when the command is run again.
        usage: Tokens of all replies, kept ones included.
        asked: Requests that were sent by this run; the rest was kept from before.
    """

    rates: WinRate | None
    verdicts: dict[str, int]
    split: int
    replies: dict[str, int]
    failures: dict[str, int]
    usage: Usage
    asked: int


@dataclass(frozen=True, slots=True)
class WinRateReport:
    """What a judge says of corrections, for one or several aspects.

    Attributes:
        judge: The judge's name.
        aspects: Aspect -> its figures.
        judged: Aspect -> the pairs with the judge's words; not in `to_dict`.
        cost: US dollars of all replies; None without prices.
        ours: Aspect -> which share of the judge's instruction is not the paper's.
    """

    judge: str
    aspects: dict[str, AspectFigures]
    judged: dict[str, list[Judged]] = field(default_factory=dict, repr=False)
    cost: float | None = None
    ours: dict[str, float] = field(default_factory=dict)

    @property
    def versions(self) -> dict[str, str]:
        """What measured."""
        return {"aligner-integrations": __version__}

    @property
    def failures(self) -> int:
        """Requests without a reply."""
        return sum(sum(one.failures.values()) for one in self.aspects.values())

    @property
    def _judged_any(self) -> bool:
        return any(one.rates is not None for one in self.aspects.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        aspects = {name: dataclasses.asdict(one) for name, one in self.aspects.items()}
        return {
            "judge": self.judge,
            "aspects": aspects,
            "cost": self.cost,
            "ours": self.ours,
            "versions": self.versions,
        }

    def table(self) -> list[list[str]]:
        """Return the figures as lines of cells: a header, then one line a figure."""
        columns = list(self.aspects.values())

        def line(label: str, cell: Callable[[AspectFigures], object]) -> list[str]:
            return [label, *("" if (value := cell(one)) is None else str(value) for one in columns)]

        def rate(label: str, cell: Callable[[WinRate], object]) -> list[str]:
            return line(label, lambda one: None if one.rates is None else cell(one.rates))

        rates = [
            rate("omega: wins - losses (95% interval)", lambda r: r.omega),
            rate("wins", lambda r: r.wins.share()),
            rate("losses: judged worse than the answer", lambda r: r.losses.share()),
            rate("omega as the judge said it", lambda r: r.raw_omega),
            rate("prefers what stands first by", lambda r: r.bias),
            rate(
                "omega if all undecided were lost, or won", lambda r: f"{100 * r.worst:+.1f}% to {100 * r.best:+.1f}%"
            ),
        ]
        return [
            ["", *self.aspects],
            *(rates if self._judged_any else []),
            *(
                line(f"pairs {verdict}", lambda one, verdict=verdict: one.verdicts.get(verdict, 0))  # type: ignore[misc]
                for verdict in ("won", "tied", "lost", "same", "undecided")
            ),
            line("of the tied, contrary in the two orders", lambda one: one.split),
            line("replies with a verdict", lambda one: one.replies.get("verdict", 0)),
            line("replies without one", lambda one: one.replies.get("unparsed", 0)),
            line("replies cut before one", lambda one: one.replies.get("cut", 0)),
            line("requests that failed", lambda one: failures_cell(one.failures)),
            line(
                "tokens read and written", lambda one: f"{one.usage.prompt_tokens:,} + {one.usage.completion_tokens:,}"
            ),
            line("asked by this run, not kept", lambda one: one.asked),
            *([] if self.cost is None else [["all replies cost", _dollars(self.cost), *[""] * (len(columns) - 1)]]),
        ]

    def page(self) -> Page:
        """Return the report as a page: what was lost first."""
        return Page(
            title=f"Corrections before the judge {self.judge}",
            lead=[
                "Each correction was judged against its answer in both orders. How much the judge likes what stands first is measured, "
                "and divided out of omega, wins and losses.",
                *([] if self._judged_any else ["No reply has a verdict, so there is no win rate."]),
                *(
                    f"{name}: {share:.0%} of the judge's instruction is not quoted from the paper."
                    for name, share in self.ours.items()
                ),
            ],
            tiles=[
                (f"{name}: {label}", f"{100 * value:{sign}.1f}%")
                for name, one in self.aspects.items()
                if one.rates is not None
                for label, value, sign in (
                    ("wins - losses", one.rates.omega.value, "+"),
                    ("losses", one.rates.losses.value, ""),
                )
            ]
            + ([] if self.cost is None else [("cost", _dollars(self.cost))]),
            tables=[Table("Figures", self.table())],
            charts=self._charts(),
            examples=[one for name, judged in self.judged.items() for one in _examples(name, judged)],
            examples_title="Rows: those that were lost first",
            notes=[f"The judge was {self.judge}. Measured with aligner-integrations {__version__}."],
        )

    def _charts(self) -> list[Chart]:
        rates = {name: one.rates for name, one in self.aspects.items() if one.rates is not None}
        if not rates:
            return []
        found: list[Chart] = []
        for title, which in (
            ("wins - losses in per cent, with 95% intervals", "omega"),
            ("losses in per cent, with 95% intervals", "losses"),
        ):
            numbers = {name: getattr(one, which) for name, one in rates.items()}
            found.append(
                bars(
                    title,
                    {name: 100 * one.value for name, one in numbers.items()},
                    intervals={name: (100 * one.low, 100 * one.high) for name, one in numbers.items()},
                )
            )
        return found


def evaluate(
    pairs: Sequence[Pair],
    judge: Model,
    wordings: Sequence[Wording],
    kept: Kept,
    *,
    prices: tuple[float, float] | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> WinRateReport:
    """Let a judge compare corrections with their answers.

    Args:
        pairs: What is compared.
        judge: Who judges.
        wordings: One for each aspect.
        kept: Where replies are kept; what is there is not asked again.
        prices: US dollars for a million tokens read, and written.
        on_progress: Called with the aspect and how many replies are there.

    Raises:
        ConfigurationError: Nothing to judge, two wordings of one name, or references that are missing.
    """
    if not pairs:
        raise ConfigurationError("There is nothing to judge: no answer with a correction.")
    names = [wording.name for wording in wordings]
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(f"The aspects are {names}; at least one is needed, and each once.")
    for wording in wordings:
        if wording.references and (bare := sum(not (one.correct and one.incorrect) for one in pairs)):
            raise ConfigurationError(
                f"{wording.name!r} is judged with reference answers, and {bare} of {len(pairs)} rows have no right or no wrong ones "
                "(columns correct and incorrect)."
            )
    judged = {
        wording.name: _judge(
            pairs, judge, wording, kept, None if on_progress is None else _named(on_progress, wording.name)
        )
        for wording in wordings
    }
    aspects = {name: figures(found) for name, found in judged.items()}
    cost = None
    if prices is not None:
        read = sum(one.usage.prompt_tokens for one in aspects.values())
        written = sum(one.usage.completion_tokens for one in aspects.values())
        cost = (read * prices[0] + written * prices[1]) / 1e6
    return WinRateReport(judge.name, aspects, judged, cost, {one.name: one.ours for one in wordings})


def prompts_of(pair: Pair, wording: Wording) -> list[tuple[str, str]]:
    """Return what a judge is asked about a pair, answer first and correction first; nothing if both are the same."""
    if pair.same:
        return []
    orders = ((pair.answer, pair.correction), (pair.correction, pair.answer))
    return [wording.ask(pair.question, *order, pair.correct, pair.incorrect) for order in orders]


def figures(judged: Sequence[Judged]) -> AspectFigures:
    """Return the figures of one aspect."""
    replies: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    usage, asked = Usage(), 0
    for one in judged:
        for vote, reply in zip(one.votes, one.replies, strict=True):
            if isinstance(reply, AlignerError):
                failures[type(reply).__name__] += 1
                continue
            usage += reply.usage
            asked += reply.fresh
            replies["verdict" if vote is not None else "cut" if reply.cut else "unparsed"] += 1
    verdicts = Counter(one.verdict for one in judged)
    told = set(verdicts) - {"undecided"}
    rates = None
    if told:
        votes = [one.votes for one in judged]
        rates = win_rate(votes, [one.pair.question for one in judged], same=[one.pair.same for one in judged])
    return AspectFigures(
        rates=rates,
        verdicts={name: verdicts[name] for name in sorted(verdicts)},
        split=sum(sorted(one.votes, key=str) == [-1, 1] for one in judged),
        replies=dict(replies),
        failures=dict(failures),
        usage=usage,
        asked=asked,
    )


def write_rows(path: Path, judged: Sequence[Judged]) -> None:
    """Write a win-rate file, JSON Lines that only its owner may read: what `aligner calibrate` learns from."""
    text = "".join(json.dumps(one.to_dict()) + "\n" for one in judged)
    path.touch(0o600)
    path.chmod(0o600)
    path.write_text(text, "utf-8")


def _judge(
    pairs: Sequence[Pair],
    judge: Model,
    wording: Wording,
    kept: Kept,
    on_progress: Callable[[int], None] | None,
) -> list[Judged]:
    prompts = [prompts_of(pair, wording) for pair in pairs]
    replies = iter(ask(judge, [one for both in prompts for one in both], kept, on_progress=on_progress))
    found = []
    for pair, both in zip(pairs, prompts, strict=True):
        said = tuple(next(replies) for _ in both)
        found.append(Judged(pair, tuple(_vote(wording, reply, order) for order, reply in enumerate(said)), said))
    return found


def _vote(wording: Wording, reply: Said | AlignerError, order: int) -> Vote:
    place = wording.verdict(reply.text) if isinstance(reply, Said) else None
    if place is None:
        return None
    if place == "equal":
        return 0
    return 1 if place == ("second", "first")[order] else -1


def _examples(aspect: str, judged: Sequence[Judged]) -> list[Example]:
    order = {"lost": 0, "undecided": 1, "tied": 2, "won": 3, "same": 4}
    found = []
    for one in sorted(judged, key=lambda one: order[one.verdict]):
        facts = {"aspect": aspect}
        if one.pair.score is not None:
            facts["the gate's score"] = f"{one.pair.score:.2f}"
        more = {
            f"the judge, {name}": reply.text if isinstance(reply, Said) else f"{type(reply).__name__}: {reply}"
            for name, reply in zip(_ORDERS, one.replies, strict=False)
        }
        for label, texts in (("right", one.pair.correct), ("wrong", one.pair.incorrect)):
            if texts:
                more[f"{label} answers"] = "\n".join(texts)
        found.append(Example(one.verdict, one.pair.question, one.pair.answer, one.pair.correction, facts, more))
    return found


def _dollars(cost: float) -> str:
    return f"${cost:.2f}" if cost >= 1 else f"${cost:.4f}"


def _named(on_progress: Callable[[str, int], None], name: str) -> Callable[[int], None]:
    return lambda done: on_progress(name, done)
