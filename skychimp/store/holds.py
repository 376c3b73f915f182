"""Hold the store or a mailing, so that nothing is sent until a person decides. Part of the caller's transaction."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, exists, select, true, update

from skychimp.models import MailingStatus, OccurrenceState, tables
from skychimp.models.base import has_state
from skychimp.store.conditions import is_enabled, is_unfinished
from skychimp.translation import Phrase, tr, verbatim

_O = tables.occurrence
_M = tables.mailing

AFTER_RESTORE, AFTER_FAILOVER, AFTER_COPY = tr("after a restore"), tr("after a fail-over"), tr("as it is a copy")
_REASONS = {str(reason): reason for reason in (AFTER_RESTORE, AFTER_FAILOVER, AFTER_COPY)}


def is_held(db: Connection) -> bool:
    """Return whether the store is on hold until a person releases it."""
    return why_held(db) is not None


def why_held(db: Connection) -> Phrase | None:
    """Return since what the store is on hold, such as "after a restore", or None if it is not."""
    info = tables.store_info.c
    row = db.execute(select(info.held_at, info.held_reason)).one_or_none()
    if row is None or row.held_at is None:
        return None
    stored = row.held_reason or str(AFTER_RESTORE)
    return _REASONS.get(stored) or verbatim(stored)


def hold(db: Connection, reason: str, now: datetime, *, blind: bool) -> None:
    """Put the store on hold. `blind` says that it is not known what else was sent from it."""
    values = {"held_at": now, "held_blind": blind, "held_reason": reason, "database_id": None}
    db.execute(update(tables.store_info).values(values))


def release(db: Connection, now: datetime) -> None:
    """End the store's hold."""
    held_at = db.scalar(select(tables.store_info.c.held_at))
    if held_at is not None:
        add_time_held_up(db, true(), held_at, now)
    db.execute(update(tables.store_info).values(held_at=None, held_blind=None, held_reason=None))


def disable_mailing(db: Connection, mailing_id: int, reason: str, now: datetime, by: int | None = None) -> None:
    """Disable a mailing. `by` is a user's id, or None for the system. No further intent of it is recorded.

    A mailing that is disabled already keeps its reason.
    """
    db.execute(
        update(_M)
        .where(_M.c.id == mailing_id, _M.c.disabled_at.is_(None))
        .values(disabled_at=now, disabled_by_id=by, disabled_reason=reason)
    )


def hold_mailing(db: Connection, mailing_id: int, reason: str, settings_hash: str | None, now: datetime) -> None:
    """Send no more of a mailing until a person enables it, or the settings that were refused are others.

    `settings_hash` is None if no settings are to blame.
    """
    held = {"held_at": now, "held_reason": reason, "held_settings": settings_hash}
    db.execute(update(_M).where(_M.c.id == mailing_id, _M.c.held_at.is_(None)).values(held))


class HeldMailing(NamedTuple):
    """A mailing that sends nothing until a person has fixed something.

    `is_opening` says that one of its occurrences waits for that without having all its deliveries, or any.
    """

    id: int
    since: datetime
    reason: str
    is_opening: bool


def held_mailings(db: Connection, mailing_id: int | None = None) -> list[HeldMailing]:
    """Return the mailings that are held, or whether this one is, in the order of their ids.

    One that is completed has nothing to send, so it is left out.
    """
    is_opening = exists().where(_O.c.mailing_id == _M.c.id, has_state(_O.c.state, OccurrenceState.OPENING))
    columns = (_M.c.id, _M.c.held_at, _M.c.held_reason, is_opening.correlate(_M))
    held = select(*columns).where(_M.c.held_at.is_not(None), _M.c.status != MailingStatus.COMPLETED, is_enabled())
    if mailing_id is not None:
        held = held.where(_M.c.id == mailing_id)
    return [HeldMailing._make(row) for row in db.execute(held.order_by(_M.c.id))]


def release_mailings(db: Connection, settings_hash: str, now: datetime) -> None:
    """Let the held mailings go on that were refused with other settings than these."""
    held = select(_M.c.id, _M.c.held_at).where(_M.c.held_at.is_not(None), _M.c.held_settings != settings_hash)
    for mailing_id, held_at in db.execute(held).all():
        release_mailing(db, mailing_id)
        add_time_held_up(db, _O.c.mailing_id == mailing_id, held_at, now)


def release_mailing(db: Connection, mailing_id: int) -> None:
    """End a mailing's hold."""
    released = {"held_at": None, "held_reason": None, "held_settings": None}
    db.execute(update(_M).where(_M.c.id == mailing_id).values(released))


def add_time_held_up(db: Connection, is_selected: ColumnElement[bool], since: datetime, now: datetime) -> None:
    """Let the deadlines of unfinished occurrences stand still for the time since something has held them up."""
    seconds = max(0, round((now - since).total_seconds()))
    held_up = update(_O).where(is_unfinished(), is_selected)
    db.execute(held_up.values(held_up_s=_O.c.held_up_s + seconds))
