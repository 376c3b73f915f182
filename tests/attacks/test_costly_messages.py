"""A message that costs too much is refused, and one that is in the store already does not hold up the others."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import create_user
from sqlalchemy import insert, update
from support import daemons
from support.command import Home
from support.daemons import Daemon
from support.sending import attempts, create_mailing, make_settings, rows, send, state_counts
from support.servers import CountingReceiver

from skychimp.delivery.sending.outcomes import RunStats
from skychimp.models import Client, ClientTag, DeliveryState, Mailing, Message, Role
from skychimp.permissions import Actor
from skychimp.store.database import Store

BOMB = "{% for tag in client.tags %}{{ client.comment" + " | title | upper | lower | title" * 10 + " }}{% endfor %}"
"""The reported message: filters in a chain, over a long comment, in a loop over many tags."""
BAD_CLIENTS = [f"bad{number}@example.org" for number in range(300)]
GOOD_CLIENTS = [f"good{number}@example.org" for number in range(20)]


@pytest.fixture
def eve(store: Store) -> Actor:
    return create_user(store, "eve", Role.USER)


@pytest.fixture
def bad_and_good(store: Store, ada: Actor, eve: Actor) -> None:
    """Two due mailings: one of `eve` with the bomb, which was put into the store directly, and a good one of `ada`."""
    bad = create_mailing(store, eve, BAD_CLIENTS, body="x")
    create_mailing(store, ada, GOOD_CLIENTS)
    with store.write() as db:
        message_id = db.get_one(Mailing, bad).message_id
        db.execute(update(Message).where(Message.__table__.c.id == message_id).values(body=BOMB))
        db.execute(update(Client).where(Client.__table__.c.owner_id == eve.user_id).values(comment="😀 a" * 3_333))
        ids = [client.id for client in rows(store, Client) if client.owner_id == eve.user_id]
        tags = [{"client_id": client_id, "tag": f"tag {number}"} for client_id in ids for number in range(100)]
        db.execute(insert(ClientTag.__table__), tags)


@contextmanager
def run_daemon(store: Store, folder: Path, port: int, **environ: str) -> Iterator[Daemon]:
    config = daemons.write_config(folder, port)
    with Daemon(store, config, daemons.clean_environ(**environ)) as daemon:
        yield daemon


@pytest.mark.usefixtures("bad_and_good")
def test_costly_message_fails_while_others_are_sent(store: Store, tmp_path: Path) -> None:
    with CountingReceiver(tmp_path / "arrived") as receiver, run_daemon(store, tmp_path, receiver.port) as daemon:
        daemon.wait_for(lambda: receiver.accepted_count == len(GOOD_CLIENTS), 10)
        daemon.wait_for(lambda: "mailing disabled" in daemon.event_names, 30)
        started = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - started < 5
    (disabled,) = [event for event in daemon.events if event["event"] == "mailing disabled"]
    assert disabled["reason"] == "100 of 100 emails failed"
    failed = [attempt for attempt in attempts(store) if attempt.outcome == "failed"]
    assert {attempt.reply for attempt in failed} == {"the body, line 1: the filters and loops take too long"}
    assert state_counts(store)[DeliveryState.SENT] == len(GOOD_CLIENTS)


@pytest.mark.usefixtures("bad_and_good")
def test_daemon_stops_while_it_composes_costly_emails(store: Store, tmp_path: Path) -> None:
    with (
        CountingReceiver(tmp_path / "arrived") as receiver,
        run_daemon(store, tmp_path, receiver.port, SKYCHIMP_DELIVERY__DISABLE_FAILURES="1000000") as daemon,
    ):
        daemon.wait_for(lambda: state_counts(store)[DeliveryState.FAILED] > 5, 30)
        started = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - started < 5
    assert state_counts(store)[DeliveryState.FAILED] < len(BAD_CLIENTS)
    assert state_counts(store)[DeliveryState.QUEUED] > 0


def send_stored(store: Store, ada: Actor, values: dict[str, str], folder: Path) -> RunStats:
    """Send a message that is in the store with these values, and return what the run did."""
    create_mailing(store, ada, ["bob@example.org"])
    with store.write() as db:
        db.execute(update(Message).values(values))
    with CountingReceiver(folder / "arrived") as receiver:
        return send(store, make_settings(receiver.port))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"body": "x" * 2_000_000}, "the body is longer than 1,000,000 characters"),
        ({"body": "{{ client.name }}" * 5_000}, "the body has too many expressions"),
        ({"body": "[a](b)" * 60_000, "format": "markdown"}, "the body has too much Markdown markup"),
        ({"html": "x" * 2_000_000, "format": "html"}, "the HTML is longer than 1,000,000 characters"),
        ({"subject": "x" * 30_000}, "the subject has more than 20,000 characters"),
        ({"body": "{{ " + "(" * 30_000}, "the body has an expression that is nested too deeply"),
    ],
)
def test_message_of_an_old_store_fails_cleanly(
    store: Store, ada: Actor, tmp_path: Path, values: dict[str, str], reason: str
) -> None:
    stats = send_stored(store, ada, values, tmp_path)
    assert (stats.sent, stats.failed) == (0, 1)
    (attempt,) = attempts(store)
    assert attempt.reply.startswith(reason)


@pytest.mark.parametrize("values", [{"body": "x" * 520_000}, {"body": "[a](b)" * 20_000, "format": "markdown"}])
def test_message_that_was_valid_before_an_upgrade_is_sent(
    store: Store, ada: Actor, tmp_path: Path, values: dict[str, str]
) -> None:
    stats = send_stored(store, ada, values, tmp_path)
    assert (stats.sent, stats.failed) == (1, 0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--body", BOMB], "the filters and loops take too long, for a client with a long comment"),
        (["--body", BOMB, "--markdown"], "the filters and loops take too long"),
        (["--body-file", "200k.txt"], "the body is larger than 200 kB"),
        (["--body-file", "200k.txt", "--markdown"], "the body is larger than 200 kB"),
        (["--body", "x", "--html-file", "1m.html"], "the HTML is larger than 1,000 kB"),
        (["--body-file", "5m.txt"], "5m.txt is larger than 4 MB"),
        (["--body-file", "/dev/zero"], "/dev/zero is larger than 4 MB"),
        (["--body", "x", "--html-file", "/dev/zero"], "/dev/zero is larger than 4 MB"),
    ],
)
def test_costly_or_large_message_is_refused(home: Home, options: list[str], error: str) -> None:
    for name, size in (("200k.txt", 200_001), ("1m.html", 1_000_001), ("5m.txt", 5_000_000)):
        if name in options:
            (home.folder / name).write_text("x" * size)
    result = home.call("messages", "create", "--subject", "s", *options)
    assert (result.status, result.out) == (2, "")
    assert error in result.err
    assert result.err.count("\n") <= 2
