"""Lease deliveries, return them, queue them again and cancel them. Part of the caller's transaction.

A run leases many deliveries at once, in one row. Until the lease is closed, its deliveries' own rows stay as they are,
but for those that were not sent: see `ledger.record_attempts`. Nobody else can lease them meanwhile.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)

from skychimp.models import (
    SUCCESSES,
    WAITING_STATES,
    DeliveryState,
    MailingStatus,
    OccurrenceState,
    Outcome,
    tables,
)
from skychimp.models.base import has_state
from skychimp.store.clients import audience, suppressions
from skychimp.store.conditions import (
    awaits_a_try,
    awaits_resend,
    has_intent,
    has_success,
    has_waiting_state,
    is_before_end,
    is_in_outbox,
    is_leased,
    is_unfinished,
    is_waiting,
    may_send,
    new_state,
)
from skychimp.store.database import POSTGRESQL
from skychimp.store.occurrences import canary
from skychimp.store.sql import id_list, ids_in, json_list

_D = tables.delivery
_O = tables.occurrence
_M = tables.mailing
_C = tables.client
_A = tables.attempt
_L = tables.lease
_I = tables.intent

# These, and the cached functions below, are built once, as every lease uses them: building them takes milliseconds.
_INSERT_LEASE = insert(_L).returning(_L.c.id)
_LEASES_OF_RUN = select(_L.c.id).where(_L.c.run_id == bindparam("run"))

RETRIED_STATES = (DeliveryState.FAILED, DeliveryState.EXPIRED, DeliveryState.CANCELLED)
"""The states of deliveries that a person can have tried again."""


class ClaimedDelivery(NamedTuple):
    """A delivery that only this run may send, as long as the lease exists.

    `tags` is a JSON list, and `fields` a JSON object, None if the content uses no custom fields. `files_hash` is a hash
    of the client's own files that its email has, or had if it may have been sent before.
    """

    id: int
    occurrence_id: int
    client_id: int
    address: str
    name: str
    comment: str
    tags: str
    attempts: int
    given_back: int
    dated_at: datetime | None
    content_id: int | None
    fields: str | None
    files_hash: str | None
    lease_id: int
    leased_at: datetime

    @property
    def is_untried(self) -> bool:
        """Whether no try has been counted yet."""
        return self.attempts == self.given_back

    @property
    def may_have_arrived(self) -> bool:
        """Whether an email of this delivery may have been sent before."""
        return self.dated_at is not None

    @property
    def date(self) -> datetime:
        """The email's Date header: that of the email before, if this one may be its repetition."""
        return self.dated_at or self.leased_at

    @property
    def key(self) -> "ClaimKey":
        """What tells claims apart. A run may have claimed a delivery twice, if it seemed to be dead in between."""
        return self.id, self.lease_id


ClaimKey = tuple[int, int]
"""The ids of a delivery and of its lease."""


# Leasing


def due_occurrences(db: Connection, now: datetime, mailing_id: int | None = None) -> list[int]:
    """Return the ids of the occurrences that have something to send now, in order of their due times.

    Occurrences whose opening was interrupted, and whose mailing has ended since, are included: every client is to have
    a delivery, even if it only expires.
    """
    has_due_deliveries = canary.has_due_deliveries(now, ~is_leased())
    is_opening = _O.c.state == OccurrenceState.OPENING
    was_interrupted = and_(is_opening, ~is_before_end(now), _M.c.deleted_at.is_(None))
    query = (
        select(_O.c.id)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(is_unfinished(), or_(and_(may_send(now), or_(is_opening, has_due_deliveries)), was_interrupted))
        .order_by(_O.c.due_at, _O.c.id)
    )
    return list(db.scalars(query if mailing_id is None else query.where(_M.c.id == mailing_id)))


