"""Several people on one store: each with what is their own, at once, and one who is blocked while letters go out."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from support import daemons
from support.command import PROGRAM, Home
from support.daemons import Daemon
from support.sending import deliveries, mailing, states
from support.servers import CountingReceiver

from skychimp.models import DeliveryState
from skychimp.permissions import Actor
from skychimp.services.users import privacy, users
from skychimp.store.database import Store

SCRIPT = """
set -eu
for n in 1 2; do
    skychimp clients create --email "$1-$n@example.org" --tag "$1" --json >>made
    id=$(skychimp messages create --subject "$1 $n" --body 'Dear {{ client.email }}' --json | sed -n 's/ *"id": //p')
    skychimp mailings create --message "${id%,}" --start now --every day --tag "$1" --json >>made
done
skychimp clients list --json >clients
skychimp messages list --json >messages
skychimp mailings list --json >mailings
"""


def test_two_users_at_once_each_see_their_own(home_of: Callable[[Actor], Home], ada: Actor, bob: Actor) -> None:
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
        _, words = script.communicate(timeout=100)
        assert script.returncode == 0, words

    for name, home in homes.items():
        clients, messages, mailings = (
            json.loads((home.folder / noun).read_text()) for noun in ("clients", "messages", "mailings")
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


def test_a_daemon_stops_a_blocked_users_mailing_at_once_and_goes_on_after(
    store: Store, ada: Actor, bob: Actor, manager: Actor, tmp_path: Path
) -> None:
    def sent(*wanted: DeliveryState) -> set[int | None]:
        return {one.id for one in deliveries(store) if one.state in wanted and one.address.startswith("ada")}

    with CountingReceiver(tmp_path / "arrived") as receiver:
        mailing(store, ada, [f"ada{number}@example.org" for number in range(60)])
        config = daemons.config(tmp_path, receiver.port, 'rate = "30/s"')
        with Daemon(store, config, daemons.environ()) as daemon:
            daemon.wait_for(lambda: receiver.taken >= 5)
            users.block(store, manager, ada.email)
            gone = sent(DeliveryState.SENT, DeliveryState.SENDING)
            assert sent(DeliveryState.CLAIMED) == set()
            mailing(store, bob, ["bob@example.org"])
            daemon.wait_for(lambda: any(one.recipient == "bob@example.org" for one in receiver.arrivals()))
            daemon.wait_for(lambda: sent(DeliveryState.SENDING) == set())
            assert sent(DeliveryState.SENT) == gone
            assert len(gone) < 60
            users.unblock(store, manager, ada.email)
            daemon.wait_for(lambda: len(sent(DeliveryState.SENT)) == 60)
            assert daemon.stop() == 0
        assert set(receiver.arrived().values()) == {1}
        assert receiver.taken == 61


def test_a_person_is_forgotten_while_a_daemon_sends(store: Store, ada: Actor, tmp_path: Path) -> None:
    victim = "ada59@example.org"
    with CountingReceiver(tmp_path / "arrived") as receiver:
        mailing(store, ada, [f"ada{number}@example.org" for number in range(60)])
        config = daemons.config(tmp_path, receiver.port, 'rate = "30/s"')
        with Daemon(store, config, daemons.environ()) as daemon:
            daemon.wait_for(lambda: receiver.taken >= 5)
            assert privacy.forget(store, ada, victim).cancelled == 1
            daemon.wait_for(lambda: states(store) == {DeliveryState.SENT: 59, DeliveryState.CANCELLED: 1})
            assert daemon.stop() == 0
        assert receiver.taken == len(receiver.arrived()) == 59
        assert victim not in {arrival.recipient for arrival in receiver.arrivals()}
    for path in store.path.parent.glob(f"{store.path.name}*"):
        assert victim.encode() not in path.read_bytes()
