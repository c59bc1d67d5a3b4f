"""How close an aligner's corrections come to those of one's own rows, and what they keep: `aligner evaluate rows`.

A row is a Q-A-C triple; an identity pair must come back as it is. Without a judge, a correction has *won* where it is closer to
the row's own correction than the answer was (chrF of the single text), *lost* where it is farther away, or where the answer was
right and is changed, or where the aligner failed. *Loss* is the cross entropy of the row's correction, as in training (paper,
equation 4): it needs the aligner's probabilities. *Kept* is what a reader would copy (`passages.details`): of what stands in the
answer and in the row's correction, how much stands in the aligner's text.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aligner_integrations.backends.request import Request
from aligner_integrations.backends.score import Score
from aligner_integrations.correction import diff_words
from aligner_integrations.errors import ConfigurationError, require
from aligner_integrations.evaluation import corrected
from aligner_integrations.evaluation.corrected import Corrected, failure_of
from aligner_integrations.evaluation.html import Example, Page, Table
from aligner_integrations.evaluation.html.charts import bars, histogram
from aligner_integrations.evaluation.intervals import Interval, WinRate, win_rate
from aligner_integrations.evaluation.report import Share, failures, measured_with, number, share
from aligner_integrations.passages import details
from aligner_integrations.triples import Triple

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

Verdict = Literal["won", "lost", "tied", "failed"]

COPYING = "copying"


@dataclass(frozen=True, slots=True)
class RowsFigures:
    """Figures of one aligner.

    Attributes:
        loss: Cross entropy of the rows' corrections in nats a token; None without probabilities.
        exact: Equal to the row's correction, but for outer white space.
        chrf: Corpus chrF against the rows' corrections.
        bleu: Corpus BLEU against them.
        unchanged: Identity pairs that come back as they are.
        copied: Mean share of the characters of answer and text that are common to both.
        kept: Kind of detail -> how many of those that should stay did.
        length: Characters of the texts for each of the answers.
        closer: How often the text is closer to the row's correction than the answer was, and how often farther.
        outcomes: How many corrections had which outcome.
        errors: How many rows failed, by type of error.
        seconds: Wall-clock time of all corrections, without loading.
    """

    loss: float | None
    exact: Share
    chrf: float
    bleu: float
    unchanged: Share
    copied: float
    kept: dict[str, Share]
    length: float
    closer: WinRate
    outcomes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def perplexity(self) -> float | None:
        """How many tokens the aligner wavers between, on average; None without probabilities."""
        return None if self.loss is None else math.exp(min(self.loss, 700.0))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RowsFigures:
        """Read what `RowsReport.to_dict` wrote."""
        values = {name: value for name, value in data.items() if name != "perplexity"}
        shares = {name: Share(**values[name]) for name in ("exact", "unchanged")}
        kept = {kind: Share(**one) for kind, one in values["kept"].items()}
        closer: dict[str, Any] = {
            name: Interval(**one) if isinstance(one, Mapping) else one for name, one in values["closer"].items()
        }
        return cls(**{**values, **shares, "kept": kept, "closer": WinRate(**closer)})


@dataclass(frozen=True, slots=True)
class RowsReport:
    """Figures of one or several aligners on the same rows, copying among them.

    Attributes:
        settings: Name of an aligner, or `COPYING` -> its figures.
        rows: "all" and "identity" -> how many.
        versions: Package -> version that measured.
        texts: Name of an aligner -> its texts, for the page; not in `to_dict`.
        triples: The rows.
    """

    settings: dict[str, RowsFigures]
    rows: dict[str, int]
    versions: dict[str, str]
    texts: dict[str, Corrected] = field(default_factory=dict, repr=False)
    triples: Sequence[Triple] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        settings = {
            name: {**dataclasses.asdict(one), "perplexity": one.perplexity} for name, one in self.settings.items()
        }
        return {"settings": settings, "rows": self.rows, "versions": self.versions}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RowsReport:
        """Read what `to_dict` wrote.

        Raises:
            ConfigurationError: A field is missing, unknown or of the wrong kind.
        """
        try:
            settings = {name: RowsFigures.from_dict(one) for name, one in data["settings"].items()}
            return cls(**{**data, "settings": settings})
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"This is not a stored report on rows: {error!r}") from error

    def table(self) -> list[list[str]]:
        """Return the figures as lines of cells: a header, then one line a measure."""
        columns = list(self.settings.values())

        def line(label: str, cell: Callable[[RowsFigures], object]) -> list[str]:
            return [label, *("" if (value := cell(one)) is None else str(value) for one in columns)]

        lines = [["", *self.settings]]
        if any(one.loss is not None for one in columns):
            lines.append(line("loss of the rows' corrections (nats a token)", lambda f: number(f.loss, 3)))
            lines.append(line("perplexity", lambda f: number(f.perplexity, 2)))
        lines += [
            line("equal to the row's correction", lambda f: f.exact),
            line("chrF", lambda f: number(f.chrf, 2)),
            line("BLEU", lambda f: number(f.bleu, 1)),
            line("closer than the answer (won)", lambda f: f"{100 * f.closer.wins.value:.1f}%"),
            line("farther than the answer (lost)", lambda f: f"{100 * f.closer.losses.value:.1f}%"),
            line("won - lost, with its 95% interval", lambda f: f.closer.omega),
        ]
        if identity := self.rows["identity"]:
            lines.append(line(f"{identity} identity pairs: unchanged", lambda f: f.unchanged))
        lines.append(line("copied from the answer", lambda f: f"{100 * f.copied:.1f}%"))
        for kind in sorted({kind for one in columns for kind in one.kept}):
            total = next(one.kept[kind].of for one in columns if kind in one.kept)
            lines.append(line(f"{total} {kind}: kept", lambda f, kind=kind: f.kept.get(kind)))  # type: ignore[misc]
        lines.append(line("length of the answer's", lambda f: f"{100 * f.length:.0f}%"))
        lines.append(line("failed", lambda f: failures(f.errors) if f.outcomes else None))
        lines.append(line("seconds", lambda f: number(f.seconds, 1) if f.seconds else None))
        return lines

    def page(self) -> Page:
        """Return the report as a page: the worst losses first, then the largest changes."""
        name, own = next(iter(self.texts.items()))
        figures = self.settings[name]
        verdicts = verdicts_of(self.triples, own.texts)
        examples = [
            (gain, _example(triple, result, verdict, gain))
            for triple, result, (verdict, gain) in zip(self.triples, own.results, verdicts, strict=True)
        ]
        losses = sorted((one for one in examples if one[0] < 0), key=lambda one: one[0])
        rest = sorted((one for one in examples if one[0] >= 0), key=lambda one: -_changed(one[1]))
        counts = Counter(verdict for verdict, _ in verdicts)
        return Page(
            title=f"{name} on own rows",
            lead=[
                f"{self.rows['all']} rows, {self.rows['identity']} of them identity pairs. A correction has won where it is closer "
                "to the row's own correction than the answer was (chrF), and lost where it is farther away.",
            ],
            tiles=[(str(one), str(counts[one])) for one in ("won", "tied", "lost", "failed") if counts[one]]
            + [("won - lost", f"{100 * figures.closer.omega.value:+.1f}%")]
            + ([] if figures.perplexity is None else [("perplexity", f"{figures.perplexity:.2f}")]),
            tables=[Table("Figures", self.table())],
            charts=[
                bars(
                    "won - lost in per cent, with 95% intervals",
                    {one: 100 * f.closer.omega.value for one, f in self.settings.items()},
                    intervals={
                        one: (100 * f.closer.omega.low, 100 * f.closer.omega.high) for one, f in self.settings.items()
                    },
                ),
                histogram(
                    "how much closer to the row's correction (chrF points)",
                    {
                        one: [gain for _, gain in verdicts_of(self.triples, made.texts)]
                        for one, made in self.texts.items()
                    },
                    unit="chrF points won or lost",
                ),
            ],
            examples=[one for _, one in [*losses, *rest]],
            examples_title="Rows: the worst losses first, then the largest changes",
            notes=[measured_with(self.versions)],
        )


def evaluate(
    aligner: Aligner | Mapping[str, Aligner],
    triples: Sequence[Triple],
    *,
    chunk_size: int = corrected.CHUNK,
    on_progress: Callable[[str, int], None] | None = None,
) -> RowsReport:
    """Measure one aligner, or several side by side, on Q-A-C triples.

    Args:
        aligner: An aligner, or names and the aligner of each; the page shows the first one's rows.
        triples: What to measure on; rows that it was not trained on, if that is to mean anything.
        chunk_size: Answers corrected in one batch.
        on_progress: Called with the aligner's name and how many rows it has done.

    Raises:
        ConfigurationError: There are no rows, or no aligner.
        MissingDependencyError: sacrebleu or numpy is not installed.
    """
    aligners = aligner if isinstance(aligner, Mapping) else {"aligner": aligner}
    if not triples:
        raise ConfigurationError("There are no rows to measure on.")
    if not aligners:
        raise ConfigurationError("There is no aligner to measure.")
    if COPYING in aligners:
        raise ConfigurationError(f"{COPYING!r} is measured in any case; give the aligner another name.")
    _sacrebleu()  # first, so that a missing package is found before hours of decoding
    made: dict[str, Corrected] = {}
    settings: dict[str, RowsFigures] = {}
    for name, one in aligners.items():
        pairs = [(triple.question, triple.answer) for triple in triples]
        done = None if on_progress is None else (lambda rows, name=name: on_progress(name, rows))
        made[name] = corrected.run(one, pairs, chunk_size=chunk_size, on_progress=done)
        settings[name] = figures(triples, made[name], loss=reference_loss(one, triples))
    copies = [triple.answer for triple in triples]
    settings[COPYING] = _figures(triples, copies)
    identity = sum(map(_is_identity, triples))
    return RowsReport(
        settings, {"all": len(triples), "identity": identity}, {"sacrebleu": version("sacrebleu")}, made, triples
    )


def figures(triples: Sequence[Triple], made: Corrected, *, loss: float | None = None) -> RowsFigures:
    """Return all figures of what an aligner made of rows."""
    return dataclasses.replace(
        _figures(triples, made.texts), loss=loss, outcomes=made.outcomes, errors=made.errors, seconds=made.seconds
    )


def _figures(triples: Sequence[Triple], texts: Sequence[str | None]) -> RowsFigures:
    hypotheses = [text or "" for text in texts]
    references = [triple.correction for triple in triples]
    verdicts = verdicts_of(triples, texts)
    votes = [[{"won": 1, "tied": 0}.get(verdict, -1)] for verdict, _ in verdicts]
    pairs = list(zip(triples, texts, strict=True))
    same = [_same(text, triple.answer) for triple, text in pairs if _is_identity(triple)]
    sacrebleu = _sacrebleu()
    return RowsFigures(
        loss=None,
        exact=share([_same(text, triple.correction) for triple, text in pairs]),
        chrf=sacrebleu.corpus_chrf(hypotheses, [references]).score,
        bleu=sacrebleu.corpus_bleu(hypotheses, [references], force=True).score,  # else it speaks of full stops
        unchanged=share(same),
        copied=sum(1 - diff_words(triple.answer, text or "").changed_share for triple, text in pairs) / len(pairs),
        kept=_kept(triples, hypotheses),
        length=sum(map(len, hypotheses)) / max(1, sum(len(triple.answer) for triple in triples)),
        closer=win_rate(votes, [triple.question + "\0" + triple.answer for triple in triples]),
    )


def verdicts_of(triples: Sequence[Triple], texts: Sequence[str | None]) -> list[tuple[Verdict, float]]:
    """Return for each row whether its text won, and by how many points of chrF it is closer to the row's correction."""
    sacrebleu = _sacrebleu()
    found: list[tuple[Verdict, float]] = []
    for triple, text in zip(triples, texts, strict=True):
        if text is None:
            found.append(("failed", -100.0))
        elif _same(text, triple.answer):
            found.append(("tied", 0.0))
        else:
            after, before = (
                100.0 if _same(one, triple.correction) else sacrebleu.sentence_chrf(one, [triple.correction]).score
                for one in (text, triple.answer)
            )
            gain = after - before
            found.append(("won" if gain > 0 else "lost" if gain < 0 else "tied", gain))
    return found


