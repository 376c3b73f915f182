"""Check, shorten and count text for people; pure."""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce

from skychimp.errors import InvalidValue
from skychimp.translation import Phrase, tr, trn, verbatim

MAX_NAME_LENGTH = 1_000
MAX_COMMENT_LENGTH = 10_000
MAX_TAG_LENGTH = 100
MAX_TAGS = 100
"""The limits of a client."""

MAX_TOPIC_LENGTH = 100

NO_TEXT = tr("")

_TAB_AND_NEWLINE = dict.fromkeys(map(ord, "\t\n"), " ")
_FORBIDDEN_CATEGORIES = {
    "Cc": tr("a control character or a line break"),
    "Zl": tr("a line break"),
    "Zp": tr("a line break"),
    "Cs": tr("invalid UTF-8"),
}
"""Unicode categories that no text may contain. Format characters are allowed: many scripts need them."""

_CONTROLS = {"Cc", "Zl", "Zp"}


def one_line(value: str, noun: str, max_length: int) -> str:
    """Return a line of Unicode text without surrounding spaces.

    `noun` names the value in the error. Raises InvalidValue if the text has a line break or a control character, or
    more than `max_length` characters.
    """
    if not value.isprintable() and (problem := _forbidden_category(value)):
        raise InvalidValue(
            tr("the {noun} {value} contains {problem}", noun=noun, value=shortened(value), problem=problem),
            tr("write the {noun} on one line", noun=noun),
        )
    _require_length(value, noun, max_length)
    return value.strip()


def some_lines(value: str, noun: str, max_length: int) -> str:
    """Return lines of Unicode text with LF line ends.

    `noun` names the value in the error. Raises InvalidValue if the text has a control character, or more than
    `max_length` characters.
    """
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    if problem := _forbidden_category(value.translate(_TAB_AND_NEWLINE)):
        raise InvalidValue(
            tr("the {noun} {value} contains {problem}", noun=noun, value=shortened(value), problem=problem)
        )
    _require_length(value, noun, max_length)
    return value


def checked_tags(tags: Sequence[str]) -> list[str]:
    """Return the tags in NFC, sorted and without duplicates. The first of several spellings is returned.

    Raises InvalidValue for more than MAX_TAGS, or a tag that is empty, too long, or has a comma or semicolon.
    """
    if len(set(tags)) > 10 * MAX_TAGS:  # a file can have a million of them, which are not worth checking
        raise _too_many(len(set(tags)))
    distinct: dict[str, str] = {}
    for tag in tags:
        key, checked = _checked_tag(tag)
        distinct.setdefault(key, checked)
    if len(distinct) > MAX_TAGS:
        raise _too_many(len(distinct))
    return sorted(distinct.values())


def checked_topic(topic: str) -> str:
    """Return a topic as it is compared with others by `folded`: one line in NFC. Raises InvalidValue for any other."""
    checked = one_line(nfc(topic), tr("topic"), MAX_TOPIC_LENGTH)
    if not checked:
        raise InvalidValue(tr("the topic is empty"), tr("use a name such as news or offers"))
    return checked


def nfc(text: str) -> str:
    """Return a text with its characters composed (Unicode's normalization form C)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """Return what is the same for texts that differ only in case, or in how their characters are composed.

    This is Unicode's canonical caseless matching (The Unicode Standard, section 3.13.5, D145), in form C.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def with_and(parts: Iterable[str]) -> Phrase:
    """Return words, at least one, joined by "and"."""
    words = map(verbatim, parts)
    return reduce(lambda first, second: tr("{first} and {second}", first=first, second=second), words)


def with_or(parts: Iterable[str]) -> Phrase:
    """Return words, at least one, joined by "or"."""
    words = map(verbatim, parts)
    return reduce(lambda first, second: tr("{first} or {second}", first=first, second=second), words)


def has_control_character(value: str) -> bool:
    """Return whether a text has a control character or a line break."""
    return not value.isprintable() and any(unicodedata.category(character) in _CONTROLS for character in value)


def shortened(value: str, max_length: int = 40) -> str:
    """Return a value in quotes for an error message, cut after `max_length` characters.

    Control, format and other invisible characters are escaped.
    """
    if len(value) > max_length:
        value = value[:max_length] + "…"
    return f'"{value}"' if value.isprintable() else repr(value)


def count_of(number: int, noun: str, plural: str = "") -> Phrase:
    """Return a number with its noun: `1 email`, `2,002 emails`. The plural adds an "s" unless it is given."""
    return trn(f"{{number:,}} {noun}", f"{{number:,}} {plural or noun + 's'}", number)


def thousands(number: int) -> Phrase:
    """Return a number with its thousands separated: `2,002`."""
    return tr("{number:,}", number=number)


def did_you_mean(word: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> Phrase:
    """Return `did you mean X?` for the known words that resemble a mistyped one, "" if none does.

    At most `most` words are suggested. `cutoff` is the least similarity, from 0 to 1.
    """
    close = close_matches(word, known, most=most, cutoff=cutoff)
    return tr("did you mean {words}?", words=with_or(close)) if close else NO_TEXT


def close_matches(word: str, known: Iterable[str], *, most: int, cutoff: float = 0.6) -> list[str]:
    """Return the known words that resemble a mistyped one, the most similar first. Case is ignored."""
    from difflib import get_close_matches

    words = {folded(each): each for each in known}
    return [words[close] for close in get_close_matches(folded(word), list(words), n=most, cutoff=cutoff)]


@lru_cache(maxsize=4096)  # a file has the same tags in many rows
def _checked_tag(tag: str) -> tuple[str, str]:
    """Return a tag folded, and as it is stored."""
    if not tag.strip() or "," in tag or ";" in tag:
        raise InvalidValue(tr("invalid tag {tag}", tag=shortened(tag)), tr("use one line without commas or semicolons"))
    checked = one_line(nfc(tag), tr("tag"), MAX_TAG_LENGTH)
    return folded(checked), checked


def _too_many(tags: int) -> InvalidValue:
    return InvalidValue(tr("too many tags: {tags:,}", tags=tags), tr("use at most {max_tags} tags", max_tags=MAX_TAGS))


def _require_length(value: str, noun: str, max_length: int) -> None:
    if len(value) > max_length:
        raise InvalidValue(
            tr(
                "the {noun} {value} is longer than {max_length:,} characters",
                noun=noun,
                value=shortened(value),
                max_length=max_length,
            )
        )


def _forbidden_category(value: str) -> Phrase | None:
    if value.isprintable():
        return None
    problems = (_FORBIDDEN_CATEGORIES.get(unicodedata.category(character)) for character in value)
    return next(filter(None, problems), None)
