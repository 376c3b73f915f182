"""Record intents before the final dot, attempts after it, and count what is in the ledger.

Every function is part of its caller's transaction. Those that write take many rows at once.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    String,
    and_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.engine import Dialect, make_url

from skychimp.models import Attempt, Client, Delivery, DeliveryState, Intent, Lease, Mailing, Occurrence, Outcome
from skychimp.store import queue
from skychimp.store.conditions import current_state, has_waiting_state, is_unfinished, may_send, was_sent
from skychimp.store.database import POSTGRESQL, SQLITE, Store
from skychimp.store.queue import ClaimedDelivery, ClaimKey
from skychimp.store.sql import id_list, ids_in, insert_or

_D = Delivery.__table__
_A = Attempt.__table__
_O = Occurrence.__table__
_M = Mailing.__table__
_C = Client.__table__
_I = Intent.__table__
_L = Lease.__table__

ERASED = "erased"
"""Replaces an address and a server's wording in the ledger."""

# This SQL runs for every email, and goes to the driver directly: SQLAlchemy's own executemany cost four times as much.
_ATTEMPT_COLUMNS = (
    "started_at", "finished_at", "outcome", "phase", "code", "enhanced", "reply", "relay", "delivery_id", "number",
)  # fmt: skip
_INSERT_INTO_ATTEMPT = f"INSERT INTO attempt ({', '.join(_ATTEMPT_COLUMNS)})"
# On PostgreSQL all rows are one parameter, a JSON list, as a parameter for each value takes the driver twice as long.
_SELECTED = """SELECT started_at AT TIME ZONE 'UTC', finished_at AT TIME ZONE 'UTC', outcome, phase, code, enhanced,
    reply, relay"""
_ROWS = """json_to_recordset(CAST(%s AS json)) AS row (started_at timestamp, finished_at timestamp, outcome text,
    phase text, code int, enhanced text, reply text, relay text, delivery_id bigint, number int, lease_id bigint)"""
_INSERT_SENT = {
    SQLITE: f"{_INSERT_INTO_ATTEMPT} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    # A late attempt has no lease. Without the id of its delivery the insert fails.
    POSTGRESQL: f"{_INSERT_INTO_ATTEMPT} {_SELECTED}, CASE WHEN lease.id IS NOT NULL THEN delivery_id END, number"
    f" FROM {_ROWS} LEFT JOIN lease ON lease.id = lease_id AND lease.run_id = %s",
}
# The number is read from the delivery, as a late attempt of another run may have been added meanwhile.
_INSERT_ATTEMPT = {
    SQLITE: f"{_INSERT_INTO_ATTEMPT} SELECT ?, ?, ?, ?, ?, ?, ?, ?, id, attempts + 1 FROM delivery WHERE id = ?",  # noqa: S608
    POSTGRESQL: f"{_INSERT_INTO_ATTEMPT} {_SELECTED}, id, attempts + 1 FROM {_ROWS} JOIN delivery ON id = delivery_id",
}

_INTEGRITY_ERRORS = ("IntegrityError", "UniqueViolation", "NotNullViolation")
_EXISTING_LEASES = {
    SQLITE: "SELECT id FROM lease WHERE run_id = ? AND id IN (SELECT value FROM json_each(?))",
    POSTGRESQL: "SELECT id FROM lease WHERE run_id = %s AND id IN (SELECT value FROM json_ids(%s))",
}


class AttemptRecord(NamedTuple):
    """An attempt to record: the claim it was made under, its result, and the time of the next try."""

    claimed: ClaimedDelivery
    started_at: datetime
    finished_at: datetime
    outcome: Outcome
    phase: str
    code: int | None
    enhanced: str
    reply: str
    relay: str
    next_try_at: datetime | None
    bad_address: bool = False

    @property
    def state(self) -> DeliveryState:
        """The state that the delivery gets."""
        return DeliveryState.QUEUED if self.outcome == Outcome.GIVEN_BACK else DeliveryState(self.outcome)


