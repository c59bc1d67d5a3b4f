"""Reading what OpenAI-compatible servers answer, whole or in events: text, the reason why it ended, token counts, refusals.

A text counts as a correction only if the server says that it ended by itself. What was sent is made in `window.py`.
"""

from __future__ import annotations

import json
import math
import time
import urllib.parse
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from aligner_integrations.backends.remote.keys import Secret, redact
from aligner_integrations.backends.request import Completion
from aligner_integrations.correction import Usage
from aligner_integrations.errors import BackendError, ConfigurationError

_ENDED = {"stop", "eos_token", "stop_sequence", "eos", "end_turn", "stop_string"}
_CUT = {"length", "max_tokens", "max_new_tokens", "max_output_tokens", "model_length"}
_WITHHELD = {"content_filter", "safety", "prohibited_content", "refusal"}

_PASSING = {408, 409, 425, 429}
_HINTS = {
    401: " Check api_key.",
    403: " Check that api_key may use this model.",
    404: " Check the URL (it ends in /v1) and the model's name.",
}


class StatusError(BackendError):
    """A server answered with a status that is no success.

    Attributes:
        status: The HTTP status; 0 for an error that a stream reported.
        detail: What the server said about it, shortened.
    """

    def __init__(self, message: str, *, status: int, detail: str, retryable: bool, retry_after: float | None) -> None:
        super().__init__(message, retryable=retryable, retry_after=retry_after)
        self.status = status
        self.detail = detail


class Written:
    """What a server has written so far.

    Args:
        host: The server's name, for errors.
        text_of: Where the text is in a choice.

    Attributes:
        host: As above.
        text: All text.
        reason: Why it ended; None: not yet.
        usage: Token counts, zero where the server gives none.
    """

    __slots__ = ("_text_of", "host", "reason", "text", "usage")

    def __init__(self, host: str, text_of: Callable[[dict[str, Any]], Any] = lambda choice: choice.get("text")) -> None:
        self.host = host
        self._text_of = text_of
        self.text = ""
        self.reason: Any = None
        self.usage = Usage()

    def feed(self, answer: Any) -> str:
        """Take a response or an event of a stream; return its text.

        Raises:
            BackendError: It is none.
        """
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise BackendError(f"The response of {self.host} holds no choices.", retryable=True)
        if answer.get("usage"):  # some servers count in each event, from the beginning
            self.usage = usage_of(answer["usage"])
        choice = next((choice for choice in choices if choice.get("index", 0) == 0), None)
        if choice is None or self.reason is not None:  # another choice, or what comes after the text
            return ""
        text = readable(self._text_of(choice) or "", self.host)
        self.reason = choice.get("finish_reason") or None  # some say "" until it ends
        self.text += text
        return text

    def take(self, answer: Any) -> None:
        """Take a whole response, which is read like an event."""
        self.feed(answer)

    def completion(self, mend: Callable[[str], str] = lambda text: text) -> Completion:
        """Return the completion; see `completion`."""
        return completion(mend(self.text), self.reason, self.usage, self.host)


def readable(text: Any, host: str) -> str:
    """Return a text as it came.

    Raises:
        BackendError: It is none, or holds half of a character.
    """
    if not isinstance(text, str):
        raise BackendError(f"The response of {host} holds a {type(text).__name__} as text.", retryable=True)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise BackendError(f"The response of {host} holds half of a character, so its text is damaged.", retryable=True)
    return text


def completion(text: Any, reason: Any, usage: Usage, host: str) -> Completion:
    """Return a completion from what a server said of its text and of its end.

    Raises:
        BackendError: It did not say how the text ended, so that it may be cut; or it withheld it.
    """
    if not isinstance(text, str):
        raise BackendError(f"The response of {host} holds no text.", retryable=True)
    if isinstance(reason, str) and reason in _ENDED:
        return Completion(text, "stop", usage)
    if is_cut(reason):
        return Completion(text, "length", usage)
    if is_withheld(reason):
        raise BackendError(f"The content filter of {host} withheld the correction.")
    raise BackendError(
        f"{host} does not say that it finished the correction (finish reason {str(reason)[:40]!r}); it may be cut.",
        retryable=True,
    )


