"""Test that nothing is sent to an address once its suppression is committed, while a run sends."""

import random

import pytest
from sqlalchemy import select
from support.sending import create_mailing, start_run, wait_for_exit, wait_until
from support.servers import LimitingRelay

from skychimp.models import EVERYBODY, Delivery, DeliveryState, SuppressionSource
from skychimp.permissions import Actor
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.conditions import current_state
from skychimp.store.database import Store

CLIENTS, SUPPRESSED, CONNECTIONS = 300, 10, 4
MANY = 100
BEGUN = (DeliveryState.SENDING, DeliveryState.SENT)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [3, pytest.param(MANY, marks=pytest.mark.slow)])
def test_no_intent_is_committed_after_a_suppression(store: Store, ada: Actor, rounds: int) -> None:
    """Each suppression sees in its own transaction whether an email has begun. If not, it must never arrive."""
    in_time = 0
    with LimitingRelay() as relay:
        for number in range(rounds):
            addresses = [f"client{number}-{each}@example.org" for each in range(CLIENTS)]
            create_mailing(store, ada, addresses)
            already = len(relay.accepted)
            run = start_run(store, relay.port, smtp__connections=CONNECTIONS)
            wait_until(lambda: len(relay.accepted) > already, run)  # noqa: B023
            states = {each: suppress(store, each, number) for each in random.sample(addresses, SUPPRESSED)}
            assert wait_for_exit(run)[0] == 0
            cancelled = [address for address, state in states.items() if state not in BEGUN]
            assert {states[address] for address in cancelled} <= {DeliveryState.CANCELLED}
            assert not relay.recipients.keys() & set(cancelled)
            assert set(addresses) - set(cancelled) <= relay.recipients.keys()
            in_time += len(cancelled)
    if rounds == MANY:
        assert 0 < in_time < rounds * SUPPRESSED, "some suppressions came in time, and some did not"
    assert set(relay.recipients.values()) == {1}


def suppress(store: Store, address: str, number: int) -> DeliveryState:
    """Suppress an address, and return the state of its delivery then."""
    new, holds = [NewSuppression(address, address, "unsubscribed")], Holds((EVERYBODY, 1)[number % 2])

    with store.write() as db:
        suppressions.add(db.connection(), new, holds, SuppressionSource.COMMAND, store.now())
        delivery = Delivery.__table__
        state = db.scalar(select(current_state()).where(delivery.c.address_key == address))
        # While the occurrence is opening, the client may have no delivery yet, and then never gets one.
        return DeliveryState.CANCELLED if state is None else DeliveryState(state)
