"""A corpus corrected in a process of its own, which a test may kill: `python -m tests.unit.corpus.worker IN OUT ASKED [options]`.

Each answer that is asked for is a line of ASKED, so that a test can count them.
"""

import json
import sys
import time
from pathlib import Path

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.corpus import correct_corpus
from tests.unit.support import TEMPLATE, answer_in, mend


def aligner_that_tells(asked, seconds=0.0, **options):
    """An aligner that writes down what it is asked, and takes so long for it."""

    def fn(prompt):
        with Path(asked).open("a") as file:
            file.write(json.dumps(answer_in(prompt)) + "\n")
        time.sleep(seconds)
        return mend(prompt)

    backend = FakeBackend(fn)
    backend.fingerprint = ["tells"]  # the same in every process
    return Aligner(backend=backend, template=TEMPLATE, **options)


if __name__ == "__main__":
    source, out, asked, seconds, shard_rows, part = sys.argv[1:]
    index, count = map(int, part.split("/"))
    correct_corpus(
        source,
        out,
        aligner_that_tells(asked, float(seconds)),
        shard_rows=int(shard_rows),
        part=(index, count),
        on_progress=lambda what, done, total: sys.stderr.write(f"{what} {done}\n"),
    )
