"""Queue what was only written to the outbox, so that it is sent by a mail server (`run --from-outbox`).

An email is either in the outbox or in the queue: its file is removed before it is queued. If this is killed in between,
the store still has all that is needed to send it.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select, true

from skychimp.config.settings import Settings
from skychimp.delivery.sending import replies, runner
from skychimp.delivery.sending.dispatcher import retry_policy_from
from skychimp.delivery.sending.due_work import recover_dead_runs
from skychimp.errors import ConfigError, Conflict
from skychimp.models import CatchUp, DeliveryState, Outcome, tables
from skychimp.store import queue, runs
from skychimp.store.conditions import is_before_end, is_in_outbox, is_sendable, why_stopped
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.store.sql import id_list
from skychimp.translation import tr
from skychimp.transport import make_outbox
from skychimp.transport.interfaces import OUTBOX

_A = tables.attempt
_D = tables.delivery
_M = tables.mailing
_O = tables.occurrence
_U = tables.user

BATCH = 5_000
"""How many are queued in one transaction, so that those who send need not wait long."""


@dataclass(frozen=True)
class Left:
    """Emails of a mailing that stay in the outbox, and why."""

    mailing_id: int
    emails: int
    reason: str


@dataclass(frozen=True)
class FromOutbox:
    """The number of emails that are queued, and of those that are not sent any more.

    `cancelled` emails have clients who must not get them by now, and the clients of `replaced` ones have a newer email
    of the mailing.
    """

    queued: int
    cancelled: int
    replaced: int
    left: Sequence[Left]


def count_in_outbox(db: Connection) -> int:
    """Return how many emails of mailings that are not deleted were only written to the outbox."""
    return db.scalar(_in_outbox(None).with_only_columns(func.count())) or 0


def queue_outbox(
    store: Store, settings: Settings, mailing_id: int | None = None, limit: int | None = None
) -> FromOutbox:
    """Queue the emails that were only written to the outbox, of all mailings or of one, at most `limit`.

    They are composed again when they are sent, with the same Message-ID. Emails of a mailing that is stopped or has
    ended stay in the outbox. Raises ConfigError if no mail server is set or the settings do not allow to send,
    StoreHeld, Conflict if a run of this host still writes to the outbox, OutboxFailed and StoreFailed.
    """
    _require_mail_server(settings)
    now, unknown_after = store.now(), retry_policy_from(settings).unknown_after
    with store.write() as session:
        db = session.connection()
        runner.require_not_held(db)
        _require_no_writer(db, store, mailing_id, now)
        recover_dead_runs(db, now, store.path, unknown_after, OUTBOX)  # so that what they have written counts
    replaced = _take(store, _stale(now, mailing_id), queue.replace_written)
    taken = _take(store, _sendable(now, mailing_id).limit(limit), partial(queue.queue_written, now=now))
    with store.read() as session:
        left = list(_left(session.connection(), store.now(), mailing_id))
    return FromOutbox(taken.kept, taken.cancelled, replaced.kept, left)


def _require_mail_server(settings: Settings) -> None:
    if settings.mail.transport == "outbox":
        file = f" in {settings.config_file}" if settings.config_file else ""
        raise ConfigError(
            tr("no mail server is configured"), tr('set mail.transport = "smtp" and smtp.host{file}', file=file)
        )
    runner.require_files(runner.with_sender(settings))


def _require_no_writer(db: Connection, store: Store, mailing_id: int | None, now: datetime) -> None:
    other = runs.find_sending(db, store.path, mailing_id, now)
    if other is not None and other.relay == OUTBOX:
        message = tr("process {pid} still writes emails to the outbox", pid=other.pid)
        raise Conflict(message, tr("restart it, so that it uses the new settings"))


def _in_outbox(mailing_id: int | None) -> Select[int]:
    query = select(_D.c.id).join(_O, _O.c.id == _D.c.occurrence_id).join(_M, _M.c.id == _O.c.mailing_id)
    of_mailing = true() if mailing_id is None else _M.c.id == mailing_id
    return query.where(is_in_outbox(), _M.c.deleted_at.is_(None), of_mailing)


def _may_leave(now: datetime) -> ColumnElement[bool]:
    return and_(is_sendable(), is_before_end(now))


def _sendable(now: datetime, mailing_id: int | None) -> Select[int]:
    return _in_outbox(mailing_id).where(_may_leave(now)).order_by(_D.c.id)


def _stale(now: datetime, mailing_id: int | None) -> Select[int]:
    """Return the query for emails whose clients have a newer email of the mailing, as in `sweeping`."""
    newer, occurrence = _D.alias("newer"), _O.alias("newer_occurrence")
    has_newer = (
        select(newer.c.id)
        .join(occurrence, occurrence.c.id == newer.c.occurrence_id)
        .where(occurrence.c.mailing_id == _M.c.id, occurrence.c.due_at > _O.c.due_at)
        .where(newer.c.address_key == _D.c.address_key)
        .correlate(_D, _O, _M)
        .exists()
    )
    return _in_outbox(mailing_id).where(_may_leave(now), _M.c.catch_up != CatchUp.ALL, has_newer)


class _Taken(NamedTuple):
    """How many deliveries were taken out of the outbox and changed, and how many were cancelled then."""

    kept: int
    cancelled: int


def _take(store: Store, chosen: Select[int], change: Callable[[Connection, Sequence[int]], object]) -> _Taken:
    """Take emails out of the outbox, in batches, and change their deliveries."""
    outbox, kept, cancelled = make_outbox(store.path), 0, 0
    with store.read() as session:
        ids = array("q", session.connection().scalars(chosen))

    def take_next(session: Session) -> bool:
        nonlocal kept, cancelled
        db = session.connection()
        batch = db.scalars(select(_D.c.id).where(_D.c.id.in_(id_list(ids[:BATCH].tolist())), is_in_outbox())).all()
        del ids[:BATCH]
        outbox.remove(_file_names(db, batch))
        change(db, batch)
        is_cancelled = and_(_D.c.id.in_(id_list(batch)), _D.c.state == DeliveryState.CANCELLED)
        number = db.scalar(select(func.count()).select_from(_D).where(is_cancelled)) or 0
        kept, cancelled = kept + len(batch) - number, cancelled + number
        return not ids

    store.write_in_batches(take_next)
    return _Taken(kept, cancelled)


def _file_names(db: Connection, ids: Sequence[int]) -> list[str]:
    """Return the names of the files with these emails. That of a person who was erased, or of an old email, is lost."""
    written = and_(_A.c.delivery_id == _D.c.id, _A.c.number == _D.c.attempts, _A.c.outcome == Outcome.OUTBOX)
    query = select(_A.c.reply).join(_D, written).where(_D.c.id.in_(id_list(ids)))
    return [replies.queue_id(reply) for reply in db.scalars(query)]


def _left(db: Connection, now: datetime, mailing_id: int | None) -> list[Left]:
    query = _in_outbox(mailing_id).join(_U, _U.c.id == _M.c.owner_id).group_by(_M.c.id, _U.c.id).order_by(_M.c.id)
    columns = (_M.c.id, _M.c.end_at, _M.c.disabled_at, _M.c.disabled_reason, _M.c.held_reason, _U.c.blocked_at)
    rows = db.execute(query.with_only_columns(*columns, func.count().label("emails"))).all()
    return [Left(row.id, row.emails, _why_left(row, now)) for row in rows]


def _why_left(row: Row[Any], now: datetime) -> str:
    stopped = why_stopped(row.disabled_at, row.disabled_reason, row.held_reason, row.blocked_at)
    if stopped is None and row.end_at is not None and row.end_at <= now:
        stopped = "the mailing has ended"
    return stopped or "more than --limit"
