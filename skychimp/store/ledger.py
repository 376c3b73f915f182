"""Record intents before the final dot, attempts after it, and count what is in the ledger.

Every function is part of its caller's transaction. Those that write take many rows at once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import chain, groupby
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
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

from skychimp.models import (
    SUCCESSES,
    DeliveryState,
    Outcome,
    tables,
)
from skychimp.models.base import has_state
from skychimp.store import queue
from skychimp.store.clients import bad_addresses, suppressions
from skychimp.store.clients.bad_addresses import BadAddress
from skychimp.store.conditions import current_state, has_success, has_waiting_state, is_unfinished, may_send
from skychimp.store.database import POSTGRESQL, SQLITE, Driver, Store, driver_of
from skychimp.store.occurrences import return_counts
from skychimp.store.queue import ClaimedDelivery, ClaimKey
from skychimp.store.sql import id_list, ids_in, insert_or

_D = tables.delivery
_A = tables.attempt
_O = tables.occurrence
_M = tables.mailing
_R = tables.returned_mail
_I = tables.intent
_L = tables.lease

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
# A late attempt has no lease. Without the id of its delivery the insert fails.
_INSERT_SENT_BY_JSON = (
    f"{_INSERT_INTO_ATTEMPT} {_SELECTED}, CASE WHEN lease.id IS NOT NULL THEN delivery_id END, number"
    f" FROM {_ROWS} LEFT JOIN lease ON lease.id = lease_id AND lease.run_id = %s"
)
# The number is read from the delivery, as a late attempt of another run may have been added meanwhile.
_INSERT_ATTEMPT = {
    SQLITE: f"{_INSERT_INTO_ATTEMPT} SELECT ?, ?, ?, ?, ?, ?, ?, ?, id, attempts + 1 FROM delivery WHERE id = ?",  # noqa: S608
    POSTGRESQL: f"{_INSERT_INTO_ATTEMPT} {_SELECTED}, id, attempts + 1 FROM {_ROWS} JOIN delivery ON id = delivery_id",
}

_MAX_ROWS = 100  # of one statement on SQLite, which allows 32,766 parameters

_INTEGRITY_ERRORS = ("IntegrityError", "UniqueViolation", "NotNullViolation")
_SET_FILES_HASH = {
    SQLITE: "UPDATE intent SET files_hash = ? WHERE delivery_id = ? AND lease_id = ? RETURNING lease_id",
    POSTGRESQL: "UPDATE intent SET files_hash = %s WHERE delivery_id = %s AND lease_id = %s RETURNING lease_id",
}
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
    give_up_after: timedelta | None = None
    """How long after a delivery's first deferral another one lets it expire. None: never."""

    @property
    def state(self) -> DeliveryState:
        """The state that the delivery gets."""
        return DeliveryState.QUEUED if self.outcome == Outcome.GIVEN_BACK else DeliveryState(self.outcome)


class ResultCounts(NamedTuple):
    """How many emails of an occurrence were tried, and how many of them failed. `bounced` counts the hard bounces.

    `held_for_bounces` says that its mailing was held for these before.
    """

    failed: int = 0
    tried: int = 0
    bounced: int = 0
    held_for_bounces: bool = False


class LateAttempt(Exception):
    """An attempt's delivery was taken from its run meanwhile."""


def is_late(error: Exception) -> bool:
    """Return whether an error of `record_sent` may say that an attempt is late."""
    return isinstance(error, LateAttempt) or type(error).__name__ in _INTEGRITY_ERRORS


def record_intents(driver: Driver, run_id: int, claims: Sequence[ClaimedDelivery], now: datetime) -> set[ClaimKey]:
    """Record that these deliveries are about to be sent. Return the keys of those that may be.

    Their lease must exist, and their mailing must go on at this moment. Recording an intent again renews it.
    """
    statement, names = _intent_statement(driver.dialect)
    cursors: dict[int, Any] = {}
    for lease_id, leased in groupby(sorted(claims, key=_lease_id), key=_lease_id):
        ids = json.dumps([claimed.id for claimed in leased])
        parameters = {"ids": ids, "lease": lease_id, "run": run_id, "now": now if names is None else _stored(now)}
        values = parameters if names is None else tuple(parameters[name] for name in names)
        cursors[lease_id] = driver.execute(statement, values)
    ours = {
        (int(delivery_id), lease_id) for lease_id, cursor in cursors.items() for (delivery_id,) in cursor.fetchall()
    }
    hashes = [(claimed.files_hash, *claimed.key) for claimed in claims if claimed.files_hash is not None]
    set_hashes = [driver.execute(_SET_FILES_HASH[driver.dialect], values) for values in hashes if values[1:] in ours]
    for cursor in set_hashes:
        cursor.fetchall()  # a pipeline reports errors only here
    return ours


