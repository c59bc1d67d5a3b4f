"""The package imports fast and alone; its public names are complete."""

import importlib
import json
import subprocess
import sys

import pytest

import aligner_integrations

HEAVY = ["datasets", "huggingface_hub", "langchain", "langchain_core", "llama_index", "peft", "torch", "transformers"]

PROBE = """
import json, sys, time
before = set(sys.modules)
started = time.perf_counter()
import aligner_integrations
seconds = time.perf_counter() - started
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def probe(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_is_fast_and_loads_the_standard_library_only():
    results = [probe(PROBE) for _ in range(5)]
    roots = {name.partition(".")[0] for name in results[0][1]}
    assert roots <= {"aligner_integrations", *sys.stdlib_module_names}
    assert min(seconds for seconds, _ in results) < 0.05


@pytest.mark.parametrize(
    "use",
    [
        "from aligner_integrations import Aligner, Correction, Template, AlignerError; Aligner(backend=object(), template='paper')",
        "from aligner_integrations.backends.base import FakeBackend",
        "from aligner_integrations import Aligner; Aligner('aligner/aligner-7b-v1.0')",
    ],
)
def test_the_core_loads_no_framework_and_no_weights_library(use):
    loaded = probe(f"import json, sys; {use}; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))")
    assert loaded == []


@pytest.mark.parametrize("name", aligner_integrations.__all__)
def test_public_names_resolve(name):
    value = getattr(aligner_integrations, name)
    if name != "__version__":
        home = importlib.import_module(value.__module__)
        assert getattr(home, name) is value


def test_all_and_dir_are_complete():
    assert aligner_integrations.__all__ == sorted(aligner_integrations.__all__)
    assert dir(aligner_integrations) == aligner_integrations.__all__
    assert set(aligner_integrations.__all__) == {*aligner_integrations._HOMES, "__version__"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Alinger"):
        _ = aligner_integrations.Alinger


@pytest.mark.parametrize("module", ["completions", "text_generation", "chat_endpoint"])
def test_a_missing_http_library_is_named_with_its_extra(module):
    code = f"""
import sys
sys.modules["httpcore"] = None
import aligner_integrations.backends.chat_model, aligner_integrations.backends.talkers  # need none
from aligner_integrations.errors import MissingDependencyError
try:
    import aligner_integrations.backends.{module}
except MissingDependencyError as error:
    assert "aligner-integrations[remote]" in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
