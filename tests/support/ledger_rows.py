"""Rows of the ledger as a run would have made them, for tests of what reads them."""

import re
from datetime import UTC, datetime, timedelta

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
    """A mailing that has nothing more to come, with a message of its own."""
    message_id = _kept(
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
    return _kept(store, row)


def occurrence(store: Store, mailing_id: int, due_at: datetime = NINE, deadline: datetime | None = None) -> int:
    """An open occurrence."""
    row = Occurrence(
        mailing_id=mailing_id,
        due_local=due_at.replace(tzinfo=None).isoformat(),
        due_at=due_at,
        opened_at=due_at,
        deadline=deadline or datetime.now(UTC) + timedelta(days=1),
        state=OccurrenceState.OPEN,
        format=Format.TEXT,
    )
    return _kept(store, row)


def delivery(
    store: Store, occurrence_id: int, address: str, state: DeliveryState, next_try_at: datetime | None = NINE
) -> int:
    """A delivery to an address, in a state; without attempts, whatever the state says."""
    row = Delivery(
        occurrence_id=occurrence_id,
        client_id=1,
        address=address,
        address_key=address,
        state=state,
        next_try_at=next_try_at,
    )
    return _kept(store, row)


def attempt(store: Store, delivery_id: int, outcome: Outcome, reply: str, at: datetime = NINE) -> int:
    """The next attempt at a delivery."""
    with store.write() as db:
        tried = db.get_one(Delivery, delivery_id)
        tried.attempts += 1
        number = tried.attempts
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
    return _kept(store, row)


def _kept(store: Store, row: Table) -> int:
    with store.write() as db:
        db.add(row)
        db.flush()
        return int(row.id)  # type: ignore[attr-defined]