def record_sent(driver: Driver, run_id: int, records: Sequence[AttemptRecord]) -> None:
    """Record attempts that succeeded, as `record_attempts` does.

    If one is late, the transaction fails with an error that `is_late`: on PostgreSQL at the next statement that waits
    for its result.
    """
    if not records:
        return
    rows = list(_attempts(records))
    if driver.dialect == POSTGRESQL:
        listed = _json_rows((*row, record.claimed.lease_id) for row, record in zip(rows, records, strict=True))
        driver.execute(_INSERT_SENT_BY_JSON, (listed, run_id))
        return
    lease_ids = {record.claimed.lease_id for record in records}
    if _existing_leases(driver, run_id, lease_ids) != lease_ids:
        raise LateAttempt
    for first in range(0, len(rows), _MAX_ROWS):
        inserted = rows[first : first + _MAX_ROWS]
        driver.execute(_insert_sent(len(inserted)), list(chain.from_iterable(inserted)))


def record_attempts(db: Connection, run_id: int, records: Sequence[AttemptRecord], *, late: bool = True) -> int:
    """Record attempts, and return how many of their deliveries have expired.

    Those that did not succeed change their deliveries at once, the others when the lease is closed.

    An attempt is late if its delivery was taken from this run meanwhile. It is logged and changes nothing, with one
    exception: a late success finishes the delivery, unless it is being sent again right now. Without `late`, raise
    LateAttempt before anything is written.
    """
    existing = _existing_leases(driver_of(db), run_id, {record.claimed.lease_id for record in records})
    on_time = [record for record in records if record.claimed.lease_id in existing]
    if len(on_time) < len(records) and not late:
        raise LateAttempt
    not_sent = [record for record in on_time if record.outcome not in SUCCESSES]
    _log(db, on_time)
    expired = sum([_set_outcome(db, record) == DeliveryState.EXPIRED for record in not_sent])
    queue.give_back(db, [record.claimed for record in not_sent])
    if len(on_time) < len(records):
        _record_late(db, [record for record in records if record.claimed.lease_id not in existing])
    for occurrence_id, refused in _count_refused(db, on_time).items():
        return_counts.add(db, occurrence_id, {"refused": refused})
    for record in records:
        if record.bad_address:
            bad = BadAddress(record.claimed.client_id, record.claimed.address, storable(record.reply))
            bad_addresses.mark(db, [bad], record.finished_at)
    return expired


def count_by_state(db: Connection, occurrence_id: int) -> dict[DeliveryState, int]:
    """Return the number of an occurrence's deliveries in each state."""
    state = current_state()
    rows = db.execute(select(state, func.count()).where(_D.c.occurrence_id == occurrence_id).group_by(state))
    return {DeliveryState(state): number for state, number in rows}


def count_results(db: Connection, occurrence_id: int) -> ResultCounts:
    """Count an occurrence's results, without those under leases that are open. It may read very many rows."""
    is_failed = has_state(_D.c.state, DeliveryState.FAILED)
    is_tried = has_state(_D.c.state, *SUCCESSES, DeliveryState.DEFERRED, DeliveryState.FAILED)
    counts = select(func.count().filter(is_failed), func.count()).where(_D.c.occurrence_id == occurrence_id, is_tried)
    failed, tried = db.execute(counts).one()
    returned = return_counts.read_one(db, occurrence_id)
    return ResultCounts(failed, tried, returned.refused + returned.bounced, returned.held_for_bounces)


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


def has_old_attempts(db: Connection, before: datetime) -> bool:
    """Return whether `delete_old_attempts` would delete something."""
    ended_at = db.scalar(_counted_attempts(1).with_only_columns(_A.c.finished_at))
    return ended_at is not None and ended_at < before


