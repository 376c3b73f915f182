"""Validate the lines and tags that people type; pure."""

import unicodedata
from collections.abc import Sequence

from skychimp.errors import InvalidValue

LONGEST_TAG = 100


MOST_TAGS = 100


def checked_tags(tags: Sequence[str]) -> list[str]:
    """Tags without duplicates, in order. Raises InvalidValue for too many, or one that is empty, long or has commas."""
    for tag in tags:
        if not tag.strip() or "," in tag or ";" in tag:
            raise InvalidValue(f"{shortened(tag)} can't be a tag", "a tag is one line without commas or semicolons")
    found = sorted({one_line(tag, "tag", LONGEST_TAG) for tag in tags}) if tags else []
    if len(found) > MOST_TAGS:
        raise InvalidValue(f"{len(found)} tags are too many", f"at most {MOST_TAGS} at once")
    return found


def one_line(value: str, what: str, longest: int) -> str:
    """The value without spaces around it. Raises InvalidValue unless it is one line of Unicode; `what` names it."""
    if not value.isprintable() and (fault := _fault(value)):
        raise InvalidValue(f"the {what} {shortened(value)} holds {fault}", f"a {what} is one line")
    if len(value) > longest:
        raise InvalidValue(f"the {what} {shortened(value)} is longer than {longest} characters")
    return value.strip()


def some_lines(value: str, what: str, longest: int) -> str:
    """The value with LF line ends. Raises InvalidValue unless it is lines of Unicode; `what` names it."""
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    if fault := _fault(value.translate(_LAYOUT)):
        raise InvalidValue(f"the {what} {shortened(value)} holds {fault}")
    if len(value) > longest:
        raise InvalidValue(f"the {what} {shortened(value)} is longer than {longest} characters")
    return value


_LAYOUT = dict.fromkeys(map(ord, "\t\n"), " ")


_FAULTS = {
    "Cc": "a control character or a line break",
    "Zl": "a line break",
    "Zp": "a line break",
    "Cs": "what is not UTF-8",
}


def _fault(value: str) -> str | None:
    """What a person's text must not hold, if it does; format characters are a part of many scripts."""
    if value.isprintable():
        return None
    return next(filter(None, (_FAULTS.get(unicodedata.category(character)) for character in value)), None)


def shortened(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:40] + "…")
