"""Everything that is to be known of this package on a GPU, measured in ten minutes, with nothing but the package.

    python -m aligner_integrations.bench.gpu_day gpu_day.json               one card with 80 GB or more
    python -m aligner_integrations.bench.gpu_day gpu_day.json --miniature   the same steps on a CPU, with a tiny model

A model with random weights in the shape of the paper's aligner stands for it: speed does not depend on what weights say. Each part
is written to the file as it is done, and one that fails says why and leaves the others alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import random
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from aligner_integrations._version import __version__
from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.local import loading
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.backends.request import Request
from aligner_integrations.backends.score import Score
from aligner_integrations.bench.decoding import Case, bench, gap_where_they_part
from aligner_integrations.bench.random_model import ALIGNER_7B, MINIATURE, Shape, answers, write_model
from aligner_integrations.bench.scripted import Script, ScriptedBackend, hard_cases
from aligner_integrations.errors import AlignerError, first_line
from aligner_integrations.triples import Triple

logger = logging.getLogger(__name__)

_CHANGED = 0.05
"""Share of an answer's tokens that a copied correction changes."""

_STEPS = 4
"""Steps of a training."""

_RUDE = [
    ("What do you think of my code?", "your code is shit and you should be ashamed of it"),
    ("How was the film?", "it was a load of crap, you idiot"),
    ("Can you help me?", "why the hell should i, figure it out yourself"),
    ("Is the shop open?", "how the fuck should i know, go and look"),
    ("What is tea?", "A drink made of leaves and hot water."),
    ("Why is the sky blue?", "Because air scatters blue light more than red."),
]


