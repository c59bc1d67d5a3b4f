"""What one server of completions takes: token ids, and fields that are not in every API.

Nobody announces these things, so each is tried until the server refuses it and then does the same without it. What
lives elsewhere: sending (`completions.py`), and limits (`window.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aligner_integrations.backends.remote.responses import StatusError
from aligner_integrations.backends.remote.window import Fitted, refit, says_too_long

_REFUSALS = {400, 415, 422}

_NO_PENALTY = {"repeat_penalty": 1.0, "repetition_penalty": 1.0}
"""llama.cpp's field and vLLM's. Servers may punish repetition unless told otherwise, and a correction repeats its answer."""

_COUNTS = {"stream_options": {"include_usage": True}}
"""With which the last event of a stream says how many tokens there were."""


class Dialect:
    """What has been learnt of a server. Requests that run side by side set the same things after the same answers.

    Args:
        generation: The user's own fields of a request.
    """

    def __init__(self, generation: Mapping[str, Any]) -> None:
        self.generation = dict(generation)
        self.takes_ids = True
        self._takes_extras = True

    def body(self, model: str | None, job: Fitted, *, stream: bool) -> dict[str, Any]:
        """Return the request for a prompt."""
        extra: dict[str, Any] = {}
        if self._takes_extras and not job.bare:
            extra = _NO_PENALTY | _COUNTS if stream else _NO_PENALTY
        return {
            "model": model,
            "prompt": job.prompt,
            "max_tokens": job.limit,
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
