"""A backend that fails as told, on threads, tasks and streams, and keeps count of what it was asked."""

import asyncio
import threading

from aligner_integrations.backends.base import Completion, FakeBackend, Score
from aligner_integrations.errors import AlignerError, BackendError
from tests.unit.support import TEMPLATE

OUTAGE = BackendError("down", retryable=True)
REFUSED = BackendError("no such model")


class FlakyBackend(FakeBackend):
    """Each call takes the next step of a script; after the last step it mends the answer.

    A step is an error, a text, an event until which it hangs, or a list of pieces of a stream with an error last.
    """

    def __init__(self, *steps):
        super().__init__(lambda prompt: prompt)
        self.steps = list(steps)
        self.requests = []  # one list a call
        self.running = self.most_running = 0
        self._lock = threading.Lock()

    @property
    def calls(self):
        return len(self.requests)

    def _begin(self, requests):
        with self._lock:
            self.requests.append(list(requests))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            return self.steps.pop(0) if self.steps else None

    def _end(self):
        with self._lock:
            self.running -= 1

    def _results(self, step, requests):
        if isinstance(step, AlignerError):
            return [step] * len(requests)
        if isinstance(step, str):
            return [Completion(step, "stop")] * len(requests)
        return [Completion(request.answer.replace("bad", "good"), "stop") for request in requests]

    def complete(self, requests):
        try:
            step = self._begin(requests)
            if isinstance(step, threading.Event):
                assert step.wait(60)
            return self._results(step, requests)
        finally:
            self._end()

    async def acomplete(self, requests):
        try:
            step = self._begin(requests)
            while isinstance(step, threading.Event) and not step.is_set():
                await asyncio.sleep(0.001)
            return self._results(step, requests)
        finally:
            self._end()

    def stream(self, request):
        try:
            step = self._begin([request])
            yield from self._pieces(step, request)
        finally:
            self._end()

    async def astream(self, request):
        try:
            step = self._begin([request])
            for piece in self._pieces(step, request):
                await asyncio.sleep(0)
                yield piece
        finally:
            self._end()

    def _pieces(self, step, request):
        pieces = step if isinstance(step, list) else self._results(step, [request])
        for piece in pieces:
            if isinstance(piece, AlignerError):
                raise piece
            yield piece.text if isinstance(piece, Completion) else piece


class JudgingBackend(FlakyBackend):
    """Keeps what holds "fine", and corrects the rest."""

    can_score = judges_streams = True
    gate = 1.0

    def __init__(self, *steps):
        super().__init__(*steps)
        self.judged = self.scored = 0

    def _score(self, request):
        return Score((), total=0, mean=0, minimum=0, max_gap=0.0 if "fine" in request.answer else 5.0)

    def score(self, requests):
        self.scored += len(requests)
        return [self._score(request) for request in requests]

    def stream_unless(self, request, keep):
        self.judged += 1
        score = self._score(request)
        if keep(score, True):
            yield from (request.answer, score)
        else:
            yield from self.stream(request)

    async def astream_unless(self, request, keep):
        for piece in self.stream_unless(request, keep):
            yield piece


def options(**changes):
    """Options of an Aligner for it."""
    return {"template": TEMPLATE, **changes}
