"""`aligner bench corpus` at a small size: whole processes, a real server, real kills."""

import json

import pytest
from typer.testing import CliRunner

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.bench.corpora import bench_lists
from aligner_integrations.bench.decoding import Case
from aligner_integrations.cli.app import app
from tests.unit.support import TEMPLATE, mend

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_what_is_asked_and_what_comes_out_whoever_is_killed():
    result = CliRunner().invoke(
        app, ["bench", "corpus", "--rows", "1000", "--kills", "3", "--shard-rows", "20", "--json"]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["overhead"]["corpus"] > report["overhead"]["least"]
    assert len(report["overhead"]["memory"]) == 4
    assert report["kills"]["same"] and report["kills"]["again"] <= 3 * 20


def test_a_corpus_against_lists():
    aligner = Aligner(backend=FakeBackend(mend), template=TEMPLATE)
    rates = bench_lists(aligner, [Case("rude", "q", f"bad {i}") for i in range(300)])
    assert (rates.rows, rates.same) == (300, 300)
