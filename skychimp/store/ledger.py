"""Record intents before the final dot, attempts after it, and count what is in the ledger.

Every function is part of its caller's transaction. Those that write take many rows at once.
"""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import compress
from operator import not_
from typing import NamedTuple

from sqlalchemy import Connection, Select, String, cast, delete, func, literal, select, update

from skychimp.models import Attempt, Client, Delivery, DeliveryState, Mailing, Occurrence, Outcome
from skychimp.store import queue
from skychimp.store.conditions import is_in_flight, is_unfinished, is_waiting
from skychimp.store.database import Store
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.writer_program import WriterSetup

_D = Delivery.__table__
_A = Attempt.__table__
_O = Occurrence.__table__
_M = Mailing.__table__
_C = Client.__table__

ERASED = "erased"
"""Replaces an address and a server's wording in the ledger."""

# This SQL runs for every email, and goes to the driver directly: many rows are one JSON parameter of one statement,
# and the event loop's thread runs meanwhile. SQLAlchemy's executemany cost four times as much.
_IF_OURS = """
    FROM json_each(?) AS r
    WHERE delivery.id = r.value ->> 0 AND delivery.token = r.value ->> 1 AND delivery.run_id = ?
      AND delivery.state IN ('claimed', 'sending')"""
_SET_SENDING = f"UPDATE delivery SET state = 'sending'{_IF_OURS}"  # noqa: S608
_SET_OUTCOME = f"""
    UPDATE delivery SET state = r.value ->> 2, next_try_at = r.value ->> 3,
        attempts = delivery.attempts + 1, given_back = delivery.given_back + (r.value ->> 4){_IF_OURS}"""  # noqa: S608
_INSERT_ATTEMPTS = f"""
    INSERT INTO attempt
        (delivery_id, number, started_at, finished_at, outcome, phase, code, enhanced, reply, relay)
    SELECT delivery.id, delivery.attempts, {", ".join(f"r.value ->> {index}" for index in range(1, 9))}
    FROM json_each(?) AS r CROSS JOIN delivery WHERE delivery.id = r.value ->> 0"""  # noqa: S608

# Most groups contain only intents and sent emails. Triggers on a view make writing one a single statement, which is
# its own transaction: that is all that the writer process runs.
_WRITER_SCRIPT = """
    CREATE TEMP VIEW IF NOT EXISTS ledger_input AS SELECT NULL AS id, NULL AS token, NULL AS run_id, NULL AS started_at,
        NULL AS finished_at, NULL AS phase, NULL AS code, NULL AS enhanced, NULL AS reply, NULL AS relay;
    CREATE TEMP TRIGGER IF NOT EXISTS record_intent INSTEAD OF INSERT ON ledger_input WHEN NEW.phase IS NULL BEGIN
        UPDATE delivery SET state = 'sending'
        WHERE id = NEW.id AND token = NEW.token AND run_id = NEW.run_id AND state IN ('claimed', 'sending');
    END;
    CREATE TEMP TRIGGER IF NOT EXISTS record_sent INSTEAD OF INSERT ON ledger_input WHEN NEW.phase IS NOT NULL BEGIN
        UPDATE delivery SET state = 'sent', next_try_at = NULL, attempts = attempts + 1
        WHERE id = NEW.id AND token = NEW.token AND run_id = NEW.run_id AND state IN ('claimed', 'sending');
        INSERT INTO attempt
            (delivery_id, number, started_at, finished_at, outcome, phase, code, enhanced, reply, relay)
        SELECT id, attempts, NEW.started_at, NEW.finished_at, 'sent', NEW.phase, NEW.code, NEW.enhanced, NEW.reply,
            NEW.relay
        FROM delivery WHERE id = NEW.id AND changes() = 1;
    END"""
_WRITER_STATEMENT = f"""
    INSERT INTO ledger_input
    SELECT value ->> 0, value ->> 1, ?, {", ".join(f"value ->> {index}" for index in range(2, 9))} FROM json_each(?)"""  # noqa: S608


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


