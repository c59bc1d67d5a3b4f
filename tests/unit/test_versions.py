"""The constraints of `make test-oldest` and `make test-newest`, and that the three files agree."""

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
