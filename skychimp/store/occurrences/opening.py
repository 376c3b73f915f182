"""Create occurrences and their deliveries, and change what they send.

But for what takes a store, this is part of the caller's transaction.
"""

from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.sqlite import Insert

from skychimp.errors import InvalidValue
from skychimp.fields import dump_names, parse_names
from skychimp.models import (
    DeliveryState,
    OccurrenceState,
    Outcome,
    tables,
)
from skychimp.store import holds
from skychimp.store.clients import audience, tags
from skychimp.store.conditions import has_waiting_state, is_unknown
from skychimp.store.database import POSTGRESQL, Store
from skychimp.store.occurrences import canary, progress
from skychimp.store.session import Session
from skychimp.store.sql import id_list, insert_or, json_merge, json_part

_D = tables.delivery
_O = tables.occurrence
_M = tables.mailing
_C = tables.client
_L = tables.lease
_A = tables.attempt
_CONTENT = tables.content

OPENING_BATCH = 10_000
"""How many clients get their deliveries in one transaction while an occurrence opens."""
TAKE_BATCH = 5_000
"""How many deliveries take custom fields of their clients in one transaction before the content is changed."""
KEEP_BATCH = 5_000
"""How many deliveries keep their content in one transaction before it is changed."""


def create_occurrence(db: Connection, row: dict[str, object]) -> int | None:
    """Create an occurrence and return its id, or None if the mailing already has one for that local due time."""
    statement = insert_or(_O).values(row).on_conflict_do_nothing(index_elements=["mailing_id", "due_local"])
    occurrence_id: int | None = db.scalar(statement.returning(_O.c.id))
    return occurrence_id


def create_deliveries(
    db: Connection, occurrence_id: int, batch: int = OPENING_BATCH, *, require_consent: bool = False
) -> bool:
    """Create deliveries for the next `batch` clients of an occurrence's audience. Return True once all are created.

    An address that is twice in the audience gets one delivery, and a bad or suppressed address none. Neither does a
    client without a recorded consent, if one is required. If the occurrence has a canary, all wait for it until all are
    created. Calling it again is harmless. A mailing whose audience cannot be read any more is held, which also returns
    True.
    """
    occurrence = db.execute(
        select(
            _O.c.state, _O.c.cursor, _O.c.due_at, _O.c.opened_at, _O.c.canary_until,
            _O.c.fields, _M.c.id, _M.c.owner_id, _M.c.deleted_at,
        )
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(_O.c.id == occurrence_id)
    ).one()  # fmt: skip
    if occurrence.state != OccurrenceState.OPENING or occurrence.deleted_at is not None:
        return True
    try:
        chosen = audience.selection(db, occurrence.id, occurrence.opened_at, require_consent=require_consent)
    except InvalidValue as error:  # a saved query: rather nobody gets it than the wrong clients
        holds.hold_mailing(db, occurrence.id, error.message, None, datetime.now(UTC))
        return True
    # A batch is a range of the owner's clients, even if the audience has few of them, so that no batch takes long.
    following = select(_C.c.id).where(_C.c.owner_id == occurrence.owner_id, _C.c.id > occurrence.cursor)
    until = db.scalar(following.order_by(_C.c.id).limit(1).offset(batch - 1))
    client_ids = audience.client_ids(chosen, after=occurrence.cursor, until=until)
    is_in_batch = _C.c.id.in_(select(client_ids.subquery().c.id))
    in_order = db.dialect.name == POSTGRESQL  # as the rows come on SQLite
    may_get_it = and_(is_in_batch, audience.can_receive(chosen))
    next_try_at = occurrence.canary_until or occurrence.due_at
    names = parse_names(occurrence.fields)
    db.execute(_insert_deliveries(occurrence_id, next_try_at, names, may_get_it, in_order=in_order))
    if until is None and occurrence.canary_until is not None:
        canary.choose(db, occurrence_id)
    progress = {"state": OccurrenceState.OPEN} if until is None else {"cursor": until}
    db.execute(update(_O).where(_O.c.id == occurrence_id).values(progress))
    return until is None


