"""Send mailings with a canary through real servers: who gets it when, and what a run leaves."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from support.sending import (
    create_mailing,
    make_addresses,
    make_settings,
    rows,
    send,
    sent_addresses,
    state_counts,
)
from support.servers import GREETING, CountingReceiver, ScriptedServer, accept_mail

from skychimp.delivery.sending.dispatcher import Dispatcher
from skychimp.delivery.sending.event_loop import run_in_event_loop
from skychimp.delivery.sending.runner import registered_run, with_sender
from skychimp.models import Mailing, Occurrence
from skychimp.permissions import Actor
from skychimp.services.mailings import mailings
from skychimp.services.messages import messages
from skychimp.store.database import Store
from skychimp.transport import make_transport

CLIENTS = 20
OVER = timedelta(minutes=31)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[CountingReceiver]:
    with CountingReceiver(tmp_path / "arrived") as running:
        yield running


def create_canary(store: Store, ada: Actor, size: str = "5") -> None:
    """Create mailing 1 to 20 clients with a canary."""
    create_mailing(store, ada, make_addresses(CLIENTS))
    with store.write() as db:
        db.execute(update(Mailing.__table__).values(canary=size, canary_wait_s=1800))


def test_first_run_sends_the_canary_and_a_later_one_the_rest(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    create_canary(store, ada)
    settings = make_settings(receiver.port)

    first = send(store, settings)
    assert (first.sent, first.queued, first.waiting) == (5, 0, 15)
    early = send(store, settings, later=timedelta(minutes=29))
    assert (early.sent, early.queued, early.waiting) == (0, 0, 15)
    second = send(store, settings, later=OVER)
    assert (second.sent, second.queued, second.waiting) == (15, 0, 0)
    assert state_counts(store) == {"sent": CLIENTS}


def test_bad_canary_holds_the_mailing_until_the_message_is_corrected(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    create_canary(store, ada)
    refusals = [b"550 5.1.1 no such user\r\n"] * 2

    def refuse_two(command: str, _address: str) -> bytes | None:
        return refusals.pop() if command == "RCPT" and refusals else None

    with ScriptedServer((GREETING, accept_mail(refuse_two))) as server:
        stats = send(store, make_settings(server.port))
    assert (stats.sent, stats.failed, stats.waiting) == (3, 2, 15)

    held = send(store, make_settings(receiver.port), later=OVER)
    assert (held.sent, held.queued) == (0, 15)  # so that it exits with 75
    assert mailings.show(store, ada, 1).held == "2 of 5 canary emails failed"

    messages.change(store, ada, 1, body="Corrected", also_open=True)
    mailings.enable(store, ada, 1)
    assert send(store, make_settings(receiver.port), later=OVER).sent == 15
    assert state_counts(store) == {"sent": 18, "failed": 2}


def test_canary_goes_first_although_the_server_was_away_until_the_wait_was_over(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    create_canary(store, ada)
    with ScriptedServer() as closed:
        port = closed.port
    away = send(store, make_settings(port))
    assert (away.sent, away.queued, away.waiting) == (0, 5, 15)

    settings = make_settings(receiver.port)
    first = send(store, settings, later=OVER)
    assert (first.sent, first.queued, first.waiting) == (5, 15, 0)  # due, so that it exits with 75
    assert send(store, settings, later=OVER).sent == 15


def test_daemon_sends_the_rest_when_the_wait_is_over(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    create_canary(store, ada)
    settings = with_sender(make_settings(receiver.port))
    ahead = timedelta()

    def now() -> datetime:
        return datetime.now(UTC) + ahead

    async def poll() -> None:
        nonlocal ahead
        await dispatcher.poll()
        while dispatcher.stats.sent < 5:
            await dispatcher.sleep(0.01)
        await dispatcher.poll()
        assert dispatcher.stats.sent == 5
        ahead = OVER
        while dispatcher.stats.sent < CLIENTS:
            await dispatcher.poll()
            await dispatcher.sleep(0.01)

    with registered_run(store, now) as lock:
        transport = make_transport(settings, store.path)
        dispatcher = Dispatcher(store, settings, transport, lock, now=now, keeps_polling=True)
        run_in_event_loop(dispatcher.send(poll))

    assert len(sent_addresses(store)) == CLIENTS
    assert [occurrence.canary_until for occurrence in rows(store, Occurrence)] == [None]