def write_verdicts(path: Path, triples: Sequence[Triple], made: Corrected, scores: Sequence[float | None]) -> None:
    """Write each row with its verdict and the gate's score of its answer: what `aligner calibrate` learns from.

    JSON Lines that only its owner may read. Let the aligner correct without a gate, so that each answer has a verdict.
    """
    path.touch(0o600)
    path.chmod(0o600)
    with path.open("w", encoding="utf-8") as lines:
        verdicts = verdicts_of(triples, made.texts)
        for triple, text, (verdict, gain), score in zip(triples, made.texts, verdicts, scores, strict=True):
            row = {"question": triple.question, "answer": triple.answer, "correction": text}
            lines.write(json.dumps({**row, "score": score, "verdict": verdict, "gain": gain}) + "\n")


def reference_loss(aligner: Aligner, triples: Sequence[Triple]) -> float | None:
    """Return the cross entropy of the rows' corrections in nats a token; None if the aligner has no probabilities."""
    if not aligner.backend.can_score:
        return None
    template, backend = aligner.template, aligner.wrapped_backend
    total, tokens = 0.0, 0
    requests = [
        Request(
            triple.question,
            triple.correction,  # judged as if the aligner had written it, after the prompt with the answer
            template.render(triple.question, triple.answer),
            template.completion_prefix,
        )
        for triple in triples
        if triple.correction.strip()
    ]
    for start in range(0, len(requests), corrected.SCORED_AT_ONCE):
        for score in backend.score(requests[start : start + corrected.SCORED_AT_ONCE]):
            if isinstance(score, Score):
                total -= score.total
                tokens += len(score.tokens)
    return total / tokens if tokens else None


