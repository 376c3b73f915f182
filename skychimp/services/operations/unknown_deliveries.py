"""Deliveries that nobody knows the end of: a person says what became of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from sqlalchemy import Select, and_, select
from sqlmodel import Session

from skychimp.delivery.composing import compose
from skychimp.delivery.sending import replies
from skychimp.errors import Conflict, NotFound
from skychimp.models import Attempt, Delivery, DeliveryState, Mailing, Occurrence, StoreInfo
from skychimp.permissions import Action, Actor, Scope, authorize
from skychimp.services import audit
from skychimp.services.listing import is_id
from skychimp.store import queue
from skychimp.store.database import Store

_A = Attempt.__table__
_D = Delivery.__table__
_O = Occurrence.__table__
_M = Mailing.__table__


class Resolution(StrEnum):
    """What a person says of an unknown delivery."""

    SENT = "sent"
    FAILED = "failed"
    RESEND = "resend"


@dataclass(frozen=True)
class UnknownDelivery:
    """A delivery whose final reply never came; `next_try_at` is when it is sent again, None where a person decides.

    By its Message-ID, or by the queue id where one was heard, the relay's own log knows what became of it.
    """

    id: int
    mailing_id: int
    due_at: datetime
    email: str
    at: datetime | None
    reply: str
    next_try_at: datetime | None
    phase: str
    relay: str
    queue_id: str
    message_id: str


@dataclass(frozen=True)
class Resolved:
    resolved: int
    resolution: Resolution


def unknown(store: Store, actor: Actor) -> Iterator[UnknownDelivery]:
    """The unknown deliveries that the actor may decide about, the oldest first, as they are read."""
    newest = and_(_A.c.delivery_id == _D.c.id, _A.c.number == _D.c.attempts)
    columns = (
        _D.c.id, _O.c.mailing_id, _O.c.due_at, _D.c.address, _D.c.next_try_at, _O.c.return_path,
        _A.c.finished_at, _A.c.reply, _A.c.phase, _A.c.relay,
    )  # fmt: skip
    query = _visible(select(*columns), actor).outerjoin(_A, newest).order_by(_D.c.id)
    with store.read() as db:
        secret = db.execute(select(StoreInfo.__table__.c.secret)).scalar_one()
        for row in db.execute(query.execution_options(yield_per=1000)):
            yield UnknownDelivery(
                id=row.id,
                mailing_id=row.mailing_id,
                due_at=row.due_at,
                email=row.address,
                at=row.finished_at,
                reply=row.reply or "",
                next_try_at=row.next_try_at,
                phase=row.phase or "",
                relay=row.relay or "",
                queue_id=replies.queue_id(row.reply or ""),
                message_id=compose.message_id(secret, row.id, row.return_path.rpartition("@")[2]),
            )


def resolve(
    store: Store, actor: Actor, resolution: Resolution, *, give_up_after: timedelta, ids: Sequence[int] | None = None
) -> Resolved:
    """Decide about the unknown deliveries with these ids, or about all of them; all or none.

    A resend goes out with the next run, byte for byte the same, and may take until `give_up_after` from now.
    Raises NotFound for one that is not there (or somebody else's), Conflict for one that is not unknown.
    """
    now = datetime.now(UTC)
    with store.write() as db:
        found = dict(db.execute(_visible(select(_D.c.id, _O.c.mailing_id), actor)).all())
        chosen = found.keys() if ids is None else set(ids)
        if wrong := chosen - found.keys():
            raise _not_unknown(db, actor, min(wrong))
        for some in in_parts(sorted(chosen)):
            if resolution == Resolution.RESEND:
                queue.resend(db.connection(), some, now, now + give_up_after)
            else:
                queue.resolve_as(db.connection(), some, DeliveryState(resolution))
        queue.sweep(db.connection(), now)
        for mailing_id, number in sorted(Counter(found[one] for one in chosen).items()):
            words = f"{number} unknown {'delivery' if number == 1 else 'deliveries'}: {resolution}"
            audit.record(db, actor, "resolve", "mailing", mailing_id, words)
    return Resolved(len(chosen), resolution)


def in_parts(ids: Sequence[int], size: int = 1000) -> Iterator[Sequence[int]]:
    """The ids in lists that one statement can name."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _visible(query: Select[tuple[object, ...]], actor: Actor) -> Select[tuple[object, ...]]:
    joined = query.select_from(_D).join(_O, _O.c.id == _D.c.occurrence_id).join(_M, _M.c.id == _O.c.mailing_id)
    unknown_ones = joined.where(queue.unknown_ones(), _M.c.deleted_at.is_(None))
    if authorize(actor, Action.RESOLVE_DELIVERIES) == Scope.OWN:
        unknown_ones = unknown_ones.where(_M.c.owner_id == actor.user_id)
    return unknown_ones


def _owned(actor: Actor, delivery_id: int) -> Select[tuple[object, ...]]:
    query = select(_D.c.state).join(_O, _O.c.id == _D.c.occurrence_id).join(_M, _M.c.id == _O.c.mailing_id)
    if authorize(actor, Action.RESOLVE_DELIVERIES) == Scope.OWN:
        query = query.where(_M.c.owner_id == actor.user_id)
    return query.where(_D.c.id == delivery_id)


def _not_unknown(db: Session, actor: Actor, delivery_id: int) -> NotFound | Conflict:
    state = db.scalar(_owned(actor, delivery_id)) if is_id(delivery_id) else None
    if state is None:
        return NotFound(f"there is no delivery {delivery_id}", "see those to decide about: skychimp resolve")
    return Conflict(f"delivery {delivery_id} is {state}, not unknown", "see those to decide about: skychimp resolve")
