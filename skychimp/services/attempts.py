"""Attempts: the log of a mailing, with the server's words."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, Select, and_, func, select

from skychimp.access import Actor
from skychimp.models import Attempt, Delivery, Occurrence
from skychimp.services import mailings
from skychimp.services.listing import Page
from skychimp.store.engine import Store

_A = Attempt.__table__
_D = Delivery.__table__
_O = Occurrence.__table__


@dataclass(frozen=True)
class AttemptInfo:
    """One attempt; in a list of deliveries, one that was never tried has no `at`, and its state as `status`."""

    id: int | None
    at: datetime | None
    email: str
    status: str
    reply: str
    attempt: int
    phase: str
    code: int | None
    enhanced: str
    relay: str
    due_at: datetime
    delivery_id: int


def log(
    store: Store,
    actor: Actor,
    mailing_id: int,
    page: Page,
    *,
    status: str | None = None,
    last: bool = False,
    after: int | None = None,
) -> Iterator[AttemptInfo]:
    """Every attempt of a mailing, the oldest first, as it is read; `last`: one row a delivery.

    `after` is the id of an attempt: only later ones. Raises NotFound.
    """
    mailings.show(store, actor, mailing_id)
    query = _deliveries() if last else _attempts()
    query = query.where(_O.c.mailing_id == mailing_id)
    if status is not None:
        query = query.where(func.coalesce(_A.c.outcome, _D.c.state) == status)
    if after is not None:
        query = query.where(_A.c.id > after)
    if page.search:
        query = query.where(_D.c.address.icontains(page.search, autoescape=True))
    if page.limit is not None or page.offset:
        query = query.limit(-1 if page.limit is None else page.limit).offset(page.offset)
    with store.read() as session:
        for row in session.execute(query.execution_options(yield_per=1000)):
            yield _info(row)


_COLUMNS = (*_A.c, _D.c.address, _D.c.state, _D.c.id.label("delivery"), _O.c.due_at)


def _attempts() -> Select[tuple[object, ...]]:
    joined = select(*_COLUMNS).join(_D, _D.c.id == _A.c.delivery_id).join(_O, _O.c.id == _D.c.occurrence_id)
    return joined.order_by(_A.c.id)


def _deliveries() -> Select[tuple[object, ...]]:
    newest = and_(_A.c.delivery_id == _D.c.id, _A.c.number == _D.c.attempts)
    joined = select(*_COLUMNS).select_from(_D).outerjoin(_A, newest).join(_O, _O.c.id == _D.c.occurrence_id)
    return joined.order_by(_D.c.id)


def _info(row: Row[tuple[object, ...]]) -> AttemptInfo:
    return AttemptInfo(
        id=row.id,
        at=row.finished_at,
        email=row.address,
        status=row.outcome or row.state,
        reply=row.reply or "",
        attempt=row.number or 0,
        phase=row.phase or "",
        code=row.code,
        enhanced=row.enhanced or "",
        relay=row.relay or "",
        due_at=row.due_at,
        delivery_id=row.delivery,
    )
