"""Validate, shorten and count what people type and read; pure."""

import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from skychimp.errors import InvalidValue

LONGEST_TAG = 100
MOST_TAGS = 100

_ALLOWED_IN_TEXT = dict.fromkeys(map(ord, "\t\n"), " ")
_FORBIDDEN = {
    "Cc": "a control character or a line break",
    "Zl": "a line break",
    "Zp": "a line break",
    "Cs": "invalid UTF-8",
}
"""Unicode categories that no text may contain. Format characters are part of many scripts."""


def one_line(value: str, what: str, longest: int) -> str:
    """Return a line of Unicode text without spaces around it.

    `what` names the value in the error. Raises InvalidValue if it has a line break or a control character, or more
    than `longest` characters.
    """
    if not value.isprintable() and (fault := _fault(value)):
        raise InvalidValue(f"the {what} {shortened(value)} contains {fault}", f"write the {what} on one line")
    _require_length(value, what, longest)
    return value.strip()


def some_lines(value: str, what: str, longest: int) -> str:
    """Return lines of Unicode text with LF line ends.

    `what` names the value in the error. Raises InvalidValue if it has a control character, or more than `longest`
    characters.
    """
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    if fault := _fault(value.translate(_ALLOWED_IN_TEXT)):
        raise InvalidValue(f"the {what} {shortened(value)} contains {fault}")
    _require_length(value, what, longest)
    return value


def checked_tags(tags: Sequence[str]) -> list[str]:
    """Return tags in order and without duplicates.

    Raises InvalidValue for more than MOST_TAGS, or a tag that is empty, too long, or has a comma or semicolon.
    """
    for tag in tags:
        if not tag.strip() or "," in tag or ";" in tag:
            raise InvalidValue(f"invalid tag {shortened(tag)}", "a tag is one line without commas or semicolons")
    found = sorted({one_line(tag, "tag", LONGEST_TAG) for tag in tags}) if tags else []
    if len(found) > MOST_TAGS:
        raise InvalidValue(f"too many tags: {len(found)}", f"a client has at most {MOST_TAGS} tags")
    return found


def shortened(value: str) -> str:
    """Return the value in quotes, cut after 40 characters."""
    return repr(value if len(value) <= 40 else value[:40] + "…")


def count_of(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 email`, `2,002 emails`. The plural adds an "s" unless it is given."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def did_you_mean(word: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> str:
    """Return `did you mean X?` for the known words that are close to a mistyped one, "" if none is."""
    close = get_close_matches(word, list(known), n=most, cutoff=cutoff)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _require_length(value: str, what: str, longest: int) -> None:
    if len(value) > longest:
        raise InvalidValue(f"the {what} {shortened(value)} is longer than {longest:,} characters")


def _fault(value: str) -> str | None:
    if value.isprintable():
        return None
    return next(filter(None, (_FORBIDDEN.get(unicodedata.category(character)) for character in value)), None)