def writer_setup(store: Store, run_id: int) -> WriterSetup:
    """Return what a run's writer process needs before it can write rows (`writer_rows`)."""
    return {
        "driver": store.driver_name,
        "path": str(store.path),
        "pragmas": store.pragmas,
        "script": _WRITER_SCRIPT,
        "statement": _WRITER_STATEMENT,
        "parameters": [run_id],
    }


def writer_rows(records: Sequence[AttemptRecord], intents: Sequence[ClaimedDelivery]) -> tuple[str, int]:
    """Return sent emails and intents as the rows of the writer process, and the number of changes they make.

    If it makes fewer changes, some deliveries no longer belong to this run. Those are left as they are:
    `record_intents` tells which of the intents, and `record_late_attempts` logs the attempts.
    """
    rows: list[tuple[object, ...]] = [
        (
            record.claimed.id, record.claimed.token, _stored(record.started_at), _stored(record.finished_at),
            record.phase, record.code, record.enhanced, _storable(record.reply), record.relay,
        )
        for record in records
    ]  # fmt: skip
    rows += [(claimed.id, claimed.token) for claimed in intents]
    return json.dumps(rows), 2 * len(records) + len(intents)


def record_late_attempts(db: Connection, run_id: int, records: Sequence[AttemptRecord]) -> None:
    """Log those of these sent emails that the writer process left out, and mark their deliveries as sent."""
    _record_late(db, _split_late(db, run_id, records)[1])


def record_intents(db: Connection, run_id: int, claims: Sequence[ClaimedDelivery]) -> set[int]:
    """Record that these deliveries are about to be sent. Return the ids of those that still belong to this run.

    Recording an intent again renews it.
    """
    rows = json.dumps([(claimed.id, claimed.token) for claimed in claims])
    if db.exec_driver_sql(_SET_SENDING, (rows, run_id)).rowcount == len(claims):
        return {claimed.id for claimed in claims}
    tokens = Counter((claimed.id, claimed.token) for claimed in claims)
    claims_by_id = Counter(claimed.id for claimed in claims)
    sending = select(_D.c.id, _D.c.token).where(_D.c.run_id == run_id, _D.c.state == DeliveryState.SENDING)
    ours = {row.id for row in db.execute(sending.where(_D.c.id.in_(claims_by_id))) if tuple(row) in tokens}
    # Of two claims of one delivery, an id cannot tell which is the valid one. Neither was sent: queue it again.
    ambiguous = [delivery_id for delivery_id in ours if claims_by_id[delivery_id] > 1]
    if ambiguous:
        queue.release(db, run_id, ambiguous)
    return ours.difference(ambiguous)


def record_attempts(db: Connection, run_id: int, records: Sequence[AttemptRecord]) -> None:
    """Record attempts together with the new states of their deliveries.

    An attempt is late if its delivery was taken from this run meanwhile. It is logged and changes nothing, with one
    exception: a late success marks the delivery as sent, unless it is being sent again right now.
    """
    rows = json.dumps([_outcome(record) for record in records])
    changed = db.exec_driver_sql(_SET_OUTCOME, (rows, run_id)).rowcount
    on_time, late = (records, []) if changed == len(records) else _split_late(db, run_id, records)
    _log(db, on_time)
    _record_late(db, late)
    not_sent = [record for record in on_time if record.outcome != Outcome.SENT]
    queue.cancel_obsolete(db, [record.claimed.id for record in not_sent])
    for record in records:
        if record.bad_address:
            _mark_bad(db, record)


def count_by_state(db: Connection, occurrence_id: int) -> dict[DeliveryState, int]:
    """Return the number of an occurrence's deliveries in each state."""
    rows = db.execute(select(_D.c.state, func.count()).where(_D.c.occurrence_id == occurrence_id).group_by(_D.c.state))
    return {DeliveryState(state): number for state, number in rows}