def lease(
    db: Connection, occurrence_id: int, run_id: int, now: datetime, due_by: datetime, limit: int
) -> list[ClaimedDelivery]:
    """Lease up to `limit` deliveries of an occurrence whose next try is at `due_by` or before, the earliest first."""
    if db.dialect.name == POSTGRESQL:
        # Another run may be leasing at the same time. The query after this one sees what it has leased.
        db.execute(select(_O.c.id).where(_O.c.id == occurrence_id).with_for_update(key_share=True))
    parameters = {"occurrence": occurrence_id, "now": now, "due_by": due_by, "limit": limit}
    rows = db.execute(_next_deliveries(), parameters).all()
    if not rows:
        return []
    values = {
        "run_id": run_id,
        "occurrence_id": occurrence_id,
        "delivery_ids": json.dumps([row[0] for row in rows]),
        "leased_at": now,
    }
    lease_id: int = db.execute(_INSERT_LEASE, values).scalar_one()
    return [ClaimedDelivery._make((*row, lease_id, now)) for row in rows]


@cache
def _next_deliveries() -> Select[Any]:
    sendable_id = (
        select(_O.c.id)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(_O.c.id == bindparam("occurrence"), may_send(bindparam("now")))
        .scalar_subquery()
    )
    is_due = and_(has_waiting_state(), _D.c.next_try_at <= bindparam("due_by"), ~is_leased())
    canary_until = select(_O.c.canary_until).where(_O.c.id == bindparam("occurrence")).scalar_subquery()
    return (
        select(*(_D.c[name] for name in ClaimedDelivery._fields[:-2]))
        .where(_D.c.occurrence_id == sendable_id, is_due, _D.c.next_try_at.is_distinct_from(canary_until))
        .order_by(_D.c.next_try_at)
        .limit(bindparam("limit", type_=Integer))
    )


# Returning what was not sent


def give_back(db: Connection, claims: Sequence[ClaimedDelivery]) -> None:
    """Take deliveries that the run will not send now out of their leases. No final dot was written for them."""
    by_lease: dict[int, list[int]] = {}
    for claimed in claims:
        by_lease.setdefault(claimed.lease_id, []).append(claimed.id)
    for lease_id, delivery_ids in by_lease.items():  # a delivery may be in flight under another lease
        ids = id_list(delivery_ids)
        db.execute(delete(_I).where(_I.c.delivery_id.in_(ids), _I.c.lease_id == lease_id))
        leased = ids_in(_L.c.delivery_ids).c.value
        remaining = select(json_list(leased)).where(leased.not_in(ids)).correlate(_L).scalar_subquery()
        db.execute(update(_L).where(_L.c.id == lease_id).values(delivery_ids=remaining))
        db.execute(delete(_L).where(_L.c.id == lease_id, _L.c.delivery_ids == "[]"))
    cancel_obsolete(db, [claimed.id for claimed in claims])


def close_leases(db: Connection, run_id: int, lease_ids: Sequence[int] | None = None) -> None:
    """Close leases of a run, all or those with these ids.

    A lease stays open if one of its deliveries has an intent and no result: its run died while it was sending that one.
    """
    of_run = db.scalars(_LEASES_OF_RUN, {"run": run_id}).all()
    ids = of_run if lease_ids is None else [lease_id for lease_id in of_run if lease_id in lease_ids]
    if ids:
        for statement in _close_statements():
            db.execute(statement, {"leases": ids})


def fold(db: Connection, delivery_ids: Select[tuple[int]]) -> None:
    """Record in the own rows of these deliveries what succeeded under leases that are open, and remove the intents."""
    for statement in _fold_statements(delivery_ids):
        db.execute(statement)


@cache
def _close_statements() -> Sequence[Executable]:
    lease_ids: BindParameter[int] = bindparam("leases", expanding=True)
    leased = ids_in(_L.c.delivery_ids, joins_implicitly=True)
    is_intended = and_(_I.c.delivery_id == leased.c.value, _I.c.lease_id == _L.c.id)
    has_intents = exists().where(is_intended).correlate(_L)
    return *_fold_statements(_intended(lease_ids)), delete(_L).where(_L.c.id.in_(lease_ids), ~has_intents)


def _fold_statements(delivery_ids: Select[tuple[int]]) -> Sequence[Executable]:
    done = update(_D).where(_D.c.id.in_(delivery_ids), has_success())
    is_done = exists().where(_D.c.id == _I.c.delivery_id, has_state(_D.c.state, *SUCCESSES))
    return (
        done.values(state=new_state(), next_try_at=None, attempts=_D.c.attempts + 1),
        delete(_I).where(_I.c.delivery_id.in_(delivery_ids), is_done),
    )


