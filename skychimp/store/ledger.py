"""The ledger: intents before the final dot, outcomes after it, and what they add up to.

The writing functions take many rows at once, each a part of its caller's transaction.
"""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import compress
from operator import not_
from typing import NamedTuple

from sqlalchemy import Connection, String, cast, delete, func, literal, select, text, update

from skychimp.models import (
    IN_FLIGHT_SQL,
    UNFINISHED_SQL,
    WAITING_SQL,
    Attempt,
    Client,
    Delivery,
    DeliveryState,
    Mailing,
    Occurrence,
    Outcome,
)
from skychimp.store import queue
from skychimp.store.database import Store
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.writer_program import Orders

_D = Delivery.__table__
_A = Attempt.__table__
_O = Occurrence.__table__
_M = Mailing.__table__
_C = Client.__table__

ERASED = "erased"
"""What stands in the ledger in place of an address, and of a server's words."""

# The hot path, in the driver's own words: many rows are one JSON parameter of one statement, during which the driver
# lets the event loop's thread run. By SQLAlchemy's executemany the same cost four times as much.
_IF_HELD = """
    FROM json_each(?) AS r
    WHERE delivery.id = r.value ->> 0 AND delivery.token = r.value ->> 1 AND delivery.run_id = ?
      AND delivery.state IN ('claimed', 'sending')"""
_INTEND = f"UPDATE delivery SET state = 'sending'{_IF_HELD}"  # noqa: S608
_OUTCOME = f"""
    UPDATE delivery SET state = r.value ->> 2, next_try_at = r.value ->> 3,
        attempts = delivery.attempts + 1, given_back = delivery.given_back + (r.value ->> 4){_IF_HELD}"""  # noqa: S608
_ATTEMPT = f"""
    INSERT INTO attempt
        (delivery_id, number, started_at, finished_at, outcome, phase, code, enhanced, reply, relay)
    SELECT delivery.id, delivery.attempts, {", ".join(f"r.value ->> {place}" for place in range(1, 9))}
    FROM json_each(?) AS r CROSS JOIN delivery WHERE delivery.id = r.value ->> 0"""  # noqa: S608


# The usual group, intents and letters that were sent, is one statement and its own transaction: it is all that a
# scribe needs to be told.
_AT_ONCE = """
    CREATE TEMP VIEW IF NOT EXISTS at_once AS SELECT NULL AS id, NULL AS token, NULL AS run_id, NULL AS started_at,
        NULL AS finished_at, NULL AS phase, NULL AS code, NULL AS enhanced, NULL AS reply, NULL AS relay;
    CREATE TEMP TRIGGER IF NOT EXISTS intend INSTEAD OF INSERT ON at_once WHEN NEW.phase IS NULL BEGIN
        UPDATE delivery SET state = 'sending'
        WHERE id = NEW.id AND token = NEW.token AND run_id = NEW.run_id AND state IN ('claimed', 'sending');
    END;
    CREATE TEMP TRIGGER IF NOT EXISTS record INSTEAD OF INSERT ON at_once WHEN NEW.phase IS NOT NULL BEGIN
        UPDATE delivery SET state = 'sent', next_try_at = NULL, attempts = attempts + 1
        WHERE id = NEW.id AND token = NEW.token AND run_id = NEW.run_id AND state IN ('claimed', 'sending');
        INSERT INTO attempt
            (delivery_id, number, started_at, finished_at, outcome, phase, code, enhanced, reply, relay)
        SELECT id, attempts, NEW.started_at, NEW.finished_at, 'sent', NEW.phase, NEW.code, NEW.enhanced, NEW.reply,
            NEW.relay
        FROM delivery WHERE id = NEW.id AND changes() = 1;
    END"""
_WRITE_AT_ONCE = f"""
    INSERT INTO at_once SELECT value ->> 0, value ->> 1, ?, {", ".join(f"value ->> {place}" for place in range(2, 9))}
    FROM json_each(?)"""  # noqa: S608


class AttemptRecord(NamedTuple):
    """One attempt to be recorded: the claim it was made under, what came of it, and when the next try is."""

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
        return DeliveryState.QUEUED if self.outcome == Outcome.GIVEN_BACK else DeliveryState(self.outcome)


def orders(store: Store, run_id: int) -> Orders:
    """What a run's scribe is to do with `rows_at_once`."""
    return {
        "driver": store.driver_name,
        "path": str(store.path),
        "pragmas": store.pragmas,
        "script": _AT_ONCE,
        "statement": _WRITE_AT_ONCE,
        "parameters": [run_id],
    }


