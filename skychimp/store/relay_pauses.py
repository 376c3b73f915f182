"""Pause mail servers that need a person's attention, until their settings change or the next probe is due.

It is also recorded which mail server is unavailable, for `status`. That pauses nothing.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, delete, exists, select, true, update

from skychimp.models import tables
from skychimp.store import holds
from skychimp.store.sql import insert_or

_R = tables.relay_state

FIRST_PROBE = timedelta(minutes=15)
LAST_PROBE = timedelta(hours=4)
"""The longest time between two probes."""


_UNAVAILABLE = ""
"""Stands for the hash of the settings in the row of a mail server that is only unavailable. It is never a real hash."""


class RelayPause(NamedTuple):
    """A mail server that gets no email until `next_probe_at`, unless its settings change before."""

    relay: str
    since: datetime
    reason: str
    next_probe_at: datetime


class UnavailableRelay(NamedTuple):
    """A mail server to which no run can connect."""

    relay: str
    since: datetime
    reason: str


def latest_pause(db: Connection) -> RelayPause | None:
    """Return the latest pause, or None if no mail server is paused."""
    columns = (_R.c.relay, _R.c.paused_at, _R.c.reason, _R.c.next_probe_at)
    paused = select(*columns).where(_R.c.settings_hash != _UNAVAILABLE)
    row = db.execute(paused.order_by(_R.c.paused_at.desc()).limit(1)).one_or_none()
    return None if row is None else RelayPause(*row)


def unavailable_relay(db: Connection) -> UnavailableRelay | None:
    """Return the mail server that became unavailable last, or None if none is unavailable."""
    columns = (_R.c.relay, _R.c.paused_at, _R.c.reason)
    unavailable = select(*columns).where(_R.c.settings_hash == _UNAVAILABLE)
    row = db.execute(unavailable.order_by(_R.c.paused_at.desc()).limit(1)).one_or_none()
    return None if row is None else UnavailableRelay(*row)


def record_unavailable(db: Connection, relay: str, reason: str, now: datetime) -> None:
    """Record that a mail server is unavailable, unless that is known, or it is paused."""
    values = {"relay": relay, "paused_at": now, "reason": reason, "settings_hash": _UNAVAILABLE, "next_probe_at": now}
    db.execute(insert_or(_R).values(values | {"probes": 0}).on_conflict_do_nothing(index_elements=["relay"]))


def record_available(db: Connection) -> None:
    """Record that the mail server in use is available. The settings may have named another one before."""
    db.execute(delete(_R).where(_R.c.settings_hash == _UNAVAILABLE))


def pause_reason(db: Connection, relay: str, settings_hash: str, now: datetime) -> str | None:
    """Return why nothing may be sent through a mail server now, or None if it may, even if only to probe it."""
    row = db.execute(select(_R).where(_R.c.relay == relay)).one_or_none()
    if row is None or row.settings_hash != settings_hash or row.next_probe_at <= now:
        return None
    return str(row.reason)


def is_paused(db: Connection, relay: str, settings_hash: str) -> bool:
    """Return whether a mail server is paused with these settings, even if a probe is due."""
    return bool(db.scalar(select(exists().where(_R.c.relay == relay, _R.c.settings_hash == settings_hash))))


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


def resume(db: Connection, relay: str, now: datetime) -> None:
    """End a mail server's pause. Deadlines stood still meanwhile."""
    ended = delete(_R).where(_R.c.relay == relay, _R.c.settings_hash != _UNAVAILABLE).returning(_R.c.paused_at)
    for paused_at in db.scalars(ended).all():
        holds.add_time_held_up(db, true(), paused_at, now)
    record_available(db)


def probe_now(db: Connection, now: datetime) -> None:
    """Let the next run probe each paused mail server, because a person has done something about it."""
    db.execute(update(_R).where(_R.c.next_probe_at > now).values(next_probe_at=now))
