import importlib
import inspect
import re
import sys

import pytest

from aligner_integrations import errors
from aligner_integrations.errors import (
    AlignerError,
    BackendError,
    MissingDependencyError,
    ModelDownloadError,
    first_line,
    require,
)

CLASSES = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls)}
# Indent, name, and the built-in base in brackets, if any.
LINE = re.compile(r"^    ([│├└─ ]*)(\w+Error)(?: \((\w+)\))?", re.MULTILINE)


def drawn():
    """Name -> names of its bases, as the docstring draws them."""
    tree, path = {}, []
    for indent, name, builtin in LINE.findall(errors.__doc__):
        del path[len(indent) // 4 :]
        tree[name] = [*([path[-1]] if path else ["Exception"]), *([builtin] if builtin else [])]
        path.append(name)
    return tree


def test_the_drawing_is_the_real_tree():
    assert drawn() == {name: [base.__name__ for base in cls.__bases__] for name, cls in CLASSES.items()}


def test_every_error_descends_from_one_root_and_says_what_it_means():
    for cls in CLASSES.values():
        assert issubclass(cls, AlignerError)
        assert cls.__dict__.get("__doc__")


def test_retryable():
    assert [name for name, cls in CLASSES.items() if cls.retryable] == ["ModelDownloadError", "DiskError"]
    assert ModelDownloadError("x").retryable
    assert not BackendError("x").retryable
    assert BackendError("x", retryable=True).retryable


@pytest.mark.parametrize("cls", CLASSES.values())
def test_messages_stay_what_they_are(cls):
    assert str(cls("what to do")) == "what to do"


@pytest.mark.parametrize("missing", ["xml", "xml.etree", "xml.etree.ElementTree"])
def test_a_missing_module_is_named_with_its_extra(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with (
        pytest.raises(MissingDependencyError) as caught,
        require("x", "This needs {missing}", "json", "xml.etree.ElementTree"),
    ):
        importlib.import_module(missing)
    assert str(caught.value) == f"This needs {missing}: pip install 'aligner-integrations[x]'"
    assert caught.value.name == missing and isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("missing", ["xml.dom", "xml.etree.ElementPath", "html", None])
def test_a_broken_installation_is_not_called_missing(missing):
    broken = ModuleNotFoundError("gone", name=missing)
    with pytest.raises(ModuleNotFoundError) as caught, require("x", "This", "xml.etree.ElementTree"):
        raise broken
    assert caught.value is broken
    with pytest.raises(ImportError, match="nothing_like_it"), require("x", "This", "json"):
        from json import nothing_like_it  # noqa: F401


def test_the_outer_extra_is_the_one_that_is_named():
    outer, inner = require("outer", "Outer", "one", "two"), require("inner", "Inner", "one")
    with pytest.raises(MissingDependencyError, match=r"\[outer\]") as caught, outer, inner:
        raise ModuleNotFoundError("gone", name="one")
    assert caught.value.name == "one"


def test_what_others_say_fits_into_a_sentence():
    assert first_line(ValueError("\n it broke \nhere")) == "it broke "
    assert first_line(ValueError()) == "no details"
    assert len(first_line(ValueError("x" * 10_000))) == 300