def rows_at_once(entries: Sequence[AttemptRecord], intents: Sequence[ClaimedDelivery]) -> tuple[str, int]:
    """Letters that were sent, and intents, as a scribe writes them, and how many changes they make.

    Fewer where some were not this run's any more. Those are left as they are: `intend` says which, `record_late` logs
    the others.
    """
    rows: list[tuple[object, ...]] = [
        (
            entry.claimed.id, entry.claimed.token, _stored(entry.started_at), _stored(entry.finished_at), entry.phase,
            entry.code, entry.enhanced, _storable(entry.reply), entry.relay,
        )
        for entry in entries
    ]  # fmt: skip
    rows += [(claimed.id, claimed.token) for claimed in intents]
    return json.dumps(rows), 2 * len(entries) + len(intents)


def record_late(db: Connection, run_id: int, entries: Sequence[AttemptRecord]) -> None:
    """Log those of these sent letters that a scribe has left, and turn their deliveries into sent."""
    _record_late(db, _parted(db, run_id, entries)[1])


def intend(db: Connection, run_id: int, claims: Sequence[ClaimedDelivery]) -> set[int]:
    """Record that these are about to be sent; the ids that still are this run's. Saying it again renews it."""
    rows = json.dumps([(claimed.id, claimed.token) for claimed in claims])
    if db.exec_driver_sql(_INTEND, (rows, run_id)).rowcount == len(claims):
        return {claimed.id for claimed in claims}
    asked = Counter((claimed.id, claimed.token) for claimed in claims)
    ids = Counter(claimed.id for claimed in claims)
    sending = select(_D.c.id, _D.c.token).where(_D.c.run_id == run_id, _D.c.state == DeliveryState.SENDING)
    ours = {row.id for row in db.execute(sending.where(_D.c.id.in_(ids))) if tuple(row) in asked}
    twice = [delivery_id for delivery_id in ours if ids[delivery_id] > 1]
    if twice:  # under two claims at once, of which an answer by id can't name the right one
        queue.release(db, run_id, twice)
    return ours.difference(twice)


def record(db: Connection, run_id: int, entries: Sequence[AttemptRecord]) -> None:
    """Record what came of attempts, together with their deliveries' new states.

    One whose delivery has been taken from this run meanwhile is logged and changes nothing, except that a sent one
    turns the delivery into sent, unless it is just being sent again.
    """
    rows = json.dumps([_outcome(entry) for entry in entries])
    done = db.exec_driver_sql(_OUTCOME, (rows, run_id)).rowcount
    on_time, late = (entries, []) if done == len(entries) else _parted(db, run_id, entries)
    _log(db, on_time)
    _record_late(db, late)
    not_sent = [entry for entry in on_time if entry.outcome != Outcome.SENT]
    queue.cancel_obsolete(db, [entry.claimed.id for entry in not_sent])
    for entry in entries:
        if entry.bad_address:
            _mark_bad(db, entry)


def counts(db: Connection, occurrence_id: int) -> dict[DeliveryState, int]:
    """How many deliveries of an occurrence are in each state."""
    rows = db.execute(select(_D.c.state, func.count()).where(_D.c.occurrence_id == occurrence_id).group_by(_D.c.state))
    return {DeliveryState(state): number for state, number in rows}


def left(db: Connection, mailing_id: int | None = None) -> dict[DeliveryState, int]:
    """How many deliveries of unfinished occurrences wait or are under way, by state."""
    open_ones = select(_O.c.id).where(text(UNFINISHED_SQL))
    if mailing_id is not None:
        open_ones = open_ones.where(_O.c.mailing_id == mailing_id)
    found = select(_D.c.state, func.count()).where(_D.c.occurrence_id.in_(open_ones)).group_by(_D.c.state)
    by_state: dict[DeliveryState, int] = {}
    for condition in (WAITING_SQL, IN_FLIGHT_SQL):  # each has its index
        rows = db.execute(found.where(text(condition)))
        by_state |= {DeliveryState(state): number for state, number in rows}
    return by_state


def waiting(db: Connection, mailing_id: int | None = None) -> int:
    """How many deliveries of unfinished occurrences wait or are under way, by their indexes alone."""
    open_ones = select(_O.c.id).where(text(UNFINISHED_SQL))
    if mailing_id is not None:
        open_ones = open_ones.where(_O.c.mailing_id == mailing_id)
    found = select(func.count()).select_from(_D).where(_D.c.occurrence_id.in_(open_ones))
    return sum(db.scalar(found.where(text(condition))) or 0 for condition in (WAITING_SQL, IN_FLIGHT_SQL))


