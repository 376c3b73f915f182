"""List the attempts of a mailing, with the server's replies."""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, func, select

from skychimp import addresses
from skychimp.listed import Listed
from skychimp.models import Outcome, tables
from skychimp.permissions import Actor
from skychimp.services import paging
from skychimp.services.listing import ListOptions, apply, checked_search
from skychimp.services.mailings import mailings
from skychimp.store.conditions import current_attempts, current_state
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.store.sql import Nullable, text_position

_A = tables.attempt
_D = tables.delivery
_O = tables.occurrence
_R = tables.returned_mail

LARGE_MAILING = 50_000
"""From this number of deliveries on, finding all of them takes long."""


@dataclass(frozen=True)
class AttemptInfo:
    """One attempt; or, in a list of deliveries, one that was not tried yet (`id` and `at` are None).

    `status` is the attempt's outcome, or else the delivery's state. `attempt` counts from 1. `reply` is the server's
    whole reply, `code` and `enhanced` its codes. `returned` is what came back later for an email that was sent, such as
    `bounced` or `complaint`, "" if nothing did.
    """

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
    returned: str


def list_attempts(
    store: Store,
    actor: Actor,
    mailing_id: int,
    options: ListOptions,
    *,
    status: str | None = None,
    domain: str | None = None,
    reply: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    last: bool = False,
    after: int | None = None,
) -> Listed[AttemptInfo]:
    """Return the attempts of a mailing, the oldest first; with `last`, the last attempt of each delivery.

    `reply` is a code, an enhanced code, or part of the reply's text. `since` (included) and `until` (excluded) are
    compared with the time of the reply. `after` is the id of an attempt: only later ones are listed.
    Raises NotFound and InvalidValue.
    """
    mailings.find(store, actor, mailing_id)
    rows = _select_deliveries() if last else _select_attempts()
    query = apply(rows, options, searched=(_D.c.address,), sorted_by=_sortable_columns(last))
    if status is not None:
        query = query.where(_STATUS.in_([status]))
    if domain is not None:
        query = query.where(_domain_of(_D.c.address_key) == _ascii_domain(domain))
    if reply is not None:
        query = query.where(has_reply(reply))
    if since is not None:
        query = query.where(_A.c.finished_at >= since)
    if until is not None:
        query = query.where(_A.c.finished_at < until)
    is_page = options.limit is not None and (options.sort or "id").removeprefix("-") == "id" and not last
    is_filtered = bool(options.search or status or domain or reply or since or until)
    with store.read() as db:
        if is_page and not is_filtered and after is None and _is_large(db, mailing_id):
            after = 0  # reading attempts until the page is full takes less time than finding all of the mailing's
    found = query.where(_is_of_mailing(mailing_id, last, after))
    return paging.read_list(store, rows, found, options, partial(map, _attempt_info), is_countable=False)


def _is_large(db: Session, mailing_id: int) -> bool:
    """Return whether it takes long to find all attempts of a mailing."""
    deliveries = select(_D.c.id).join(_O, _O.c.id == _D.c.occurrence_id).where(_O.c.mailing_id == mailing_id)
    counted = deliveries.limit(LARGE_MAILING).subquery()
    return db.scalar(select(func.count()).select_from(counted)) == LARGE_MAILING


_CODE = re.compile(r"[2-5][0-9]{2}")
_ENHANCED_CODE = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")  # RFC 3463, section 2


def has_reply(reply: str) -> ColumnElement[bool]:
    """Return the condition of an attempt whose reply has this code, enhanced code or text. Raises InvalidValue."""
    if _CODE.fullmatch(reply):
        return _A.c.code == int(reply)
    if _ENHANCED_CODE.fullmatch(reply):
        return _A.c.enhanced == reply
    return _A.c.reply.icontains(checked_search(reply), autoescape=True)


def _domain_of(address: ColumnElement[str]) -> ColumnElement[str]:
    return func.substr(address, text_position(address, "@") + 1)


def _ascii_domain(domain: str) -> str:
    return addresses.parse(f"x@{domain.strip().removeprefix('@')}", addresses.LOCAL).key.removeprefix("x@")


_STATUS = func.coalesce(_A.c.outcome, current_state())
_DELIVERY_ID = _D.c.id.label("delivery")
_OF_DELIVERY = and_(_R.c.delivery_id == _D.c.id, _R.c.has_token)  # without a token anybody may have written it
_LAST_RETURNED = select(_R.c.kind).where(_OF_DELIVERY).order_by(_R.c.id.desc()).limit(1)
_RETURNED = case((_A.c.outcome == Outcome.SENT, _LAST_RETURNED.correlate(_D).scalar_subquery()))
_COLUMNS = (_D.c.address, current_state().label("state"), _O.c.due_at, _RETURNED.label("returned"))


def _select_attempts() -> Select[tuple[object, ...]]:
    return (
        select(*_A.c, _DELIVERY_ID, *_COLUMNS)
        .join(_D, _D.c.id == _A.c.delivery_id)
        .join(_O, _O.c.id == _D.c.occurrence_id)
    )


def _select_deliveries() -> Select[tuple[object, ...]]:
    last_attempt = and_(_A.c.delivery_id == _D.c.id, _A.c.number == current_attempts())
    return (
        select(_DELIVERY_ID, *_A.c, *_COLUMNS)
        .select_from(_D)
        .outerjoin(_A, last_attempt)
        .join(_O, _O.c.id == _D.c.occurrence_id)
    )


def _is_of_mailing(mailing_id: int, last: bool, after: int | None) -> ColumnElement[bool]:
    """Return the condition that a row belongs to a mailing and, if given, comes `after` an attempt.

    It is written so that SQLite reads the rows in the order of their ids: a sort would hold a million rows in memory.
    """
    if after is not None:
        return and_(_A.c.id > after, _O.c.mailing_id + 0 == mailing_id)  # + 0 keeps SQLite from using the index
    deliveries = select(_D.c.id).join(_O, _O.c.id == _D.c.occurrence_id)
    if last:
        return _D.c.id.in_(deliveries.where(_O.c.mailing_id == mailing_id).correlate(None))
    attempts = deliveries.join(_A, _A.c.delivery_id == _D.c.id).with_only_columns(_A.c.id)
    return _A.c.id.in_(attempts.where(_O.c.mailing_id == mailing_id).correlate(None))


def _sortable_columns(last: bool) -> dict[str, Any]:
    """Return the columns to sort by. The first is the default: the order in which rows were created."""
    at, number = Nullable(_A.c.finished_at), Nullable(_A.c.number)
    others = {"at": at, "email": _D.c.address_key, "status": _STATUS, "attempt": number}
    return {"id": _D.c.id if last else _A.c.id, **others}


def _attempt_info(row: Row[tuple[object, ...]]) -> AttemptInfo:
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
        returned=row.returned or "",
    )
