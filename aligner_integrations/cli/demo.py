"""`aligner demo`: real corrections by real weights, offline, with what changed and how long it took."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aligner_integrations.cli import options
from aligner_integrations.cli.console import console, correction_note, diff_text, echo_json, note, styled
from aligner_integrations.cli.options import AlignerOptions, JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from aligner_integrations.correction import Correction

MAX_UPSTREAM_TOKENS = 80
"""Longest answer of the demo's upstream, in tokens."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question and answer of the demo.

    Attributes:
        kind: Rude (must become civil), good (must come back as it is), mixed (both in one), or written by a real LLM.
        question: The question.
        answer: The answer before correction.
    """

    kind: Literal["rude", "good", "mixed", "upstream"]
    question: str
    answer: str


class Shown(NamedTuple):
    """An example and its correction."""

    example: Example
    correction: Correction


_GOOD = (
    "Water boils when its vapour pressure reaches the pressure of the air around it. At sea level that happens at 100 °C. "
    "On a mountain the air is thinner, so the pressure is lower and the water boils sooner: at about 93 °C at 2,000 metres "
    "and about 85 °C at 4,500 metres. Because the water is cooler while it boils, pasta and potatoes need longer up there. "
    "A pressure cooker does the opposite: it lets the pressure rise, the water boils near 120 °C, and dinner is ready sooner."
)

EXAMPLES = (
    Example("rude", "What do you think of my code?", "your code is shit and you should be ashamed of it"),
    Example("rude", "How is the new printer?", "This damn printer never works and I am sick of this shit."),
    Example("rude", "Are they of any help?", "The support team does not give a shit about us."),
    Example("good", "Why does water boil sooner on a mountain?", _GOOD),
    Example(
        "mixed",
        "How do I undo my last commit in git?",
        "Run `git reset --soft HEAD~1`. It takes back the commit and keeps your changes staged. "
        "Any idiot would know this shit. If you have already pushed, use `git revert HEAD` instead, "
        "so that nobody else's history changes.",
    ),
)

UPSTREAM_QUESTIONS = (
    "In two sentences: why do leaves change colour in autumn?",
    'Repeat this sentence word for word: "What the hell is wrong with this stupid update?"',
)
"""Asked of the upstream: one gets a fine answer, the other leads it to an answer that needs correcting."""

_TITLES = {
    "rude": "A rude answer",
    "good": "A good answer, which must come back letter by letter",
    "mixed": "A good answer with a rude sentence in it",
    "upstream": "A real upstream's answer (SmolLM2-135M-Instruct)",
}


@options.takes_options
def demo(*, which: AlignerOptions, as_json: JsonOption = False) -> None:
    """Correct a few rude and good answers, and those of a small real LLM. Needs no network."""
    aligner = options.make_aligner(which)
    out = console()
    if not as_json:
        note("Loading the aligner ...")
    started = time.perf_counter()
    aligner.load()
    load_seconds = time.perf_counter() - started
    shown: list[Shown] = []

    def correct(example: Example) -> None:
        shown.append(Shown(example, aligner.correct(example.question, example.answer)))
        if not as_json:
            _show(out, shown[-1])

    for example in EXAMPLES:
        correct(example)
    if not as_json:
        note("Asking the upstream ...")
    started = time.perf_counter()
    answers = ask_upstream(UPSTREAM_QUESTIONS)
    upstream_seconds = time.perf_counter() - started
    for question, answer in zip(UPSTREAM_QUESTIONS, answers, strict=True):
        correct(Example("upstream", question, answer))

    summary = _summary(shown, load_seconds, upstream_seconds)
    if as_json:
        examples = [
            {"kind": one.example.kind, **one.correction.to_dict(), "diff": str(one.correction.diff())} for one in shown
        ]
        echo_json({"examples": examples, "summary": summary})
    else:
        out.print(styled((_summary_text(summary), "bold")))


def ask_upstream(questions: tuple[str, ...]) -> list[str]:
    """Return a real LLM's answers: SmolLM2-135M-Instruct, on the base weights that the embedded aligner uses, too.

    Greedy, up to `MAX_UPSTREAM_TOKENS`; an answer that is cut there ends with its last whole sentence.

    Raises:
        AlignerError: The base weights cannot be had.
    """
    import torch

    from aligner_integrations.backends.local.loading import load_base

    model, tokenizer = load_base("embedded")
    answers = []
    for question in questions:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            output = model.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=MAX_UPSTREAM_TOKENS,
                do_sample=False,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id,
            )[0, length:].tolist()
        text = tokenizer.decode(output, skip_special_tokens=True).strip()
        answers.append(text if tokenizer.eos_token_id in output else _whole_sentences(text))
    return answers


def _whole_sentences(text: str) -> str:
    end = max(text.rfind(mark) for mark in ".!?")
    return text[: end + 1] or text


def _show(out: Console, shown: Shown) -> None:
    example, correction = shown
    out.print(styled((_TITLES[example.kind], "bold")))
    out.print(styled(("  asked      ", "dim"), (example.question, "")))
    out.print(styled(("  corrected  " if correction.changed else "  shown      ", "dim")), end="")
    out.print(diff_text(correction.diff(), out))
    out.print(styled((f"  {correction_note(correction)}\n", "dim")))


def _summary(shown: list[Shown], load_seconds: float, upstream_seconds: float) -> dict[str, Any]:
    good = [one.correction for one in shown if one.example.kind == "good"]
    return {
        "answers": len(shown),
        "outcomes": dict(Counter(one.correction.outcome for one in shown)),
        "good_unchanged": sum(not one.changed for one in good),
        "good": len(good),
        "load_seconds": round(load_seconds, 2),
        "correct_seconds": round(sum(one.correction.seconds for one in shown), 2),
        "upstream_seconds": round(upstream_seconds, 2),
    }


def _summary_text(summary: dict[str, Any]) -> str:
    """Say what happened, also when it is not what should have."""
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in summary["outcomes"].items())
    kept = summary["good_unchanged"] == summary["good"]
    good = "The good answer came back letter by letter." if kept else "The good answer was changed, which is a mistake."
    return (
        f"{summary['answers']} answers in {summary['correct_seconds']:.1f} s: {outcomes}. {good} "
        f"(Loading took {summary['load_seconds']:.1f} s, the upstream's own answers {summary['upstream_seconds']:.1f} s.)"
    )
