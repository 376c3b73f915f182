"""Queue emails again that failed, expired or were cancelled, as a person decides."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, and_, exists, func, select, true

from skychimp.errors import Conflict
from skychimp.models import DeliveryState, OccurrenceState, tables
from skychimp.permissions import Actor
from skychimp.services.mailings.queries import get_own_mailing
from skychimp.services.reporting.delivery_log import has_reply
from skychimp.shell import run_hint
from skychimp.store import queue
from skychimp.store.clients import audience
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.store.sql import id_list
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.models import Mailing

_A = tables.attempt
_C = tables.client
_D = tables.delivery
_O = tables.occurrence

DEFAULT_STATES = (DeliveryState.FAILED, DeliveryState.EXPIRED)
BATCH = 5_000
"""How many are queued in one transaction, so that those who send need not wait long."""


@dataclass(frozen=True)
class Retry:
    """The number of emails that are queued again, and of those that are not.

    The clients of the latter are bad, suppressed or deleted, or have no consent and need one.
    """

    mailing_id: int
    queued: int
    left_out: int


def count(
    store: Store,
    actor: Actor,
    mailing_id: int,
    states: Sequence[DeliveryState] = DEFAULT_STATES,
    reply: str = "",
    *,
    require_consent: bool = False,
) -> Retry:
    """Count what `retry` would queue: the deliveries of the mailing's last occurrence in these states.

    `reply` restricts them to those whose last reply has these words. Raises NotFound, and Conflict if the mailing has
    ended, as nothing would be sent. `require_consent` is the setting of that name.
    """
    with store.read() as db:
        is_chosen = _chosen(db, actor, store, mailing_id, states, reply)
        numbers = _count(db.connection(), is_chosen, _can_receive(mailing_id, require_consent))
    return Retry(mailing_id, numbers.get(True, 0), numbers.get(False, 0))


def retry(
    store: Store,
    actor: Actor,
    mailing_id: int,
    states: Sequence[DeliveryState] = DEFAULT_STATES,
    reply: str = "",
    *,
    require_consent: bool = False,
) -> Retry:
    """Queue the emails again that `count` counts. Each attempt so far stays in the log. Raises what `count` does."""
    can_receive = _can_receive(mailing_id, require_consent)
    with store.read() as db:
        is_chosen = _chosen(db, actor, store, mailing_id, states, reply)
        left_out = _count(db.connection(), is_chosen, can_receive).get(False, 0)
        ids = array("q", db.scalars(select(_D.c.id).where(is_chosen, can_receive)))
    queued = 0

    def queue_next(db: Session) -> bool:
        nonlocal queued
        batch = ids[:BATCH].tolist()
        del ids[:BATCH]
        is_still_chosen = and_(_D.c.id.in_(id_list(batch)), _D.c.state.in_(states), can_receive)
        still_chosen = db.scalars(select(_D.c.id).where(is_still_chosen)).all()
        queue.retry(db.connection(), still_chosen, store.now())
        queued += len(still_chosen)
        return not ids

    store.write_in_batches(queue_next)
    return Retry(mailing_id, queued, left_out)


def _chosen(
    db: Session, actor: Actor, store: Store, mailing_id: int, states: Sequence[DeliveryState], reply: str
) -> ColumnElement[bool]:
    mailing = get_own_mailing(db, actor, mailing_id)
    _require_open(mailing, store)
    unsent = (OccurrenceState.MISSED, OccurrenceState.SKIPPED)
    last = select(_O.c.id).where(_O.c.mailing_id == mailing_id, _O.c.state.not_in(unsent))
    last_id = last.order_by(_O.c.due_at.desc(), _O.c.id.desc()).limit(1).scalar_subquery()
    is_last_attempt = and_(_A.c.delivery_id == _D.c.id, _A.c.number == _D.c.attempts)
    says_so = exists().where(is_last_attempt, has_reply(reply)).correlate(_D) if reply else true()
    return and_(_D.c.occurrence_id == last_id, _D.c.state.in_(states), says_so)


def _require_open(mailing: "Mailing", store: Store) -> None:
    if mailing.end_at is not None and mailing.end_at <= store.now():
        message = tr(
            "mailing {id} ended at {end_at:%Y-%m-%d %H:%M} UTC, so nothing would be sent",
            id=mailing.id,
            end_at=mailing.end_at,
        )
        hint = tr(
            "{hint}, or give it another --end, and retry then",
            hint=run_hint("mailings", "update", mailing.id, "--no-end"),
        )
        raise Conflict(message, hint)


def _count(db: Connection, is_chosen: ColumnElement[bool], can_receive: ColumnElement[bool]) -> dict[bool, int]:
    """Return the number of deliveries by whether their clients can receive email."""
    group = can_receive.label("can_receive")
    rows = db.execute(select(group, func.count()).select_from(_D).where(is_chosen).group_by(group))
    return {bool(value): number for value, number in rows}


def _can_receive(mailing_id: int, require_consent: bool) -> ColumnElement[bool]:
    can_receive = audience.can_receive_again(mailing_id, require_consent=require_consent)
    return exists().where(_C.c.id == _D.c.client_id, can_receive).correlate(_D)
