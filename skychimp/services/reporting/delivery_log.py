"""Attempts: the log of a mailing, with the server's words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, func, select

from skychimp import addresses
from skychimp.models import Attempt, Delivery, Occurrence
from skychimp.permissions import Actor
from skychimp.services.listing import ListOptions, apply, searchable
from skychimp.services.mailings import mailings
from skychimp.store.database import Store

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
    page: ListOptions,
    *,
    status: str | None = None,
    domain: str | None = None,
    reply: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    last: bool = False,
    after: int | None = None,
) -> Iterator[AttemptInfo]:
    """Every attempt of a mailing, the oldest first, as it is read; `last`: one row a delivery.

    `reply` is a code, an enhanced code, or a text that the reply holds; times are those of the reply, `until` not
    included. `after` is the id of an attempt: only later ones. Raises NotFound, InvalidValue.
    """
    mailings.show(store, actor, mailing_id)
    query = apply(_deliveries() if last else _attempts(), page, searched=(_D.c.address,), sorted_by=_order(last))
    if status is not None:
        query = query.where(_STATUS.in_([status]))
    if domain is not None:
        query = query.where(func.substr(_D.c.address_key, func.instr(_D.c.address_key, "@") + 1) == _in_ascii(domain))
    if reply is not None:
        query = query.where(_says(reply))
    if since is not None:
        query = query.where(_A.c.finished_at >= since)
    if until is not None:
        query = query.where(_A.c.finished_at < until)
    query = query.where(_in_order(mailing_id, last, after))
    with store.read() as db:
        for row in db.execute(query.execution_options(yield_per=1000)):
            yield _info(row)


def newest(store: Store) -> int:
    """The id of the newest attempt of all, 0 where there is none: who follows a log reads no older one again."""
    with store.read() as db:
        return db.scalar(select(func.max(_A.c.id))) or 0


_CODE = re.compile(r"[2-5][0-9]{2}")
_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")


def _says(reply: str) -> ColumnElement[bool]:
    if _CODE.fullmatch(reply):
        return _A.c.code == int(reply)
    if _ENHANCED.fullmatch(reply):
        return _A.c.enhanced == reply
    return _A.c.reply.icontains(searchable(reply), autoescape=True)


def _in_ascii(domain: str) -> str:
    return addresses.parse(f"x@{domain.strip().removeprefix('@')}").key.removeprefix("x@")


_STATUS = func.coalesce(_A.c.outcome, _D.c.state)
_COLUMNS = (*_A.c, _D.c.address, _D.c.state, _D.c.id.label("delivery"), _O.c.due_at)


def _attempts() -> Select[tuple[object, ...]]:
    return select(*_COLUMNS).join(_D, _D.c.id == _A.c.delivery_id).join(_O, _O.c.id == _D.c.occurrence_id)


def _deliveries() -> Select[tuple[object, ...]]:
    newest = and_(_A.c.delivery_id == _D.c.id, _A.c.number == _D.c.attempts)
    return select(*_COLUMNS).select_from(_D).outerjoin(_A, newest).join(_O, _O.c.id == _D.c.occurrence_id)


def _in_order(mailing_id: int, last: bool, after: int | None) -> ColumnElement[bool]:
    """What is a mailing's, so said that SQLite reads it by its ids: a sort would hold a million rows in memory."""
    if after is not None:
        return and_(_A.c.id > after, _O.c.mailing_id + 0 == mailing_id)  # + 0: no index leads to the older ones
    deliveries = select(_D.c.id).join(_O, _O.c.id == _D.c.occurrence_id)
    if last:
        return _D.c.id.in_(deliveries.where(_O.c.mailing_id == mailing_id).correlate(None))
    attempts = deliveries.join(_A, _A.c.delivery_id == _D.c.id).with_only_columns(_A.c.id)
    return _A.c.id.in_(attempts.where(_O.c.mailing_id == mailing_id).correlate(None))


def _order(last: bool) -> dict[str, ColumnElement[Any]]:
    """What a log can be sorted by: attempts come as they were made, deliveries as they were opened."""
    others = {"at": _A.c.finished_at, "email": _D.c.address_key, "status": _STATUS, "attempt": _A.c.number}
    return {"id": _D.c.id if last else _A.c.id, **others}


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
