"""The steps of queue and ledger, each in a transaction of its own, as a run takes them; and what they leave behind.

Mailings here are due at NOW; runs are numbers, and the first one claims by token 1, if nothing else is said.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar

from sqlalchemy import Connection, func, insert, select, text, update

from skychimp.delivery.scheduling import planner
from skychimp.models import (
    UNFINISHED_SQL,
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
from skychimp.store import ledger, queue
from skychimp.store.database import Store
from skychimp.store.ledger import AttemptRecord
from skychimp.store.queue import ClaimedDelivery

T = TypeVar("T")
Row = TypeVar("Row", bound=Table)

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
GIVE_UP_AFTER = 3 * DAY
RELAY = "relay.example:25"
REPLIES = {
    Outcome.SENT: (250, "2.0.0", "250 2.0.0 taken"),
    Outcome.DEFERRED: (450, "4.2.0", "450 4.2.0 later"),
    Outcome.FAILED: (550, "5.7.1", "550 5.7.1 no"),
    Outcome.UNKNOWN: (None, "", "closed after the dot"),
    Outcome.GIVEN_BACK: (421, "4.7.0", "421 4.7.0 too many"),
}


def write(store: Store, step: Callable[[Connection], T]) -> T:
    """One step in a transaction."""
    with store.write() as db:
        return step(db.connection())


# People, and what they set up


def client(store: Store, owner: Actor, name: str, /, *, tags: Sequence[str] = (), **more: object) -> int:
    """A client, `name@example.org`; its id."""
    email = f"{name}@example.org"
    values = {"owner_id": owner.user_id, "email": email, "address_key": email, "name": name.title(), "comment": ""}
    return write(store, lambda connection: _client(connection, values | {"created_at": NOW} | more, tags))


def _client(db: Connection, values: dict[str, object], tags: Sequence[str]) -> int:
    client_id: int = db.execute(insert(Client).values(values).returning(Client.__table__.c.id)).scalar_one()
    for tag in tags:
        db.execute(insert(ClientTag).values(client_id=client_id, tag=tag))
    return client_id


def mailing(
    store: Store,
    owner: Actor,
    *,
    client_ids: Sequence[int] = (),
    tags: Sequence[str] = (),
    every: Every = Every.ONCE,
    start: datetime = NOW,
    **more: object,
) -> int:
    """A mailing that is due at its start: to everybody, if nobody is named; its id."""
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


def change(store: Store, table: type[Table], row_id: int, **values: object) -> None:
    """Change a row behind everybody's back."""
    write(
        store, lambda connection: connection.execute(update(table).where(table.__table__.c.id == row_id).values(values))
    )


def delete_client(store: Store, client_id: int) -> None:
    """As the service does it: what waits is cancelled, and the client is gone."""
    gone = one(store, Client, client_id)
    unfinished = select(Occurrence.__table__.c.id).where(text(UNFINISHED_SQL))

    def step(db: Connection) -> None:
        queue.cancel(db, unfinished, gone.address_key)
        db.execute(Client.__table__.delete().where(Client.__table__.c.id == client_id))

    write(store, step)


def delete_mailing(store: Store, mailing_id: int, now: datetime = NOW) -> None:
    """As the service does it."""
    change(store, Mailing, mailing_id, deleted_at=now, message_id=None, next_at=None)
    sweep(store, now)


# What a run does


def run(store: Store, **more: object) -> int:
    """A run that is entered without a lock: for whoever looks, its process is dead."""
    values = {"host": "here", "pid": 1, "started_at": NOW, "heartbeat_at": NOW} | dict.fromkeys(
        ("sent", "deferred", "failed", "unknown"), 0
    )
    chosen = insert(Run).values(values | more).returning(Run.__table__.c.id)
    return write(store, lambda connection: int(connection.execute(chosen).scalar_one()))


def open_due(store: Store, now: datetime = NOW, give_up_after: timedelta = GIVE_UP_AFTER) -> int:
    """As every run begins; how many occurrences were opened."""
    who = "ada@skychimp.test"
    return write(
        store,
        lambda db: planner.open_due(db, now, sender=f"Ada <{who}>", return_path=who, give_up_after=give_up_after),
    )


def fill(store: Store, occurrence_id: int = 1, batch: int = queue.OPENING_BATCH) -> None:
    while not write(store, lambda db: queue.fill(db, occurrence_id, batch)):
        pass


def opened(store: Store, owner: Actor, *names: str, **how: Any) -> list[int]:
    """A mailing to these clients, opened and filled; the clients' ids."""
    ids = [client(store, owner, name) for name in names]
    mailing(store, owner, **how)
    open_due(store)
    fill(store)
    return ids


