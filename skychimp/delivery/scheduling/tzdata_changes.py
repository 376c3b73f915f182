"""Recompute due times after the rules of a time zone have changed.

A mailing's next due time is stored as an instant, but its owner meant a wall-clock time. Governments change how one
relates to the other. Then the stored instant is wrong: the mailing would be late, or the due time would be skipped.
"""

import contextlib
import hashlib
import logging
import os
import zoneinfo
from collections.abc import Iterable
from importlib import resources
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Row, select, update

from skychimp.delivery.scheduling import planner, recurrence
from skychimp.models import Mailing, Occurrence, StoreInfo

log = logging.getLogger("skychimp")

_INFO = StoreInfo.__table__
_M = Mailing.__table__
_O = Occurrence.__table__


def update_due_times(db: Connection) -> int:
    """Move the next due times of mailings whose zone has new rules since the last call, and return how many moved.

    This is part of the caller's transaction.
    """
    ZoneInfo.clear_cache()  # a long-running process must see an update of the zone files
    is_scheduled = (_M.c.next_at.is_not(None), _M.c.deleted_at.is_(None))
    rules = _hash_rules(db.scalars(select(_M.c.timezone).where(*is_scheduled).distinct()))
    if rules == db.scalar(select(_INFO.c.zone_rules)):
        return 0
    mailings = db.execute(select(_M).where(*is_scheduled)).all()
    moved = sum(_move(db, mailing) for mailing in mailings)
    db.execute(update(_INFO).values(zone_rules=rules))
    if moved:
        log.warning("time zone rules changed: due times were updated", extra={"mailings": moved})
    return moved


def _move(db: Connection, mailing: Row[tuple[()]]) -> bool:
    """Set a mailing's next due time to the instant of its wall-clock time by today's rules. Return whether it moved."""
    try:
        schedule = planner.schedule_of(mailing)
        due = recurrence.nearest(schedule, mailing.next_at)
        start_at = recurrence.to_utc(schedule.start, schedule.timezone)
    except Exception:  # a time zone that is unknown on this machine; the planner reports it when the mailing is due
        return False
    if due is None or due.at == mailing.next_at or _is_opened(db, mailing.id, due):
        return False
    end_at = mailing.end_at
    if end_at is not None and due.at >= end_at:  # it was before the end, and must stay there
        end_at += due.at - mailing.next_at
    db.execute(update(_M).where(_M.c.id == mailing.id).values(next_at=due.at, start_at=start_at, end_at=end_at))
    return True


def _is_opened(db: Connection, mailing_id: int, due: recurrence.DueTime) -> bool:
    is_same_time = _O.c.due_local == due.local.isoformat()
    return db.scalar(select(_O.c.id).where(_O.c.mailing_id == mailing_id, is_same_time)) is not None


def _hash_rules(zones: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for zone in sorted(zones):
        digest.update(f"{zone}\n".encode())
        digest.update(_read_rules(zone))
    return digest.hexdigest()


def _read_rules(zone: str) -> bytes:
    """Return the file that ZoneInfo reads for a zone: the system's, or else the tzdata package's; b"" if none."""
    for folder in zoneinfo.TZPATH:
        with contextlib.suppress(OSError), open(os.path.join(folder, zone), "rb") as file:
            return file.read()
    with contextlib.suppress(OSError, ImportError):
        return resources.files("tzdata").joinpath("zoneinfo", *zone.split("/")).read_bytes()
    return b""