def is_cut(reason: Any) -> bool:
    """Whether a text ended at a token limit."""
    return isinstance(reason, str) and reason.lower() in _CUT


def is_withheld(reason: Any) -> bool:
    """Whether a content filter took a text away."""
    return isinstance(reason, str) and reason.lower() in _WITHHELD


def usage_of(data: Any) -> Usage:
    """Return the token counts that a server gives, or zeros."""
    data = data if isinstance(data, dict) else {}
    counts = (data.get("prompt_tokens"), data.get("completion_tokens"))
    return Usage(*(n if isinstance(n, int) and n >= 0 else 0 for n in counts))


def only_model(answer: Any, host: str) -> tuple[str, int | None]:
    """Return the name of the one model that `/v1/models` lists, and its context in tokens if it says so.

    Raises:
        ConfigurationError: There are several, or none.
    """
    rows = answer.get("data") if isinstance(answer, dict) else None
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    names: list[str] = [row["id"] for row in rows if isinstance(row.get("id"), str)]
    if len(names) != 1:
        found = ", ".join(name[:100] for name in names[:20]) or "none"
        raise ConfigurationError(f"{host} does not list exactly one model, but {found}: name one with model=.")
    window = rows[0].get("max_model_len")
    return names[0], window if isinstance(window, int) and window > 0 else None


# Refusals -------------------------------------------------------------------------------------------------------------


def may_pass(status: int) -> bool:
    """Whether the same request may succeed after this status.

    409 is among them, as for the clients of OpenAI and Anthropic: a request that changes nothing on the server can only
    conflict with a lock that is held for a while.
    """
    return status in _PASSING or status >= 500


def seconds_of(retry_after: Any) -> float | None:
    """Return the seconds that a `Retry-After` asks for, as a number or as a date; None if it cannot be read."""
    try:
        seconds = float(retry_after)
    except (ValueError, TypeError):
        try:
            seconds = parsedate_to_datetime(str(retry_after)).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def refusal(
    host: str, status: int, headers: Mapping[str, str], body: bytes | bytearray, key: Secret | None
) -> StatusError:
    """Return the error for a response that is no success.

    Args:
        host: The server's name, for the message.
        status: The HTTP status.
        headers: The response's headers.
        body: Its body, or the beginning.
        key: The key that was sent; it is not repeated.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    detail = shown(_message(data), key)
    if 300 <= status < 400:
        target = urllib.parse.urlsplit(headers.get("location", ""))
        detail = f"it redirects to {shown(target.hostname or target.path, key)}; give that server's URL yourself"
    after = headers.get("retry-after")
    if after is None and isinstance(data, dict):
        after = data.get("estimated_time")  # what the Hub says of a model that is loading
    return StatusError(
        f"{host} answered with status {status}{': ' + detail if detail else ''}.{_HINTS.get(status, '')}",
        status=status,
        detail=detail,
        retryable=may_pass(status),
        retry_after=seconds_of(after),
    )


def broken_off(host: str, error: Any, key: Secret | None) -> StatusError:
    """Return the error for an event that reports one."""
    detail = shown(_message(error), key)
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) else 0
    return StatusError(
        f"{host} broke off its stream: {detail or 'it does not say why'}",
        status=status,
        detail=detail,
        retryable=may_pass(status) or not 400 <= status < 500,
        retry_after=None,
    )


def shown(text: str, key: Secret | None) -> str:
    """Return a text of others as part of a message: one line, short, without keys."""
    line = " ".join(text.split())
    return redact("".join(c for c in line if c.isprintable()), key)[:300].rstrip(". ")


def _message(data: Any) -> str:
    """What an error object says: servers differ in where they say it."""
    for _ in range(3):
        inner = (
            next((data[key] for key in ("error", "message", "detail") if data.get(key)), None)
            if isinstance(data, dict)
            else None
        )
        if inner is None:
            break
        data = inner
    return data if isinstance(data, str) else json.dumps(data) if data else ""
