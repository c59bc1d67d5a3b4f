"""An aligner on this machine, with transformers and torch. Weights load at the first call and are shared.

What lives elsewhere: loading (`loading.py`), how callers meet and their requests run together (`batching.py`,
`scheduling.py`), generation (`generation.py`), pieces of a stream (`streaming.py`), scores (`scoring.py`), reading ahead
(`prefill.py`). torch is imported when it is needed, not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aligner_integrations import threads
from aligner_integrations.backends.base import Backend, Reader
from aligner_integrations.backends.encoding import encodable, encode_completion, encode_prompt
from aligner_integrations.backends.limit import completion_limit
from aligner_integrations.backends.local import libraries
from aligner_integrations.backends.local.batching import Batcher
from aligner_integrations.backends.local.prefill import LocalReader
from aligner_integrations.backends.local.scheduling import Part, atogether, failure, in_groups, together
from aligner_integrations.backends.request import Completion, Request
from aligner_integrations.backends.score import Keep, Score
from aligner_integrations.correction import Usage
from aligner_integrations.errors import AlignerError
from aligner_integrations.models import AlignerConfig, check_name, config_of, fingerprint_of, template_of
from aligner_integrations.templates import Template

if TYPE_CHECKING:
    from aligner_integrations.backends.local.loading import Weights

# Passes of one token that a pass may take as long as, before it counts as using its device fully.
_FULL_PASS = 16


class LocalBackend(Backend):
    """Runs an aligner with transformers.

    Args:
        model: `"embedded"`, a folder, or a Hub id; a whole model or a PEFT adapter.
        revision: Commit on the Hub; those that this package names are pinned.
        device: `"cuda"`, `"mps"`, `"cpu"`, `"auto"` (spread by accelerate); the best there is by default.
        dtype: Name of a torch dtype. Default: bfloat16 on CUDA, float16 on MPS, on a CPU float32 for small models.
        quantization_config: Passed to transformers; the adapter, if any, is then not merged.
        generation: Arguments of transformers' `GenerationConfig` for sampling; greedy by default. The paper samples
            with top_k=10, top_p=0.95, temperature=0.3.
        batch_tokens: Most padded prompt tokens in one forward pass.
        batch_size: Most requests in one batch. Callers at the same time, threads or tasks, share batches, which gives the
            same texts and more of them a second; 1: each request alone, one after another.
        batch_wait: Seconds that a batch waits for further callers before it starts.
        batch_queue: Most callers that wait at once; one more gets an OverloadedError.
        drafts: Whether text is drafted from the answer. That changes the time a correction takes; greedy text stays the
            same, sampled text has the same distribution.
        overlap: Whether an answer is read while the upstream still streams it; costs nothing where the upstream runs
            elsewhere, and some of its speed where it shares this machine.

    Raises:
        ModelNotFoundError: The model's name is almost that of an aligner in this package.
    """

    can_score = True
    judges_streams = True

    def __init__(
        self,
        model: str | Path = "embedded",
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        quantization_config: Any = None,
        generation: Mapping[str, Any] | None = None,
        batch_tokens: int = 4096,
        batch_size: int = 64,
        batch_wait: float = 0.002,
        batch_queue: int = 10_000,
        drafts: bool = True,
        overlap: bool = True,
    ) -> None:
        self.name = str(model)
        check_name(self.name)
        self.revision = revision
        self.device = device
        self.dtype = dtype
        self.quantization_config = quantization_config
        self.generation = dict(generation or {})
        self.batch_tokens = batch_tokens
        self.batch_size = batch_size
        self.batch_wait = batch_wait
        self.batch_queue = batch_queue
        self.drafts = drafts
        self.overlap = overlap

    def __repr__(self) -> str:
        """Name the model."""
        return f"LocalBackend({self.name!r})"

    @property
    def config(self) -> AlignerConfig | None:
        """What the model's `aligner_config.json` says, if it has one."""
        return config_of(self.name, self.revision)

    @property
    def template(self) -> Template:
        """The template the checkpoint was trained with."""
        return template_of(self.name, self.revision)

    @property
    def fingerprint(self) -> list[Any]:
        """What decides its texts; see `Cache`. Finds the weights, and fetches them if they are not here."""
        libraries.look()
        weights = fingerprint_of(self.name, self.revision)
        return [weights, self.device, self.dtype, repr(self.quantization_config), sorted(self.generation.items())]

    @property
    def gate(self) -> float | None:
        """Threshold of the aligner's own gate."""
        config = self.config
        return None if config is None else config.gate

    @property
    def objections(self) -> Mapping[str, float]:
        """What the aligner's own gate objects to in answers as a whole, with its thresholds."""
        config = self.config
        return {} if config is None else config.objections

    @property
    def minimal(self) -> bool:
        """Whether the aligner's configuration says so."""
        config = self.config
        return config is not None and config.edits == "minimal"

    @property
    def cpu_threads(self) -> int | None:
        """torch's, where it computes on a CPU."""
        libraries.look()
        import torch

        from aligner_integrations.backends.local.devices import default_device

        return torch.get_num_threads() if (self.device or default_device()) == "cpu" else None

    @property
    def weights(self) -> Weights:
        """The loaded weights; loads them at the first call."""
        from aligner_integrations.backends.local.loading import load_weights

        return load_weights(self.name, self.revision, self.device, self.dtype, self.quantization_config)

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self.weights.model

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer."""
        return self.weights.tokenizer

    def load(self) -> None:
        """Load the weights now."""
        _ = self.weights

    def forget(self) -> None:
        """Free what is kept of earlier texts to go on from; all who share these weights have kept it together."""
        from aligner_integrations.backends.local.loading import if_loaded

        weights = if_loaded(self.name, self.revision, self.device, self.dtype, self.quantization_config)
        if weights is not None:
            weights.prefixes.clear()

    # Completions ----------------------------------------------------------------------------------------------------

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Correct a batch, together with what others ask at the same time; results in order."""
        weights = self.weights
        return together(self._batcher(weights, self._complete), weights, requests)

    async def acomplete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """`complete` without blocking the event loop; cancelling it ends the generation at the next token."""
        weights = await threads.arun(lambda: self.weights, None)
        return await atogether(self._batcher(weights, self._complete), weights, requests)

    def _complete(self, parts: list[Part]) -> list[Completion | AlignerError]:
        from aligner_integrations.backends.local.generation import decode

        weights = parts[0].weights
        prompts, answers, limits, failed = self._encode_all(parts)

        def work(group: list[int]) -> list[Completion | None]:
            rows = decode(
                weights,
                [prompts[i] for i in group],
                [answers[i] for i in group] if self.drafts else None,
                [limits[i] for i in group],
                [parts[i].stop for i in group],
                self.generation,
            )
            done: list[Completion | None] = []
            for i, (ids, ended) in zip(group, rows, strict=True):
                text = weights.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                usage = Usage(len(prompts[i]), len(ids))
                given_up = not ended and len(ids) < limits[i]
                done.append(None if given_up else Completion(text, "stop" if ended else "length", usage))
            return done

        return in_groups(
            parts, self._groups({i: len(p) for i, p in prompts.items()}, limits, weights.window), failed, work
        )

    def _batcher(self, weights: Weights, run: Callable[[list[Part]], list[Any]]) -> Batcher[Part, Any]:
        """What collects the requests of all backends that do the same with these weights."""
        same = (
            self.batch_size,
            self.batch_wait,
            self.batch_queue,
            self.batch_tokens,
            self.drafts,
            repr(self.generation),
        )
        batcher = Batcher(run, most=self.batch_size, wait=self.batch_wait, queue=self.batch_queue)
        return weights.batchers.setdefault((run.__name__, same), batcher)

    def _encode_all(
        self, parts: Sequence[Part]
    ) -> tuple[dict[int, list[int]], dict[int, list[int]], dict[int, int], dict[int, AlignerError]]:
        """`_encode` by place, and the errors of those that cannot be encoded."""
        prompts: dict[int, list[int]] = {}
        answers: dict[int, list[int]] = {}
        limits: dict[int, int] = {}
        failed: dict[int, AlignerError] = {}
        for i, part in enumerate(parts):
            try:
                prompts[i], answers[i], limits[i] = self._encode(part.weights, part.request)
            except AlignerError as error:
                failed[i] = error
        return prompts, answers, limits, failed

    def _encode(self, weights: Weights, request: Request) -> tuple[list[int], list[int], int]:
        """Return the tokens of the prompt and of the answer as a completion, and the completion's limit."""
        with encodable(request.prompt, weights.window):
            prompt = encode_prompt(weights.tokenizer, request.prompt)
            answer = encode_completion(weights.tokenizer, request.completion_prefix, request.answer.strip())
        return prompt, answer, completion_limit(weights.window, len(prompt), len(answer), request.max_new_tokens)

    def _groups(
        self,
        lengths: Mapping[int, int],
        limits: Mapping[int, int] | None = None,
        window: int | None = None,
        enough: int | None = None,
    ) -> Iterator[list[int]]:
        """Split indices into batches of like lengths, longest first, so that the largest memory need shows at once.

        With `enough`, a batch ends when it has so many tokens.

        A row that has ended is still fed until its batch has. So no batch may outgrow the window: a model with learnt
        positions has none to give beyond it.
        """
        group: list[int] = []
        longest = 0
        for i in sorted(lengths, key=lambda i: -lengths[i]):
            limit = limits[i] if limits else 0
            size = lengths[group[0]] * len(group) if group else 0
            too_wide = bool(group) and size + lengths[group[0]] > self.batch_tokens
            full = enough is not None and size >= enough
            too_long = bool(group) and window is not None and lengths[group[0]] + max(longest, limit) > window
            if too_wide or too_long or full:
                yield group
                group, longest = [], 0
            group.append(i)
            longest = max(longest, limit)
        if group:
            yield group

    # Streams --------------------------------------------------------------------------------------------------------

    def stream(self, request: Request) -> Iterator[str]:
        """Yield text as tokens come; closing the iterator ends the generation."""
        return cast("Iterator[str]", self._pieces(request, None))

    def stream_unless(self, request: Request, keep: Keep) -> Iterator[str | Score]:
        """`stream`, unless the answer is kept; see `Backend`."""
        return self._pieces(request, keep)

    def astream(self, request: Request) -> AsyncIterator[str]:
        """`stream` without blocking the event loop."""
        return cast("AsyncIterator[str]", self._apieces(request, None))

    def astream_unless(self, request: Request, keep: Keep) -> AsyncIterator[str | Score]:
        """`stream_unless` without blocking the event loop."""
        return self._apieces(request, keep)

    def _pieces(self, request: Request, keep: Keep | None) -> Iterator[str | Score]:
        weights = self.weights
        pieces: queue.SimpleQueue[str | Score | AlignerError | None] = queue.SimpleQueue()
        part = Part(weights, request, threading.Event())
        produced = threads.submit(partial(self._produce, part, keep, pieces.put))
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, AlignerError):
                    raise piece
                yield piece
        finally:
            part.gone.set()
            produced.result()

    async def _apieces(self, request: Request, keep: Keep | None) -> AsyncIterator[str | Score]:
        weights = await threads.arun(lambda: self.weights, None)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | Score | AlignerError | None] = asyncio.Queue()
        part = Part(weights, request, threading.Event())

        def put(piece: str | Score | AlignerError | None) -> None:
            # The loop may be closed by the time an abandoned generation notices.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        weights.worker.submit(partial(self._produce, part, keep, put))
        try:
            while (piece := await pieces.get()) is not None:
                if isinstance(piece, AlignerError):
                    raise piece
                yield piece
        finally:
            part.gone.set()

    def _produce(self, part: Part, keep: Keep | None, put: Callable[[str | Score | AlignerError | None], None]) -> None:
        """Put the pieces of one completion, the score if the answer is kept, an error if there was one, then None."""
        from aligner_integrations.backends.local.streaming import write

        try:
            if part.stop.is_set():
                raise part.stopped()
            encoded = self._encode(part.weights, part.request)
            score = write(part, encoded, put, drafts=self.drafts, options=self.generation, keep=keep)
            if score is not None:
                put(score)
        except AlignerError as error:
            put(error)
        except Exception as error:  # noqa: BLE001 - on a thread of our own; the caller raises it
            put(failure(error))
        finally:
            put(None)

    def prefill(self, prompt: Callable[[str], str]) -> Reader | None:
        """Return what reads an answer while the upstream still writes it; see `Backend`."""
        if not (self.overlap and self.drafts):
            return None
        return LocalReader(lambda: self.weights, prompt)

    # Scores ---------------------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """Judge each answer in one forward pass of its batch."""
        weights = self.weights
        return together(self._batcher(weights, self._score), weights, requests)

    async def ascore(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """`score` without blocking the event loop."""
        weights = await threads.arun(lambda: self.weights, None)
        return await atogether(self._batcher(weights, self._score), weights, requests)

    def _score(self, parts: list[Part]) -> list[Score | AlignerError]:
        from aligner_integrations.backends.local.scoring import score_batch

        weights = parts[0].weights
        prompts, answers, _, failed = self._encode_all(parts)
        lengths = {i: len(prompt) + len(answers[i]) + 1 for i, prompt in prompts.items()}
        # A pass of so many tokens uses the device fully. More at once would only mean more padding.
        enough = None if weights.drafts is None else round(_FULL_PASS / weights.drafts.token_cost)

        def work(group: list[int]) -> list[Score]:
            requests = [parts[i].request for i in group]
            return score_batch(weights, [prompts[i] for i in group], requests, keep=self.drafts)

        return in_groups(parts, self._groups(lengths, enough=enough), failed, work)
