"""Save queries over clients as segments: create, change, delete, list and count them."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, Select, delete, exists, func, select

from skychimp.errors import Conflict, InvalidQuery, InvalidValue
from skychimp.listed import Listed
from skychimp.models import tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit, paging
from skychimp.services.listing import ListOptions, apply, in_scope, not_found
from skychimp.shell import run_hint
from skychimp.store.clients.queries.conditions import Evaluation
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.text import folded, nfc, one_line, shortened
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from skychimp.models import Segment

_C = tables.client
_M = tables.mailing
_MF = tables.mailing_filter
_S = tables.segment

MAX_NAME_LENGTH = 100
_MAX_ID_DIGITS = 18

SEARCHED = (_S.c.name, _S.c.expression)
SORTED_BY = {"name": _S.c.key, "id": _S.c.id, "created_at": _S.c.created_at, "updated_at": _S.c.updated_at}


@dataclass(frozen=True)
class SegmentInfo:
    """A saved query, as its owner wrote it."""

    id: int
    name: str
    where: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class SegmentCount:
    """A segment and the number of its clients. If it cannot be evaluated any more, `problem` says why."""

    id: int
    name: str
    where: str
    clients: int
    problem: Phrase | None
    created_at: datetime
    updated_at: datetime


def create(store: Store, actor: Actor, name: str, where: str, timezone: str) -> SegmentInfo:
    """Save a query. Raises InvalidValue, and Conflict if the actor has a segment with this name."""
    from skychimp.models import Segment

    authorize(actor, Action.CHANGE_CLIENTS)
    now = store.now()
    with store.write() as db:
        checked_query(db, actor, where, timezone, now)
        segment = Segment(owner_id=actor.user_id, key="", name="", expression=where, created_at=now, updated_at=now)
        _rename(db, segment, name)
        db.add(segment)
        db.flush()
        return find_segment(db, actor, segment.name)


def show(store: Store, actor: Actor, name: str, timezone: str) -> SegmentCount:
    """Return a segment, by its name or id, and the number of its clients now. Raises NotFound."""
    authorize(actor, Action.SEE_CLIENTS)
    with store.read() as session:
        found, db = find_segment(session, actor, name), session.connection()
        clients, problem = 0, None
        try:
            is_chosen = Evaluation(db, actor.user_id, timezone, store.now()).condition(found.where)
            clients = db.scalar(select(func.count(_C.c.id)).where(_C.c.owner_id == actor.user_id, is_chosen)) or 0
        except InvalidQuery as error:
            problem = error.message
    return SegmentCount(**vars(found), clients=clients, problem=problem)


def find(store: Store, actor: Actor, name: str) -> SegmentInfo:
    """Return a segment, by its name or id. Raises NotFound."""
    with store.read() as db:
        return find_segment(db, actor, name)


def list_segments(store: Store, actor: Actor, options: ListOptions) -> Listed[SegmentInfo]:
    """Return the actor's segments. Raises InvalidValue."""
    rows = _visible(actor)
    found = apply(rows, options, searched=SEARCHED, sorted_by=SORTED_BY)
    return paging.read_list(store, rows, found, options, partial(map, _segment_info))


def change(
    store: Store, actor: Actor, name: str, timezone: str, *, new_name: str | None = None, where: str | None = None
) -> SegmentInfo:
    """Change a segment's name or query. Mailings use the new query from now on.

    Occurrences that are open already keep their clients. Raises NotFound, Conflict, InvalidValue.
    """
    from skychimp.models import Segment

    authorize(actor, Action.CHANGE_CLIENTS)
    now = store.now()
    with store.write() as db:
        segment = db.get_one(Segment, find_segment(db, actor, name).id)
        if where is not None:
            checked_query(db, actor, where, timezone, now)
            segment.expression = where
        if new_name is not None:
            _rename(db, segment, new_name)
        segment.updated_at = now
        db.flush()
        return find_segment(db, actor, str(segment.id))


def remove(store: Store, actor: Actor, name: str) -> SegmentInfo:
    """Delete a segment and return it. Raises NotFound, and Conflict if a mailing uses it."""
    authorize(actor, Action.CHANGE_CLIENTS)
    with store.write() as db:
        deleted = find_segment(db, actor, name)
        users = select(_M.c.id).join(_MF, _MF.c.mailing_id == _M.c.id).where(_MF.c.segment_id == deleted.id)
        mailing_id = db.scalar(users.where(_M.c.deleted_at.is_(None)).order_by(_M.c.id).limit(1))
        if mailing_id is not None:
            message = tr("segment {name} is used by mailing {mailing_id}", name=deleted.name, mailing_id=mailing_id)
            raise Conflict(message, run_hint("mailings", "show", mailing_id))
        db.execute(delete(_MF).where(_MF.c.segment_id == deleted.id))  # those of deleted mailings
        db.execute(delete(_S).where(_S.c.id == deleted.id))
        audit.record(db, actor, "delete", "segment", deleted.id)
    return deleted


def find_segment(db: Session, actor: Actor, name: str) -> SegmentInfo:
    """Return one of the actor's segments, by its name or id. Raises NotFound."""
    is_id = name.isascii() and name.isdecimal() and len(name) <= _MAX_ID_DIGITS
    row = db.execute(_visible(actor).where(_S.c.id == int(name) if is_id else _S.c.key == _key(name))).one_or_none()
    if row is None:
        raise not_found("segment", name)
    return _segment_info(row)


def checked_query(db: Session, actor: Actor, where: str, timezone: str, now: datetime) -> str:
    """Return a query that is valid for the actor's clients. Raises InvalidQuery for any other."""
    Evaluation(db.connection(), actor.user_id, timezone, now).condition(where)
    return where


def _rename(db: Session, segment: "Segment", name: str) -> None:
    """Give a segment a name that no other of its owner's has. Raises InvalidValue and Conflict."""
    name = one_line(nfc(name), "name", MAX_NAME_LENGTH)
    if not name or name.isdecimal():
        raise InvalidValue(
            tr("invalid name {name}", name=shortened(name)), tr("use a name that is not a number, such as riga-vip")
        )
    is_other = (_S.c.owner_id == segment.owner_id) & (_S.c.key == _key(name)) & (_S.c.id != (segment.id or 0))
    if db.scalar(select(exists().where(is_other))):
        raise Conflict(tr("segment {name} already exists", name=name), tr("use another name"))
    segment.name, segment.key = name, _key(name)


def _key(name: str) -> str:
    return folded(name.strip()) if "\0" not in name and name.isprintable() else ""


def _visible(actor: Actor) -> Select[Any]:
    is_own = in_scope(authorize(actor, Action.SEE_CLIENTS), actor, _S.c.owner_id)
    return select(_S.c.id, _S.c.name, _S.c.expression, _S.c.created_at, _S.c.updated_at).where(is_own)


def _segment_info(row: Row[Any]) -> SegmentInfo:
    return SegmentInfo(row.id, row.name, row.expression, row.created_at, row.updated_at)
