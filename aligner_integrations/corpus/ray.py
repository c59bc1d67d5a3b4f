"""Shards corrected by the workers of a Ray cluster: each loads the aligner once and gets one shard after another.

Ray starts, places and watches the workers, and scales its nodes by what they wait for. Rows and results go through the process that
reads the corpus and writes it, so workers need no disk of ours, and what is on disk does not depend on who corrected it. Ray Data is
not used: its own checkpoints keep nothing of a job that dies before its first file, and lose the order.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aligner_integrations.corpus.engine import Pair, Result, Shard, correct_shard
from aligner_integrations.errors import AlignerError, BackendError, ConfigurationError, first_line, require

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

logger = logging.getLogger(__name__)

_LOOK = 5.0
"""Seconds after which it is looked whether a worker could be started."""


class RayEngine:
    """Corrects shards on a Ray cluster.

    Args:
        address: Of the cluster, such as "10.0.0.1:6379"; "local" starts one here. None: what `RAY_ADDRESS` names, else one that
            runs here, else a new one here.
        workers: How many at least and at most; another one is started while shards wait. A number: just so many.
        cpus: CPUs of a worker. None: one; or, where weights are computed on CPUs, as many as this process would use threads. How
            many threads sum up a score shows in its last digits, which are to be those of one process.
        gpus: GPUs of a worker.
        tries: How many workers may die over one shard before the run ends.
        patience: Seconds to wait for a first worker, where nodes may have to be started.

    Raises:
        ConfigurationError: A number that makes no sense.
        MissingDependencyError: Ray is not installed.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | tuple[int, int] = (1, 2),
        cpus: float | None = None,
        gpus: float = 0.0,
        tries: int = 3,
        patience: float = 900.0,
    ) -> None:
        least, most = (workers, workers) if isinstance(workers, int) else workers
        if not 1 <= least <= most:
            raise ConfigurationError(
                f"workers is {workers}; it takes a number from 1, or two of which the second is not less."
            )
        if (cpus is not None and cpus < 0) or gpus < 0 or tries < 1 or patience <= 0:
            raise ConfigurationError("cpus and gpus must be 0 or more, tries 1 or more, and patience above 0.")
        with require("ray", "Correcting on a cluster needs {missing}", "ray"):
            import ray
        self._ray: Any = ray
        self.address, self.least, self.most = address, least, most
        self.cpus, self.gpus, self.tries, self.patience = cpus, gpus, tries, patience

    def correct(
        self, aligner: Aligner, shards: Iterable[Shard], fields: Mapping[str, str], on_rows: Callable[[int], object]
    ) -> Iterator[tuple[int, list[Result]]]:
        """Yield (number, results) of each shard, as they are done.

        Raises:
            AlignerError: The aligner cannot be had by a worker.
            BackendError: One shard has cost so many workers, or none can be started.
        """
        ray, own = self._ray, not self._ray.is_initialized()
        if own:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of this run
            try:
                ray.init(self.address, log_to_driver=False, logging_level=logging.WARNING)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigurationError(f"Ray cannot be reached or started: {first_line(error)}") from error
        pool = _Pool(self, ray, aligner, fields, iter(shards))
        try:
            for shard, results in pool.run():
                on_rows(len(results))
                yield shard, results
        finally:
            pool.close()
            if own:
                ray.shutdown()


class Worker:
    """What runs in a process of the cluster.

    Args:
        aligner: What corrects.
        fields: The template's extra fields.
    """

    def __init__(self, aligner: Aligner, fields: Mapping[str, str]) -> None:
        self._aligner, self._fields = aligner, fields

    def load(self) -> None:
        """Load the aligner; not when it is made, because then Ray keeps of an error no more than its words."""
        self._aligner.load()

    def correct(self, pairs: Sequence[Pair]) -> list[Result]:
        """Correct a shard."""
        return correct_shard(self._aligner, pairs, self._fields, lambda rows: None)


@dataclass(slots=True)
class _Task:
    """A shard that somebody is to correct."""

    shard: int
    pairs: Sequence[Pair]
    died: int = 0


