"""An aligner for workers in other processes, which tells in a file of each process what it was asked."""

import json
import os
import time
from pathlib import Path

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.errors import ModelNotFoundError
from tests.unit.support import TEMPLATE, answer_in, mend


class TellingBackend(FakeBackend):
    """Writes down what it is asked; `ends_at` ends its process, as a lack of memory would; `together`: waits for so many workers."""

    fingerprint = ("telling",)

    def __init__(self, folder, seconds, missing, ends_at, together):
        super().__init__(self._tell)
        self.folder, self.seconds, self.missing = Path(folder), seconds, missing
        self.ends_at, self.together = ends_at, together

    def load(self):
        if self.missing:
            raise ModelNotFoundError("there is no such model")

    def _tell(self, prompt):
        self.folder.mkdir(exist_ok=True)
        with (self.folder / str(os.getpid())).open("a") as file:
            file.write(json.dumps(answer_in(prompt)) + "\n")
        if self.ends_at and self.ends_at in prompt:
            os._exit(1)
        end = time.monotonic() + 100
        while len(list(self.folder.iterdir())) < self.together and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(self.seconds)
        return mend(prompt)


def telling_aligner(folder, seconds=0.0, *, missing=False, ends_at="", together=1):
    return Aligner(backend=TellingBackend(folder, seconds, missing, ends_at, together), template=TEMPLATE)


class ThreadsBackend(FakeBackend):
    """Computes with two threads where it is asked for, and says with how many it does where it corrects."""

    fingerprint = ("threads",)
    cpu_threads = 2

    def __init__(self):
        super().__init__(lambda prompt: f"{os.environ['OMP_NUM_THREADS']} threads")
