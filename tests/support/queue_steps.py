"""Take single steps of the queue and the ledger, each in its own transaction, and read the rows they leave.

Mailings are due at NOW. Steps are taken by run 1 unless they are given another run's id.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, func, insert, select, update

from skychimp.delivery.scheduling import planner
from skychimp.models import (
    Attempt,
    Client,
    ClientTag,
    Delivery,
    DeliveryState,
    Every,
    Format,
    Mailing,
    MailingClient,
    MailingStatus,
    MailingTag,
    Message,
    Occurrence,
    OccurrenceState,
    Outcome,
    Run,
    Table,
)
from skychimp.permissions import Actor
from skychimp.store import ledger, queue, runs, sql
from skychimp.store.conditions import current_attempts, current_state, is_unfinished
from skychimp.store.database import Store, driver_of
from skychimp.store.ledger import AttemptRecord
from skychimp.store.occurrences import opening, sweeping
from skychimp.store.queue import ClaimedDelivery

T = TypeVar("T")
Row = TypeVar("Row", bound=Table)

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
END = 3 * DAY
"""After this time, counted from NOW, a mailing ends that is created with `end_at=NOW + END`."""
RELAY = "relay.example:25"
REPLIES = {
    Outcome.SENT: (250, "2.0.0", "250 2.0.0 taken"),
    Outcome.OUTBOX: (250, "2.0.0", "250 2.0.0 written to the outbox as new/0123456789abcdef0123456789abcdef"),
    Outcome.DEFERRED: (450, "4.2.0", "450 4.2.0 later"),
    Outcome.FAILED: (550, "5.7.1", "550 5.7.1 no"),
    Outcome.UNKNOWN: (None, "", "closed after the dot"),
    Outcome.GIVEN_BACK: (421, "4.7.0", "421 4.7.0 too many"),
}


def write(store: Store, step: Callable[[Connection], T]) -> T:
    """Take a step in a transaction, and return its result."""
    with store.write() as db:
        return step(db.connection())


# What users set up


def create_client(store: Store, owner: Actor, name: str, /, *, tags: Sequence[str] = (), **more: object) -> int:
    """Create the client `name@example.org`, and return its id."""
    email = f"{name}@example.org"
    values = {"owner_id": owner.user_id, "email": email, "address_key": email, "name": name.title(), "comment": ""}
    return write(store, lambda connection: _client(connection, values | {"created_at": NOW} | more, tags))


def _client(db: Connection, values: dict[str, object], tags: Sequence[str]) -> int:
    client_id: int = db.execute(insert(Client).values(values).returning(Client.__table__.c.id)).scalar_one()
    for tag in tags:
        db.execute(insert(ClientTag).values(client_id=client_id, tag=tag))
    return client_id


def create_mailing(
    store: Store,
    owner: Actor,
    *,
    client_ids: Sequence[int] = (),
    tags: Sequence[str] = (),
    every: Every = Every.ONCE,
    start: datetime = NOW,
    **more: object,
) -> int:
    """Create a mailing that is due at its start, and return its id. Without clients and tags it is for all clients."""
    with store.write() as db:
        message = Message(
            owner_id=owner.user_id,
            subject="Hello",
            body="Dear {{ client.name }}",
            format=Format.TEXT,
            created_at=NOW,
            updated_at=NOW,
        )
        db.add(message)
        db.flush()
        values: dict[str, Any] = {
            "owner_id": owner.user_id,
            "message_id": message.id,
            "all_clients": not (client_ids or tags),
            "start_local": start.replace(tzinfo=None).isoformat(),
            "timezone": "UTC",
            "start_at": start,
            "every": every,
            "status": MailingStatus.CREATED,
            "next_at": start,
            "created_at": NOW - DAY,
        }
        made = Mailing(**(values | more))
        db.add(made)
        db.flush()
        assert made.id is not None
        db.add_all(MailingClient(mailing_id=made.id, client_id=client_id) for client_id in client_ids)
        db.add_all(MailingTag(mailing_id=made.id, tag=tag) for tag in tags)
        return made.id


def update_row(store: Store, table: type[Table], row_id: int, **values: object) -> None:
    """Update a row directly, without a service."""
    write(
        store, lambda connection: connection.execute(update(table).where(table.__table__.c.id == row_id).values(values))
    )


def delete_client(store: Store, client_id: int) -> None:
    """Delete a client and cancel its pending deliveries, as the service does."""
    client = get_row(store, Client, client_id)
    unfinished = select(Occurrence.__table__.c.id).where(is_unfinished())

    def step(db: Connection) -> None:
        queue.cancel_for_address(db, unfinished, client.address_key)
        db.execute(Client.__table__.delete().where(Client.__table__.c.id == client_id))

    write(store, step)


def delete_mailing(store: Store, mailing_id: int, now: datetime = NOW) -> None:
    """Delete a mailing, as the service does."""
    update_row(store, Mailing, mailing_id, deleted_at=now, message_id=None, next_at=None)
    sweep(store, now)


# What a run does


def create_run(store: Store, **more: object) -> int:
    """Create a run without a lock, and return its id. To others its process is dead."""
    values = {"host": "here", "pid": 1, "started_at": NOW, "heartbeat_at": NOW} | dict.fromkeys(runs.COUNTS, 0)
    chosen = insert(Run).values(values | more).returning(Run.__table__.c.id)
    return write(store, lambda connection: int(connection.execute(chosen).scalar_one()))


def open_due(store: Store, now: datetime = NOW) -> int:
    """Open what is due, as every run does first. Return the number of opened occurrences."""
    sender = "ada@skychimp.test"
    return write(
        store,
        lambda db: planner.open_due(db, now, sender=f"Ada <{sender}>", return_path=sender).occurrences,
    )


def create_deliveries(
    store: Store, occurrence_id: int = 1, batch: int = opening.OPENING_BATCH, *, require_consent: bool = False
) -> None:
    """Create all deliveries of an occurrence, in batches."""
    while not write(
        store, lambda db: opening.create_deliveries(db, occurrence_id, batch, require_consent=require_consent)
    ):
        pass


def open_mailing(store: Store, owner: Actor, *names: str, **more: Any) -> list[int]:
    """Create clients and a mailing to them, open it, and create its deliveries. Return the clients' ids.

    The deliveries are numbered in the order of the clients, and leased in this order too.
    """
    ids = [create_client(store, owner, name) for name in names]
    create_mailing(store, owner, **more)
    open_due(store)
    delivery = Delivery.__table__

    def step(db: Connection) -> None:
        while not opening.create_deliveries(db, 1, 1):
            pass
        for number, client_id in enumerate(reversed(ids)):
            due_at = NOW - number * timedelta(microseconds=1)
            db.execute(update(delivery).where(delivery.c.client_id == client_id).values(next_try_at=due_at))

    write(store, step)
    return ids


def claim(
    store: Store,
    run_id: int = 1,
    *,
    now: datetime = NOW,
    due_by: datetime | None = None,
    limit: int = 500,
    occurrence_id: int = 1,
) -> list[ClaimedDelivery]:
    """Lease deliveries."""
    return write(store, lambda db: queue.lease(db, occurrence_id, run_id, now, due_by or now, limit))


def record_intents(store: Store, run_id: int, *claims: ClaimedDelivery, now: datetime = NOW) -> set[int]:
    """Record intents. Return the ids of the deliveries that may be sent."""
    return {delivery_id for delivery_id, _ in intended_claims(store, run_id, *claims, now=now)}


def intended_claims(store: Store, run_id: int, *claims: ClaimedDelivery, now: datetime = NOW) -> set[tuple[int, int]]:
    """Record intents. Return the keys of the claims that may be sent."""
    return write(store, lambda db: ledger.record_intents(driver_of(db), run_id, claims, now))


def make_attempt(claimed: ClaimedDelivery, outcome: Outcome, *, now: datetime = NOW, **more: Any) -> AttemptRecord:
    """Return an attempt with the usual reply for its outcome, and the time of the next try if there is one."""
    code, enhanced, reply = REPLIES[outcome]
    next_tries = {Outcome.DEFERRED: now + 5 * MINUTE, Outcome.UNKNOWN: now + 15 * MINUTE, Outcome.GIVEN_BACK: now}
    record = AttemptRecord(claimed, now, now, outcome, "dot", code, enhanced, reply, RELAY, next_tries.get(outcome))
    return record._replace(**more)


def record_attempts(store: Store, run_id: int, *records: AttemptRecord, folds: bool = True) -> None:
    """Record attempts and, with `folds`, what they change in the deliveries' rows."""

    def step(db: Connection) -> None:
        ledger.record_attempts(db, run_id, records)
        if folds:
            queue.fold(db, sql.id_list([record.claimed.id for record in records]))

    write(store, step)