def rescue(db: Connection, run_id: int, now: datetime, resend_after: timedelta | None, relay: str) -> int:
    """Take back a dead run's deliveries: those being sent become unknown, and the others can be leased again.

    Returns how many are unknown. `resend_after` is None if a person decides about them.
    """
    close_leases(db, run_id)
    lease_ids = db.scalars(select(_L.c.id).where(_L.c.run_id == run_id)).all()
    reply = "the run died before the server's reply was recorded"
    resend_at = None if resend_after is None else now + resend_after
    unknown_ids = _set_unknown(db, _D.c.id.in_(_intended(lease_ids)), now, "dot", reply, relay, resend_at)
    db.execute(delete(_I).where(_I.c.lease_id.in_(lease_ids)))
    db.execute(delete(_L).where(_L.c.id.in_(lease_ids)))
    cancel_obsolete(db, unknown_ids)
    return len(unknown_ids)


def _intended(lease_ids: Sequence[int] | BindParameter[int]) -> Select[tuple[int]]:
    # By the ids of the deliveries: PostgreSQL keeps removed intents for a while, and would read all of them.
    leased, intended = ids_in(_L.c.delivery_ids, joins_implicitly=True), _I.alias("intended")
    is_intended = and_(intended.c.delivery_id == leased.c.value, intended.c.lease_id == _L.c.id)
    return select(intended.c.delivery_id).select_from(_L, leased).where(_L.c.id.in_(lease_ids), is_intended)


# Unknown deliveries


def mark_unknown(db: Connection, now: datetime) -> Sequence[int]:
    """Leave all unfinished deliveries to a person's decision, and return their ids.

    For a restored store: they may have been sent from elsewhere since the backup was made.
    """
    in_unfinished = _D.c.occurrence_id.in_(select(_O.c.id).where(is_unfinished()))
    canary.end_wait(db, is_unfinished())
    resends = update(_D).where(awaits_resend(), in_unfinished).values(next_try_at=None)
    resend_ids = db.scalars(resends.returning(_D.c.id)).all()
    reply = "it was waiting when the backup was made; what happened to it since is not known"
    for run_id in db.scalars(select(_L.c.run_id).distinct()).all():
        close_leases(db, run_id)
    db.execute(delete(_I))
    db.execute(delete(_L))
    waiting_ids = _set_unknown(db, and_(is_waiting(), in_unfinished), now, "", reply, "", None)
    return [*resend_ids, *waiting_ids]


def resolve_as(db: Connection, ids: Sequence[int], state: DeliveryState) -> None:
    """Record a person's decision that these unknown deliveries were sent, or that they failed.

    If one that failed is tried again, it may have other files of its client: nobody has the email with the old ones.
    """
    unknown = update(_D).where(_D.c.id.in_(id_list(ids)), _D.c.state == DeliveryState.UNKNOWN)
    forgotten = {"files_hash": None} if state == DeliveryState.FAILED else {}
    db.execute(unknown.values(state=state, next_try_at=None, **forgotten))


def resend(db: Connection, ids: Sequence[int], now: datetime) -> None:
    """Queue these unknown deliveries again, as a person decided. A finished occurrence is reopened."""
    _queue_again(db, ids, [DeliveryState.UNKNOWN], now)
    cancel_obsolete(db, ids)


def queue_refused(db: Connection, ids: Sequence[int], now: datetime) -> None:
    """Queue these deliveries again if they failed, as the refusal was not the clients' fault. No try is counted."""
    is_selected = _D.c.id.in_(id_list(ids))
    again = update(_D).where(is_selected, has_state(_D.c.state, DeliveryState.FAILED))
    db.execute(again.values(state=DeliveryState.QUEUED, next_try_at=now, given_back=_D.c.given_back + 1))
    cancel_obsolete(db, ids)


def retry(db: Connection, ids: Sequence[int], now: datetime) -> None:
    """Queue these deliveries again that failed, expired or were cancelled. Their time to give up starts again."""
    _queue_again(db, ids, RETRIED_STATES, now, given_back=_D.c.attempts)  # its tries are counted again from 0
    is_selected = _D.c.id.in_(id_list(ids))
    use_new_addresses(db, is_selected)
    _cancel(db, and_(is_selected, _is_suppressed()))


