"""`skychimp run --from-outbox`: what was only written to the outbox is sent, once there is a mail server."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.queue_steps import update_row
from support.sending import (
    attempts,
    create_mailing,
    deliveries,
    mailing_status,
    make_settings,
    rows,
    send,
    state_counts,
)
from support.servers import CountingReceiver

from skychimp.errors import ConfigError, Conflict, OutboxFailed, StoreHeld
from skychimp.models import (
    CatchUp,
    Client,
    DeliveryState,
    Every,
    Mailing,
    MailingStatus,
    StoreInfo,
)
from skychimp.permissions import Actor
from skychimp.services.clients import clients, suppressions
from skychimp.services.mailings import mailings, outbox_mail
from skychimp.services.mailings.outbox_mail import Left
from skychimp.services.reporting import reports
from skychimp.services.users import privacy
from skychimp.store import runs
from skychimp.store.database import Store

DAY = timedelta(days=1)
OUTBOX = make_settings(1, mail__transport="outbox")
ADDRESSES = ["bob@example.org", "eve@example.org", "zoe@example.org"]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[CountingReceiver]:
    with CountingReceiver(tmp_path / "received") as running:
        yield running


def write_to_outbox(store: Store, owner: Actor, **more: Any) -> int:
    """Create a mailing to three clients, write its emails to the outbox, and return its id."""
    mailing_id = create_mailing(store, owner, ADDRESSES, **more)
    assert send(store, OUTBOX).outbox == len(ADDRESSES)
    return mailing_id


def suppress(store: Store, owner: Actor, address: str) -> None:
    suppressions.add(store, owner, [suppressions.new_suppression(address)])


def files(store: Store) -> list[Path]:
    return sorted(path for name in ("new", "cur") for path in (store.path.with_name("outbox") / name).iterdir())


def send_from_outbox(store: Store, receiver: CountingReceiver, **options: Any) -> outbox_mail.FromOutbox:
    settings = make_settings(receiver.port)
    taken = outbox_mail.queue_outbox(store, settings, **options)
    send(store, settings)
    receiver.wait()
    return taken


def recipients(receiver: CountingReceiver) -> list[str]:
    return sorted(email.recipient for email in receiver.received_emails())


def test_email_in_the_outbox_was_not_sent(store: Store, ada: Actor) -> None:
    mailing_id = write_to_outbox(store, ada)
    assert state_counts(store) == {"outbox": 3}
    assert {attempt.outcome.value for attempt in attempts(store)} == {"outbox"}
    assert mailing_status(store, mailing_id) == MailingStatus.COMPLETED
    assert send(store, OUTBOX).outbox == 0, "it is written once"


def test_each_email_is_sent_once_and_its_file_is_removed(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    mailing_id = write_to_outbox(store, ada)
    moved = files(store)[0]
    moved.rename(moved.parent.with_name("cur") / f"{moved.name}:2,S")
    message_ids = {path.read_text().partition("Message-ID: ")[2].partition("\n")[0] for path in files(store)}

    taken = send_from_outbox(store, receiver)

    assert (taken.queued, taken.cancelled, taken.replaced, taken.left) == (3, 0, 0, [])
    assert recipients(receiver) == ADDRESSES
    assert {email.message_id for email in receiver.received_emails()} == message_ids
    assert files(store) == []
    assert state_counts(store) == {"sent": 3}
    assert [(each.number, each.outcome.value) for each in attempts(store)] == [(1, "outbox")] * 3 + [(2, "sent")] * 3
    assert mailing_status(store, mailing_id) == MailingStatus.COMPLETED
    assert send_from_outbox(store, receiver).queued == 0
    assert len(receiver.received_emails()) == 3


def test_other_emails_stay_in_the_outbox(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    """Such as a code for an account, which is too old by then."""
    write_to_outbox(store, ada)
    other = store.path.with_name("outbox") / "new" / ("a" * 32)
    other.write_text("Subject: your code\n\n1234\n")
    send_from_outbox(store, receiver)
    assert files(store) == [other]


def test_tries_begin_again(store: Store, ada: Actor) -> None:
    """The mail server is away: the emails are queued as if they had not been tried yet."""
    write_to_outbox(store, ada)
    outbox_mail.queue_outbox(store, make_settings(1))
    assert send(store, make_settings(1)).queued == 3
    assert {each.given_back - each.attempts for each in deliveries(store)} == {0}
    assert files(store) == []


def test_run_that_ended_early_is_followed_by_an_ordinary_one(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    write_to_outbox(store, ada)
    outbox_mail.queue_outbox(store, make_settings(receiver.port))
    assert send(store, make_settings(receiver.port)).sent == 3


@pytest.mark.parametrize("how", ["suppressed", "deleted", "bad", "forgotten"])
def test_client_who_must_not_get_it_any_more_does_not(
    store: Store, ada: Actor, receiver: CountingReceiver, how: str
) -> None:
    write_to_outbox(store, ada)
    (bob,) = [client for client in rows(store, Client) if client.email == ADDRESSES[0]]
    if how == "suppressed":
        suppress(store, ada, bob.email)
    elif how == "deleted":
        clients.remove(store, ada, str(bob.id))
    elif how == "bad":
        update_row(store, Client, bob.id or 0, bad_at=datetime.now(UTC), bad_reason="no such user")
    else:
        privacy.forget(store, ada, bob.email)

    taken = send_from_outbox(store, receiver)

    assert (taken.queued, taken.cancelled) == (2, 1)
    assert recipients(receiver) == ADDRESSES[1:]
    assert state_counts(store) == {"sent": 2, "cancelled": 1}
    assert len(files(store)) == (how == "forgotten"), "the log no longer names the file"


def test_email_goes_to_the_present_address(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    write_to_outbox(store, ada)
    (bob,) = [client for client in rows(store, Client) if client.email == ADDRESSES[0]]
    update_row(store, Client, bob.id or 0, email="rob@example.org", address_key="rob@example.org")
    send_from_outbox(store, receiver)
    assert recipients(receiver) == ["eve@example.org", "rob@example.org", "zoe@example.org"]


PAST = datetime(2026, 1, 1, tzinfo=UTC)
STOPPED: dict[str, tuple[dict[str, object], str]] = {
    "disabled": ({"disabled_at": PAST, "disabled_reason": "why"}, "the mailing is disabled: why"),
    "held": ({"held_at": PAST, "held_reason": "why"}, "the mailing is held: why"),
    "over": ({"start_at": PAST - DAY, "end_at": PAST}, "the mailing has ended"),
}


@pytest.mark.parametrize("how", STOPPED)
def test_mailing_that_is_stopped_stays_in_the_outbox(
    store: Store, ada: Actor, receiver: CountingReceiver, how: str
) -> None:
    mailing_id = write_to_outbox(store, ada)
    values, reason = STOPPED[how]
    update_row(store, Mailing, mailing_id, **values)

    taken = send_from_outbox(store, receiver)

    assert (taken.queued, taken.left) == (0, [Left(mailing_id, 3, reason)])
    assert (state_counts(store), len(files(store)), recipients(receiver)) == ({"outbox": 3}, 3, [])


def test_deleted_mailing_is_not_sent(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    mailing_id = write_to_outbox(store, ada)
    mailings.remove(store, ada, mailing_id)
    taken = send_from_outbox(store, receiver)
    assert (taken.queued, taken.left, recipients(receiver)) == (0, [], [])
    with store.read() as db:
        assert outbox_mail.count_in_outbox(db.connection()) == 0


@pytest.mark.parametrize("catch_up", [CatchUp.LATEST, CatchUp.ALL])
def test_older_email_of_a_mailing_is_replaced_if_the_client_has_a_newer_one(
    store: Store, ada: Actor, receiver: CountingReceiver, catch_up: CatchUp
) -> None:
    mailing_id = write_to_outbox(store, ada, every=Every.DAY)
    update_row(store, Mailing, mailing_id, catch_up=catch_up)
    report = reports.mailing_report(store, ada, mailing_id)
    assert report.counts["outbox"] == 3
    suppress(store, ada, ADDRESSES[2])
    assert send(store, OUTBOX, later=DAY).outbox == 2
    suppressions.remove(store, ada, [ADDRESSES[2]])

    taken = outbox_mail.queue_outbox(store, make_settings(receiver.port))

    if catch_up == CatchUp.ALL:
        assert (taken.queued, taken.replaced) == (5, 0)
        return
    assert (taken.queued, taken.replaced) == (3, 2)
    report = reports.mailing_report(store, ada, mailing_id)
    assert (report.counts["replaced"], report.counts["queued"], report.counts["outbox"]) == (2, 3, 0)


def test_limit_and_mailing_choose_what_leaves_the_outbox(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    first, second = write_to_outbox(store, ada), write_to_outbox(store, ada)
    taken = send_from_outbox(store, receiver, mailing_id=second, limit=2)
    assert (taken.queued, taken.left) == (2, [Left(second, 1, "more than --limit")])
    assert state_counts(store) == {"outbox": 4, "sent": 2}
    assert len(files(store)) == 4
    assert {each.occurrence_id for each in deliveries(store) if each.state == DeliveryState.SENT} == {2}
    assert first < second


def test_nothing_leaves_the_outbox_without_a_mail_server(store: Store, ada: Actor) -> None:
    write_to_outbox(store, ada)
    with pytest.raises(ConfigError, match="no mail server is configured"):
        outbox_mail.queue_outbox(store, OUTBOX)
    with pytest.raises(ConfigError, match="sender is not set"):
        outbox_mail.queue_outbox(store, make_settings(1, mail__sender=None))
    update_row(store, StoreInfo, 1, held_at=datetime.now(UTC), held_reason="after a restore")
    with pytest.raises(StoreHeld):
        outbox_mail.queue_outbox(store, make_settings(1))
    assert (state_counts(store), len(files(store))) == ({"outbox": 3}, 3)


def test_run_that_still_writes_to_the_outbox_is_a_conflict(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_to_outbox(store, ada)
    other = SimpleNamespace(pid=7, relay="outbox")
    monkeypatch.setattr(runs, "find_sending", lambda *_: other)
    with pytest.raises(Conflict, match="process 7 still writes emails to the outbox"):
        outbox_mail.queue_outbox(store, make_settings(1))
    other.relay = "mx.example.org:25"
    assert outbox_mail.queue_outbox(store, make_settings(1)).queued == 3


def test_outbox_that_cannot_be_used_changes_nothing(store: Store, ada: Actor) -> None:
    write_to_outbox(store, ada)
    outbox = store.path.with_name("outbox")
    outbox.rename(outbox.with_name("elsewhere"))
    outbox.touch()
    with pytest.raises(OutboxFailed):
        outbox_mail.queue_outbox(store, make_settings(1))
    assert state_counts(store) == {"outbox": 3}
    outbox.unlink()
    assert outbox_mail.queue_outbox(store, make_settings(1)).queued == 3, "the store has all that is needed"


def test_name_that_is_not_of_a_file_in_the_outbox_removes_nothing(store: Store, ada: Actor) -> None:
    """A backup may be anybody's."""
    write_to_outbox(store, ada)
    target = store.path.with_name("precious")
    target.touch()
    with store.write() as db:
        db.connection().exec_driver_sql("UPDATE attempt SET reply = '250 written to the outbox as new/../../precious'")
    assert outbox_mail.queue_outbox(store, make_settings(1)).queued == 3
    assert target.exists()
    assert len(files(store)) == 3
