"""List deliveries with an unknown outcome, and record what a person decides about them."""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Select, and_, select

from skychimp.delivery.composing import compose
from skychimp.delivery.sending import replies
from skychimp.errors import Conflict, NotFound
from skychimp.models import DeliveryState, tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit, paging
from skychimp.services.listing import in_scope, is_valid_id
from skychimp.shell import run_hint
from skychimp.store import queue
from skychimp.store.conditions import current_state, is_unknown
from skychimp.store.database import Store
from skychimp.store.occurrences import sweeping
from skychimp.store.session import Session
from skychimp.store.sql import id_list
from skychimp.text import count_of
from skychimp.translation import tr

_A = tables.attempt
_D = tables.delivery
_O = tables.occurrence
_M = tables.mailing

BATCH = 5_000
"""How many are resolved in one transaction, so that those who send need not wait long."""


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
    rows = _select_unknown(select(*columns), actor).outerjoin(_A, last_attempt)
    found = rows.order_by(_D.c.id + 0)  # + 0 keeps SQLite from reading all deliveries in the order of their ids
    with store.read() as db:
        secret = db.execute(select(tables.store_info.c.secret)).scalar_one()
    for page in paging.read_pages(store, rows, found):
        for row in page:
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


def resolve(store: Store, actor: Actor, resolution: Resolution, *, ids: Sequence[int] | None = None) -> Resolved:
    """Resolve the unknown deliveries with these ids, or all of them, in batches.

    If one of `ids` cannot be resolved, none is.
    RESEND: the next run sends the same email again, byte for byte, unless its mailing has ended. Raises NotFound for a
    delivery that does not exist or is somebody else's, and Conflict for one that is not unknown.
    """
    now = store.now()
    if ids is None:
        resolved = _resolve_all(store, actor, resolution, now)
    else:
        with store.write() as db:
            chosen = set(ids)
            mailing_ids = _mailings_of(db, actor, list(filter(is_valid_id, chosen)))
            if invalid := chosen - mailing_ids.keys():
                raise _not_unknown(db, actor, min(invalid))
            resolved = _resolve(db, actor, resolution, mailing_ids, now)
    sweeping.sweep_in_batches(store, now)
    return Resolved(resolved, resolution)


def _resolve_all(store: Store, actor: Actor, resolution: Resolution, now: datetime) -> int:
    """Resolve all deliveries that are unknown now, and return how many."""
    with store.read() as db:
        unknown = array("q", db.scalars(_select_unknown(select(_D.c.id), actor)))
    resolved = 0

    def resolve_next(db: Session) -> bool:
        nonlocal resolved
        batch = unknown[:BATCH].tolist()
        del unknown[:BATCH]
        resolved += _resolve(db, actor, resolution, _mailings_of(db, actor, batch), now)
        return not unknown

    store.write_in_batches(resolve_next)
    return resolved


def _mailings_of(db: Session, actor: Actor, ids: Sequence[int]) -> dict[int, int]:
    """Return those of these deliveries that the actor may resolve, with the ids of their mailings."""
    unknown = _select_unknown(select(_D.c.id, _O.c.mailing_id), actor)
    return dict(db.execute(unknown.where(_D.c.id.in_(id_list(ids)))).all())


def _resolve(db: Session, actor: Actor, resolution: Resolution, mailing_ids: Mapping[int, int], now: datetime) -> int:
    for batch in batches(sorted(mailing_ids)):
        if resolution == Resolution.RESEND:
            queue.resend(db.connection(), batch, now)
        else:
            queue.resolve_as(db.connection(), batch, DeliveryState(resolution))
    for mailing_id, number in sorted(Counter(mailing_ids.values()).items()):
        detail = f"{count_of(number, 'unknown delivery', 'unknown deliveries')}: {resolution}"
        audit.record(db, actor, "resolve", "mailing", mailing_id, detail)
    return len(mailing_ids)


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
        message = tr("delivery {delivery_id} not found", delivery_id=delivery_id)
        return NotFound(message, run_hint("resolve"), kind="delivery", name=str(delivery_id))
    return Conflict(
        tr("delivery {delivery_id} is {state}, not unknown", delivery_id=delivery_id, state=state), run_hint("resolve")
    )
