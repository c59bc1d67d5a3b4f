import inspect
import re

import pytest

from aligner_integrations import errors
from aligner_integrations.errors import AlignerError, BackendError, ModelDownloadError

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
    assert [name for name, cls in CLASSES.items() if cls.retryable] == ["ModelDownloadError"]
    assert ModelDownloadError("x").retryable
    assert not BackendError("x").retryable
    assert BackendError("x", retryable=True).retryable


@pytest.mark.parametrize("cls", CLASSES.values())
def test_messages_stay_what_they_are(cls):
    assert str(cls("what to do")) == "what to do"