def send(store: Store, run_id: int, outcome: Outcome, *claims: ClaimedDelivery, **more: Any) -> None:
    """Record an intent and an attempt for each claim."""
    assert record_intents(store, run_id, *claims, now=more.get("now", NOW)) == {claimed.id for claimed in claims}
    record_attempts(store, run_id, *(make_attempt(claimed, outcome, **more) for claimed in claims))


def give_back(store: Store, *claims: ClaimedDelivery) -> None:
    write(store, lambda db: queue.give_back(db, claims))


def close_leases(store: Store, run_id: int = 1) -> None:
    write(store, lambda db: queue.close_leases(db, run_id))


def rescue(store: Store, run_id: int, now: datetime = NOW, resend_after: timedelta | None = 15 * MINUTE) -> int:
    return write(store, lambda db: queue.rescue(db, run_id, now, resend_after, RELAY))


def sweep(store: Store, now: datetime = NOW) -> None:
    write(store, lambda db: sweeping.sweep(db, now))


def due_occurrences(store: Store, now: datetime = NOW, mailing_id: int | None = None) -> list[int]:
    return write(store, lambda db: queue.due_occurrences(db, now, mailing_id))


# What the steps leave in the store


def rows(store: Store, table: type[Row]) -> list[Row]:
    """Return all rows of a table in the order of their keys."""
    with store.read() as db:
        order = table.__table__.primary_key.columns.values()
        return list(db.execute(select(table).order_by(*order)).scalars())