class LateAttempt(Exception):
    """An attempt's delivery was taken from its run meanwhile."""


def is_late(error: Exception) -> bool:
    """Return whether an error of `record_sent` may say that an attempt is late."""
    return isinstance(error, LateAttempt) or type(error).__name__ in _INTEGRITY_ERRORS


def record_intents(db: Connection, run_id: int, claims: Sequence[ClaimedDelivery], now: datetime) -> set[ClaimKey]:
    """Record that these deliveries are about to be sent. Return the keys of those that may be.

    Their lease must exist, and their mailing must go on at this moment. Recording an intent again renews it.
    """
    driver: Any = db.connection.dbapi_connection
    statement, names = _intent_statement(db.dialect.name)
    granted: set[ClaimKey] = set()
    for lease_id, leased in groupby(sorted(claims, key=_lease_id), key=_lease_id):
        ids = json.dumps([claimed.id for claimed in leased])
        parameters = {"ids": ids, "lease": lease_id, "run": run_id, "now": now if names is None else _stored(now)}
        values = parameters if names is None else tuple(parameters[name] for name in names)
        granted.update((delivery_id, lease_id) for (delivery_id,) in driver.execute(statement, values).fetchall())
    return granted


def record_sent(db: Connection, run_id: int, records: Sequence[AttemptRecord]) -> None:
    """Record attempts that succeeded, as `record_attempts` does.

    If one is late, the transaction fails with an error that `is_late`: on PostgreSQL at the next statement that waits
    for its result.
    """
    if not records:
        return
    rows = [(*_attempt(record), record.claimed.attempts + 1) for record in records]
    lease_ids = [record.claimed.lease_id for record in records]
    driver: Any = db.connection.dbapi_connection
    if db.dialect.name == POSTGRESQL:
        listed = _json_rows((*row, lease_id) for row, lease_id in zip(rows, lease_ids, strict=True))
        driver.execute(_INSERT_SENT[POSTGRESQL], (listed, run_id))
    elif _existing_leases(db, run_id, set(lease_ids)) != set(lease_ids):
        raise LateAttempt
    else:
        driver.executemany(_INSERT_SENT[SQLITE], rows)


def record_attempts(db: Connection, run_id: int, records: Sequence[AttemptRecord], *, late: bool = True) -> None:
    """Record attempts. Those that did not succeed change their deliveries at once, the others when the lease is closed.

    An attempt is late if its delivery was taken from this run meanwhile. It is logged and changes nothing, with one
    exception: a late success marks the delivery as sent, unless it is being sent again right now. Without `late`, raise
    LateAttempt before anything is written.
    """
    existing = _existing_leases(db, run_id, {record.claimed.lease_id for record in records})
    on_time = [record for record in records if record.claimed.lease_id in existing]
    if len(on_time) < len(records) and not late:
        raise LateAttempt
    not_sent = [record for record in on_time if record.outcome != Outcome.SENT]
    _log(db, on_time)
    for record in not_sent:
        _set_outcome(db, record)
    queue.give_back(db, [record.claimed for record in not_sent])
    if len(on_time) < len(records):
        _record_late(db, [record for record in records if record.claimed.lease_id not in existing])
    for record in records:
        if record.bad_address:
            _mark_bad(db, record)


def count_by_state(db: Connection, occurrence_id: int) -> dict[DeliveryState, int]:
    """Return the number of an occurrence's deliveries in each state."""
    state = current_state()
    rows = db.execute(select(state, func.count()).where(_D.c.occurrence_id == occurrence_id).group_by(state))
    return {DeliveryState(state): number for state, number in rows}


def count_pending_by_state(db: Connection, mailing_id: int | None = None) -> dict[DeliveryState, int]:
    """Return the number of waiting and in-flight deliveries of unfinished occurrences, by state."""
    state = current_state()
    rows = db.execute(select(state, func.count()).where(_is_pending(mailing_id)).group_by(state))
    return {DeliveryState(state): number for state, number in rows}


