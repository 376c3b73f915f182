"""Several users share one store: they work at once, and one is blocked while emails are sent."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import daemons
from support.command import PROGRAM, Home
from support.contents import contains
from support.daemons import Daemon
from support.sending import create_mailing, deliveries, state_counts
from support.servers import CountingReceiver

from skychimp.models import DeliveryState
from skychimp.permissions import Actor
from skychimp.services.users import privacy, users
from skychimp.store.database import Store

SCRIPT = """
set -eu
for n in 1 2; do
    skychimp clients create --email "$1-$n@example.org" --tag "$1" --json >>created
    id=$(skychimp messages create --subject "$1 $n" --body 'Dear {{ client.email }}' --json | sed -n 's/ *"id": //p')
    skychimp mailings create --message "${id%,}" --start now --every day --tag "$1" --json >>created
done
"""


@pytest.mark.slow
def test_two_users_at_once_see_only_their_own(home_of: Callable[[Actor], Home], ada: Actor, bob: Actor) -> None:
    homes = {name: home_of(actor) for name, actor in (("ada", ada), ("bob", bob))}
    path = f"{PROGRAM.parent}:/usr/bin:/bin"
    scripts = [
        subprocess.Popen(
            ["sh", "-c", SCRIPT, "sh", name],
            cwd=home.folder,
            env=home.environ | {"PATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, home in homes.items()
    ]
    for script in scripts:
        _, stderr = script.communicate(timeout=100)
        assert script.returncode == 0, stderr

    for name, home in homes.items():
        clients, messages, mailings = (
            home.call(noun, "list", "--json").json for noun in ("clients", "messages", "mailings")
        )
        assert [client["email"] for client in clients] == [f"{name}-{n}@example.org" for n in (1, 2)]
        assert [message["subject"] for message in messages] == [f"{name} {n}" for n in (1, 2)]
        assert [(one["subject"], one["owner"]) for one in mailings] == [
            (f"{name} {n}", f"{name}@skychimp.test") for n in (1, 2)
        ]
        sent = [attempt for one in mailings for attempt in home.call("mailings", "log", str(one["id"]), "--json").json]
        assert [attempt["email"] for attempt in sent] == [
            f"{name}-{n}@example.org" for last in (1, 2) for n in range(1, last + 1)
        ]


def test_daemon_stops_a_blocked_users_mailing_until_unblocked(
    store: Store, ada: Actor, bob: Actor, manager: Actor, tmp_path: Path
) -> None:
    def in_state(*states: DeliveryState) -> set[int | None]:
        return {
            delivery.id
            for delivery in deliveries(store)
            if delivery.state in states and delivery.address.startswith("ada")
        }

    with CountingReceiver(tmp_path / "arrived") as receiver:
        create_mailing(store, ada, [f"ada{number}@example.org" for number in range(60)])
        config = daemons.write_config(tmp_path, receiver.port, 'rate = "30/s"')
        with Daemon(store, config, daemons.clean_environ()) as daemon:
            daemon.wait_for(lambda: receiver.accepted_count >= 5)
            users.block(store, manager, ada.email)
            sent_before = in_state(DeliveryState.SENT, DeliveryState.SENDING)
            create_mailing(store, bob, ["bob@example.org"])
            daemon.wait_for(lambda: any(one.recipient == "bob@example.org" for one in receiver.received_emails()))
            daemon.wait_for(lambda: in_state(DeliveryState.SENDING, DeliveryState.CLAIMED) == set())
            assert in_state(DeliveryState.SENT) == sent_before
            assert len(sent_before) < 60
            users.unblock(store, manager, ada.email)
            daemon.wait_for(lambda: len(in_state(DeliveryState.SENT)) == 60)
            assert daemon.stop() == 0
        assert set(receiver.email_counts().values()) == {1}
        assert receiver.accepted_count == 61


def test_person_is_erased_while_the_daemon_sends(store: Store, ada: Actor, tmp_path: Path) -> None:
    erased_address = "ada59@example.org"
    with CountingReceiver(tmp_path / "arrived") as receiver:
        create_mailing(store, ada, [f"ada{number}@example.org" for number in range(60)])
        config = daemons.write_config(tmp_path, receiver.port, 'rate = "30/s"')
        with Daemon(store, config, daemons.clean_environ()) as daemon:
            daemon.wait_for(lambda: receiver.accepted_count >= 5)
            assert privacy.forget(store, ada, erased_address).cancelled == 1
            daemon.wait_for(lambda: state_counts(store) == {DeliveryState.SENT: 59, DeliveryState.CANCELLED: 1})
            assert daemon.stop() == 0
        assert receiver.accepted_count == len(receiver.email_counts()) == 59
        assert erased_address not in {arrival.recipient for arrival in receiver.received_emails()}
    assert not contains(store, erased_address)