class _Pool:
    """The workers of one run. One that dies gives its shard back; one that has nothing to do any more ends."""

    def __init__(
        self, engine: RayEngine, ray: Any, aligner: Aligner, fields: Mapping[str, str], shards: Iterator[Shard]
    ) -> None:
        self._engine, self._ray, self._shards = engine, ray, shards
        self._aligner = ray.put(aligner)
        self._fields = dict(fields)
        threads = aligner.backend.cpu_threads if engine.cpus is None and not engine.gpus else None
        self._cpus = threads or (1.0 if engine.cpus is None else engine.cpus)
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)}} if threads else None
        self._kind = ray.remote(Worker).options(
            num_cpus=self._cpus, num_gpus=engine.gpus, max_restarts=0, runtime_env=environment
        )
        self._returned: deque[_Task] = deque()
        self._next: _Task | None = None
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, _Task]] = {}
        self._failed_starts = 0
        self._alive = time.monotonic()

    def run(self) -> Iterator[tuple[int, list[Result]]]:
        """Yield the shards as they are done."""
        while self._more() or self._busy:
            self._give_out()
            done, _ = self._ray.wait([*self._busy, *self._starting], num_returns=1, timeout=_LOOK)
            if self._busy:
                self._alive = time.monotonic()
            elif not done and time.monotonic() - self._alive > self._engine.patience:
                raise BackendError(self._nobody_comes(), retryable=True)
            for reference in done:
                if reference in self._starting:
                    self._started(reference)
                elif (result := self._ended(reference)) is not None:
                    yield result

    def close(self) -> None:
        """End all workers."""
        for worker in [*self._idle, *self._starting.values(), *(worker for worker, _ in self._busy.values())]:
            self._ray.kill(worker)
        self._idle, self._starting, self._busy = [], {}, {}

    def _more(self) -> bool:
        """Whether there is a shard that nobody works at; it is taken from the source only when somebody may."""
        if self._next is None:
            if self._returned:
                self._next = self._returned.popleft()
            elif (shard := next(self._shards, None)) is not None:
                self._next = _Task(*shard)
        return self._next is not None

    def _give_out(self) -> None:
        while self._idle and self._more():
            task, self._next = self._next, None
            if task is not None:
                worker = self._idle.pop()
                self._busy[worker.correct.remote(task.pairs)] = (worker, task)
        while self._idle and not self._more():
            self._ray.kill(self._idle.pop())
        workers = len(self._starting) + len(self._busy)
        # One more at a time: while the cluster cannot place one, no others queue up behind it.
        while self._more() and workers < self._engine.most and (workers < self._engine.least or not self._starting):
            worker = self._kind.remote(self._aligner, self._fields)
            self._starting[worker.load.remote()] = worker
            workers += 1

    def _started(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(worker)  # else it has its CPUs for as long as anybody holds the error, whose frames know it
            if isinstance(cause := _cause(error), AlignerError):
                raise cause from error
            self._failed_starts += 1
            logger.warning("A worker of the cluster could not be started: %s", first_line(cause))
            if self._failed_starts >= self._engine.tries and not (self._busy or self._idle):
                raise BackendError(f"No worker of the cluster could be started: {first_line(cause)}") from error
        else:
            self._failed_starts = 0
            self._alive = time.monotonic()
            self._idle.append(worker)

    def _ended(self, reference: Any) -> tuple[int, list[Result]] | None:
        worker, task = self._busy.pop(reference)
        try:
            results: list[Result] = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            task.died += 1
            logger.warning("A worker died at shard %d, which another one does again.", task.shard)
            if task.died >= self._engine.tries:
                raise BackendError(
                    f"{task.died} workers died over shard {task.shard}, the last one with: {first_line(error)} If memory ran out, "
                    "smaller shards do not help, but fewer workers on a node do."
                ) from error
            self._returned.append(task)
            return None
        except self._ray.exceptions.RayTaskError as error:
            self._ray.kill(worker)
            cause = _cause(error)
            raise (cause if isinstance(cause, AlignerError) else error) from error
        self._idle.append(worker)
        return task.shard, results

    def _nobody_comes(self) -> str:
        needs = f"{self._cpus:g} CPUs" + (f" and {self._engine.gpus:g} GPUs" if self._engine.gpus else "")
        has = ", ".join(
            f"{amount:g} {name}s" for name, amount in self._ray.available_resources().items() if name in ("CPU", "GPU")
        )
        return (
            f"No worker could be started within {self._engine.patience:.0f} seconds: each needs {needs}, and the cluster has "
            f"{has or 'nothing'} free. How many CPUs a worker takes can be said: cpus=, or --worker-cpus."
        )


def _cause(error: BaseException) -> BaseException:
    """What was raised in a worker."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error
