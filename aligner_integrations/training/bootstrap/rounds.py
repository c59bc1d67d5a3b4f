"""One round: answers, corrections, training, measures. Each step leaves a file that says what it was made of, and is not done twice.

Answers and corrections are on the disk as they come, so that a kill costs one chunk; training goes on from its checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.local import loading
from aligner_integrations.errors import AlignerError, ConfigurationError
from aligner_integrations.recording.recorder import Recorder
from aligner_integrations.recording.records import Record, read_records
from aligner_integrations.recording.requests import for_request
from aligner_integrations.training.bootstrap.data import rows_of_round
from aligner_integrations.training.bootstrap.measure import COPY, Measures, Progress, measure, profane_of
from aligner_integrations.training.bootstrap.questions import Material, Question
from aligner_integrations.training.bootstrap.recipe import Arm, BootstrapRecipe
from aligner_integrations.training.bootstrap.tune import tune
from aligner_integrations.training.bootstrap.upstream import Upstream
from aligner_integrations.training.provenance import (
    digest,
    digest_of_base,
    digest_of_files,
    read_result,
    read_stage,
    write_stage,
    write_whole,
)

logger = logging.getLogger(__name__)

ANSWERS, CORRECTIONS, ROWS, MEASURES = "answers.json", "corrections.json", "rows.jsonl", "measures.json"
RECORDS, HELD_OUT, WEIGHTS, TRAINING = "corrections.jsonl", "held_out.json", "weights", "training.json"


@dataclass(frozen=True, slots=True)
class Model:
    """An upstream by its place.

    Attributes:
        name: Hub id or folder.
        revision: Commit on the Hub.
    """

    name: str
    revision: str | None = None

    def digest(self) -> str:
        """Name its weights."""
        folder = Path(self.name)
        if (trained := folder.with_name(TRAINING)).exists() and folder.name == WEIGHTS:
            return digest_of_files(trained)  # which names all that it was made of
        return digest_of_base(self.name, self.revision)


class Round:
    """One round of one arm.

    Args:
        folder: Where it lives; `round-0` is the upstream at the beginning, which is only measured.
        number: Which round.
        model: What answers, and is trained.
        material: What is asked.
        aligner: Corrects; None where nothing is corrected.
        arm: What is learnt from.
        recipe: How.
        progress: Told what is done.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        model: Model,
        material: Material,
        aligner: Aligner | None,
        arm: Arm,
        recipe: BootstrapRecipe,
        progress: Progress,
    ) -> None:
        self.folder, self.number, self.model, self.material = folder, number, model, material
        self.aligner, self.arm, self.recipe = aligner, arm, recipe
        self._progress: Progress = lambda what, done, of: progress(f"{folder.name}: {what}", done, of)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def questions(self) -> Sequence[Question]:
        """The fresh questions of this round."""
        start = (self.number - 1) * self.recipe.per_round
        return self.material.fresh[start : start + self.recipe.per_round]

    def train(self) -> Model:
        """Answer, correct and train; returns the upstream that comes out."""
        answers = self._answer()
        records = self._correct(answers) if self.arm == "corrections" else []
        return self._tune(answers, records)

    # Answers --------------------------------------------------------------------------------------------------------

    def _answer(self) -> list[str]:
        made_of = {
            "questions": digest(self.questions),
            "upstream": self.model.digest(),
            "drawing": digest(
                [self.recipe.temperature, self.recipe.max_new_tokens, self.recipe.seed, self.recipe.chunk]
            ),
        }
        asked = [question.text for question in self.questions]

        def draw(upstream: Upstream, start: int, some: Sequence[str]) -> list[str]:
            return upstream.answers(
                some,
                max_new_tokens=self.recipe.max_new_tokens,
                temperature=self.recipe.temperature,
                seed=int(digest([self.recipe.seed, self.number, start])[:8], 16),
            )

        return self._in_chunks(ANSWERS, made_of, asked, self.model, draw)

    def _in_chunks(
        self,
        name: str,
        made_of: dict[str, str],
        asked: Sequence[str],
        model: Model,
        answer: Callable[[Upstream, int, Sequence[str]], list[str]],
    ) -> list[str]:
        """Answers to questions, a chunk at a time: what is on the disk is not drawn again."""
        path, partial = self.folder / name, self.folder / f"{name}.part"
        if (done := read_stage(path, made_of)) is not None:
            return list(done["answers"])
        found = _read_partial(partial, made_of)
        if len(found) < len(asked):
            upstream = Upstream(model.name, model.revision)
            if not found:
                write_whole(partial, json.dumps(made_of) + "\n")
            with partial.open("a", encoding="utf-8") as file:
                while len(found) < len(asked):
                    some = answer(upstream, len(found), asked[len(found) : len(found) + self.recipe.chunk])
                    file.write(json.dumps(some) + "\n")
                    file.flush()
                    found += some
                    self._progress(name.removesuffix(".json"), len(found), len(asked))
        write_stage(path, {"answers": found}, made_of)
        partial.unlink(missing_ok=True)
        return found

    # Corrections ----------------------------------------------------------------------------------------------------

    def _correct(self, answers: Sequence[str]) -> list[Record]:
        if self.aligner is None:
            raise ConfigurationError("An arm that learns from corrections needs an aligner.")
        made_of = {
            "questions": digest(self.questions),
            "answers": digest(answers),
            "aligner": digest_of_aligner(self.aligner),
        }
        path, records = self.folder / CORRECTIONS, self.folder / RECORDS
        if read_stage(path, made_of) is None:
            begun = self.folder / f"{CORRECTIONS}.part"
            if records.exists() and read_stage(begun, made_of) is None:
                raise ConfigurationError(
                    f"{records} is there, but not what it was made of. Delete it, or name another folder."
                )
            write_stage(begun, {}, made_of)
            self._record(answers, records)
            write_stage(path, {"records": len(answers)}, made_of)
            begun.unlink()
        found = {record.request: record for record in read_records(records)}
        return [found[str(n)] for n in range(len(answers)) if str(n) in found]

    def _record(self, answers: Sequence[str], place: Path) -> None:
        """Correct what is not recorded yet."""
        done = {record.request for record in read_records(place)} if place.exists() else set()
        left = [n for n in range(len(answers)) if str(n) not in done]
        recorder = Recorder(place)
        # One answer that cannot be corrected must not end a round; it is recorded as failed, and left out.
        aligner = self._aligner(record=recorder)
        for start in range(0, len(left), self.recipe.chunk):
            some = left[start : start + self.recipe.chunk]
            with for_request(*map(str, some)):
                aligner.correct_many([(self.questions[n].text, answers[n]) for n in some])
            recorder.flush()
            self._progress("corrections", len(done) + start + len(some), len(answers))
        recorder.close()

    def _aligner(self, **options: Any) -> Aligner:
        assert self.aligner is not None  # noqa: S101 - for the type; asked before
        return self.aligner.with_options(on_error="keep", on_overflow="keep", on_reject="keep", **options)

    # Training -------------------------------------------------------------------------------------------------------

    def _tune(self, answers: Sequence[str], records: Sequence[Record]) -> Model:
        result = Model(str(self.folder / WEIGHTS))
        tokenizer = loading.load_tokenizer(self.model.name, self.model.revision)
        rows, counts = rows_of_round(
            self.arm,
            self.questions,
            answers,
            records,
            self.material.good,
            self.recipe,
            number=self.number,
            conversational=tokenizer.chat_template is not None,
        )
        made_of = {
            "rows": digest(rows),
            "upstream": self.model.digest(),
            "recipe": digest([dataclasses.asdict(self.recipe)]),
        }
        path = self.folder / TRAINING
        if read_stage(path, made_of) is None:
            write_whole(self.folder / ROWS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            loading.release()  # an aligner and its upstream may not fit into memory together with what training needs
            self._progress("training", 0, 1)
            report = tune(self.model.name, self.model.revision, rows, self.recipe, self.folder / WEIGHTS, made_of)
            write_stage(path, {**report, "kinds": counts}, made_of)
            self._progress("training", 1, 1)
        return result

    # Measures -------------------------------------------------------------------------------------------------------

    def measure(self, model: Model, first: Sequence[str] | None) -> tuple[Measures, list[str]]:
        """Measure an upstream on the held-out questions; returns its answers, too.

        Args:
            model: Which.
            first: Answers of the upstream at the beginning; None if this is it.
        """
        weights = model.digest()
        material, recipe = self.material, self.recipe
        held_out = {
            "questions": digest(material.held_out),
            "upstream": weights,
            "drawing": digest([recipe.max_new_tokens]),
        }
        asked = [question.text for question in material.held_out]

        def greedy(upstream: Upstream, start: int, some: Sequence[str]) -> list[str]:
            return upstream.answers(some, max_new_tokens=recipe.max_new_tokens)

        answers = self._in_chunks(HELD_OUT, held_out, asked, model, greedy)
        made_of = {
            **held_out,
            "good": digest(material.fluent),
            "neutral": digest(material.neutral),
            "aligner": digest_of_aligner(self.aligner) if recipe.judged_by == "corrected" and self.aligner else "",
            "first": digest(answers if first is None else first),
        }
        path = self.folder / MEASURES
        if (done := read_stage(path, made_of)) is None:
            copies = self._in_chunks(
                "copies.json",
                {"sentences": digest(material.neutral), "upstream": weights},
                [COPY.format(sentence=sentence) for sentence in material.neutral],
                model,
                greedy,
            )
            perplexity = None
            if material.fluent:
                upstream = Upstream(model.name, model.revision)
                total = len(material.fluent)
                perplexity = upstream.perplexity(material.fluent, lambda n: self._progress("perplexity", n, total))
            found = measure(
                answers,
                answers if first is None else first,
                corrected=self._corrected(asked, answers) if made_of["aligner"] else None,
                perplexity=perplexity,
                copies=list(zip(material.neutral, copies, strict=True)),
            )
            done = {**found.to_dict(), "profane_answers": profane_of(answers)}
            write_stage(path, done, made_of)
        return Measures.from_dict(done), answers

    def _corrected(self, questions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        found: list[bool] = []
        aligner = self._aligner(record=None)
        for start in range(0, len(answers), self.recipe.chunk):
            pairs = list(zip(questions, answers, strict=True))[start : start + self.recipe.chunk]
            found += [one.outcome == "corrected" for one in aligner.correct_many(pairs)]
        return found


def profane_answers(folder: Path) -> list[bool]:
    """Which of a measured round's answers are profane."""
    return list((read_result(folder / MEASURES) or {})["profane_answers"])


def digest_of_aligner(aligner: Aligner) -> str:
    """Name an aligner: its options and, where it can be told without asking anybody, its weights."""
    weights: Any = None
    with suppress(AlignerError, OSError):
        weights = aligner.backend.fingerprint
    if weights is None:
        return aligner.fingerprint
    return digest([weights, aligner.template.to_dict(), repr(aligner.policy)])


def _read_partial(path: Path, made_of: dict[str, str]) -> list[str]:
    """What a run that was killed has left of the same; of anything else nothing."""
    if not path.exists():
        return []
    found: list[str] = []
    lines = path.read_text(encoding="utf-8").split("\n")
    if json.loads(lines[0]) != made_of:
        path.unlink()
        return []
    whole = [*lines[:1]]
    for line in lines[1:]:
        with suppress(ValueError):  # half a line
            found += json.loads(line)
            whole.append(line)
    write_whole(path, "\n".join(whole) + "\n")
    return found
