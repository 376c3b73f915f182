"""Test when a run has to look again for what is due."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select
from support import queue_steps
from support.queue_steps import DAY, MINUTE, NOW, claim, create_mailing, create_run, open_mailing, update_row, write

from skychimp.delivery.sending import due_work
from skychimp.models import Delivery, DeliveryState, Every, Mailing, Occurrence, OccurrenceState, Outcome
from skychimp.permissions import Actor
from skychimp.store import holds
from skychimp.store.database import Store

Change = Callable[[Store, Actor], object]

LATEST = NOW + 30 * DAY
LATER = NOW + 7 * MINUTE
END = NOW + 3 * DAY


def deferred(store: Store, ada: Actor) -> None:
    """Open a mailing to one client, whose server asks to try later."""
    open_mailing(store, ada, "bob")
    queue_steps.send(store, create_run(store, ended_at=NOW), Outcome.DEFERRED, *claim(store))
    queue_steps.close_leases(store)
    update_row(store, Delivery, 1, next_try_at=LATER)


def unknown(store: Store, ada: Actor) -> None:
    deferred(store, ada)
    update_row(store, Delivery, 1, state=DeliveryState.UNKNOWN)


def leased(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob")
    create_run(store)
    claim(store)


def opening(store: Store, ada: Actor) -> None:
    deferred(store, ada)
    update_row(store, Occurrence, 1, state=OccurrenceState.OPENING)


def behind(store: Store, _ada: Actor) -> None:
    create_run(store, heartbeat_at=NOW + DAY, ended_at=NOW)


def scheduled(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, start=LATER)


def then(change: Change, table: type[Mailing | Occurrence], **values: object) -> Change:
    """Return a change, and then one of the first row of a table."""

    def both(store: Store, ada: Actor) -> None:
        change(store, ada)
        update_row(store, table, 1, **values)

    return both


def on_hold(store: Store, ada: Actor) -> None:
    deferred(store, ada)
    write(store, lambda db: holds.hold(db, holds.AFTER_RESTORE, NOW, blind=True))


@pytest.mark.parametrize(
    ("change", "due_at"),
    [
        pytest.param(lambda store, ada: None, LATEST, id="nothing"),
        pytest.param(scheduled, LATER, id="a mailing"),
        pytest.param(then(scheduled, Mailing, held_at=NOW), LATEST, id="a held mailing"),
        pytest.param(then(scheduled, Mailing, disabled_at=NOW), LATEST, id="a disabled mailing"),
        pytest.param(lambda store, ada: open_mailing(store, ada, "bob"), NOW, id="an email to send"),
        pytest.param(deferred, LATER, id="a deferred email"),
        pytest.param(then(deferred, Mailing, held_at=NOW), LATEST, id="a deferred email of a held mailing"),
        pytest.param(then(deferred, Mailing, held_at=NOW, end_at=END), END, id="the end of a held mailing"),
        pytest.param(then(deferred, Mailing, end_at=NOW + MINUTE), NOW + MINUTE, id="the end of a mailing"),
        pytest.param(unknown, LATER, id="an unknown email to send again"),
        pytest.param(then(unknown, Mailing, held_at=NOW), LATER, id="an unknown email of a held mailing"),
        pytest.param(opening, NOW, id="an occurrence that is being opened"),
        pytest.param(then(opening, Mailing, disabled_at=NOW), LATEST, id="one of a disabled mailing"),
        pytest.param(on_hold, LATEST, id="a store on hold"),
        pytest.param(leased, NOW, id="a run that sends"),
        pytest.param(behind, NOW, id="a clock that is behind"),
    ],
)
def test_nothing_is_due_before_the_next_due_time(
    store: Store, ada: Actor, change: Change, due_at: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_work, "LONGEST_QUIET", LATEST - NOW)
    change(store, ada)
    assert write(store, lambda db: due_work.next_due_at(db, NOW)) == due_at
    if due_at > NOW:
        assert not finds_something(store, due_at - timedelta(microseconds=1))
    if NOW < due_at < LATEST:
        assert finds_something(store, due_at)


def finds_something(store: Store, now: datetime) -> bool:
    """Return whether a poll changes something, or has something to send."""
    before = read_everything(store)
    queue_steps.sweep(store, now)
    queue_steps.open_due(store, now)
    return bool(queue_steps.due_occurrences(store, now)) or read_everything(store) != before


def read_everything(store: Store) -> list[list[tuple[object, ...]]]:
    tables = (Mailing.__table__, Occurrence.__table__, Delivery.__table__)
    with store.read() as db:
        return [[tuple(row) for row in db.execute(select(table).order_by(table.c.id))] for table in tables]


def test_store_is_looked_at_each_minute_even_if_nothing_is_due(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, every=Every.DAY, start=NOW + DAY)
    assert write(store, lambda db: due_work.next_due_at(db, NOW)) == NOW + MINUTE
