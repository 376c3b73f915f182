"""Pause mail servers that need a person's attention, until their settings change or the next probe is due."""

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, delete, select

from skychimp.models import RelayState
from skychimp.store.sql import insert_or

_R = RelayState.__table__

FIRST_PROBE = timedelta(minutes=15)
LAST_PROBE = timedelta(hours=4)
"""The longest time between two probes."""


class RelayPause(NamedTuple):
    """A mail server that gets no email until `next_probe_at`, unless its settings change before."""

    relay: str
    since: datetime
    reason: str
    next_probe_at: datetime


def latest_pause(db: Connection) -> RelayPause | None:
    """Return the latest pause, or None if no mail server is paused."""
    columns = (_R.c.relay, _R.c.paused_at, _R.c.reason, _R.c.next_probe_at)
    row = db.execute(select(*columns).order_by(_R.c.paused_at.desc()).limit(1)).one_or_none()
    return None if row is None else RelayPause(*row)


def pause_reason(db: Connection, relay: str, settings_hash: str, now: datetime) -> str | None:
    """Return why nothing may be sent through a mail server now, or None if it may, even if only to probe it."""
    row = db.execute(select(_R).where(_R.c.relay == relay)).one_or_none()
    if row is None or row.settings_hash != settings_hash or row.next_probe_at <= now:
        return None
    return str(row.reason)


def pause(db: Connection, relay: str, settings_hash: str, reason: str, now: datetime) -> None:
    """Pause a mail server.

    The first probe is due in 15 minutes. Each failed probe doubles the wait, up to 4 hours. With other settings it
    starts again.
    """
    row = db.execute(select(_R).where(_R.c.relay == relay)).one_or_none()
    is_repeated = row is not None and row.settings_hash == settings_hash
    probes = row.probes + 1 if is_repeated and row is not None else 1
    wait = min(FIRST_PROBE * 2 ** min(probes - 1, 10), LAST_PROBE)
    values = {
        "paused_at": row.paused_at if is_repeated and row is not None else now,
        "reason": reason,
        "settings_hash": settings_hash,
        "next_probe_at": now + wait,
        "probes": probes,
    }
    statement = insert_or(_R).values(relay=relay, **values)
    db.execute(statement.on_conflict_do_update(index_elements=["relay"], set_=values))


def resume(db: Connection, relay: str) -> None:
    """End a mail server's pause."""
    db.execute(delete(_R).where(_R.c.relay == relay))
