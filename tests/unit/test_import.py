"""The package imports fast and alone; its public names are complete."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aligner_integrations

ROOT = Path(aligner_integrations.__file__).parent


def _public():
    """The `__all__` of each module that has one, read and not imported: some take seconds."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                parts = path.relative_to(ROOT.parent).with_suffix("").parts
                yield ".".join(parts).removesuffix(".__init__"), ast.literal_eval(node.value)


MODULES = dict(_public())

HEAVY = ["datasets", "huggingface_hub", "langchain", "langchain_core", "llama_index", "peft", "torch", "transformers"]

PROBE = """
import json, sys
before = set(sys.modules)
import aligner_integrations
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def probe(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_loads_the_standard_library_only():
    roots = {name.partition(".")[0] for name in probe(PROBE)}
    assert roots <= {"aligner_integrations", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    "use",
    [
        "from aligner_integrations import Aligner, Correction, Template, AlignerError; Aligner(template='paper')",
        "from aligner_integrations.backends.base import FakeBackend",
        "from aligner_integrations import Aligner; Aligner('aligner/aligner-7b-v1.0')",
    ],
)
def test_the_core_loads_no_framework_and_no_weights_library(use):
    loaded = probe(f"import json, sys; {use}; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))")
    assert loaded == []


PUBLIC = [(module, name) for module, names in MODULES.items() for name in names]


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_public_names_resolve(module, name):
    value = getattr(importlib.import_module(module), name)
    home = getattr(value, "__module__", None)  # a constant or an alias of a type has none of ours
    if home and home.startswith("aligner_integrations"):
        assert getattr(importlib.import_module(home), name) is value


@pytest.mark.parametrize("module", MODULES)
def test_all_has_nothing_twice(module):
    assert len(MODULES[module]) == len(set(MODULES[module]))


@pytest.mark.parametrize("module", ["aligner_integrations", "aligner_integrations.backends"])
def test_dir_shows_what_is_public(module):
    package = importlib.import_module(module)
    assert dir(package) == package.__all__


# What others build on: a name that is missing here breaks them.
PROMISED = {
    "aligner_integrations": """AlignedChatModel Aligner AlignerError AlignerMiddleware AlignerQueryEngine AlignerRunnable Cache
        Correction Resilience Template __version__""",
    "aligner_integrations.backends": """Backend Breaker Budget ChatModelBackend CompletionsBackend FakeBackend LocalBackend
        TextGenerationBackend""",
    "aligner_integrations.backends.base": "Completion FakeBackend Request Score TokenScore",
    "aligner_integrations.langchain": "AlignedChatModel AlignerMiddleware AlignerNode AlignerRunnable ThoughtAlignerMiddleware",
    "aligner_integrations.llama_index": """AlignerAgentWorkflow AlignerChatEngine AlignerFunctionAgent
        AlignerFunctionCallingLLM AlignerLLM AlignerNodePostprocessor AlignerQueryEngine AlignerReActAgent AlignerSynthesizer
        aalign_response align_response with_aligner""",
}


@pytest.mark.parametrize("module", PROMISED)
def test_promised_names_are_there(module):
    home = importlib.import_module(module)
    missing = [name for name in PROMISED[module].split() if not hasattr(home, name)]
    assert not missing
    assert set(PROMISED[module].split()) <= set(MODULES[module])


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Alinger"):
        _ = aligner_integrations.Alinger


@pytest.mark.parametrize("module", ["remote.completions", "remote.tgi", "prompted.chat_completions"])
def test_a_missing_http_library_is_named_with_its_extra(module):
    code = f"""
import sys
sys.modules["aiohttp"] = None
import aligner_integrations.backends.prompted.backend, aligner_integrations.backends.prompted.frameworks  # need none
from aligner_integrations.errors import MissingDependencyError
try:
    import aligner_integrations.backends.{module}
except MissingDependencyError as error:
    assert "aligner-integrations[remote]" in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_sentence_about_a_missing_package_names_it():
    calls = [
        node
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require"
    ]
    sentences = [ast.unparse(call.args[1]) for call in calls if not isinstance(call.args[1], ast.Name)]
    assert len(sentences) > 20
    assert not [
        said
        for said in sentences
        if not re.search(r"\{missing\}|needs langchain|needs llama-index-core|needs peft", said)
    ]


@pytest.mark.parametrize(
    ("missing", "use", "extra"),
    [
        ("langchain_core", "from aligner_integrations import AlignerMiddleware", "agents"),
        ("langchain", "from aligner_integrations import AlignerMiddleware", "agents"),
        ("langchain", "from aligner_integrations.langchain import ThoughtAlignerMiddleware", "agents"),
        ("langchain_core", "from aligner_integrations import AlignerRunnable", "langchain"),
        ("langchain_core", "from aligner_integrations import AlignedChatModel", "langchain"),
        ("llama_index", "from aligner_integrations import AlignerQueryEngine", "llama-index"),
        ("torch", "from aligner_integrations import Aligner; Aligner('embedded').load()", "local"),
        ("transformers", "from aligner_integrations import Aligner; Aligner('embedded').correct('q', 'a')", "local"),
        ("aiohttp", "from aligner_integrations import Aligner; Aligner.from_endpoint('http://h/v1')", "remote"),
        ("aiohttp", "from aligner_integrations import Aligner; Aligner.from_chat_model('http://h/v1')", "remote"),
        # Before any weights are looked for, which may be gigabytes.
        ("torch", "from aligner_integrations import Aligner; Aligner('none/such').backend.fingerprint", "local"),
        ("pyarrow", "from aligner_integrations.triples import read_triples; read_triples('rows.parquet')", "corpus"),
        ("torch", "import aligner_integrations.bench.decoding", "local"),
        ("langchain_core", "import aligner_integrations.bench.overlap", "langchain"),
        ("llama_index", "import aligner_integrations.bench.overlap", "llama-index"),
        ("aiohttp", "import aligner_integrations.bench.corpora", "remote"),
    ],
)
def test_what_is_missing_is_named_with_the_one_extra_that_is_needed(missing, use, extra, tmp_path):
    (tmp_path / "rows.parquet").touch()
    code = f"""
import sys
sys.modules[{missing!r}] = None
from aligner_integrations.errors import MissingDependencyError
try:
    exec({use!r})
except MissingDependencyError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert said.strip().endswith(f": pip install 'aligner-integrations[{extra}]'")
    assert said.count("pip install") == 1 and missing.replace("_core", "") in said.replace("-", "_")
