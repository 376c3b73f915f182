"""List deliveries with an unknown outcome, and record what a person decides about them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Select, and_, select
from sqlmodel import Session

from skychimp.delivery.composing import compose
from skychimp.delivery.sending import replies
from skychimp.errors import Conflict, NotFound
from skychimp.models import Attempt, Delivery, DeliveryState, Mailing, Occurrence, StoreInfo
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.listing import in_scope, is_valid_id
from skychimp.shell import run_hint
from skychimp.store import queue
from skychimp.store.conditions import current_state, is_unknown
from skychimp.store.database import Store
from skychimp.text import count_of

_A = Attempt.__table__
_D = Delivery.__table__
_O = Occurrence.__table__
_M = Mailing.__table__


class Resolution(StrEnum):
    """A person's decision about an unknown delivery."""

    SENT = "sent"
    FAILED = "failed"
    RESEND = "resend"


@dataclass(frozen=True)
class UnknownDelivery:
    """A delivery whose final reply was not recorded.

    `next_try_at` is when it is sent again, None if a person must decide. The mail server's log shows what happened to
    it: search for `message_id`, or for `queue_id` if the server gave one.
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
    """The number of deliveries that were resolved, and how."""

    resolved: int
    resolution: Resolution


def list_unknown(store: Store, actor: Actor) -> Iterator[UnknownDelivery]:
    """Yield the unknown deliveries that the actor may resolve, the oldest first. Raises NotLoggedIn and Denied."""
    last_attempt = and_(_A.c.delivery_id == _D.c.id, _A.c.number == _D.c.attempts)
    columns = (
        _D.c.id, _O.c.mailing_id, _O.c.due_at, _D.c.address, _D.c.next_try_at, _O.c.return_path,
        _A.c.finished_at, _A.c.reply, _A.c.phase, _A.c.relay,
    )  # fmt: skip
    query = _select_unknown(select(*columns), actor).outerjoin(_A, last_attempt).order_by(_D.c.id)
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
    """Resolve the unknown deliveries with these ids, or all of them. If one of them cannot be resolved, none is.

    RESEND: the next run sends the same email again, byte for byte, and gives up after `give_up_after` from now.
    Raises NotFound for a delivery that does not exist or is somebody else's, and Conflict for one that is not unknown.
    """
    now = store.now()
    with store.write() as db:
        mailing_ids = dict(db.execute(_select_unknown(select(_D.c.id, _O.c.mailing_id), actor)).all())
        chosen = mailing_ids.keys() if ids is None else set(ids)
        if invalid := chosen - mailing_ids.keys():
            raise _not_unknown(db, actor, min(invalid))
        for batch in batches(sorted(chosen)):
            if resolution == Resolution.RESEND:
                queue.resend(db.connection(), batch, now, now + give_up_after)
            else:
                queue.resolve_as(db.connection(), batch, DeliveryState(resolution))
        queue.sweep(db.connection(), now)
        for mailing_id, number in sorted(Counter(mailing_ids[delivery_id] for delivery_id in chosen).items()):
            detail = f"{count_of(number, 'unknown delivery', 'unknown deliveries')}: {resolution}"
            audit.record(db, actor, "resolve", "mailing", mailing_id, detail)
    return Resolved(len(chosen), resolution)


def batches(ids: Sequence[int], size: int = 1000) -> Iterator[Sequence[int]]:
    """Yield the ids in lists that are short enough for one statement."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _select_unknown(query: Select[tuple[object, ...]], actor: Actor) -> Select[tuple[object, ...]]:
    """Restrict a query to the unknown deliveries that the actor may resolve."""
    return _select_visible(query, actor).where(is_unknown())


def _select_visible(query: Select[tuple[object, ...]], actor: Actor) -> Select[tuple[object, ...]]:
    """Restrict a query to the deliveries that the actor may see; those of deleted mailings are not among them."""
    scope = authorize(actor, Action.RESOLVE_DELIVERIES)
    joined = query.select_from(_D).join(_O, _O.c.id == _D.c.occurrence_id).join(_M, _M.c.id == _O.c.mailing_id)
    return joined.where(_M.c.deleted_at.is_(None), in_scope(scope, actor, _M.c.owner_id))


def _not_unknown(db: Session, actor: Actor, delivery_id: int) -> NotFound | Conflict:
    """Return why a delivery cannot be resolved."""
    query = _select_visible(select(current_state()), actor).where(_D.c.id == delivery_id)
    state = db.scalar(query) if is_valid_id(delivery_id) else None
    if state is None:
        message = f"delivery {delivery_id} not found"
        return NotFound(message, run_hint("resolve"), kind="delivery", name=str(delivery_id))
    return Conflict(f"delivery {delivery_id} is {state}, not unknown", run_hint("resolve"))