def count_pending_by_state(db: Connection, mailing_id: int | None = None) -> dict[DeliveryState, int]:
    """Return the number of waiting and in-flight deliveries of unfinished occurrences, by state."""
    is_pending = _D.c.occurrence_id.in_(_unfinished(mailing_id))
    query = select(_D.c.state, func.count()).where(is_pending).group_by(_D.c.state)
    counts: dict[DeliveryState, int] = {}
    for condition in (is_waiting(), is_in_flight()):  # two queries: each condition has an index of its own
        counts |= {DeliveryState(state): number for state, number in db.execute(query.where(condition))}
    return counts


def count_pending(db: Connection, mailing_id: int | None = None) -> int:
    """Return the number of waiting and in-flight deliveries of unfinished occurrences. Reads only indexes."""
    query = select(func.count()).select_from(_D).where(_D.c.occurrence_id.in_(_unfinished(mailing_id)))
    return sum(db.scalar(query.where(condition)) or 0 for condition in (is_waiting(), is_in_flight()))


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
    selected = queue.id_list(delivery_ids)
    blank = {"address": ERASED, "client_id": 0, "name": "", "comment": "", "tags": "[]"}
    key = literal(f"{ERASED}:").concat(_D.c.id)  # unique, and not an address
    db.execute(update(_D).where(_D.c.id.in_(selected)).values(blank | {"address_key": key}))
    code = func.coalesce(cast(_A.c.code, String).concat(" "), "")
    enhanced = func.coalesce(func.nullif(_A.c.enhanced, "").concat(" "), "")
    reply = code.concat(enhanced).concat(ERASED)
    return db.execute(update(_A).where(_A.c.delivery_id.in_(selected)).values(reply=reply)).rowcount


def _unfinished(mailing_id: int | None) -> Select[tuple[int]]:
    query = select(_O.c.id).where(is_unfinished())
    return query if mailing_id is None else query.where(_O.c.mailing_id == mailing_id)


def _record_late(db: Connection, records: Sequence[AttemptRecord]) -> None:
    for record in records:
        db.execute(update(_D).where(_D.c.id == record.claimed.id).values(attempts=_D.c.attempts + 1))
        _log(db, [record])
    queue.cancel_obsolete(db, [record.claimed.id for record in records])


def _log(db: Connection, records: Sequence[AttemptRecord]) -> None:
    """Append attempts, numbered by their deliveries' counts. A delivery that was deleted gets none."""
    db.exec_driver_sql(_INSERT_ATTEMPTS, (json.dumps([_attempt(record) for record in records]),))


def _outcome(record: AttemptRecord) -> tuple[object, ...]:
    next_try_at = None if record.next_try_at is None else _stored(record.next_try_at)
    is_given_back = record.outcome == Outcome.GIVEN_BACK
    return (record.claimed.id, record.claimed.token, record.state, next_try_at, int(is_given_back))


def _attempt(record: AttemptRecord) -> tuple[object, ...]:
    return (
        record.claimed.id, _stored(record.started_at), _stored(record.finished_at), record.outcome, record.phase,
        record.code, record.enhanced, _storable(record.reply), record.relay,
    )  # fmt: skip


def _stored(at: datetime) -> str:
    """Return a time as the database stores it: UTC, without an offset."""
    utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    return utc.isoformat(" ", "microseconds")[: -len("+00:00")]


def _storable(text: str) -> str:
    """Escape what SQLite would not return unchanged: NUL (in old versions) and lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _split_late(
    db: Connection, run_id: int, records: Sequence[AttemptRecord]
) -> tuple[Sequence[AttemptRecord], Sequence[AttemptRecord]]:
    """Return the attempts that have just changed their deliveries, and the late ones.

    A delivery keeps its claim's token after the outcome, which tells them apart.
    """
    ids = [record.claimed.id for record in records]
    deliveries = select(_D.c.id, _D.c.token, _D.c.state).where(_D.c.id.in_(ids), _D.c.run_id == run_id)
    ours = {tuple(row) for row in db.execute(deliveries)}
    is_on_time = [(record.claimed.id, record.claimed.token, record.state) in ours for record in records]
    return list(compress(records, is_on_time)), list(compress(records, map(not_, is_on_time)))


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
