"""Time zones' rules: when they change, what was computed by the old ones is computed anew.

A mailing's next time is an instant; what its owner meant is a wall-clock time. Governments change what the one is of
the other, and then a stored instant is wrong: too late, or later than the due time that it stands for, which would be
skipped.
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
    """Move the coming due times where the rules have changed since the last time; how many. Part of a transaction."""
    ZoneInfo.clear_cache()  # another process may have seen to the change already
    waiting = (_M.c.next_at.is_not(None), _M.c.deleted_at.is_(None))
    rules = _hash(db.scalars(select(_M.c.timezone).where(*waiting).distinct()))
    if rules == db.scalar(select(_INFO.c.zone_rules)):
        return 0
    mailings = db.execute(select(_M).where(*waiting)).all()
    moved = sum(_move(db, mailing) for mailing in mailings)
    db.execute(update(_INFO).values(zone_rules=rules))
    if moved:
        log.warning("time zones have new rules: mailings are due at another time", extra={"mailings": moved})
    return moved


def _move(db: Connection, mailing: Row[tuple[()]]) -> bool:
    """Let a mailing's next time be what the rules make of its wall-clock time now; False where that is the same."""
    try:
        schedule = planner.schedule(mailing)
        due = recurrence.nearest(schedule, mailing.next_at)
        start_at = recurrence.to_utc(schedule.start, schedule.timezone)
    except Exception:  # its zone is unknown here: the planner says so when it is due
        return False
    if due is None or due.at == mailing.next_at or _is_opened(db, mailing.id, due):
        return False
    end_at = mailing.end_at
    if end_at is not None and due.at >= end_at:  # it was within the window, and is to stay there
        end_at += due.at - mailing.next_at
    db.execute(update(_M).where(_M.c.id == mailing.id).values(next_at=due.at, start_at=start_at, end_at=end_at))
    return True


def _is_opened(db: Connection, mailing_id: int, due: recurrence.Due) -> bool:
    name = _O.c.due_local == due.local.isoformat()
    return db.scalar(select(_O.c.id).where(_O.c.mailing_id == mailing_id, name)) is not None


def _hash(zones: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for zone in sorted(zones):
        digest.update(f"{zone}\n".encode())
        digest.update(_rules(zone))
    return digest.hexdigest()


def _rules(zone: str) -> bytes:
    """The file that ZoneInfo reads for a zone: the system's, or else that of the package tzdata; b"" for none."""
    for folder in zoneinfo.TZPATH:
        with contextlib.suppress(OSError), open(os.path.join(folder, zone), "rb") as file:
            return file.read()
    with contextlib.suppress(OSError, ImportError):
        return resources.files("tzdata").joinpath("zoneinfo", *zone.split("/")).read_bytes()
    return b""