def count_pending(db: Connection, mailing_id: int | None = None) -> int:
    """Return the number of waiting and in-flight deliveries of unfinished occurrences. Reads little but indexes."""
    return db.scalar(select(func.count()).select_from(_D).where(_is_pending(mailing_id))) or 0


def newest_attempt_id(store: Store) -> int:
    """Return the id of the newest attempt up to which none is missing that may be committed later, 0 without any.

    On PostgreSQL runs take ids before they commit, side by side. While this has the store's lock, none of them does.
    """
    with store.read() if store.dialect == SQLITE else store.write() as transaction:
        return transaction.connection().scalar(select(func.max(_A.c.id))) or 0


def delete_old_attempts(db: Connection, before: datetime, batch: int = 10_000) -> bool:
    """Delete up to `batch` of the oldest attempts that ended before a time. Return True while there may be more.

    The newest attempt always stays: if its id were reused, that attempt would seem to be counted already (rollups).
    """
    newest = select(func.max(_A.c.id)).scalar_subquery()
    oldest = select(_A.c.id, _A.c.finished_at).where(_A.c.id < newest).order_by(_A.c.id).limit(batch)
    ids = [row.id for row in db.execute(oldest) if row.finished_at < before]
    db.execute(delete(_A).where(_A.c.id.in_(ids)))
    return len(ids) == batch


def erase_recipients(db: Connection, delivery_ids: Sequence[int]) -> int:
    """Remove the recipients from these deliveries and their attempts. Return the number of attempts.

    States and codes stay, and with them all totals. A server's wording is removed, as it may name the recipient.
    """
    selected = id_list(delivery_ids)
    blank = {"address": ERASED, "client_id": 0, "name": "", "comment": "", "tags": "[]"}
    key = literal(f"{ERASED}:").concat(_D.c.id)  # unique, and not an address
    db.execute(update(_D).where(_D.c.id.in_(selected)).values(blank | {"address_key": key}))
    code = func.coalesce(cast(_A.c.code, String).concat(" "), "")
    enhanced = func.coalesce(func.nullif(_A.c.enhanced, "").concat(" "), "")
    reply = code.concat(enhanced).concat(ERASED)
    return db.execute(update(_A).where(_A.c.delivery_id.in_(selected)).values(reply=reply)).rowcount


def _is_pending(mailing_id: int | None) -> ColumnElement[bool]:
    unfinished = select(_O.c.id).where(is_unfinished())
    if mailing_id is not None:
        unfinished = unfinished.where(_O.c.mailing_id == mailing_id)
    return and_(has_waiting_state(), _D.c.occurrence_id.in_(unfinished), ~was_sent())


def _record_late(db: Connection, records: Sequence[AttemptRecord]) -> None:
    ids = [record.claimed.id for record in records]
    queue.fold(db, id_list(ids))  # so that their numbers of attempts are the present ones
    for record in records:
        _log(db, [record])
        db.execute(update(_D).where(_D.c.id == record.claimed.id).values(attempts=_D.c.attempts + 1))
    queue.cancel_obsolete(db, ids)


def _log(db: Connection, records: Sequence[AttemptRecord]) -> None:
    """Append attempts, numbered by their deliveries' counts. A delivery that was deleted gets none."""
    driver: Any = db.connection.dbapi_connection
    rows = map(_attempt, records)
    if db.dialect.name == POSTGRESQL:
        driver.execute(_INSERT_ATTEMPT[POSTGRESQL], (_json_rows(rows),))
    else:
        driver.executemany(_INSERT_ATTEMPT[SQLITE], rows)


def _json_rows(rows: Iterable[tuple[object, ...]]) -> str:
    """Return attempts as a JSON list of objects. Their last values may be missing."""
    return json.dumps([dict(zip((*_ATTEMPT_COLUMNS, "lease_id"), row, strict=False)) for row in rows])


