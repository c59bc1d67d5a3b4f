"""Each block of the README is executed, as pasted and from top to bottom, with the real embedded aligner.

What a Python block prints stands in the text block after it. Of a shell block, our own commands run where they need nothing but
this package; of the others the options are checked. A broken block fails with file and line.
"""

import contextlib
import glob
import gzip
import io
import json
import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest
import typer
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser
from typer.testing import CliRunner

from aligner_integrations import Aligner
from aligner_integrations.backends import FakeBackend
from aligner_integrations.cli.app import app
from aligner_integrations.errors import BackendError
from aligner_integrations.models import EMBEDDED

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not (EMBEDDED / "adapter_model.safetensors").exists(), reason="the embedded adapter has not been trained yet"
    ),
]

README = Path(__file__).parents[2] / "README.md"
PAPER = README.parent / "docs" / "paper.md"
# Of other programs, or hours long.
NOT_RUN = (
    "aligner train",
    "aligner bootstrap",
    "aligner calibrate",
    "aligner preferences",
    "aligner evaluate",
    "aligner corpus owner/",
    "accelerate",
)


def run_python(example):
    printed = example.namespace["printed"] = io.StringIO()
    with contextlib.redirect_stdout(printed):
        PythonEvaluator()(example)


def compare(example):
    assert example.parsed.strip() == example.namespace["printed"].getvalue().strip()


def run_shell(example):
    for line in example.parsed.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[:2] == ["pip", "install"]:
            check_extras(words)
        elif words[0] == "aligner" and not line.startswith(NOT_RUN):
            arguments = [found for word in words[1:] for found in (sorted(glob.glob(word)) or [word])]  # noqa: PTH207 - a shell's
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, f"{line}\n{done.output}"
        elif words[0] == "aligner":
            check_options(words)
        else:
            assert line.startswith(NOT_RUN), f"nobody checks: {line}"


def check_extras(words):
    known = set(metadata.metadata("aligner-integrations").get_all("Provides-Extra"))
    for named in re.findall(r"\[([\w,-]+)\]", " ".join(words)):
        assert set(named.split(",")) <= known, words


def check_options(words):
    command = typer.main.get_command(app)
    while (inner := getattr(command, "commands", {}).get(words[1])) is not None:
        command, words = inner, words[1:]
        if len(words) < 2:
            break
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known, words


def leave(example):
    """A block of other programs' commands."""


PARSERS = [
    CodeBlockParser("python", run_python),
    CodeBlockParser("text", compare),
    CodeBlockParser("bash", run_shell),
    CodeBlockParser("console", leave),
]
DOCUMENT = Sybil(PARSERS).parse(README)
BLOCKS = list(DOCUMENT.examples())


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Where the blocks run, with the files that they name."""
    folder = tmp_path_factory.mktemp("readme")
    row = json.dumps({"question": "How was it?", "answer": "it was a load of crap"}) + "\n"
    (folder / "answers").mkdir()
    (folder / "answers" / "1.jsonl.gz").write_bytes(gzip.compress(row.encode()))
    (folder / "answers.jsonl").write_text(row)
    with contextlib.chdir(folder):
        yield folder


@pytest.mark.parametrize("block", BLOCKS, ids=[f"README.md:{block.line}" for block in BLOCKS])
def test_block(block):
    try:
        block.evaluate()
    except BaseException as error:
        raise AssertionError(f"{README.name}, line {block.line}: {type(error).__name__}: {error}") from error


PAGE = list(Sybil(PARSERS).parse(PAPER).examples())


@pytest.mark.parametrize("block", PAGE, ids=[f"paper.md:{block.line}" for block in PAGE])
def test_block_of_the_page_on_the_paper(block):
    block.evaluate()


class BreaksOff(FakeBackend):
    """Says some pieces, and then that the server is gone."""

    def __init__(self, pieces):
        super().__init__(str)
        self.pieces = pieces

    async def astream(self, request):
        for piece in self.pieces:
            yield piece
        raise BackendError("The server is gone.")


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        ([], "This answer was withheld because it could not be corrected."),
        (["The code ", "is not "], "The code is not [The rest of this answer is missing.]"),
    ],
)
async def test_the_web_endpoint_ends_its_stream_whatever_happens(pieces, shown):
    """The README's block on streams: before the first piece `on_error` answers, after it the function does."""
    block = next(found.parsed for found in BLOCKS if "async def answer(question" in str(found.parsed))
    names = {"aligner": Aligner(backend=BreaksOff(pieces), template="aligner-repo")}
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own README
    text = "".join([piece async for piece in names["answer"]("How is my code?", "The code is shit.")])
    assert text == shown


def test_every_block_is_executed():
    text = README.read_text("utf-8")
    assert len(BLOCKS) == text.count("\n```") / 2
    kinds = re.findall(r"^```(\w*)$", text, re.MULTILINE)
    assert {kind for kind in kinds if kind} == {"python", "text", "bash", "console"}
    # Markdown's other code blocks, by four spaces, would go by unseen.
    assert not re.findall(r"\n\n {4}\S", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def test_links_lead_somewhere_from_anywhere():
    """On an index of packages a relative link is dead."""
    links = re.findall(r"\]\(([^)]+)\)", README.read_text("utf-8"))
    assert links and all(link.startswith("https://") for link in links)


def test_every_extra_is_named():
    named = set(re.findall(r"`([\w-]+)`", README.read_text("utf-8")))
    extras = set(metadata.metadata("aligner-integrations").get_all("Provides-Extra"))
    assert extras - {"dev"} <= named


def test_every_variable_of_the_environment_is_named():
    package = Path(EMBEDDED).parents[1]
    used = {
        name for path in package.rglob("*.py") for name in re.findall(r"\"(ALIGNER_[A-Z_]+)\"", path.read_text("utf-8"))
    }
    assert used and used <= set(re.findall(r"`(ALIGNER_[A-Z_]+)", README.read_text("utf-8")))


def test_every_metric_is_named():
    package = Path(EMBEDDED).parents[1]
    calls = r"(?:counter|histogram|count)\(\s*\"(aligner\.[a-z.]+)\""
    made = {name for path in package.rglob("*.py") for name in re.findall(calls, path.read_text("utf-8"))}
    assert len(made) == 8 and made <= set(re.findall(r"`(aligner\.[a-z.]+)`", README.read_text("utf-8")))