def forget_attempts(db: Connection, before: datetime, batch: int = 10_000) -> bool:
    """Delete the oldest attempts that ended before a time, up to `batch`; True while there may be more.

    The newest of all stays: an id that comes again would look as if it were counted already (services.figures).
    """
    newest = select(func.max(_A.c.id)).scalar_subquery()
    oldest = select(_A.c.id, _A.c.finished_at).where(_A.c.id < newest).order_by(_A.c.id).limit(batch)
    ids = [row.id for row in db.execute(oldest) if row.finished_at < before]
    db.execute(delete(_A).where(_A.c.id.in_(ids)))
    return len(ids) == batch


def erase(db: Connection, delivery_ids: Sequence[int]) -> int:
    """Take whoever they were for out of these deliveries and their attempts; how many attempts there are.

    States and codes stay, so that nothing counts otherwise; a server's words may name the person, and go.
    """
    these = queue.listed(delivery_ids)
    nobody = {"address": ERASED, "client_id": 0, "name": "", "comment": "", "tags": "[]"}
    key = literal(f"{ERASED}:").concat(_D.c.id)  # no address, and no other's
    db.execute(update(_D).where(_D.c.id.in_(these)).values(nobody | {"address_key": key}))
    code = func.coalesce(cast(_A.c.code, String).concat(" "), "")
    enhanced = func.coalesce(func.nullif(_A.c.enhanced, "").concat(" "), "")
    left = update(_A).where(_A.c.delivery_id.in_(these)).values(reply=code.concat(enhanced).concat(ERASED))
    return db.execute(left).rowcount


def _record_late(db: Connection, late: Sequence[AttemptRecord]) -> None:
    for entry in late:
        db.execute(update(_D).where(_D.c.id == entry.claimed.id).values(attempts=_D.c.attempts + 1))
        _log(db, [entry])
    queue.cancel_obsolete(db, [entry.claimed.id for entry in late])


def _log(db: Connection, entries: Sequence[AttemptRecord]) -> None:
    """Append attempts, each numbered by its delivery's count; one whose delivery is erased leaves nothing."""
    db.exec_driver_sql(_ATTEMPT, (json.dumps([_attempt(entry) for entry in entries]),))


def _outcome(entry: AttemptRecord) -> tuple[object, ...]:
    next_try_at = None if entry.next_try_at is None else _stored(entry.next_try_at)
    is_given_back = entry.outcome == Outcome.GIVEN_BACK
    return (entry.claimed.id, entry.claimed.token, entry.state, next_try_at, int(is_given_back))


def _attempt(entry: AttemptRecord) -> tuple[object, ...]:
    return (
        entry.claimed.id, _stored(entry.started_at), _stored(entry.finished_at), entry.outcome, entry.phase,
        entry.code, entry.enhanced, _storable(entry.reply), entry.relay,
    )  # fmt: skip


def _stored(at: datetime) -> str:
    """A time as the database keeps it: UTC, without an offset."""
    return at.astimezone(UTC).isoformat(" ", "microseconds").partition("+")[0]


def _storable(text: str) -> str:
    """A text that comes back as it is: an older SQLite ends it at a NUL, and half a surrogate pair is not UTF-8."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _parted(
    db: Connection, run_id: int, entries: Sequence[AttemptRecord]
) -> tuple[Sequence[AttemptRecord], Sequence[AttemptRecord]]:
    """Those that have changed their delivery just now, and the late ones; a claim's token stays with its outcome."""
    ids = [entry.claimed.id for entry in entries]
    mine = select(_D.c.id, _D.c.token, _D.c.state).where(_D.c.id.in_(ids), _D.c.run_id == run_id)
    ours = {tuple(row) for row in db.execute(mine)}
    is_on_time = [(entry.claimed.id, entry.claimed.token, entry.state) in ours for entry in entries]
    on_time = list(compress(entries, is_on_time))
    return on_time, list(compress(entries, map(not_, is_on_time)))


def _mark_bad(db: Connection, entry: AttemptRecord) -> None:
    client = db.execute(select(_C).where(_C.c.id == entry.claimed.client_id)).one_or_none()
    if client is None or client.bad_at is not None or client.email != entry.claimed.address:
        return
    db.execute(
        update(_C).where(_C.c.id == client.id).values(bad_at=entry.finished_at, bad_reason=_storable(entry.reply))
    )
    owner_id = select(_M.c.owner_id).where(_M.c.id == _O.c.mailing_id).scalar_subquery()  # a join would begin with it
    open_ones = select(_O.c.id).where(text(UNFINISHED_SQL), owner_id == client.owner_id)
    queue.cancel(db, open_ones, client.address_key)
