"""Keys that show themselves to nobody but the server they are for.

A `Secret` says `***` wherever it is printed, and is left out when it is pickled. `redact` takes keys out of texts that
others wrote, such as a server's error message. Which server may have which key is decided here; it is sent by `http.py`.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aligner_integrations.errors import ConfigurationError

# What keys of the usual providers look like, for errors of clients whose key is not ours to know.
_KEY_LIKE = re.compile(
    r"(?i:\bbearer\s+)[^\s'\";,]{6,}|\b(?:sk|pk|hf|gsk|xai|nvapi|AKIA)[-_]?(?=[A-Za-z0-9_-]*\d)[A-Za-z0-9_-]{12,}"
)

# What ends like an IPv4 address is one, or nothing.
_HOST = re.compile(r"(?=.{1,253}$)(?!.*\.[0-9]+\.?$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


class Secret:
    """A key, or a function that is asked for it at each request.

    Args:
        value: The key. A function suits keys that expire, and survives pickling; a key does not.

    Raises:
        ConfigurationError: Not a key that can be sent.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | Callable[[], str]) -> None:
        if not callable(value):
            value = _checked(value)
        self._value: str | Callable[[], str] = value

    def reveal(self) -> str:
        """Return the key.

        Raises:
            ConfigurationError: The function gave no key, or the key was lost when this object was pickled.
        """
        if not callable(self._value):
            return self._value
        try:
            key = self._value()
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - a function of the caller's; its words may hold the key
            raise ConfigurationError(f"The function that gives the API key raised {type(error).__name__}.") from None
        return _checked(key)

    @property
    def is_asked_for(self) -> bool:
        """Whether it is a function's to give."""
        return callable(self._value)

    def __repr__(self) -> str:
        """Never the key."""
        return "Secret('***')"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """A function travels by its name, and a key stays here."""
        return Secret, (self._value if callable(self._value) else _lost,)


def redact(text: str, secret: Secret | None = None) -> str:
    """Return a text of others without keys: neither this one nor what looks like one."""
    if secret is not None:
        with suppress(ConfigurationError):  # a function that gives no key any more
            text = text.replace(secret.reveal(), "***")
    return _KEY_LIKE.sub("***", text)


def _checked(value: Any) -> str:
    # What cannot be sent would be printed by whoever tries.
    if not isinstance(value, str) or not (key := value.strip()) or not key.isascii() or not key.isprintable():
        raise ConfigurationError(
            "The API key must be a string of printable ASCII characters, or a function that returns one; what was given "
            f"is {'empty or has other characters' if isinstance(value, str) else f'a {type(value).__name__}'}."
        )
    return key


def _lost() -> str:
    raise ConfigurationError(
        "This backend was pickled, and its API key was left out. Give api_key as a function at module level, such as one "
        "that reads an environment variable: it is asked in each process."
    )


# Where a key may go ---------------------------------------------------------------------------------------------------


def key_for(url: str, api_key: str | Callable[[], str] | Secret | None) -> Secret | None:
    """Return the key to send to a server: the one given, else for a host of the Hub the token this machine has for it."""
    if api_key is not None:
        return api_key if isinstance(api_key, Secret) else Secret(api_key)
    parts = split_url(url)
    if parts.scheme == "https" and is_hub(parts.hostname or "") and _hub_token():
        return Secret(_hub_token)
    return None


def _hub_token() -> str:
    from huggingface_hub import get_token

    return get_token() or ""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    address = address_of(host)
    return host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)


def is_host(name: str) -> bool:
    """Whether a name or an address can be that of a host."""
    return _HOST.fullmatch(name) is not None or address_of(name) is not None


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host's address if that is what it is named by."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_hub(host: str) -> bool:
    """Whether a host belongs to the Hugging Face Hub, its router, or its Inference Endpoints."""
    from huggingface_hub import constants

    own = urllib.parse.urlsplit(constants.ENDPOINT).hostname  # HF_ENDPOINT, for those with a Hub of their own
    return host == own or any(
        host == hub or host.endswith("." + hub) for hub in ("huggingface.co", "hf.co", "huggingface.cloud")
    )


def split_url(url: str) -> urllib.parse.SplitResult:
    """Split the URL of a server; what does not belong into it is not repeated in the message, because it may be a secret.

    Raises:
        ConfigurationError: It cannot be used.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except (ValueError, TypeError, AttributeError):
        raise ConfigurationError("The URL of the server cannot be read. It looks like https://host:8000/v1.") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            f"The URL of {parts.hostname or 'the server'} holds a user name, a password, a query or a fragment. Give "
            "scheme, host and path alone, and the key as api_key."
        )
    if parts.scheme not in ("http", "https") or not is_host(parts.hostname or "") or port == 0:
        raise ConfigurationError(f"{url!r} is not the URL of a server. It looks like https://host:8000/v1.")
    if not parts.path.isascii() or not parts.path.isprintable() or " " in url:
        raise ConfigurationError(f"{url!r} has characters that a URL cannot have; encode them first.")
    return parts
