"""Create rows of the ledger as a run would have written them, for tests of the code that reads them."""

import re
from datetime import UTC, datetime

from skychimp.models import (
    Attempt,
    Delivery,
    DeliveryState,
    Every,
    Format,
    Mailing,
    MailingStatus,
    Message,
    Occurrence,
    OccurrenceState,
    Outcome,
    Table,
)
from skychimp.permissions import Actor
from skychimp.store.database import Store

NINE = datetime(2026, 1, 1, 9, tzinfo=UTC)


def mailing(store: Store, owner: Actor) -> int:
    """Create a mailing without further due times, with its own message. Return its id."""
    message_id = _insert(
        store,
        Message(owner_id=owner.user_id, subject="Hello", body="", format=Format.TEXT, created_at=NINE, updated_at=NINE),
    )
    row = Mailing(
        owner_id=owner.user_id,
        message_id=message_id,
        start_local="2026-01-01T09:00:00",
        timezone="UTC",
        start_at=NINE,
        created_at=NINE,
        every=Every.DAY,
        status=MailingStatus.RUNNING,
    )
    return _insert(store, row)


def occurrence(store: Store, mailing_id: int, due_at: datetime = NINE) -> int:
    """Create an open occurrence, and return its id."""
    row = Occurrence(
        mailing_id=mailing_id,
        due_local=due_at.replace(tzinfo=None).isoformat(),
        due_at=due_at,
        opened_at=due_at,
        state=OccurrenceState.OPEN,
        format=Format.TEXT,
    )
    return _insert(store, row)


def delivery(
    store: Store, occurrence_id: int, address: str, state: DeliveryState, next_try_at: datetime | None = NINE
) -> int:
    """Create a delivery in a state, without attempts. Return its id."""
    row = Delivery(
        occurrence_id=occurrence_id,
        client_id=1,
        address=address,
        address_key=address,
        state=state,
        next_try_at=next_try_at,
    )
    return _insert(store, row)


def attempt(store: Store, delivery_id: int, outcome: Outcome, reply: str, at: datetime = NINE) -> int:
    """Create the next attempt at a delivery, and return its id."""
    with store.write() as db:
        delivery = db.get_one(Delivery, delivery_id)
        delivery.attempts += 1
        number = delivery.attempts
    row = Attempt(
        delivery_id=delivery_id,
        number=number,
        started_at=at,
        finished_at=at,
        outcome=outcome,
        phase="dot",
        code=int(reply[:3]) if reply[:3].isdigit() else None,
        enhanced=enhanced[1] if (enhanced := re.match(r"\d{3} (\d\.\d\.\d) ", reply)) else "",
        reply=reply,
        relay="relay.example:25",
    )
    return _insert(store, row)


def _insert(store: Store, row: Table) -> int:
    with store.write() as db:
        db.add(row)
        db.flush()
        return int(row.id)  # type: ignore[attr-defined]
