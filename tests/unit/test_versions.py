"""The constraints of `make test-oldest` and `make test-newest`, that the three files agree, and what `make test-peers` installs."""

import ast
import sys
import tomllib

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.versions import FRAMEWORKS, KEPT, REPOSITORY, constraints


def ranges():
    """Name -> range, of everything that pyproject.toml names."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    found = {}
    for requirement in map(Requirement, lines):
        found[canonicalize_name(requirement.name)] = found.get(requirement.name, SpecifierSet()) & requirement.specifier
    del found["aligner-integrations"]  # extras that name other extras
    return found


def pinned(which):
    """Name -> version, of a constraints file."""
    found = {}
    for requirement in map(Requirement, constraints(which)):
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        found[canonicalize_name(requirement.name)] = pin.version
    return found


def test_everything_is_pinned_within_its_range():
    for which in ("oldest", "pinned"):
        pins = pinned(which)
        assert {name: pins.get(name) for name, wanted in ranges().items() if pins.get(name) not in wanted} == {}


def test_the_oldest_are_the_lower_ends_of_the_core_and_the_frameworks():
    oldest, pins = pinned("oldest"), pinned("pinned")
    assert set(oldest) == set(pins)
    moved = {name for name in oldest if oldest[name] != pins[name]}
    assert {"langchain", "langchain-core", "llama-index-core", "huggingface-hub"} <= moved
    for name in moved:
        assert oldest[name] in {spec.version for spec in ranges()[name] if spec.operator == ">="}
    assert not moved & set(KEPT)
    assert {oldest[name] for name in ("langchain", "llama-index-core", "huggingface-hub")} == {"1.4", "0.14", "1.31"}


def test_the_newest_leave_all_but_the_largest_to_the_resolver():
    assert set(pinned("newest")) == set(KEPT)
    assert FRAMEWORKS == ("agents", "langchain", "llama-index")


def imported(path):
    """What a file of the tests imports, and those files of the tests which it imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in [node.module] if isinstance(node, ast.ImportFrom) else names:
            if name.startswith("tests."):
                yield from imported(REPOSITORY / f"{name.replace('.', '/')}.py")
            else:
                yield name.partition(".")[0]


def test_the_environment_of_the_peers_has_what_is_imported_there():
    """It has none of the development tools, and pytest reads the tests' common file there, too."""
    folder = REPOSITORY / "tests" / "peers"
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    lines = [line for line in lines if not line.startswith("#")] + extras["agents"] + extras["langchain"]
    there = {canonicalize_name(Requirement(line).name) for line in lines} | {"langgraph", "pydantic"}  # langchain's own
    files = [REPOSITORY / "tests" / "conftest.py", *folder.glob("*.py")]
    names = {name for file in files for name in imported(file)} - set(sys.stdlib_module_names)
    assert {canonicalize_name(name) for name in names} - {"aligner-integrations"} <= there