_tokens = count(1000)


def claim(
    store: Store,
    run_id: int = 1,
    *,
    now: datetime = NOW,
    due_by: datetime | None = None,
    limit: int = 500,
    occurrence_id: int = 1,
    token: int | None = None,
) -> list[ClaimedDelivery]:
    """As `queue.claim`, with a new token if none is given."""
    chosen = next(_tokens) if token is None else token
    return write(store, lambda c: queue.claim(c, occurrence_id, run_id, chosen, now, due_by or now, limit))


def intend(store: Store, run_id: int, *claims: ClaimedDelivery) -> set[int]:
    return write(store, lambda db: ledger.intend(db, run_id, claims))


def entry(claimed: ClaimedDelivery, outcome: Outcome, *, now: datetime = NOW, **more: Any) -> AttemptRecord:
    """What came of an attempt: the usual words, and a next try where there is one, in five minutes."""
    code, enhanced, reply = REPLIES[outcome]
    waits = {Outcome.DEFERRED: now + 5 * MINUTE, Outcome.UNKNOWN: now + 15 * MINUTE, Outcome.GIVEN_BACK: now}
    usual = AttemptRecord(claimed, now, now, outcome, "dot", code, enhanced, reply, RELAY, waits.get(outcome))
    return usual._replace(**more)


def record(store: Store, run_id: int, *entries: AttemptRecord) -> None:
    write(store, lambda db: ledger.record(db, run_id, entries))


def write_at_once(
    store: Store, run_id: int, entries: Sequence[AttemptRecord] = (), intents: Sequence[ClaimedDelivery] = ()
) -> set[int]:
    """As a run's scribe writes the usual group: letters that were sent, and intents. The ids that may be sent now."""
    written, changes = ledger.rows_at_once(entries, intents)
    orders = ledger.orders(store, run_id)
    with store.connect_at_once() as db:
        driver: Any = db.connection.dbapi_connection
        driver.executescript(orders["script"])
        before = driver.total_changes
        db.exec_driver_sql(orders["statement"], (*orders["parameters"], written))
        if driver.total_changes - before == changes:
            return {claimed.id for claimed in intents}

    def what_is_left(db: Connection) -> set[int]:
        ledger.record_late(db, run_id, entries)
        return ledger.intend(db, run_id, intents)

    return write(store, what_is_left)


def send(store: Store, run_id: int, outcome: Outcome, *claims: ClaimedDelivery, **more: Any) -> None:
    """An attempt at each, to its outcome."""
    assert intend(store, run_id, *claims) == {claimed.id for claimed in claims}
    record(store, run_id, *(entry(claimed, outcome, **more) for claimed in claims))


def release(store: Store, run_id: int, *claims: ClaimedDelivery) -> int:
    ids = [claimed.id for claimed in claims] or None
    return write(store, lambda db: queue.release(db, run_id, ids))


def rescue(store: Store, run_id: int, now: datetime = NOW, resend_after: timedelta | None = 15 * MINUTE) -> int:
    return write(store, lambda db: queue.rescue(db, run_id, now, resend_after, RELAY))


def sweep(store: Store, now: datetime = NOW) -> None:
    write(store, lambda db: queue.sweep(db, now))


def due(store: Store, now: datetime = NOW, mailing_id: int | None = None) -> list[int]:
    return write(store, lambda db: queue.due(db, now, mailing_id))


# What they leave behind


def rows(store: Store, table: type[Row]) -> list[Row]:
    """All rows of a table, in order."""
    with store.read() as db:
        order = table.__table__.primary_key.columns.values()
        return list(db.execute(select(table).order_by(*order)).scalars())


def one(store: Store, table: type[Row], row_id: int) -> Row:
    with store.read() as db:
        return db.get_one(table, row_id)


def states(store: Store) -> dict[str, DeliveryState]:
    """The state of each delivery, by the name in its address."""
    return {found.address.partition("@")[0]: found.state for found in rows(store, Delivery)}


def occurrence_state(store: Store, occurrence_id: int = 1) -> OccurrenceState:
    return one(store, Occurrence, occurrence_id).state


def status(store: Store, mailing_id: int = 1) -> MailingStatus:
    return one(store, Mailing, mailing_id).status


def tried(store: Store, delivery_id: int = 1) -> list[tuple[int, Outcome]]:
    """Number and outcome of each attempt at a delivery."""
    return [(found.number, found.outcome) for found in rows(store, Attempt) if found.delivery_id == delivery_id]


def number_of(store: Store, table: type[Table]) -> int:
    with store.read() as db:
        return int(db.execute(select(func.count()).select_from(table)).scalar_one())
