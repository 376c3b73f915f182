"""Understand the columns of a file that mark who has opted out of another tool's emails, and why and when; pure."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from skychimp.errors import InvalidValue
from skychimp.services.clients.files.headings import normalise
from skychimp.services.clients.suppressions import COMPLAINT, UNSUBSCRIBED
from skychimp.shell import quoted
from skychimp.store.clients.suppressions import BOUNCE
from skychimp.text import with_and
from skychimp.translation import Phrase, tr, trn

UNCONFIRMED, NOT_SUBSCRIBED = "unconfirmed", "not subscribed"

_STRENGTH = {COMPLAINT: 0, UNSUBSCRIBED: 1, BOUNCE: 3}
"""Which reason counts if columns give several. A bounce is the weakest: a person can take it back."""
_OTHER_STRENGTH = 2

# Headings. They say what any cell means that is not a "no".

_OPTED_OUT_UNLESS_FALSE = {
    "unsubscribed", "is unsubscribed", "unsubscribe", "unsubscribed at", "unsubscribed on", "unsubscribe date",
    "unsubscribe time", "unsubscribed date", "date unsubscribed", "unsub time", "clean time",
    "unsubscribed from all email", "unsubscribe all", "unsubscribeall", "global unsubscribe", "globally unsubscribed",
    "portal unsubscribe", "portal spam report", "portal bounce", "global bounce",
    "optout", "opt out", "opted out", "optout date", "opt out date", "email opt out", "email optout",
    "has opted out of email", "hasoptedoutofemail", "do not email", "donotemail", "do not contact",
    "blacklisted", "blocklisted", "blacklist", "blocklist", "email blacklist", "email blocklist", "emailblacklisted",
    "email blacklisted", "email blocklisted", "is this subscriber blacklisted", "is this account disabled",
    "suppressed", "bounced", "hard bounced", "hard bounce", "bounced at", "complained", "complained at",
    "spam complaint", "spam report",
    "abgemeldet", "désabonné", "désinscrit", "отписан", "отписался", "відписаний",
}  # fmt: skip
_REASON_HEADINGS = {"unsub reason", "unsub reason other"}
_CONFIRMED = {"confirmed", "is this subscriber confirmed", "is the email of this subscriber confirmed"}
_OPTED_OUT_IF_FALSE = {
    *_CONFIRMED, "subscribed", "is subscribed", "opt in", "optin", "opted in", "optedin", "accepts marketing",
    "accepts email marketing",
}  # fmt: skip
_STATUS_HEADINGS = {
    "status", "subscription status", "subscriber status", "subscription", "email status", "contact status",
    "member status", "marketing status", "email subscription status", "email marketing", "email marketing status",
    "marketing email status", "statut", "estado", "статус",
}  # fmt: skip
_BOUNCE_HEADING = re.compile(r"\b(bounced?|clean)\b")
_COMPLAINT_HEADING = re.compile(r"\b(complain\w*|spam)\b")

# Cells

_STATUSES = {
    UNSUBSCRIBED: (
        "unsubscribed", "unsubscribe", "opted out", "opt out", "optout", "blocklisted", "blacklisted", "blocked",
        "disabled", "suppressed", "archived", "deleted", "removed", "do not email", "do not contact",
        "abgemeldet", "désabonné", "désinscrit", "отписан", "отписался", "відписаний",
    ),
    BOUNCE: ("cleaned", "bounce", "bounced", "hard bounce", "hard bounced", "hardbounced", "unreachable"),
    COMPLAINT: ("complained", "complaint", "marked as spam", "spam complaint", "spam report", "spam", "junk", "abuse"),
    UNCONFIRMED: ("unconfirmed", "not confirmed"),
    NOT_SUBSCRIBED: ("nonsubscribed", "non subscribed", "not subscribed"),
}  # fmt: skip
_STATUS_REASONS = {status: reason for reason, statuses in _STATUSES.items() for status in statuses}
_FINE_STATUSES = {
    "", "active", "enabled", "subscribed", "confirmed", "opted in", "opt in", "optin", "verified", "valid", "ok",
    "aktiv", "angemeldet", "actif", "abonné", "activo", "suscrito", "активен", "активный", "подписан", "активний",
    "підписаний",
}  # fmt: skip
_TRUE_WORDS = {"1", "true", "yes", "y", "t", "x", "on", "ja", "wahr", "oui", "vrai", "sí", "si", "да", "так"}
_FALSE_WORDS = {"0", "false", "no", "n", "f", "off", "never", "none", "null", "nein", "falsch", "non", "нет", "ні"}
_NOTHING = set("0-–—.:/ ")
"""The characters of an empty cell, a dash, and a date without a value."""
_ABUSE = re.compile(r"\b(abuse|spam|complain)", re.IGNORECASE)
_DATE_LIKE = re.compile(r"[\w\s,.:/+()-]{5,60}")
_TIME = re.compile(
    r"(\d{4})[-/.](\d\d?)[-/.](\d\d?)(?:[T ]+(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?\s*(Z|[+-]\d\d:?\d\d)?\b.*"
)
_SECONDS, _MILLISECONDS = re.compile(r"\d{9,10}(\.\d+)?"), re.compile(r"\d{12,13}")
_SHOWN = 40  # characters of a cell


class OptOut(NamedTuple):
    """That a contact must not get mail: the reason of the suppression, and the time if the file has one."""

    reason: str
    at: datetime | None = None


class OtherCell(Enum):
    """A cell that does not say that a contact has opted out."""

    FINE = "fine"
    UNKNOWN = "unknown"


CellMeaning = OptOut | OtherCell
Cells = Sequence[str] | Mapping[int, str]
"""The cells of a row by their positions."""


class OptOutColumn(NamedTuple):
    """A column that can say that a contact has opted out.

    `understand` returns what a cell of it means. If `is_certain` is false, the column may be about something else. It
    counts only if one of its cells says that a contact has opted out.
    """

    heading: str
    position: int
    understand: Callable[[str], CellMeaning]
    is_certain: bool = True


class ChosenColumns(NamedTuple):
    """The columns that mark who has opted out, and those that turned out to be about something else."""

    opt_outs: Sequence[OptOutColumn]
    others: Sequence[OptOutColumn]


def find_columns(headings: Sequence[str], free: Iterable[int], tool: str = "") -> Sequence[OptOutColumn]:
    """Return those of the columns that can say that a contact has opted out."""
    names = {index: normalise(headings[index]) for index in free}
    if _CONFIRMED & set(names.values()):  # phpList sends to who is confirmed, whether they have opted in or not
        names = {index: name for index, name in names.items() if name != "optedin"}
    found = ((index, _understand(name), _is_certain(name, tool)) for index, name in names.items())
    return [
        OptOutColumn(headings[index].strip(), index, lru_cache(1000)(understand), is_certain)
        for index, understand, is_certain in found
        if understand
    ]


def reason_of_all(status: str) -> OptOut:
    """Return the opt-out of each contact in a file of contacts who all have this status."""
    return OptOut(_STATUS_REASONS[status])


def find(columns: Sequence[OptOutColumn], cells: Cells) -> OptOut | None:
    """Return that the contact of a row has opted out, None if no cell says so."""
    meanings = (column.understand(cells[column.position]) for column in columns)
    return strongest([meaning for meaning in meanings if isinstance(meaning, OptOut)])


def strongest(found: Sequence[OptOut]) -> OptOut | None:
    """Return the opt-out whose reason counts, with the first time that one of them has."""
    if len(found) <= 1:
        return found[0] if found else None
    reason = min((each.reason for each in found), key=lambda reason: _STRENGTH.get(reason, _OTHER_STRENGTH))
    return OptOut(reason, next((each.at for each in found if each.at), None))


def choose_columns(columns: Sequence[OptOutColumn], rows: Iterable[tuple[int, Cells]]) -> ChosenColumns:
    """Return the columns that mark who has opted out, after reading the line numbers and cells of all rows.

    Raises InvalidValue if such a column has a value that is not understood.
    """
    opted_out: set[int] = set()
    unknown: dict[int, tuple[int, str]] = {}
    for line, cells in rows:
        for column in columns:
            cell = cells[column.position]
            meaning = column.understand(cell)
            if isinstance(meaning, OptOut):
                opted_out.add(column.position)
            elif meaning is OtherCell.UNKNOWN:
                unknown.setdefault(column.position, (line, cell))
    chosen = [column for column in columns if column.is_certain or column.position in opted_out]
    for column in chosen:
        if column.position in unknown:
            raise _not_understood(column, *unknown[column.position])
    others = [column for column in columns if column not in chosen and column.position in unknown]
    return ChosenColumns([column for column in chosen if column.position in opted_out], others)


def explain(columns: Sequence[OptOutColumn]) -> Sequence[Phrase]:
    """Return what to tell the user about the columns that mark who has opted out."""
    if not columns:
        return []
    names = with_and(f'"{column.heading}"' for column in columns)
    mark = trn(
        "column {names} marks who has opted out", "columns {names} mark who has opted out", len(columns), names=names
    )
    return [mark]


def parse_time(text: str) -> datetime | None:
    """Return the time that a cell contains, in UTC if it names no other offset. None if there is none."""
    text = text.strip()
    try:
        if _SECONDS.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        if _MILLISECONDS.fullmatch(text):
            return datetime.fromtimestamp(int(text) / 1000, UTC)
        if match := _TIME.fullmatch(text):
            year, month, day, *clock, offset = match.groups()
            *clock, fraction = clock
            hour, minute, second = (int(part or 0) for part in clock)
            microsecond = int((fraction or "")[:6].ljust(6, "0"))
            zone = UTC if offset in (None, "Z") else datetime.strptime(offset, "%z").tzinfo
            return datetime(int(year), int(month), int(day), hour, minute, second, microsecond, zone).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    return None


def says_something(cell: str) -> bool:
    """Return whether a cell has more than a dash, or a date without a value."""
    return not set(cell) <= _NOTHING


def says_no(cell: str) -> bool:
    """Return whether a cell says no, false or the like."""
    return normalise(cell) in _FALSE_WORDS


def reason_of(text: str) -> str:
    """Return the usual reason that a text such as "COMPLAINT" or "Hard bounce" stands for, else the text itself."""
    return _STATUS_REASONS.get(normalise(text), text)


# What cells mean


def _understand(name: str) -> Callable[[str], CellMeaning] | None:
    """Return how the cells of a column are understood, None if the column never marks who has opted out."""
    if name in _STATUS_HEADINGS:
        return _understand_status
    if name in _REASON_HEADINGS:
        return _understand_reason
    if name == "lists":
        return _understand_lists
    if name in _OPTED_OUT_IF_FALSE:
        reason = UNCONFIRMED if name in _CONFIRMED else UNSUBSCRIBED
        return lambda cell: _understand_opt_in(cell, reason)
    if name in _OPTED_OUT_UNLESS_FALSE or name.startswith("opted out of email"):
        if _COMPLAINT_HEADING.search(name):
            return lambda cell: _understand_flag(cell, COMPLAINT)
        if _BOUNCE_HEADING.search(name):
            return _understand_bounce
        return lambda cell: _understand_flag(cell, UNSUBSCRIBED)
    return None


def _is_certain(name: str, tool: str) -> bool:
    return name not in _OPTED_OUT_IF_FALSE and (tool == "listmonk" or name not in _STATUS_HEADINGS)


def _understand_status(cell: str) -> CellMeaning:
    status = normalise(cell)
    if status in _STATUS_REASONS:
        return OptOut(_STATUS_REASONS[status])
    return OtherCell.FINE if status in _FINE_STATUSES else OtherCell.UNKNOWN


def _understand_flag(cell: str, reason: str) -> CellMeaning:
    """Understand a cell that says yes or no, or since when."""
    word = normalise(cell)
    if not says_something(cell) or word in _FALSE_WORDS:
        return OtherCell.FINE
    at = parse_time(cell)
    is_date = len(re.findall(r"\d+", cell)) >= 2 and _DATE_LIKE.fullmatch(cell.strip())
    is_mark = len(cell.strip()) == 1 and not cell.strip().isalnum()
    if at or is_date or is_mark or word in _TRUE_WORDS:
        return OptOut(reason, at)
    return OptOut(_STATUS_REASONS[word]) if word in _STATUS_REASONS else OtherCell.UNKNOWN


def _understand_opt_in(cell: str, reason: str) -> CellMeaning:
    """Understand a cell that says yes or no, or since when, of who has opted in."""
    word = normalise(cell)
    if word in _FALSE_WORDS:
        return OptOut(reason)
    if word in _TRUE_WORDS or (
        not isinstance(_understand_flag(cell, reason), OtherCell) and word not in _STATUS_REASONS
    ):
        return OtherCell.FINE
    return _understand_status(cell)


def _understand_bounce(cell: str) -> CellMeaning:
    """Understand a cell that says yes or no, since when, or in words of a mail server what was wrong."""
    meaning = _understand_flag(cell, BOUNCE)
    return OptOut(BOUNCE) if meaning is OtherCell.UNKNOWN else meaning


def _understand_reason(cell: str) -> CellMeaning:
    if not cell.strip():
        return OtherCell.FINE
    return OptOut(COMPLAINT if _ABUSE.search(cell) else UNSUBSCRIBED)


def _understand_lists(cell: str) -> CellMeaning:
    """Understand the lists of a contact as listmonk's API gives them: who has left all of them has opted out."""
    try:
        statuses = {each["subscription_status"] for each in json.loads(cell)}
    except (ValueError, TypeError, KeyError, RecursionError):
        return OtherCell.FINE
    return OptOut(UNSUBSCRIBED) if statuses == {UNSUBSCRIBED} else OtherCell.FINE


def _not_understood(column: OptOutColumn, line: int, cell: str) -> InvalidValue:
    return InvalidValue(
        tr(
            'the value "{value}" of column "{heading}" in line {line} does not say whether the contact has opted out',
            value=cell.strip()[:_SHOWN],
            heading=column.heading,
            line=line,
        ),
        tr(
            "change it to subscribed or unsubscribed, or pass --ignore-column {heading} to import all rows as clients",
            heading=quoted(column.heading),
        ),
    )
