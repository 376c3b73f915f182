"""Write JSON that keeps every value and is safe to look at on a terminal; pure."""

import json
import re
from collections.abc import Callable
from typing import Any

_INVISIBLE = re.compile(
    "[\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
"""What a terminal obeys or does not show: C1 controls, format and bidi characters, line breaks, lone surrogates."""


def dumps(value: Any, *, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """Return a value as JSON. Control, format and bidi characters are written as `\\u202e`, all others as they are.

    `default` returns something that JSON has for a value that it does not have, as in the standard library.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=default)
    if text.isascii() and "\x7f" not in text:
        return text
    return _INVISIBLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    """Return a character as JSON's escape, two of them beyond U+FFFF (RFC 8259, section 7)."""
    units = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
