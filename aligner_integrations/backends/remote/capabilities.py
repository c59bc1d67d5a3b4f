"""What one server of completions takes: lists of prompts, token ids, fields that are not in every API.

Nobody announces these things, so each is tried until the server refuses it and then does the same without it. What
lives elsewhere: sending (`completions.py`), and limits (`window.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aligner_integrations.backends.base import Timeouts
from aligner_integrations.backends.remote.responses import StatusError
from aligner_integrations.backends.remote.window import Fitted, refit, says_too_long

LIST_REFUSALS = {400, 404, 405, 413, 415, 422, 500, 501}
"""How servers refuse a list: politely, or by an assertion that fails."""

_REFUSALS = {400, 415, 422}
_LONGEST_LIST = 32
_TIMES = 2

_NO_PENALTY = {"repeat_penalty": 1.0, "repetition_penalty": 1.0}
"""llama.cpp's field and vLLM's. Servers may punish repetition unless told otherwise, and a correction repeats its answer."""

_COUNTS = {"stream_options": {"include_usage": True}}
"""With which the last event of a stream says how many tokens there were."""


class Dialect:
    """What has been learnt of a server. Threads set the same things after the same answers, so they need no lock.

    Args:
        generation: The user's own fields of a request.
    """

    def __init__(self, generation: Mapping[str, Any]) -> None:
        self.generation = dict(generation)
        self.takes_ids = True
        self._takes_extras = True
        self._refused_lists = 0

    def body(self, model: str | None, jobs: Sequence[Fitted], *, stream: bool = False) -> dict[str, Any]:
        """Return the request for one prompt, or for several at once."""
        prompts = [job.prompt for job in jobs]
        extra: dict[str, Any] = {}
        if self._takes_extras and not jobs[0].bare:
            extra = _NO_PENALTY | _COUNTS if stream else _NO_PENALTY
        return {
            "model": model,
            "prompt": prompts if len(jobs) > 1 else prompts[0],
            "max_tokens": max(job.limit for job in jobs),
            "temperature": 0,
            **extra,
            **self.generation,
            **({"stream": True} if stream else {}),
        }

    def adapt(self, job: Fitted, refusal: StatusError) -> Fitted:
        """Return what to send after a refusal.

        Raises:
            AnswerTooLongError: It does not fit the server's window.
            StatusError: The refusal, if there is nothing else to try.
        """
        if refusal.status in _REFUSALS:
            if not job.bare and self._takes_extras and any(name in refusal.detail for name in _NO_PENALTY | _COUNTS):
                self._takes_extras = False  # it names the field, so there is no doubt
                return replace(job, bare=True)
            if not isinstance(job.prompt, str):
                return job.as_text()
            if not job.bare and not says_too_long(refusal.detail):
                return replace(job, bare=True)
        return refit(job, refusal)

    def worked(self, meant: Fitted, sent: Fitted) -> None:
        """Remember what a server did not take of a request that it then answered."""
        if sent.bare and not meant.bare:
            self._takes_extras = False
        if isinstance(sent.prompt, str) and not isinstance(meant.prompt, str):
            self.takes_ids = False

    def lists(self, jobs: Mapping[int, Fitted]) -> list[dict[int, Fitted]]:
        """Which requests go together: those with the same time limits, if the server may take lists."""
        alike: dict[Timeouts, list[int]] = {}
        if self._refused_lists < _TIMES:
            for i, job in jobs.items():
                if job.request.timeouts.first_token is None:
                    alike.setdefault(job.request.timeouts, []).append(i)
        chunks = [g[i : i + _LONGEST_LIST] for g in alike.values() for i in range(0, len(g), _LONGEST_LIST)]
        return [{i: jobs[i] for i in chunk} for chunk in chunks if len(chunk) > 1]

    def list_worked(self, *, whole: bool) -> None:
        """Remember whether a list was taken, or its prompts were only one by one.

        Once may be chance, such as an error 500; lists are given up for good at the second time.
        """
        self._refused_lists = 0 if whole else self._refused_lists + 1