def queue_written(db: Connection, ids: Sequence[int], now: datetime) -> None:
    """Queue these deliveries again that were only written to the outbox. Their tries are counted again from 0.

    They go to the present addresses of their clients. Those to nobody who may get them now are cancelled.
    """
    _queue_again(db, ids, [DeliveryState.OUTBOX], now, given_back=_D.c.attempts)
    use_new_addresses(db, _D.c.id.in_(id_list(ids)))
    cancel_obsolete(db, ids)


def replace_written(db: Connection, ids: Sequence[int]) -> None:
    """End these deliveries that were only written to the outbox, as their clients have a newer email of the mailing."""
    written = update(_D).where(_D.c.id.in_(id_list(ids)), is_in_outbox()).values(state=DeliveryState.REPLACED)
    occurrence_ids = db.scalars(written.returning(_D.c.occurrence_id)).all()
    counted = update(_O).where(_O.c.id.in_(id_list(sorted(set(occurrence_ids)))))
    db.execute(counted.values(results_of=None))  # a finished occurrence does not change otherwise


def finish_written(db: Connection, ids: Sequence[int]) -> None:
    """Record that these deliveries were written to the outbox, unless they are finished or being sent by now."""
    is_open = _D.c.state.in_([*WAITING_STATES, DeliveryState.UNKNOWN])
    written = update(_D).where(_D.c.id.in_(id_list(ids)), ~has_intent(), is_open)
    db.execute(written.values(state=DeliveryState.OUTBOX, next_try_at=None))


def _queue_again(
    db: Connection, ids: Sequence[int], states: Sequence[DeliveryState], now: datetime, **more: object
) -> None:
    selected = id_list(ids)
    occurrence_ids = select(_D.c.occurrence_id).where(_D.c.id.in_(selected)).distinct()
    is_ended = _O.c.state.in_([OccurrenceState.FINISHED, OccurrenceState.CANCELLED])
    ended = update(_O).where(_O.c.id.in_(occurrence_ids), is_ended)
    db.execute(ended.values(state=OccurrenceState.OPEN, finished_at=None))
    mailing_ids = select(_O.c.mailing_id).where(_O.c.id.in_(occurrence_ids))
    db.execute(update(_M).where(_M.c.id.in_(mailing_ids)).values(status=MailingStatus.RUNNING))
    chosen = update(_D).where(_D.c.id.in_(selected), _D.c.state.in_(states))
    db.execute(chosen.values(state=DeliveryState.QUEUED, next_try_at=now, give_up_at=None, **more))


def _set_unknown(
    db: Connection,
    is_lost: ColumnElement[bool],
    now: datetime,
    phase: str,
    reply: str,
    relay: str,
    resend_at: datetime | None,
) -> Sequence[int]:
    """Make the deliveries with a condition unknown, with an attempt that gives the reason. Return their ids."""
    attempts = select(
        _D.c.id, _D.c.attempts + 1, literal(now, _A.c.started_at.type), literal(now, _A.c.started_at.type),
        literal(Outcome.UNKNOWN.value), literal(phase), null(), literal(""), literal(reply), literal(relay),
    ).where(is_lost)  # fmt: skip
    names = ["delivery_id", "number", "started_at", "finished_at", "outcome", "phase", "code", "enhanced", "reply"]
    db.execute(insert(_A).from_select([*names, "relay"], attempts))
    files_hash = select(_I.c.files_hash).where(_I.c.delivery_id == _D.c.id).correlate(_D)
    lease_of_intent = _L.join(_I, _I.c.lease_id == _L.c.id)
    leased_at = select(_L.c.leased_at).select_from(lease_of_intent).where(_I.c.delivery_id == _D.c.id).correlate(_D)
    unknown = {
        "state": DeliveryState.UNKNOWN,
        "attempts": _D.c.attempts + 1,
        "next_try_at": resend_at,
        "dated_at": func.coalesce(_D.c.dated_at, leased_at.scalar_subquery()),
        "files_hash": func.coalesce(files_hash.scalar_subquery(), _D.c.files_hash),
    }
    return db.scalars(update(_D).where(is_lost).values(unknown).returning(_D.c.id)).all()


