"""Reading a prompt on this machine while the upstream still writes its answer: into a cache that decoding goes on from.

One thread reads for all streams, a few hundred tokens at a time, and waits for its turn at the model like everybody else.
What it has read lies in the model's bounded `Prefixes` (`prefix_cache.py`); a stream whose beginning had to make room is
given up, so that many streams at once cost no more than one after another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from aligner_integrations.backends.encoding import encode_prompt
from aligner_integrations.backends.local.prefix_cache import NOTHING, Prefix
from aligner_integrations.forking import Lock
from aligner_integrations.threads import OneByOne

if TYPE_CHECKING:
    from aligner_integrations.backends.local.loading import Weights

logger = logging.getLogger(__name__)

# A token has about this many characters: only decides how often it is looked whether there is enough to read.
_CHARACTERS = 4
# Most tokens in one pass: how long others wait for it.
_MOST = 256
# The last tokens of what is there may turn out otherwise with the next piece.
_LOOSE = 2

_reading = OneByOne()


class LocalReader:
    """Reads one answer.

    Args:
        weights: Returns the aligner's weights; may load them.
        prompt: Returns the prompt as far as it is known, given the answer as far as it is.
    """

    def __init__(self, weights: Callable[[], Weights], prompt: Callable[[str], str]) -> None:
        self._weights = weights
        self._prompt = prompt
        self._pieces: list[str] = []
        self._waiting = 0  # characters that came since it was last looked
        self._enough = 0  # how many are worth a look
        self._busy = False
        self._closed = False
        self._loaded: Weights | None = None
        self._read: Prefix = NOTHING
        self._lock = Lock()

    def feed(self, piece: str) -> None:
        """Take the next piece of the answer; what there is to do is done by another thread."""
        with self._lock:
            if self._closed:
                return
            self._pieces.append(piece)
            self._waiting += len(piece)
            if self._busy or self._waiting < self._enough:
                return
            self._busy = True
        _reading.submit(self._work)

    def close(self) -> None:
        """Stop, and free what was read."""
        with self._lock:
            self._closed = True
            if self._loaded is not None:
                self._loaded.prefixes.drop(self._read)

    def _work(self) -> None:
        try:
            more = self._step()
        except Exception as error:  # noqa: BLE001 - the correction itself will meet it, and says so
            logger.debug("An answer is not read ahead: %s: %s", type(error).__name__, error)
            self.close()
            return
        with self._lock:
            again = more or self._waiting >= self._enough
            self._busy = again and not self._closed
        if self._busy:
            _reading.submit(self._work)  # behind the other streams

    def _step(self) -> bool:
        """Read some tokens; return whether there are more."""
        weights = self._weights()
        # Not sooner: it imports torch, and an event loop waits.
        from aligner_integrations.backends.local.kv_cache import read_on

        support = weights.drafts
        if support is None:
            self.close()
            return False
        with self._lock:
            self._pieces = ["".join(self._pieces)]
            answer = self._pieces[0]
            self._waiting = 0
        tokens = encode_prompt(weights.tokenizer, self._prompt(answer))[:-_LOOSE]
        # A pass costs as much as twice that many tokens: reading takes three times as long as at once, but it is done while
        # others work, and what is left at the end is short.
        chunk = max(1, round(0.5 / support.token_cost))
        with weights.lock:
            prefix, known = weights.prefixes.find(tokens)
            gone = known < len(self._read.tokens) - _LOOSE
            if self._closed or gone or len(tokens) > (weights.window or len(tokens)):
                self.close()
                return False
            missing = known + chunk - len(tokens)
            self._enough = (missing if missing > 0 else chunk) * _CHARACTERS
            if missing > 0:
                return False
            part = tokens[known : known + _MOST]
            read = read_on(weights.model, prefix, known, part)
        with self._lock:
            if not self._closed:
                weights.prefixes.add(read)
                weights.prefixes.drop(self._read)
                self._loaded, self._read = weights, read
        return known + len(part) < len(tokens)