def delete_old_attempts(db: Connection, before: datetime, batch: int = 5_000) -> bool:
    """Delete up to `batch` of the oldest attempts that ended before a time. Return True while there may be more.

    An attempt that is not counted yet (rollups) stays. So does the newest one: if its id were reused, that attempt
    would seem to be counted already.
    """
    ids = [row.id for row in db.execute(_counted_attempts(batch)) if row.finished_at < before]
    if ids:
        db.execute(delete(_A).where(_A.c.id >= ids[0], _A.c.id <= ids[-1], _A.c.finished_at < before))
    return len(ids) == batch


def _counted_attempts(limit: int) -> Select[tuple[int, datetime]]:
    """Return the query for the oldest attempts, without the last one that is counted."""
    counted_to = select(tables.store_info.c.counted_to).scalar_subquery()
    return select(_A.c.id, _A.c.finished_at).where(_A.c.id < counted_to).order_by(_A.c.id).limit(limit)


def erase_recipients(db: Connection, delivery_ids: Sequence[int]) -> int:
    """Remove the recipients from these deliveries and their attempts. Return the number of attempts.

    States and codes stay, and with them all totals. A server's wording is removed, as it may name the recipient. A
    delivery gets the hash of its address, so that its unsubscribe link still works.
    """
    selected = id_list(delivery_ids)
    is_known = _D.c.id.in_(selected) & _D.c.address_hash.is_(None)
    for key in db.scalars(select(_D.c.address_key).where(is_known).distinct()).all():
        hashed = suppressions.hash_of(db, key)
        db.execute(update(_D).where(is_known, _D.c.address_key == key).values(address_hash=hashed))
    db.execute(update(_R).where(_R.c.delivery_id.in_(selected)).values(reply=ERASED))
    blank = {"address": ERASED, "client_id": 0, "name": "", "comment": "", "tags": "[]", "fields": None}
    key = literal(f"{ERASED}:").concat(_D.c.id)  # unique, and not an address
    db.execute(update(_D).where(_D.c.id.in_(selected)).values(blank | {"address_key": key}))
    code = func.coalesce(cast(_A.c.code, String).concat(" "), "")
    enhanced = func.coalesce(func.nullif(_A.c.enhanced, "").concat(" "), "")
    reply = code.concat(enhanced).concat(ERASED)
    return db.execute(update(_A).where(_A.c.delivery_id.in_(selected)).values(reply=reply)).rowcount


def storable(text: str) -> str:
    """Escape what a database refuses or would not return unchanged: NUL and lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _is_pending(mailing_id: int | None) -> ColumnElement[bool]:
    unfinished = select(_O.c.id).where(is_unfinished())
    if mailing_id is not None:
        unfinished = unfinished.where(_O.c.mailing_id == mailing_id)
    return and_(has_waiting_state(), _D.c.occurrence_id.in_(unfinished), ~has_success())


def _count_refused(db: Connection, records: Sequence[AttemptRecord]) -> Mapping[int, int]:
    """Return how many of these deliveries were refused as their addresses are wrong, by their occurrences' ids."""
    ids = [record.claimed.id for record in records if record.bad_address]
    if not ids:
        return {}
    query = select(_D.c.occurrence_id, func.count()).where(_D.c.id.in_(id_list(ids))).group_by(_D.c.occurrence_id)
    return dict(db.execute(query).all())


def _record_late(db: Connection, records: Sequence[AttemptRecord]) -> None:
    ids = [record.claimed.id for record in records]
    queue.fold(db, id_list(ids))  # so that their numbers of attempts are the present ones
    for record in records:
        _log(db, [record])
        db.execute(update(_D).where(_D.c.id == record.claimed.id).values(attempts=_D.c.attempts + 1))
    queue.finish_written(db, [record.claimed.id for record in records if record.outcome == Outcome.OUTBOX])
    queue.cancel_obsolete(db, ids)