# Addresses


def use_new_addresses(db: Connection, is_selected: ColumnElement[bool]) -> None:
    """Let waiting deliveries go to the present addresses of their clients.

    One that may have arrived keeps its address. If the new address gets another email of the occurrence, or is
    suppressed, it is cancelled.
    """
    new, other = _C.alias("new"), _D.alias("other")
    has_changed = exists().where(new.c.id == _D.c.client_id, new.c.address_key != _D.c.address_key)
    is_outdated = and_(is_selected, is_waiting(), _D.c.dated_at.is_(None), ~is_leased(), has_changed.correlate(_D))
    of_client = new.c.id == _D.c.client_id
    is_other = and_(other.c.occurrence_id == _D.c.occurrence_id, other.c.address_key == new.c.address_key)
    gets_another = exists().where(of_client, is_other).correlate(_D)
    cancelled = update(_D).where(is_outdated, gets_another)
    db.execute(cancelled.values(state=DeliveryState.CANCELLED, next_try_at=None))
    address, key = (select(new.c[name]).where(of_client).scalar_subquery() for name in ("email", "address_key"))
    changed = update(_D).where(is_outdated).values(address=address, address_key=key)
    changed_ids = db.scalars(changed.returning(_D.c.id)).all()
    _cancel(db, and_(_D.c.id.in_(id_list(changed_ids)), _is_suppressed()))


# Cancelling


def cancel_for_address(db: Connection, occurrences: Select[tuple[int]], address_key: str) -> None:
    """Cancel an address's pending deliveries in these occurrences, after its client was deleted or turned bad."""
    _cancel(db, and_(_D.c.occurrence_id.in_(occurrences), _D.c.address_key == address_key))


def cancel_deliveries(db: Connection, delivery_ids: Sequence[int]) -> int:
    """Cancel those of these deliveries that are pending, and return how many."""
    return _cancel(db, _D.c.id.in_(id_list(delivery_ids)))


def cancel_suppressed(db: Connection) -> int:
    """Cancel all that waits for suppressed addresses, and return how many. Nothing may be sending."""
    unfinished = select(_O.c.id).where(is_unfinished())
    return _cancel(db, and_(_D.c.occurrence_id.in_(unfinished), _is_suppressed()))


def cancel_obsolete(db: Connection, delivery_ids: Sequence[int]) -> None:
    """Finish those of these deliveries that need no further try.

    One with a recorded success is sent, whatever came of a later try. One whose client is deleted or bad is cancelled,
    and so is one to a suppressed address.
    """
    if not delivery_ids:
        return
    is_selected = _D.c.id.in_(id_list(delivery_ids))
    has_success = exists().where(_A.c.delivery_id == _D.c.id, _A.c.outcome == Outcome.SENT)
    sent = update(_D).where(is_selected, ~has_intent(), has_success)
    db.execute(sent.values(state=DeliveryState.SENT, next_try_at=None))
    # If the client has another address by now, what is known of that one says nothing about this delivery's.
    is_good = or_(audience.has_good_address(), _C.c.address_key != _D.c.address_key)
    has_good_client = exists().where(_C.c.id == _D.c.client_id, is_good)
    _cancel(db, and_(is_selected, or_(~has_good_client, _is_suppressed())))


def _is_suppressed() -> ColumnElement[bool]:
    of_mailing = select().join_from(_O, _M, _M.c.id == _O.c.mailing_id).where(_O.c.id == _D.c.occurrence_id)
    owner_id, topic = (
        of_mailing.with_only_columns(_M.c[name]).correlate(_D).scalar_subquery() for name in ("owner_id", "topic")
    )
    return suppressions.is_suppressed(_D.c.address_key, owner_id, topic)


def _cancel(db: Connection, is_selected: ColumnElement[bool]) -> int:
    cancelled = update(_D).where(is_selected, awaits_a_try()).values(state=DeliveryState.CANCELLED, next_try_at=None)
    return db.execute(cancelled).rowcount
