"""Recompute due times after the rules of a time zone have changed.

A mailing's next due time is stored as an instant, but its owner meant a wall-clock time. Governments change how one
relates to the other. Then the stored instant is wrong: the mailing would be late, or the due time would be skipped. The
same is true of the mailing's end, of which only the instant is stored: its wall-clock time is computed from the rules
of before.
"""

import contextlib
import hashlib
import io
import logging
import os
import struct
import zoneinfo
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Row, select, update

from skychimp.delivery.scheduling import planner, recurrence
from skychimp.models import tables

log = logging.getLogger("skychimp")

_HEADER = struct.Struct(">4sc15x6L")
_EMPTY_FILE = (
    _HEADER.pack(b"TZif", b"2", 0, 0, 0, 0, 1, 1) + bytes(7) + _HEADER.pack(b"TZif", b"2", 0, 0, 0, 0, 1, 1) + bytes(7)
)
"""A zone's file without changes of the clock and without its footer (RFC 9636, section 3)."""

_INFO = tables.store_info
_M = tables.mailing
_O = tables.occurrence


def update_due_times(db: Connection) -> int:
    """Move the times of mailings whose zone has new rules since the last call, and return how many mailings moved.

    This is part of the caller's transaction.
    """
    ZoneInfo.clear_cache()  # a long-running process must see an update of the zone files
    is_scheduled = (_M.c.next_at.is_not(None), _M.c.deleted_at.is_(None))
    zones = sorted(db.scalars(select(_M.c.timezone).where(*is_scheduled).distinct()))
    rules = [_describe_rules(zone) for zone in zones]
    old_rules = (db.scalar(select(_INFO.c.zone_rules)) or "").split()
    if rules == old_rules:
        return 0
    changed = [zone for zone, text in zip(zones, rules, strict=True) if text not in old_rules]
    old_zones = _zones_with_other_footers(old_rules, rules)
    mailings = db.execute(select(_M).where(*is_scheduled, _M.c.timezone.in_(changed))).all()
    moved = sum(_move(db, mailing, old_zones.get(mailing.timezone)) for mailing in mailings)
    db.execute(update(_INFO).values(zone_rules=" ".join(rules)))
    if moved:
        log.warning("time zone rules changed: due times were updated", extra={"mailings": moved})
    return moved


def _move(db: Connection, mailing: Row[tuple[()]], old_zone: ZoneInfo | None) -> bool:
    """Set a mailing's start, next due time and end to the instants of their wall-clock times by today's rules.

    Return whether one of them moved.
    """
    try:
        schedule = planner.schedule_of(mailing)
        due = recurrence.nearest(schedule, mailing.next_at)
        start_at = recurrence.to_utc(schedule.start, schedule.timezone)
        if due is None or _is_opened(db, mailing.id, due):
            due = None
        next_at = mailing.next_at if due is None else due.at
        end_at = _moved_end(mailing, next_at, old_zone)
    except Exception:  # a time zone that is unknown on this machine; the planner reports it when the mailing is due
        return False
    values = {"next_at": next_at, "start_at": start_at, "end_at": end_at}
    if values == {name: getattr(mailing, name) for name in values} or (end_at is not None and end_at <= start_at):
        return False
    db.execute(update(_M).where(_M.c.id == mailing.id).values(values))
    return True


def _moved_end(mailing: Row[tuple[()]], next_at: datetime, old_zone: ZoneInfo | None) -> datetime | None:
    """Return the end of a mailing by today's rules. A due time that was before the end stays there."""
    if mailing.end_at is None:
        return None
    as_next_moved: datetime = mailing.end_at + (next_at - mailing.next_at)
    if old_zone is None:
        return as_next_moved
    local = mailing.end_at.astimezone(old_zone).replace(tzinfo=None, fold=0)
    by_wall_clock = recurrence.to_utc(local, mailing.timezone)
    return by_wall_clock if by_wall_clock > next_at else as_next_moved


def _is_opened(db: Connection, mailing_id: int, due: recurrence.DueTime) -> bool:
    is_same_time = _O.c.due_local == due.local.isoformat()
    return db.scalar(select(_O.c.id).where(_O.c.mailing_id == mailing_id, is_same_time)) is not None


def _describe_rules(zone: str) -> str:
    """Return the zone's name, a hash of its rules and its footer, without a space."""
    rules = _read_rules(zone)
    return f"{zone}={hashlib.sha256(rules).hexdigest()[:16]}={_footer(rules)}"


def _footer(rules: bytes) -> str:
    """Return the rule at the end of a zone's file (RFC 9636, section 3.3), which is for all times to come."""
    return rules.rstrip(b"\n").rpartition(b"\n")[2].decode("ascii", "ignore")


def _zones_with_other_footers(old_rules: Sequence[str], new_rules: Sequence[str]) -> dict[str, ZoneInfo]:
    """Return the zones whose footer has changed, by their old footers alone.

    That leaves out the exceptions of some years, which few zones have, such as Africa/Casablanca.
    """
    new_footers = {zone: footer for zone, _, footer in map(_split, new_rules)}
    zones = {}
    for zone, _, footer in map(_split, old_rules):
        if footer and footer != new_footers.get(zone, footer):
            with contextlib.suppress(ValueError):
                zones[zone] = ZoneInfo.from_file(io.BytesIO(_EMPTY_FILE + f"\n{footer}\n".encode()))
    return zones


def _split(text: str) -> Sequence[str]:
    """Return the three parts of a zone's description. A store of an older version has only a hash of all rules."""
    return (*text.split("=", 2), "", "")[:3]


def _read_rules(zone: str) -> bytes:
    """Return the file that ZoneInfo reads for a zone: the system's, or else the tzdata package's; b"" if none."""
    for folder in zoneinfo.TZPATH:
        with contextlib.suppress(OSError), open(os.path.join(folder, zone), "rb") as file:
            return file.read()
    with contextlib.suppress(OSError, ImportError):
        return resources.files("tzdata").joinpath("zoneinfo", *zone.split("/")).read_bytes()
    return b""