def get_row(store: Store, table: type[Row], row_id: int) -> Row:
    with store.read() as db:
        return db.get_one(table, row_id)


def delivery_states(store: Store) -> dict[str, DeliveryState]:
    """Return the present state of each delivery, by the name in its address."""
    query = select(Delivery.__table__.c.address, current_state()).order_by(Delivery.__table__.c.id)
    with store.read() as db:
        return {address.partition("@")[0]: DeliveryState(state) for address, state in db.execute(query)}


def delivery_state(store: Store, delivery_id: int = 1) -> DeliveryState:
    """Return the present state of a delivery."""
    with store.read() as db:
        return DeliveryState(db.scalar(select(current_state()).where(Delivery.__table__.c.id == delivery_id)) or "")


def states_and_attempts(store: Store) -> list[tuple[DeliveryState, int]]:
    """Return the present state and number of attempts of each delivery."""
    query = select(current_state(), current_attempts()).select_from(Delivery).order_by(Delivery.__table__.c.id)
    with store.read() as db:
        return [(DeliveryState(state), number) for state, number in db.execute(query)]


def occurrence_state(store: Store, occurrence_id: int = 1) -> OccurrenceState:
    return get_row(store, Occurrence, occurrence_id).state


def status(store: Store, mailing_id: int = 1) -> MailingStatus:
    return get_row(store, Mailing, mailing_id).status


def attempt_outcomes(store: Store, delivery_id: int = 1) -> list[tuple[int, Outcome]]:
    """Return number and outcome of each attempt at a delivery."""
    return [(attempt.number, attempt.outcome) for attempt in rows(store, Attempt) if attempt.delivery_id == delivery_id]


def count_rows(store: Store, table: type[Table]) -> int:
    with store.read() as db:
        return int(db.execute(select(func.count()).select_from(table)).scalar_one())
