"""A mailing whose addresses a mail server refuses is held while it is sent, once, from delivery.bounce_rate on."""

from pathlib import Path

import pytest
from support.sending import create_mailing, make_addresses, make_settings, rows, send, state_counts
from support.servers import GREETING, CountingReceiver, ScriptedServer, accept_mail

from skychimp.models import Mailing, ReturnCount
from skychimp.permissions import Actor
from skychimp.services.mailings import mailings
from skychimp.store.database import Store

CLIENTS = 80


def refuse_every_fourth(command: str, address: str) -> bytes | None:
    is_refused = command == "RCPT" and sum(address.encode()) % 4 == 0
    return b"550 5.1.1 no such user\r\n" if is_refused else None


@pytest.mark.parametrize(("rate", "is_held"), [(0.1, True), (0.6, False), (1, False)])
def test_mailing_is_held_while_it_is_sent(store: Store, ada: Actor, tmp_path: Path, rate: float, is_held: bool) -> None:
    create_mailing(store, ada, make_addresses(CLIENTS))
    with ScriptedServer((GREETING, accept_mail(refuse_every_fourth))) as server:
        stats = send(store, make_settings(server.port, delivery__bounce_rate=rate, delivery__disable_failure_rate=1))
    (held,) = {mailing.held_reason for mailing in rows(store, Mailing)}
    counted = sum(row.refused for row in rows(store, ReturnCount))
    assert counted == stats.failed > 10
    assert (held is not None) == is_held == (stats.queued > 0)
    if not is_held or held is None:
        return

    assert "of its emails bounced" in held
    assert "the limit is 10 %" in held
    mailings.enable(store, ada, 1)
    with CountingReceiver(tmp_path / "arrived") as receiver:
        again = send(store, make_settings(receiver.port, delivery__bounce_rate=rate))
    assert (again.sent, again.queued) == (stats.queued, 0)
    assert state_counts(store) == {"sent": CLIENTS - stats.failed, "failed": stats.failed}
    assert mailings.show(store, ada, 1).held is None
