"""The ledger: intents before the final dot, outcomes after it, and what they add up to.

The writing functions take many rows at once, each a part of its caller's transaction.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, insert, or_, select, text, update

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

_held_by_claim = (
    _D.c.id == bindparam("b_id"),
    _D.c.token == bindparam("b_token"),
    _D.c.run_id == bindparam("b_run_id"),
    or_(_D.c.state == DeliveryState.CLAIMED, _D.c.state == DeliveryState.SENDING),
)
_INTEND = update(_D).where(*_held_by_claim).values(state=DeliveryState.SENDING)
_OUTCOME = (
    update(_D)
    .where(*_held_by_claim)
    .values(
        state=bindparam("b_state"),
        attempts=bindparam("b_attempts"),
        given_back=bindparam("b_given_back"),
        next_try_at=bindparam("b_next_try_at"),
    )
)
_ATTEMPT = insert(_A)


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
    rows = [{"b_id": claimed.id, "b_token": claimed.token, "b_run_id": run_id} for claimed in claims]
    ids = {claimed.id for claimed in claims}
    if connection.execute(_INTEND, rows).rowcount == len(rows):
        return ids
    ours = select(_D.c.id).where(_D.c.id.in_(ids), _D.c.run_id == run_id, _D.c.state == DeliveryState.SENDING)
    return set(connection.scalars(ours))


def record(connection: Connection, run_id: int, entries: Sequence[Entry]) -> None:
    """Record what came of attempts, together with their deliveries' new states.

    One whose delivery has been taken from this run meanwhile is logged and changes nothing, except that a sent one
    turns an unknown, or a queued one that nobody has claimed again, into sent.
    """
    done = connection.execute(_OUTCOME, [_outcome(run_id, entry) for entry in entries]).rowcount
    on_time: Sequence[Entry] = entries
    if done != len(entries):
        on_time = _on_time(connection, run_id, entries)
        for entry in entries:
            if entry not in on_time:
                _record_late(connection, entry)
    if on_time:
        connection.execute(_ATTEMPT, [_attempt(entry, entry.claimed.attempts + 1) for entry in on_time])
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


def _outcome(run_id: int, entry: Entry) -> dict[str, object]:
    claimed = entry.claimed
    return {
        "b_id": claimed.id,
        "b_token": claimed.token,
        "b_run_id": run_id,
        "b_state": entry.state,
        "b_attempts": claimed.attempts + 1,
        "b_given_back": claimed.given_back + (entry.outcome == Outcome.GIVEN_BACK),
        "b_next_try_at": entry.next_try_at,
    }


def _attempt(entry: Entry, number: int) -> dict[str, object]:
    return {
        "delivery_id": entry.claimed.id,
        "number": number,
        "started_at": entry.started_at,
        "finished_at": entry.finished_at,
        "outcome": entry.outcome,
        "phase": entry.phase,
        "code": entry.code,
        "enhanced": entry.enhanced,
        "reply": entry.reply,
        "relay": entry.relay,
    }


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
    connection.execute(_ATTEMPT, [_attempt(entry, number)])
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
