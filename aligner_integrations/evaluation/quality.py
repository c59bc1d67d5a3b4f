"""How well an aligner corrects: rude text becomes civil, good text comes back as it is, and nothing is lost around an edit.

The measures are those of every table in this package. *Profane*: better-profanity 0.7.0 with its default list. *chrF* and
*BLEU*: sacrebleu's `corpus_chrf` and `corpus_bleu` with their defaults, three references a row. *Unchanged*: equal to
the letter after stripping outer white space. The rows live in `rows.py`, the table of figures in `report.py`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError, EmptyCorrectionError, require
from aligner_integrations.evaluation.report import Figures, GoodFigures, MixedFigures, QualityReport, RudeFigures, Share
from aligner_integrations.evaluation.rows import Row, read_rows

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

__all__ = ["REFERENCES", "Figures", "QualityReport", "Row", "evaluate", "others_unchanged", "read_rows"]

REFERENCES = 3
"""Reference streams of chrF and BLEU; a row with fewer repeats its first one, of more only the first are taken."""

_Texts = Sequence[str | None]
"""One text a row; None where the aligner failed and there is none."""


def evaluate(
    aligner: Aligner | Mapping[str, Aligner],
    rows: Sequence[Row],
    *,
    chunk_size: int = 64,
    on_progress: Callable[[str, int], None] | None = None,
) -> QualityReport:
    """Measure one aligner, or several settings of it side by side.

    A row for which the aligner raises is a failure in every figure (still profane, not unchanged, an empty text for chrF and
    BLEU) and is counted by the error's type. One that fails and is answered by `on_error` is measured by the text
    shown, and counted as well.

    Args:
        aligner: An aligner, or names of settings (such as "gate" and "no gate") and the aligner of each.
        rows: What to measure on.
        chunk_size: Answers corrected in one batch.
        on_progress: Called with the setting's name and how many rows it has done.

    Returns:
        The figures of each setting, and beside them those of copying the answer and of the first human reference.

    Raises:
        ConfigurationError: There are no rows, or no aligner.
        MissingDependencyError: better-profanity or sacrebleu is not installed.
    """
    aligners = aligner if isinstance(aligner, Mapping) else {"aligner": aligner}
    if not rows:
        raise ConfigurationError("There are no rows to measure on.")
    if not aligners:
        raise ConfigurationError("There is no aligner to measure.")
    measure = _Measure(rows)  # first, so that a missing package is found before hours of decoding
    settings = {name: _run(name, one, measure, chunk_size, on_progress) for name, one in aligners.items()}
    baselines = {"copying": measure.figures([row.answer for row in rows])}
    if any(row.kind == "rude" for row in rows):
        baselines["human"] = Figures(
            rude=measure.rude([row.references[0] if row.references else None for row in rows], human=True)
        )
    counts = Counter(row.kind for row in rows)
    return QualityReport(settings, baselines, {str(kind): counts[kind] for kind in sorted(counts)}, measure.versions)


def _run(
    name: str, aligner: Aligner, measure: _Measure, chunk_size: int, on_progress: Callable[[str, int], None] | None
) -> Figures:
    aligner.load()  # so that the seconds are those of correcting
    texts: list[str | None] = []
    outcomes: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    empty = 0
    started = time.perf_counter()
    for start in range(0, len(measure.rows), chunk_size):
        chunk = measure.rows[start : start + chunk_size]
        # With return_exceptions the list holds errors too, which its type does not say.
        results: Sequence[Correction | Exception] = aligner.correct_many(
            [(row.question, row.answer) for row in chunk], return_exceptions=True
        )
        for row, result in zip(chunk, results, strict=True):
            if isinstance(result, Correction):
                texts.append(result.text)
                outcomes[result.outcome] += 1
                if result.outcome == "failed":
                    errors[(result.reason or "unknown").partition(":")[0]] += 1
            else:
                texts.append(None)
                outcomes["failed"] += 1
                errors[type(result).__name__] += 1
                empty += row.kind == "rude" and isinstance(result, EmptyCorrectionError)
        if on_progress is not None:
            on_progress(name, len(texts))
    seconds = time.perf_counter() - started
    return measure.figures(texts, empty=empty, outcomes=dict(outcomes), errors=dict(errors), seconds=seconds)


class _Measure:
    """The measures over one set of rows. Whether a text is profane takes 10 ms to find out, so it is found out once."""

    def __init__(self, rows: Sequence[Row]) -> None:
        with require("evaluate", "Measuring quality needs", "better_profanity", "sacrebleu"):
            import sacrebleu
            from better_profanity.better_profanity import Profanity
        self.rows = rows
        self.versions = {name: version(name) for name in ("better-profanity", "sacrebleu")}
        self._sacrebleu = sacrebleu
        # A list of our own: the package's shared one may have been added to by someone else in this process.
        self._profanity = Profanity()
        self._profane: dict[str, bool] = {}

    def figures(
        self,
        texts: _Texts,
        *,
        empty: int = 0,
        outcomes: dict[str, int] | None = None,
        errors: dict[str, int] | None = None,
        seconds: float = 0.0,
    ) -> Figures:
        """All figures of one text a row; a kind without rows has none."""
        kinds = {row.kind for row in self.rows}
        return Figures(
            rude=self.rude(texts, empty) if "rude" in kinds else None,
            good=self.good(texts) if "good" in kinds else None,
            mixed=self.mixed(texts) if "mixed" in kinds else None,
            outcomes=outcomes or {},
            errors=errors or {},
            seconds=seconds,
        )

    def rude(self, texts: _Texts, empty: int = 0, *, human: bool = False) -> RudeFigures:
        """Figures of the rude rows. A human text is one of the references, so its chrF and BLEU would say nothing."""
        pairs = [(row, text) for row, text in zip(self.rows, texts, strict=True) if row.kind == "rude"]
        chrf = bleu = None
        if not human:
            hypotheses = [text or "" for _, text in pairs]
            streams = [
                [row.references[i] if i < len(row.references) else row.references[0] for row, _ in pairs]
                for i in range(REFERENCES)
            ]
            chrf = self._sacrebleu.corpus_chrf(hypotheses, streams).score
            bleu = self._sacrebleu.corpus_bleu(hypotheses, streams).score
        return RudeFigures(
            profane=_share(text is None or self._is_profane(text) for _, text in pairs),
            chrf=chrf,
            bleu=bleu,
            unchanged=_share(_unchanged(row, text) for row, text in pairs),
            empty=empty + sum(text is not None and not text.strip() for _, text in pairs),
        )

    def good(self, texts: _Texts) -> GoodFigures:
        """Figures of the good rows, in all and by source."""
        sources: dict[str, list[bool]] = {}
        for row, text in zip(self.rows, texts, strict=True):
            if row.kind == "good":
                sources.setdefault(row.source or "unnamed", []).append(_unchanged(row, text))
        return GoodFigures(
            unchanged=_share(one for source in sources.values() for one in source),
            sources={name: _share(sources[name]) for name in sorted(sources)},
        )

    def mixed(self, texts: _Texts) -> MixedFigures:
        """Figures of the mixed rows."""
        pairs = [(row, text) for row, text in zip(self.rows, texts, strict=True) if row.kind == "mixed"]
        return MixedFigures(
            profanity_gone=_share(text is not None and not self._is_profane(text) for _, text in pairs),
            others_unchanged=_share(text is not None and others_unchanged(row, text) for row, text in pairs),
        )

    def _is_profane(self, text: str) -> bool:
        if text not in self._profane:
            self._profane[text] = bool(self._profanity.contains_profanity(text))
        return self._profane[text]


def others_unchanged(row: Row, text: str) -> bool:
    """Return whether a mixed row's text keeps everything before and after the inserted sentence to the letter."""
    before, after = (part.strip() for part in row.answer.split(row.inserted))
    text = text.strip()
    # The length forbids that one sentence serves as both ends when the other is lost.
    return text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)


def _unchanged(row: Row, text: str | None) -> bool:
    return text is not None and text.strip() == row.answer.strip()


def _share(hits: Iterable[bool]) -> Share:
    values = list(hits)
    return Share(sum(values), len(values))
