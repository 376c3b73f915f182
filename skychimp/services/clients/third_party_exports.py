"""What other mailing tools export: which of their columns is what, and whom they write to no longer; pure.

listmonk, export: uuid, email, name, attributes (a JSON object), status, created_at, updated_at.
Mailchimp, Export audience: Email Address, the audience's own fields, MEMBER_RATING and others of its making, NOTES and
TAGS; one file each for who is subscribed, unsubscribed, cleaned and nonsubscribed, which the file's name says.
"""

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import NamedTuple

from skychimp.services.clients.importing import BadRow, ClientRow, LeftOut

Make = Callable[[int, Sequence[str]], ClientRow | BadRow | LeftOut]
"""From a row's line and cells, as many as there are headings, to a client."""


class Export(NamedTuple):
    """An export of another tool: the tool's name, what it says of a client, and how a row is read."""

    tool: str
    columns: Sequence[str]
    make: Make


def recognise(headings: Sequence[str], file: str) -> Export | None:
    """The export that a file with these headings is; None for any other file."""
    names = [heading.strip().casefold() for heading in headings]
    if {"email", "attributes"} <= set(names):
        return Export("listmonk", ("email", "name", "comment"), _listmonk(names))
    if "email address" in names and {"member_rating", "leid", "euid"} & set(names):
        left = re.match(r"(unsubscribed|cleaned|nonsubscribed)_", PurePath(file).name)
        make = _mailchimp(headings, names, left[1] if left else "")
        return Export("Mailchimp", ("email", "name", "comment", "tags"), make)
    return None


_OF_LISTMONK = ("disabled", "blocklisted")


def _listmonk(names: Sequence[str]) -> Make:
    def make(line: int, cells: Sequence[str]) -> ClientRow | BadRow | LeftOut:
        row = dict(zip(names, cells, strict=True))
        status = row.get("status", "").strip().lower()
        if status not in ("", "enabled"):
            return LeftOut(line, status if status in _OF_LISTMONK else "of another status", row["email"])
        try:
            attributes = json.loads(row["attributes"] or "{}")
        except (ValueError, RecursionError):
            attributes = None
        if not isinstance(attributes, dict):
            return BadRow(line, "its attributes are no JSON object")
        return ClientRow(line, row["email"], row.get("name", ""), _as_lines(attributes), ())

    return make


_OF_MAILCHIMP = {
    "email address", "first name", "last name", "fname", "lname", "notes", "tags", "email_type", "member_rating",
    "optin_time", "optin_ip", "confirm_time", "confirm_ip", "latitude", "longitude", "gmtoff", "dstoff", "timezone",
    "cc", "region", "last_changed", "leid", "euid", "source",
}  # fmt: skip
_WHY_LEFT = {"unsub_": "unsubscribed", "clean_": "cleaned"}


def _mailchimp(headings: Sequence[str], names: Sequence[str], left: str) -> Make:
    own = [
        (at, headings[at].strip())
        for at, name in enumerate(names)
        if name and name not in _OF_MAILCHIMP and not name.startswith(tuple(_WHY_LEFT))
    ]
    gone = [(at, why) for at, name in enumerate(names) for start, why in _WHY_LEFT.items() if name.startswith(start)]

    def make(line: int, cells: Sequence[str]) -> ClientRow | LeftOut:
        why = left or next((why for at, why in gone if cells[at].strip()), "")
        row = dict(zip(names, cells, strict=True))
        if why:
            return LeftOut(line, why, row["email address"])
        parts = (row.get("first name") or row.get("fname"), row.get("last name") or row.get("lname"))
        comment = [row.get("notes", "").strip(), _as_lines({heading: cells[at].strip() for at, heading in own})]
        name = " ".join(part.strip() for part in parts if part)
        return ClientRow(line, row["email address"], name, "\n".join(filter(None, comment)), _tags(row.get("tags", "")))

    return make


def _as_lines(fields: dict[str, object]) -> str:
    """Each field that says something, on a line."""
    said = {name: value for name, value in fields.items() if value not in ("", None, [], {})}
    return "\n".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in said.items()
    )


def _tags(cell: str) -> Sequence[str]:
    """The tags of a cell like `"VIP","New in Berlin"`, each as it can be one of ours."""
    if not cell:
        return ()
    try:
        tags = next(csv.reader([cell], skipinitialspace=True))
    except (csv.Error, StopIteration):
        tags = cell.split(",")
    return [plain for tag in tags if (plain := " ".join(re.sub("[,;]", " ", tag).split()))]