def _insert_deliveries(
    occurrence_id: int, next_try_at: datetime, fields: Sequence[str], may_get_it: ColumnElement[bool], *, in_order: bool
) -> Insert:
    columns = {
        "occurrence_id": literal(occurrence_id),
        "client_id": _C.c.id,
        "address": _C.c.email,
        "address_key": _C.c.address_key,
        "name": _C.c.name,
        "comment": _C.c.comment,
        "tags": tags.client_tags(),
        "state": literal(DeliveryState.QUEUED.value),
        "attempts": literal(0),
        "given_back": literal(0),
        "next_try_at": literal(next_try_at, _D.c.next_try_at.type),
    }
    if fields:
        columns["fields"] = json_part(_C.c.fields, fields)
    rows = select(*columns.values()).where(may_get_it)
    if in_order:
        rows = rows.order_by(_C.c.id)
    statement = insert_or(_D).from_select(list(columns), rows)
    return statement.on_conflict_do_nothing(index_elements=["occurrence_id", "address_key"])


def keep_sent_content(store: Store, occurrence_id: int) -> int | None:
    """Let the emails that may have been sent with an occurrence's present content keep it.

    `change_content` does the same. Before it, this takes over what takes long: it reads outside of the transaction, and
    writes in batches. If it is killed meanwhile, no email has changed.

    Return the id of the newest attempt before it has looked for the last time, or None if a run has leased some emails:
    then `change_content` has to look for all. Raises StoreFailed.
    """
    while True:
        with store.read() as transaction:
            db = transaction.connection()
            # In this order: on PostgreSQL an older attempt may be committed later, and its lease is there until then.
            looked_to = progress.newest_attempt_id(db)
            if _is_leased(db, occurrence_id):
                return None
            ids = array("q", db.scalars(select(_D.c.id).where(_has_present_content(occurrence_id))))
            if not ids:
                return looked_to
        store.write_in_batches(partial(_keep_next, occurrence_id=occurrence_id, ids=ids))


class TakenFields(NamedTuple):
    """The custom fields that new content of an occurrence uses, and which of them its deliveries have.

    `added` are the names that the old content did not use. Deliveries up to the id `until` have taken their values.
    """

    names: Sequence[str]
    added: Sequence[str]
    until: int = 0


def find_added_fields(db: Connection, occurrence_id: int, names: Sequence[str]) -> TakenFields:
    """Return which of the fields that new content uses the old content of an occurrence does not use."""
    known = parse_names(db.scalar(select(_O.c.fields).where(_O.c.id == occurrence_id)) or "[]")
    return TakenFields(names, [name for name in names if name not in known])


def take_fields(store: Store, occurrence_id: int, names: Sequence[str]) -> TakenFields:
    """Let the deliveries of an occurrence take the fields of their clients that new content uses, in batches.

    `change_content` does the same for those that are left. The old content does not use these fields. So if this is
    killed, no email has changed.
    """
    with store.read() as session:
        taken = find_added_fields(session.connection(), occurrence_id, names)
    while taken.added:
        with store.write() as session:
            db = session.connection()
            following = select(_D.c.id).where(_D.c.occurrence_id == occurrence_id, _D.c.id > taken.until)
            until = db.scalar(select(func.max(following.order_by(_D.c.id).limit(TAKE_BATCH).subquery().c.id)))
            if until is None:
                break
            _take(db, occurrence_id, taken, until)
        taken = taken._replace(until=until)
    return taken


def change_content(
    db: Connection,
    occurrence_id: int,
    looked_to: int | None = None,
    *,
    fields: TakenFields | None = None,
    **values: object,
) -> bool:
    """Give the emails of an occurrence that were not sent yet other content or another sender.

    Those that may have been sent keep what they had. With `looked_to`, which `keep_sent_content` returns, only those
    are looked for that were tried after that attempt. `fields` is what `take_fields` returns: the custom fields of the
    new content, None if they stay the same. Return False, and change nothing, if a run has leased some
    of them: it may be sending them with the content that it has read.
    """
    content = _content(db, occurrence_id)
    if content | values == content:
        return True
    if _is_leased(db, occurrence_id):
        return False
    tried_since = None
    if looked_to is not None:
        tried_since = select(_A.c.delivery_id).where(_A.c.id > looked_to, _A.c.outcome == Outcome.UNKNOWN)
    is_kept = _has_present_content(occurrence_id, tried_since)
    if db.scalar(select(exists().where(is_kept))):
        _keep(db, occurrence_id, content, is_kept)
    if fields is not None:
        _take(db, occurrence_id, fields)
        values["fields"] = dump_names(fields.names)
    db.execute(update(_O).where(_O.c.id == occurrence_id).values(values))
    return True