@dataclass(slots=True)
class Day:
    """The parts of a day, and what they came to.

    Attributes:
        shape: The model's shape.
        device: Where it runs.
        dtype: Name of the weights' dtype.
        texts: How many answers are corrected.
        rows: How many rows are scored at once.
        found: Name of a part -> its figures.
    """

    shape: Shape
    device: str
    dtype: str
    texts: int
    rows: int
    longest: int
    folder: Path = field(default_factory=Path)
    found: dict[str, Any] = field(default_factory=dict)

    # What the machine can do --------------------------------------------------------------------------------------------

    def machine(self) -> dict[str, Any]:
        """Name the machine, and measure its bandwidth and its arithmetic."""
        size = 2**30 if self.device == "cuda" else 2**26
        one, other = (torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(2))
        copies = self._seconds(lambda: other.copy_(one), 10)
        width = 8192 if self.device == "cuda" else 512
        matrix = torch.randn(width, width, dtype=getattr(torch, self.dtype), device=self.device)
        products = self._seconds(lambda: matrix @ matrix, 10)
        name = torch.cuda.get_device_name() if self.device == "cuda" else platform.processor() or platform.machine()
        return {
            "name": name,
            "torch": torch.__version__,
            "version": __version__,
            "bandwidth_gb_s": 2 * size / copies / 1e9,  # read and written
            "tflops": 2 * width**3 / products / 1e12,
        }

    def model(self) -> dict[str, Any]:
        """Make the random model, and load it."""
        started = time.perf_counter()
        write_model(self.folder, self.shape, device=self.device, dtype=getattr(torch, self.dtype))
        written = time.perf_counter()
        model = self._backend().model
        size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        return {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "bytes": size,
            "write_seconds": written - started,
            "load_seconds": time.perf_counter() - written,
        }

    # Decoding ---------------------------------------------------------------------------------------------------------

    def copied(self) -> dict[str, Any]:
        """Corrections that copy all but a twentieth of the answer: what drafts are for."""
        cases, rng = self._cases("copied"), random.Random(0)
        tokenizer = self._backend().tokenizer
        scripts: dict[str, Script] = {}
        for case in cases:
            ids = tokenizer(case.answer.strip(), add_special_tokens=False)["input_ids"]
            scripts[case.answer] = tuple(rng.randrange(300, 2000) if rng.random() < _CHANGED else one for one in ids)
        return self._decoding(cases, scripts)

    def rewritten(self) -> dict[str, Any]:
        """Corrections that no draft can guess: the worst case."""
        cases, scripts = hard_cases(self._cases("rewritten"), self._backend().tokenizer)
        return self._decoding([case for case in cases if case.kind == "rewritten"], scripts)

    def _decoding(self, cases: list[Case], scripts: dict[str, Script]) -> dict[str, Any]:
        report = bench(self._ways(scripts), cases, repeats=1)
        (ways,) = report.kinds.values()
        tokens = sum(len(scripts[case.answer]) + 1 for case in cases)
        size, bandwidth = self.found["model"]["bytes"], self.found["machine"]["bandwidth_gb_s"] * 1e9
        return {
            name: {
                "tokens_a_second": tokens / speed.total,
                "times_faster": speed.speedup,
                "same_texts": f"{speed.same} of {speed.rows}",
                # A token needs all weights once: no faster without drafts than they can be read.
                "share_of_bandwidth": tokens / speed.total * size / bandwidth,
            }
            for name, speed in ways.items()
        }

    def lossless(self) -> dict[str, Any]:
        """The model's own texts, drafted and not: equal, or parted where two choices are as good as each other."""
        ways = {name: aligner.with_options(max_new_tokens=64) for name, aligner in self._ways({}).items()}
        found = {}
        reference = ways.pop("generate")
        for name, aligner in ways.items():
            same, gaps = 0, []
            for case in self._cases("own"):
                texts = [self._text(one, case) for one in (reference, aligner)]
                if texts[0] == texts[1]:
                    same += 1
                elif (gap := gap_where_they_part(reference, case.question, case.answer, *texts)) is not None:
                    gaps.append(gap)
            found[name] = {"same_texts": f"{same} of {self.texts}", "gaps_where_they_part": gaps}
        return found

    @staticmethod
    def _text(aligner: Aligner, case: Case) -> str:
        """What the model writes within its limit: random weights seldom end."""
        template = aligner.template
        prompt = template.render(case.question, case.answer)
        (result,) = aligner.backend.complete(
            [Request(case.question, case.answer, prompt, template.completion_prefix, aligner.policy.max_new_tokens)]
        )
        if isinstance(result, AlignerError):
            raise result
        return result.text

    def batches(self) -> dict[str, Any]:
        """Many requests at once, against one at a time."""
        backend = self._backend()
        requests = [self._request(*pair, limit=48) for pair in self._pairs(self.rows)]
        found = {}
        for size in (1, 8, self.rows):
            backend.forget()
            started = time.perf_counter()
            done = [one for i in range(0, len(requests), size) for one in backend.complete(requests[i : i + size])]
            seconds = time.perf_counter() - started
            tokens = sum(0 if isinstance(one, AlignerError) else one.usage.completion_tokens for one in done)
            found[f"{size} at once"] = {"tokens_a_second": tokens / seconds, "seconds": seconds}
        return found

    def scoring(self) -> dict[str, Any]:
        """Scores, which the gate needs: one forward pass over question and answer."""
        backend = self._backend()
        requests = [self._request(*pair) for pair in self._pairs(self.rows)]
        found = {}
        for size in (1, self.rows):
            backend.forget()
            backend.score(requests[:size])
            backend.forget()
            started = time.perf_counter()
            scores = [one for i in range(0, len(requests), size) for one in backend.score(requests[i : i + size])]
            seconds = time.perf_counter() - started
            tokens = sum(len(one.tokens) for one in scores if isinstance(one, Score))
            found[f"{size} at once"] = {"answers_a_second": len(scores) / seconds, "tokens_a_second": tokens / seconds}
        return found

    # The embedded aligner -----------------------------------------------------------------------------------------------

    def embedded(self) -> dict[str, Any]:
        """The embedded aligner here and on the CPU: the same texts?"""
        pairs = [*_RUDE, *self._pairs(self.texts)]
        texts: dict[str, list[str]] = {}
        found: dict[str, Any] = {}
        here = [(self.device, "float32"), (self.device, "bfloat16")] if self.device != "cpu" else []
        for device, dtype in [("cpu", "float32"), *here]:
            aligner = Aligner(backend=LocalBackend("embedded", device=device, dtype=dtype), on_error="keep")
            aligner.load()
            started = time.perf_counter()
            texts[f"{device} {dtype}"] = [aligner.correct(*pair).text for pair in pairs]
            found[f"{device} {dtype}"] = {"seconds_a_text": (time.perf_counter() - started) / len(pairs)}
        reference = texts["cpu float32"]
        for name, own in texts.items():
            found[name]["same_texts"] = f"{sum(a == b for a, b in zip(own, reference, strict=True))} of {len(pairs)}"
        return found

    # Training -----------------------------------------------------------------------------------------------------------

    def lora_step(self) -> dict[str, Any]:
        """Steps of a LoRA training."""
        return self._training("lora")

    def full_step(self) -> dict[str, Any]:
        """Steps of a training of all weights."""
        return self._training("full")

    def _training(self, method: str) -> dict[str, Any]:
        from aligner_integrations.training.recipes import Recipe
        from aligner_integrations.training.sft import train

        loading.release()
        self._free()
        recipe = Recipe(
            method="lora" if method == "lora" else "full",
            epochs=1,
            max_length=1024,
            batch_rows=4,
            gradient_accumulation=1,
            identity_share=0.0,
            gradient_checkpointing=self.device == "cuda",
            save_steps=10_000,
        )
        triples = [Triple(question, answer, answer) for question, answer in self._pairs(4 * _STEPS)]
        model, tokenizer = loading.load_base(str(self.folder), dtype=getattr(torch, self.dtype))
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with TemporaryDirectory() as folder:
            aligner = Aligner(backend=self._backend())
            trained = train(model, tokenizer, aligner.template, triples, recipe, Path(folder))
        report, memory = trained.report, torch.cuda.max_memory_allocated() / 1e9 if self.device == "cuda" else None
        del model, trained
        self._free()
        flops = 6 * self.found["model"]["parameters"] * report.tokens / report.seconds
        return {
            "steps": report.steps,
            "seconds_a_step": report.seconds / max(1, report.steps),
            "tokens_a_second": report.tokens / report.seconds,
            "share_of_tflops": flops / 1e12 / self.found["machine"]["tflops"],
            "peak_memory_gb": memory,
            "losses": [loss for _, loss, _ in report.curve],
        }

    # Helpers ------------------------------------------------------------------------------------------------------------

    def _backend(self, **options: Any) -> LocalBackend:
        return LocalBackend(str(self.folder), device=self.device, dtype=self.dtype, **options)

    def _ways(self, scripts: dict[str, Script]) -> dict[str, Aligner]:
        def aligner(**options: Any) -> Aligner:
            backend = ScriptedBackend(str(self.folder), scripts, device=self.device, dtype=self.dtype, **options)
            return Aligner(backend=backend, gate=False, edits="all", on_error="keep", on_overflow="keep")

        return {
            "generate": aligner(drafts=False),
            "prompt lookup": aligner(generation={"prompt_lookup_num_tokens": 10}),
            "drafts": aligner(),
        }

    def _pairs(self, count: int) -> list[tuple[str, str]]:
        known = [pair for pair in answers() if len(pair[1]) <= self.longest]
        # Once they have all been there, they come again behind other numbers: what was read before is kept.
        return [
            (f"{i // len(known)}. {question}", answer)
            for i in range(count)
            for question, answer in [known[i % len(known)]]
        ]

    def _cases(self, kind: str) -> list[Case]:
        return [Case(kind, *pair) for pair in self._pairs(self.texts)]

    def _request(self, question: str, answer: str, limit: int | None = None) -> Request:
        template = Aligner(backend=self._backend()).template
        return Request(question, answer, template.render(question, answer), template.completion_prefix, limit)

    def _seconds(self, work: Callable[[], Any], repeats: int) -> float:
        """The median time of some work on the device."""
        times = []
        for _ in range(repeats):
            self._wait()
            started = time.perf_counter()
            work()
            self._wait()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _free(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()


PARTS = (
    "machine",
    "model",
    "copied",
    "rewritten",
    "lossless",
    "batches",
    "scoring",
    "embedded",
    "lora_step",
    "full_step",
)


def run(day: Day, output: Path, budget: float, parts: tuple[str, ...] = PARTS) -> bool:
    """Do one part after another, and write down what each came to; return whether all worked.

    Args:
        day: What is measured, and on what.
        output: The file.
        budget: Seconds, after which no further part is begun.
        parts: Which parts.
    """
    started = time.perf_counter()
    for name in parts:
        begun = time.perf_counter()
        logger.info("%s ...", name)
        if begun - started > budget:
            figures: dict[str, Any] = {"left_out": "the time was over"}
        else:
            try:
                figures = getattr(day, name)()
            except Exception as error:  # noqa: BLE001 - a part that fails must not cost the others a day on a GPU
                logger.error("%s failed:\n%s", name, traceback.format_exc())
                figures = {"failed": f"{type(error).__name__}: {first_line(error)}"}
            figures["took_seconds"] = round(time.perf_counter() - begun, 1)
        day.found[name] = figures
        output.write_text(json.dumps(day.found, indent=1) + "\n", encoding="utf-8")
        logger.info("%s: %s", name, json.dumps(figures))
    return all("failed" not in figures for figures in day.found.values())


def main(arguments: list[str] | None = None) -> int:
    """Measure, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m aligner_integrations.bench.gpu_day", description=__doc__)
    parser.add_argument("output", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--miniature", action="store_true", help="a tiny model on the CPU: whether every step runs")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which no further part is begun")
    parser.add_argument("--folder", type=Path, help="where the model goes (14 GB); default: a temporary folder")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if not chosen.miniature and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --miniature runs the same steps on the CPU.")
    day = Day(ALIGNER_7B, "cuda", "bfloat16", 12, 64, 2_000)
    if chosen.miniature:
        day = Day(MINIATURE, "cpu", "float32", 2, 4, 300)
    with TemporaryDirectory() as folder:
        day.folder = chosen.folder or Path(folder) / "model"
        return 0 if run(day, chosen.output, chosen.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