def _kept(triples: Sequence[Triple], texts: Sequence[str]) -> dict[str, Share]:
    wanted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for triple, text in zip(triples, texts, strict=True):
        # Intersections of counts: what the row's own correction drops is not to stay.
        stays = details(triple.answer) & details(triple.correction)
        there = stays & details(text)
        for (kind, _), count in stays.items():
            wanted[kind] += count
        for (kind, _), count in there.items():
            found[kind] += count
    return {kind: Share(found[kind], wanted[kind]) for kind in sorted(wanted)}


def _example(triple: Triple, result: corrected.Result, verdict: Verdict, gain: float) -> Example:
    failure = failure_of(result)
    text = getattr(result, "text", triple.answer)
    facts = {("closer by" if gain > 0 else "farther by"): f"{abs(gain):.1f} chrF"} if verdict in ("won", "lost") else {}
    if failure is not None:
        facts["error"] = failure
    elif (reason := getattr(result, "reason", None)) is not None:
        facts["kept because"] = reason
    more = {} if _is_identity(triple) else {"the row's own correction": triple.correction}
    return Example(verdict, triple.question, triple.answer, text, facts, more)


def _changed(example: Example) -> float:
    return diff_words(example.before, example.after).changed_share


def _is_identity(triple: Triple) -> bool:
    return _same(triple.answer, triple.correction)


def _same(text: str | None, other: str) -> bool:
    return text is not None and text.strip() == other.strip()


def _sacrebleu() -> Any:
    with require("evaluate", "Measuring on rows needs {missing}", "sacrebleu"):
        import sacrebleu
    return sacrebleu