def _log(db: Connection, records: Sequence[AttemptRecord]) -> None:
    """Append attempts, numbered by their deliveries' counts. A delivery that was deleted gets none."""
    driver: Any = db.connection.dbapi_connection
    rows = (row[:-1] for row in _attempts(records))
    if db.dialect.name == POSTGRESQL:
        driver.execute(_INSERT_ATTEMPT[POSTGRESQL], (_json_rows(rows),))
    else:
        driver.executemany(_INSERT_ATTEMPT[SQLITE], rows)


def _json_rows(rows: Iterable[tuple[object, ...]]) -> str:
    """Return attempts as a JSON list of objects. Their last values may be missing."""
    return json.dumps([dict(zip((*_ATTEMPT_COLUMNS, "lease_id"), row, strict=False)) for row in rows])


def _existing_leases(driver: Driver, run_id: int, lease_ids: Iterable[int]) -> set[int]:
    rows = driver.execute(_EXISTING_LEASES[driver.dialect], (run_id, json.dumps(list(lease_ids))))
    return {lease_id for (lease_id,) in rows}


@cache
def _insert_sent(count: int) -> str:
    """Return the SQL that inserts a number of rows at once, which takes less time than one by one."""
    row = f"({', '.join('?' * len(_ATTEMPT_COLUMNS))})"
    return f"{_INSERT_INTO_ATTEMPT} VALUES {', '.join([row] * count)}"


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


def _set_outcome(db: Connection, record: AttemptRecord) -> object:
    """Change a delivery's row after an attempt that did not succeed, and return its state.

    If it was cancelled meanwhile, it stays so.
    """
    row = update(_D).where(_D.c.id == record.claimed.id)
    is_given_back = record.outcome == Outcome.GIVEN_BACK
    db.execute(row.values(attempts=_D.c.attempts + 1, given_back=_D.c.given_back + int(is_given_back)))
    values: dict[str, object] = {"state": record.state, "next_try_at": record.next_try_at}
    if record.outcome == Outcome.DEFERRED and record.give_up_after is not None:
        values |= _deferred_values(db, record, record.give_up_after)
    elif record.outcome == Outcome.UNKNOWN:
        values |= {"dated_at": record.claimed.date, "files_hash": record.claimed.files_hash}
    db.execute(row.where(has_waiting_state()).values(values))
    return values["state"]


def _deferred_values(db: Connection, record: AttemptRecord, give_up_after: timedelta) -> dict[str, object]:
    """Return what tells when a deferred delivery expires, and whether that is now.

    As in a mail server's queue, it does so after a try: whoever was held up for long gets another one first.
    """
    query = select(_D.c.give_up_at, _O.c.held_up_s).join(_O, _O.c.id == _D.c.occurrence_id)
    give_up_at, held_up_s = db.execute(query.where(_D.c.id == record.claimed.id)).one()
    held_up = timedelta(seconds=held_up_s)
    if give_up_at is None:
        return {"give_up_at": record.started_at - held_up + give_up_after}
    is_over = record.finished_at - held_up >= give_up_at
    return {"state": DeliveryState.EXPIRED, "next_try_at": None} if is_over else {}


def _attempts(records: Iterable[AttemptRecord]) -> Iterator[tuple[object, ...]]:
    """Yield the values of the columns."""
    times = _stored_times(chain.from_iterable((record.started_at, record.finished_at) for record in records))
    for record, started_at, finished_at in zip(records, times, times, strict=True):
        claimed, _, _, outcome, phase, code, enhanced, reply, relay, *_ = record
        texts = str(outcome), str(phase)  # SQLite's driver takes a microsecond more for a member of an enum
        rest = code, enhanced, storable(reply), relay, claimed.id, claimed.attempts + 1
        yield started_at, finished_at, *texts, *rest


def _stored_times(times: Iterable[datetime]) -> Iterator[str]:
    """Yield times as `_stored` returns them, in a third of the time: most are of the same second."""
    second, text = datetime.min.replace(tzinfo=UTC), ""
    for at in times:
        since = at - second
        if since.days or since.seconds:
            second = at.replace(microsecond=0)
            text = _stored(second).partition(".")[0]
        yield f"{text}.{at.microsecond:06}"


def _stored(at: datetime) -> str:
    """Return a time as SQLite stores it, and PostgreSQL reads it: UTC, without an offset."""
    return at.astimezone(UTC).isoformat(" ", "microseconds")[: -len("+00:00")]