def _existing_leases(db: Connection, run_id: int, lease_ids: Iterable[int]) -> set[int]:
    driver: Any = db.connection.dbapi_connection
    rows = driver.execute(_EXISTING_LEASES[db.dialect.name], (run_id, json.dumps(list(lease_ids))))
    return {lease_id for (lease_id,) in rows}


@cache
def _intent_statement(dialect: str) -> tuple[str, Sequence[str] | None]:
    """Return the SQL that records intents, and the names of its parameters in order, None if they are named."""
    ids = ids_in(bindparam("ids", type_=String))
    leased = (
        select(_D.c.id, bindparam("lease", type_=BigInteger))
        .select_from(ids)
        .join(_D, _D.c.id == ids.c.value)
        .where(has_waiting_state())
        .where(
            exists()
            .select_from(_L.join(_O, _O.c.id == _L.c.occurrence_id).join(_M, _M.c.id == _O.c.mailing_id))
            .where(_L.c.id == bindparam("lease"), _L.c.run_id == bindparam("run"))
            .where(may_send(bindparam("now", type_=String if dialect == SQLITE else _A.c.started_at.type)))
        )
    )
    recorded = insert_or(_I).from_select(["delivery_id", "lease_id"], leased)
    renewed = recorded.on_conflict_do_update(
        index_elements=["delivery_id"],
        set_={"lease_id": recorded.excluded.lease_id},
        where=_I.c.lease_id == recorded.excluded.lease_id,
    )
    compiled = renewed.returning(_I.c.delivery_id).compile(dialect=_dialect(dialect))
    return str(compiled), compiled.positiontup


def _dialect(name: str) -> Dialect:
    return make_url({SQLITE: "sqlite://", POSTGRESQL: "postgresql+psycopg://"}[name]).get_dialect()()


def _lease_id(claimed: ClaimedDelivery) -> int:
    return claimed.lease_id


def _set_outcome(db: Connection, record: AttemptRecord) -> None:
    """Change a delivery's row after an attempt that did not succeed. If it was cancelled meanwhile, it stays so."""
    row = update(_D).where(_D.c.id == record.claimed.id)
    is_given_back = record.outcome == Outcome.GIVEN_BACK
    db.execute(row.values(attempts=_D.c.attempts + 1, given_back=_D.c.given_back + int(is_given_back)))
    db.execute(row.where(has_waiting_state()).values(state=record.state, next_try_at=record.next_try_at))


def _attempt(record: AttemptRecord) -> tuple[object, ...]:
    return (
        _stored(record.started_at), _stored(record.finished_at), record.outcome, record.phase, record.code,
        record.enhanced, _storable(record.reply), record.relay, record.claimed.id,
    )  # fmt: skip


def _stored(at: datetime) -> str:
    """Return a time as SQLite stores it, and PostgreSQL reads it: UTC, without an offset."""
    utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    return utc.isoformat(" ", "microseconds")[: -len("+00:00")]


def _storable(text: str) -> str:
    """Escape what a database refuses or would not return unchanged: NUL and lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _mark_bad(db: Connection, record: AttemptRecord) -> None:
    """Mark the client's address as bad, unless it was marked before or is another address by now."""
    client = db.execute(select(_C).where(_C.c.id == record.claimed.client_id)).one_or_none()
    if client is None or client.bad_at is not None or client.email != record.claimed.address:
        return
    db.execute(
        update(_C).where(_C.c.id == client.id).values(bad_at=record.finished_at, bad_reason=_storable(record.reply))
    )
    # A scalar subquery, as with a join SQLite would begin with the owner's mailings instead of unfinished occurrences.
    owner_id = select(_M.c.owner_id).where(_M.c.id == _O.c.mailing_id).scalar_subquery()
    unfinished = select(_O.c.id).where(is_unfinished(), owner_id == client.owner_id)
    queue.cancel_for_address(db, unfinished, client.address_key)
