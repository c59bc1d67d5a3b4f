"""`aligner doctor`: what it says of a server, and its exit code."""

import json

from tests.unit.backends.remote.stub import Stub
from tests.unit.doctor import fakes


def test_a_good_server(run):
    with Stub(fakes.Fake()) as stub:
        result = run("doctor", "--endpoint", stub.url)
    assert result.exit_code == 0, result.stdout
    assert result.stderr == f"{stub.url} is fit for an aligner.\n"
    assert "With the template aligner-7b answers come back" in " ".join(result.stdout.split())


def test_a_broken_one(run):
    with Stub(fakes.Samples()) as stub:
        result = run("doctor", "--endpoint", stub.url)
    assert result.exit_code == 1
    assert result.stderr == f"1 of 12 things are wrong with {stub.url}.\n"
    assert "--generation-config vllm" in result.stdout


def test_json(run):
    with Stub(fakes.Fake()) as stub:
        result = run("doctor", "--endpoint", stub.url, "--template", "paper", "--json")
    (wrong,) = [one for one in json.loads(result.stdout) if one["verdict"] == "wrong"]
    assert result.exit_code == 1 and wrong["check"] == "template"


def test_it_needs_a_server(run):
    result = run("doctor", "--model", "embedded")
    assert result.exit_code == 2 and "--endpoint" in result.stderr
