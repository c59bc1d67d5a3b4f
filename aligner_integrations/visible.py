"""Text of models and users as it may be shown: control characters in it, which terminals and pages obey, become escapes.

And whether it can be written at all.
"""

from __future__ import annotations

import re

# C0 and C1 without tab and newline (and without the carriage return of a Windows line end), the separators that
# some terminals take for line ends, directional overrides and isolates, and surrogates, which nothing can encode.
UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)")


def visible(text: str) -> str:
    r"""Return text that is safe to show: each control character as an escape such as `\x1b` or `\u202e`."""
    return UNSAFE.sub(lambda match: _escape(ord(match.group())), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def is_encodable(text: str) -> bool:
    """False with half of a surrogate pair in it, which JSON can carry and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