def _take(db: Connection, occurrence_id: int, fields: TakenFields, until: int | None = None) -> None:
    """Add what is missing of the custom fields to deliveries, from their clients as they are now.

    Those that may have been sent, with whatever content, keep what they have.
    """
    if not fields.added:
        return
    part = json_part(_C.c.fields, fields.added)
    of_client = select(part).where(_C.c.id == _D.c.client_id).correlate(_D).scalar_subquery()
    changed = update(_D).where(
        _D.c.occurrence_id == occurrence_id,
        _D.c.id > fields.until,
        true() if until is None else _D.c.id <= until,
        _D.c.content_id.is_(None),
        _D.c.state != DeliveryState.SENT,
        ~_may_have_arrived(),
    )
    has_now, had = func.coalesce(of_client, "{}"), func.coalesce(_D.c.fields, "{}")
    db.execute(changed.values(fields=json_merge(has_now, had)))


def _keep_next(transaction: Session, *, occurrence_id: int, ids: "array[int]") -> bool:
    """Let the next of these deliveries keep their content, and take their ids off. Return True if none is left."""
    db = transaction.connection()
    if _is_leased(db, occurrence_id):
        return True
    batch = ids[:KEEP_BATCH].tolist()
    del ids[:KEEP_BATCH]
    is_kept = _has_present_content(occurrence_id, id_list(batch))
    _keep(db, occurrence_id, _content(db, occurrence_id), is_kept)
    return not ids


def _keep(db: Connection, occurrence_id: int, content: dict[str, Any], is_kept: ColumnElement[bool]) -> None:
    """Give deliveries a copy of their occurrence's content, the same for all of them."""
    is_same = (_CONTENT.c[name].is_not_distinct_from(value) for name, value in content.items())
    content_id = db.scalar(select(_CONTENT.c.id).where(_CONTENT.c.occurrence_id == occurrence_id, *is_same))
    if content_id is None:
        older = insert(_CONTENT).values(occurrence_id=occurrence_id, **content)
        content_id = db.scalar(older.returning(_CONTENT.c.id))
    db.execute(update(_D).where(is_kept).values(content_id=content_id))


def _content(db: Connection, occurrence_id: int) -> dict[str, Any]:
    names = ("subject", "body", "format", "html", "sender", "return_path", "extras", "attachments", "variants")
    return db.execute(select(*(_O.c[name] for name in names)).where(_O.c.id == occurrence_id)).one()._asdict()


def _is_leased(db: Connection, occurrence_id: int) -> bool:
    return bool(db.scalar(select(exists().where(_L.c.occurrence_id == occurrence_id))))


def _has_present_content(occurrence_id: int, among: Select[tuple[int]] | None = None) -> ColumnElement[bool]:
    """Return the condition of a delivery that may have been sent with the content that its occurrence has now.

    `among` restricts it to deliveries with these ids.
    """
    # + 0 keeps the database from reading all deliveries of the occurrence.
    is_chosen = (
        _D.c.occurrence_id == occurrence_id
        if among is None
        else and_(_D.c.id.in_(among), _D.c.occurrence_id + 0 == occurrence_id)
    )
    return and_(is_chosen, _D.c.content_id.is_(None), _may_have_arrived())


def _may_have_arrived() -> ColumnElement[bool]:
    """Return the condition of a delivery whose email may have arrived, and would be sent again as it was."""
    return or_(is_unknown(), and_(has_waiting_state(), _D.c.dated_at.is_not(None)))
