"""The ledger: intents before the final dot, outcomes after it, and what they add up to.

The writing functions take many rows at once, each a part of its caller's transaction.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select, text, update

from skychimp.models import (
    UNFINISHED_SQL,
    Attempt,
    Client,
    Delivery,
    DeliveryState,
    Mailing,
    Occurrence,
    Outcome,
)
from skychimp.store import queue
from skychimp.store.queue import Claimed

_D = Delivery.__table__
_A = Attempt.__table__
_O = Occurrence.__table__
_M = Mailing.__table__
_C = Client.__table__

# The hot path, in the driver's own words: many rows are one JSON parameter of one statement, during which the driver
# lets the event loop's thread run. By SQLAlchemy's executemany the same cost four times as much.
_IF_HELD = """
    FROM json_each(?) AS r
    WHERE delivery.id = r.value ->> 0 AND delivery.token = r.value ->> 1 AND delivery.run_id = ?
      AND delivery.state IN ('claimed', 'sending')"""
_INTEND = "UPDATE delivery SET state = 'sending'" + _IF_HELD
_OUTCOME = f"""
    UPDATE delivery SET state = r.value ->> 2, attempts = r.value ->> 3, given_back = r.value ->> 4,
        next_try_at = r.value ->> 5{_IF_HELD}"""  # noqa: S608
_ATTEMPT = f"""
    INSERT INTO attempt
        (delivery_id, number, started_at, finished_at, outcome, phase, code, enhanced, reply, relay)
    SELECT {", ".join(f"value ->> {place}" for place in range(10))} FROM json_each(?)"""  # noqa: S608


class Entry(NamedTuple):
    """One attempt to be recorded: the claim it was made under, what came of it, and when the next try is."""

    claimed: Claimed
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


def intend(connection: Connection, run_id: int, claims: Sequence[Claimed]) -> set[int]:
    """Record that these are about to be sent; the ids that still are this run's. Saying it again renews it."""
    ids = {claimed.id for claimed in claims}
    rows = json.dumps([(claimed.id, claimed.token) for claimed in claims])
    if connection.exec_driver_sql(_INTEND, (rows, run_id)).rowcount == len(claims):
        return ids
    ours = select(_D.c.id).where(_D.c.id.in_(ids), _D.c.run_id == run_id, _D.c.state == DeliveryState.SENDING)
    return set(connection.scalars(ours))


def record(connection: Connection, run_id: int, entries: Sequence[Entry]) -> None:
    """Record what came of attempts, together with their deliveries' new states.

    One whose delivery has been taken from this run meanwhile is logged and changes nothing, except that a sent one
    turns an unknown, or a queued one that nobody has claimed again, into sent.
    """
    rows = json.dumps([_outcome(entry) for entry in entries])
    done = connection.exec_driver_sql(_OUTCOME, (rows, run_id)).rowcount
    on_time: Sequence[Entry] = entries
    if done != len(entries):
        on_time = _on_time(connection, run_id, entries)
        for entry in entries:
            if entry not in on_time:
                _record_late(connection, entry)
    if on_time:
        _log(connection, [_attempt(entry, entry.claimed.attempts + 1) for entry in on_time])
    for entry in entries:
        if entry.bad_address:
            _mark_bad(connection, entry)


def counts(connection: Connection, occurrence_id: int) -> dict[DeliveryState, int]:
    """How many deliveries of an occurrence are in each state."""
    rows = connection.execute(
        select(_D.c.state, func.count()).where(_D.c.occurrence_id == occurrence_id).group_by(_D.c.state)
    )
    return {DeliveryState(state): number for state, number in rows}


def left(connection: Connection, mailing_id: int | None = None) -> dict[DeliveryState, int]:
    """How many deliveries of unfinished occurrences wait or are under way, by state."""
    open_ones = select(_O.c.id).where(text(UNFINISHED_SQL))
    if mailing_id is not None:
        open_ones = open_ones.where(_O.c.mailing_id == mailing_id)
    states = [DeliveryState.QUEUED, DeliveryState.CLAIMED, DeliveryState.SENDING, DeliveryState.DEFERRED]
    rows = connection.execute(
        select(_D.c.state, func.count())
        .where(_D.c.occurrence_id.in_(open_ones), _D.c.state.in_(states))
        .group_by(_D.c.state)
    )
    return {DeliveryState(state): number for state, number in rows}


def _log(connection: Connection, attempts: Sequence[tuple[object, ...]]) -> None:
    connection.exec_driver_sql(_ATTEMPT, (json.dumps(attempts),))


def _outcome(entry: Entry) -> tuple[object, ...]:
    claimed, is_given_back = entry.claimed, entry.outcome == Outcome.GIVEN_BACK
    next_try_at = None if entry.next_try_at is None else _stored(entry.next_try_at)
    return (
        claimed.id, claimed.token, entry.state, claimed.attempts + 1, claimed.given_back + is_given_back, next_try_at,
    )  # fmt: skip


def _attempt(entry: Entry, number: int) -> tuple[object, ...]:
    return (
        entry.claimed.id, number, _stored(entry.started_at), _stored(entry.finished_at), entry.outcome, entry.phase,
        entry.code, entry.enhanced, entry.reply, entry.relay,
    )  # fmt: skip


def _stored(at: datetime) -> str:
    """A time as the database keeps it: UTC, without an offset."""
    return at.astimezone(UTC).isoformat(" ", "microseconds").partition("+")[0]


def _on_time(connection: Connection, run_id: int, entries: Sequence[Entry]) -> list[Entry]:
    wanted = {(entry.claimed.id, entry.claimed.token, entry.claimed.attempts + 1, entry.state) for entry in entries}
    rows = connection.execute(
        select(_D.c.id, _D.c.token, _D.c.attempts, _D.c.state).where(
            _D.c.id.in_([row[0] for row in wanted]), _D.c.run_id == run_id
        )
    )
    ours = {row.id for row in rows if tuple(row) in wanted}
    return [entry for entry in entries if entry.claimed.id in ours]


def _record_late(connection: Connection, entry: Entry) -> None:
    number = connection.scalar(select(_D.c.attempts).where(_D.c.id == entry.claimed.id)) + 1
    _log(connection, [_attempt(entry, number)])
    connection.execute(update(_D).where(_D.c.id == entry.claimed.id).values(attempts=number))
    if entry.outcome == Outcome.SENT:
        unclaimed = [DeliveryState.UNKNOWN, DeliveryState.QUEUED]
        connection.execute(
            update(_D)
            .where(_D.c.id == entry.claimed.id, _D.c.state.in_(unclaimed))
            .values(state=DeliveryState.SENT, next_try_at=None)
        )


def _mark_bad(connection: Connection, entry: Entry) -> None:
    client = connection.execute(select(_C).where(_C.c.id == entry.claimed.client_id)).one_or_none()
    if client is None or client.bad_at is not None or client.email != entry.claimed.address:
        return
    connection.execute(update(_C).where(_C.c.id == client.id).values(bad_at=entry.finished_at, bad_reason=entry.reply))
    open_ones = (select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(_M.c.owner_id == client.owner_id)).where(
        text(UNFINISHED_SQL.replace("state", "occurrence.state"))
    )
    queue.cancel(connection, open_ones, client.address_key)
