"""The Hugging Face Hub: fetching (safetensors only, resumable) and putting folders there; every failure is a sentence of ours.

Which repository a name means, and what is done with its files: `models.py`.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

with warnings.catch_warnings(), suppress(ImportError):
    # In a notebook its first import asks for ipywidgets, whoever imports it.
    warnings.simplefilter("ignore")
    importlib.import_module("tqdm.auto")

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from aligner_integrations.errors import (
    ConfigurationError,
    HubUploadError,
    ModelAccessError,
    ModelDownloadError,
    ModelNotFoundError,
    UnsafeWeightsError,
)

# What a causal language model or an adapter needs. Code (*.py) and pickles are not even fetched, nor are other copies of
# the weights: training checkpoints and exports lie in folders of their own.
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_UNWANTED = ["*/*", "consolidated*.safetensors"]
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_T = TypeVar("_T")


def fetch_model(repo: str, revision: str | None) -> Path:
    """Return the local folder of a model repository, fetching what is missing with a progress bar.

    Uses huggingface_hub's cache, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`. A connection that is cut is taken up
    where it stopped; files that are complete are not fetched again.

    Raises:
        ModelNotFoundError, ModelAccessError, ModelDownloadError: See each.
        UnsafeWeightsError: The repository has pickled weights only.
    """

    def download() -> str:
        return snapshot_download(repo, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)

    folder = Path(_ask(repo, revision, download))
    if not any(folder.glob("*.safetensors")):
        _refuse_pickles(repo, revision)
        raise ModelNotFoundError(f"{repo} holds no safetensors weights. Only safetensors are ever loaded.")
    return folder


@functools.lru_cache(maxsize=256)
def fetch_file(repo: str, name: str, revision: str | None) -> Path | None:
    """Return one small file of a repository, or None if the repository has no such file.

    The Hub is asked once in a process: every correction wants to know, and weights are loaded only once, too.
    """

    def download() -> str | None:
        try:
            return hf_hub_download(repo, name, revision=revision)
        except LocalEntryNotFoundError:
            # Without the Hub: a cached repository without this file has no such file. Raises if neither is known.
            snapshot_download(repo, revision=revision, allow_patterns=[name], local_files_only=True)
            return None
        except EntryNotFoundError:
            return None

    path = _ask(repo, revision, download)
    return None if path is None else Path(path)


def _refuse_pickles(repo: str, revision: str | None) -> None:
    files = _ask(repo, revision, lambda: HfApi().list_repo_files(repo, revision=revision))
    pickles = [name for name in files if name.endswith(PICKLED)]
    if pickles:
        raise UnsafeWeightsError(
            f"{repo} has pickled weights only ({pickles[0]}). Loading them would run whatever code is in them; "
            "convert them to safetensors first, or use another revision."
        )


def _ask(repo: str, revision: str | None, call: Callable[[], _T]) -> _T:
    where = repo if revision is None else f"{repo} at revision {revision}"
    try:
        return call()
    except HFValidationError as error:
        raise ModelNotFoundError(
            f"{repo!r} is neither a folder here nor the id of a repository on the Hub, such as aligner/aligner-7b-v1.0."
        ) from error
    except GatedRepoError as error:
        raise ModelAccessError(
            f"{where} is gated. Accept its terms on its page on the Hub, then log in with `hf auth login` or set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"There is no repository {repo} on the Hub, or it is private. Check the name; for a private one set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{repo} has no revision {revision!r} on the Hub.") from error
    except LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise ModelDownloadError(
                f"{where} is not in the local cache, and HF_HUB_OFFLINE forbids fetching it. Unset it once to download."
            ) from error
        raise ModelDownloadError(
            f"{where} is not in the local cache, and the Hub cannot be reached. Check the network, or HF_ENDPOINT."
        ) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise ModelAccessError(
                f"The Hub refuses {where} (status {status}). Check that HF_TOKEN is valid and may read this repository."
            ) from error
        raise ModelDownloadError(
            f"Fetching {where} failed: the Hub answered with status {status}. Try again later."
        ) from error
    except OSError as error:
        raise ModelDownloadError(
            f"Fetching {where} failed: {type(error).__name__}: {error.strerror or error}. Check disk space and network, then "
            "call again: complete files are not fetched twice."
        ) from error
    except Exception as error:  # the HTTP client below huggingface_hub differs between its versions
        raise ModelDownloadError(
            f"Fetching {where} was cut ({type(error).__name__}). Call again: complete files are not fetched twice."
        ) from error


# Putting folders there -----------------------------------------------------------------------------------------------

Kind = Literal["model", "dataset"]


def create_repository(repo: str, *, kind: Kind, public: bool = False) -> None:
    """Make a repository, or find out that there is one that may be written to; before hours of work are put into what goes there.

    Args:
        repo: OWNER/NAME.
        kind: What it holds.
        public: Whether everybody may read it. What is not meant to be public never goes into a public one.

    Raises:
        ConfigurationError: The name is none, or there is a public repository of that name.
        HubUploadError: The Hub refuses, or cannot be reached.
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ConfigurationError(f"{repo!r} is no name of a repository on the Hub; it is OWNER/NAME.")

    def create() -> bool:
        api = HfApi()
        api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        return bool(api.repo_info(repo, repo_type=kind).private)

    if not _put(repo, create) and not public:
        raise ConfigurationError(
            f"{repo} is there already, and public: everybody could read what is put there. Name another one, or say --public."
        )


def push_folder(folder: Path, repo: str, *, kind: Kind, public: bool = False, ignore: tuple[str, ...] = ()) -> str:
    """Put a folder into a repository, in one commit; returns its address.

    Args:
        folder: What is put there.
        repo: OWNER/NAME; it is made if there is none.
        kind: What it holds.
        public: Whether everybody may read it.
        ignore: Patterns of what stays here.

    Raises:
        ConfigurationError, HubUploadError: As `create_repository`.
    """
    create_repository(repo, kind=kind, public=public)

    def upload() -> None:
        HfApi().upload_folder(
            folder_path=folder, repo_id=repo, repo_type=kind, ignore_patterns=[".*", *ignore], commit_message="Upload"
        )

    _put(repo, upload)
    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"


def _put(repo: str, call: Callable[[], _T]) -> _T:
    try:
        return call()
    except HFValidationError as error:
        raise ConfigurationError(f"{repo!r} is no name of a repository on the Hub; it is OWNER/NAME.") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise HubUploadError(
                f"The Hub refuses to have {repo} written (status {status}). Log in with `hf auth login`, or set HF_TOKEN to a token "
                "that may write there."
            ) from error
        raise HubUploadError(
            f"{repo} could not be written: the Hub answered with status {status}. Try again later.", retryable=True
        ) from error
    except Exception as error:  # the HTTP client below huggingface_hub differs between its versions
        raise HubUploadError(
            f"{repo} could not be written ({type(error).__name__}). Check the network, or HF_ENDPOINT, and try again.",
            retryable=True,
        ) from error
