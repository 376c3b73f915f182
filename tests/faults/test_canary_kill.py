"""Kill runs of a mailing with a canary at random moments: nothing is lost, and nobody gets it before the canary."""

import random
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import update
from support.harness import SendingHarness, with_preamble
from support.sending import create_mailing, make_addresses, rows, wait_for_exit
from support.servers import CountingReceiver

from skychimp.models import Client, Mailing, MailingStatus, Occurrence
from skychimp.permissions import Actor
from skychimp.store.clients import audience
from skychimp.store.database import SQLITE, Store
from skychimp.store.occurrences import canary

CLIENTS, CANARY = 60, 20
SMALL_BATCHES = "from skychimp.store.occurrences import opening; opening.create_deliveries.__defaults__ = (7,)"


@pytest.mark.parametrize(
    "kills", [pytest.param(3, id="few"), pytest.param(25, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_killed_runs_of_a_canary_are_completed(
    store: Store, store_url: str, ada: Actor, tmp_path: Path, kills: int
) -> None:
    """Kill runs while they open, send the canary, judge it and send the rest, one second after the opening."""
    create_mailing(store, ada, make_addresses(CLIENTS))
    with store.write() as db:
        db.execute(update(Mailing.__table__).values(canary=str(CANARY), canary_wait_s=1))
    chance = random.Random(kills)
    url = None if store.dialect == SQLITE else store_url
    with CountingReceiver(tmp_path / "arrived") as receiver:
        harness = SendingHarness(store, receiver, url=url)
        slow_opening = with_preamble(SMALL_BATCHES)
        for _ in range(kills):
            run = harness.start(command=slow_opening)
            time.sleep(chance.uniform(0.3, 1.2))
            wait_for_exit(run, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while rows(store, Mailing)[0].status != MailingStatus.COMPLETED:
            assert time.monotonic() < deadline
            harness.run()
        [occurrence] = rows(store, Occurrence)
        with store.read() as session:
            connection = session.connection()
            chosen = audience.selection(connection, 1, occurrence.opened_at)
            first_ids = canary.sample(connection, chosen, str(CANARY), occurrence.due_at)
        first = {client.email for client in rows(store, Client) if client.id in first_ids}
        arrived = dict.fromkeys(email.recipient for email in receiver.received_emails())
        assert set(list(arrived)[:CANARY]) == first
        assert harness.find_faults(max_unknown=kills * harness.connections) == []
