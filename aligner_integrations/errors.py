"""Every error of this package, in one tree.

    AlignerError
    ├── ConfigurationError (ValueError)      an option, a template or a recipe does not fit
    │   ├── UnknownTemplateError             no template is known for this model
    │   ├── UnknownOptionError (TypeError)   there is no option of this name
    │   └── MisplacedError (AttributeError)  a framework takes an aligner for something that it is not
    ├── MissingDependencyError (ImportError) an extra is not installed; the message names it
    ├── ModelError                           weights cannot be had
    │   ├── ModelNotFoundError               no such repository, folder, revision or file
    │   ├── ModelAccessError                 gated or private, and no permission
    │   ├── ModelDownloadError               network or disk failed while fetching
    │   ├── UnsafeWeightsError               pickled weights, or code to execute: refused
    │   └── ModelLoadError                   corrupt, incomplete, or base and adapter do not fit
    ├── DiskError                            a result cannot be written: the disk is full, or forbids it
    ├── InputError (ValueError)              this question or answer cannot be used
    │   ├── InvalidTextError                 not text, or text that cannot be encoded
    │   │   └── UnsupportedValueError (TypeError)  a value of a framework in which no answer can be seen
    │   ├── QuestionNotFoundError            a pipe in which the question cannot be found
    │   └── AnswerTooLongError               question and answer do not fit the aligner's window
    ├── HubUploadError                       a folder could not be put on the Hub
    ├── RecordingError                       corrections that were given to a recorder are not on the disk
    └── CorrectionError                      the aligner ran and gave nothing usable
        ├── EmptyCorrectionError
        ├── TruncatedCorrectionError         cut at the token limit
        ├── LostTextError                    it lost a large part of the answer, and nothing asked for that
        ├── RejectedCorrectionError          `accept` refused it and on_reject="raise"
        └── BackendError                     the backend failed while running
            ├── CircuitOpenError             it failed so often that it is left alone for a while
            └── OverloadedError              too many corrections are on their way at once

`retryable` says whether the same call may succeed later. What else lives here: `require`, through which every optional
package is imported, `did_you_mean`, and `first_line`, which quotes the errors of others.
"""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class AlignerError(Exception):
    """Root of all errors raised by this package."""

    retryable: bool = False


class ConfigurationError(AlignerError, ValueError):
    """An option, a template or a recipe does not fit."""


class UnknownTemplateError(ConfigurationError):
    """No prompt template is known for a model; a wrong one would silently ruin its corrections."""


class UnknownOptionError(ConfigurationError, TypeError):
    """There is no option of this name."""


class MisplacedError(ConfigurationError, AttributeError):
    """A framework takes an aligner for something that it is not; the message names what goes there."""


class MissingDependencyError(AlignerError, ImportError):
    """An optional dependency is not installed; the message names the extra to install, and `name` the missing module."""


class ModelError(AlignerError):
    """Weights cannot be had."""


class ModelNotFoundError(ModelError):
    """There is no such repository, folder, revision or file."""


class ModelAccessError(ModelError):
    """The repository is gated or private, and this machine has no permission."""


class ModelDownloadError(ModelError):
    """The network or the disk failed while weights were fetched."""

    retryable = True


class UnsafeWeightsError(ModelError):
    """The weights are pickled, or the repository asks to execute its code. Neither is ever done."""


class ModelLoadError(ModelError):
    """The weights are corrupt or incomplete, or base and adapter do not fit."""


class DiskError(AlignerError):
    """A result cannot be written: the disk is full, or forbids it. Once it can, the same call goes on."""

    retryable = True


class InputError(AlignerError, ValueError):
    """This question or answer cannot be used."""


class InvalidTextError(InputError):
    """Not a string, or a string that cannot be encoded (lone surrogates)."""


class UnsupportedValueError(InvalidTextError, TypeError):
    """A value of a framework in which no answer, question or message can be seen."""


class QuestionNotFoundError(InputError):
    """The question that led to an answer cannot be found."""


class AnswerTooLongError(InputError):
    """Question and answer leave no room for a correction in the aligner's window."""


class HubUploadError(AlignerError):
    """A folder could not be put on the Hub. `retryable` is set by whoever raises it."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class RecordingError(AlignerError):
    """Corrections that were given to a recorder are not on the disk."""


class CorrectionError(AlignerError):
    """The aligner ran and gave nothing usable."""


class EmptyCorrectionError(CorrectionError):
    """The aligner wrote nothing."""


class TruncatedCorrectionError(CorrectionError):
    """The aligner ran into its token limit; a cut text is never passed off as a correction."""


class LostTextError(CorrectionError):
    """The correction lost a large part of the answer that nobody objected to, or says it in so many other places that nobody can tell."""


class RejectedCorrectionError(CorrectionError):
    """`accept` refused the correction and `on_reject` is "raise"."""


class BackendError(CorrectionError):
    """The backend failed while running. `retryable` is set by whoever raises it.

    Attributes:
        retry_after: Seconds after which a server said that it may be asked again; None if it did not.
    """

    def __init__(self, message: str, *, retryable: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after = retry_after


class CircuitOpenError(BackendError):
    """The backend failed so often that it is not asked for a while; `retry_after` says how long."""


class OverloadedError(BackendError):
    """Too many corrections are on their way at once: the queue is full, or no turn came in time."""


OUTAGE = (BackendError, ModelError)
"""What an outage looks like. Any other error is about one answer, or a mistake of the caller."""


@contextmanager
def require(extra: str, what: str, *modules: str) -> Iterator[None]:
    """Make a sentence of a missing module; goes around the imports that need it.

    Args:
        extra: The extra of this package that brings it.
        what: What needs it, as the beginning of the sentence; `{missing}` in it becomes the module's name.
        modules: What is imported.

    Raises:
        MissingDependencyError: One of the modules, or a package it is in, is not installed.
    """
    try:
        yield
    except (ModuleNotFoundError, MissingDependencyError) as error:
        # Anything else that cannot be imported is a broken installation, and installing the extra would not mend it.
        if not any(f"{module}.".startswith(f"{error.name}.") for module in modules):
            raise
        sentence = f"{what}: pip install 'aligner-integrations[{extra}]'".replace("{missing}", str(error.name))
        raise MissingDependencyError(sentence, name=error.name) from error


def first_line(error: BaseException) -> str:
    """Return what an error of others says, short enough for a sentence of ours."""
    return (str(error).strip().splitlines() or ["no details"])[0][:300]


def did_you_mean(word: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """Return a question that ends a sentence about a wrong name, or nothing if no known name is like it.

    Args:
        word: What was written.
        known: What may have been meant.
        likeness: How alike two names must be, from 0 to 1 (`difflib`'s ratio).
    """
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), names, n=1, cutoff=likeness)
    return f" Did you mean {names[found[0]]!r}?" if found else ""
