"""`skychimp mailings retry`: emails that failed, expired or were cancelled go out again, if a person wants that."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from support.batches import stopped_after_batches
from support.command import CommandResult, Home
from support.sending import (
    attempts,
    bad_clients,
    create_mailing,
    deliveries,
    mailing_status,
    make_settings,
    send,
    state_counts,
)
from support.servers import LimitingRelay, Request

from skychimp.errors import NotLoggedIn
from skychimp.models import Delivery, DeliveryState, Every, Mailing, MailingStatus
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings, retries
from skychimp.store.database import Store

REPLIES = {
    "full": b"552 5.2.2 Mailbox full\r\n",
    "policy": b"550 5.7.1 Message refused by our policy\r\n",
    "nobody": b"550 5.1.1 No such user here\r\n",
    "expired": b"450 4.2.1 Busy\r\n",
    "cancelled": b"450 4.2.1 Busy\r\n",
}
NAMES = ("sent", *REPLIES)
LEFT_OUT = "1 client left out: suppressed, deleted, or with a bad address\n"
DAY = timedelta(days=1)


def address(name: str) -> str:
    return f"{name}@{name}.example"


def refuse(request: Request) -> bytes | None:
    """Refuse each recipient that is named after a reply with it."""
    return REPLIES.get(request.recipient.partition("@")[0]) if request.command == "RCPT" else None


@pytest.fixture
def relay() -> Iterator[LimitingRelay]:
    """A mail server that refuses some recipients."""
    with LimitingRelay(refuse) as running:
        yield running


@pytest.fixture
def mailing_id(store: Store, ada: Actor, relay: LimitingRelay) -> int:
    """Send a mailing with one email in each final state, and one to a bad client. Then the server accepts everybody."""
    created = create_mailing(store, ada, [address(name) for name in NAMES])
    send(store, make_settings(relay.port))
    for state in (DeliveryState.EXPIRED, DeliveryState.CANCELLED):
        change_delivery(store, str(state), state=state, next_try_at=None, give_up_at=datetime.now(UTC) - DAY)
    send(store, make_settings(relay.port))
    relay.limit = lambda request: None
    relay.accepted.clear()
    assert state_counts(store) == {"sent": 1, "failed": 3, "expired": 1, "cancelled": 1}
    assert bad_clients(store).keys() == {address("nobody")}
    return created


def change_delivery(store: Store, name: str, **values: object) -> None:
    with store.write() as db:
        db.execute(update(Delivery.__table__).where(Delivery.__table__.c.address == address(name)).values(values))


def retry(home: Home, *options: str) -> CommandResult:
    return home.call("mailings", "retry", "1", *options)


def reached(store: Store, relay: LimitingRelay) -> set[str]:
    """Send what is queued, and return the names of those who got it."""
    relay.accepted.clear()
    send(store, make_settings(relay.port))
    return {recipient.partition("@")[0] for recipient in relay.recipients}


@pytest.mark.parametrize(
    ("options", "names", "left_out"),
    [
        ([], ["full", "policy", "expired"], 1),
        (["--failed"], ["full", "policy"], 1),
        (["--expired"], ["expired"], 0),
        (["--cancelled"], ["cancelled"], 0),
        (["--failed", "--cancelled"], ["full", "policy", "cancelled"], 1),
        (["--reply", "550"], ["policy"], 1),
        (["--reply", "5.7.1"], ["policy"], 0),
        (["--reply", "mailbox FULL"], ["full"], 0),
        (["--failed", "--reply", "Queued as"], [], 0),
        (["--reply", "5.1.1"], [], 1),
    ],
)
def test_those_that_are_chosen_are_sent_again(
    store: Store,
    home: Home,
    relay: LimitingRelay,
    mailing_id: int,
    options: Sequence[str],
    names: Sequence[str],
    left_out: int,
) -> None:
    done = retry(home, *options, "--json")
    assert done.status == 0
    assert done.json == {"mailing_id": mailing_id, "queued": len(names), "left_out": left_out}
    assert (LEFT_OUT in done.err) == bool(left_out)
    assert ("nothing to retry" in done.err) == (not names)
    assert mailing_status(store, mailing_id) == (MailingStatus.RUNNING if names else MailingStatus.COMPLETED)
    assert reached(store, relay) == set(names)
    assert mailing_status(store, mailing_id) == MailingStatus.COMPLETED


def test_log_keeps_all_attempts(store: Store, home: Home, relay: LimitingRelay, mailing_id: int) -> None:
    before = attempts(store)
    assert retry(home, "--failed").status == 0
    reached(store, relay)
    after = attempts(store)
    assert after[: len(before)] == before
    log = home.call("mailings", "log", "1", "--search", "full@", "--json").json
    assert [(row["attempt"], row["status"]) for row in log] == [(1, "failed"), (2, "sent")]


def test_time_to_give_up_starts_again(store: Store, home: Home, relay: LimitingRelay, mailing_id: int) -> None:
    relay.limit = lambda request: b"450 4.2.1 busy\r\n" if request.command == "RCPT" else None
    assert retry(home, "--expired").status == 0
    assert reached(store, relay) == set()
    (delivery,) = (each for each in deliveries(store) if each.address == address("expired"))
    assert delivery.state == DeliveryState.DEFERRED
    assert delivery.give_up_at is not None
    assert delivery.give_up_at > datetime.now(UTC) + 2 * DAY


def test_client_who_is_good_again_gets_it_at_the_new_address(
    store: Store, ada: Actor, home: Home, relay: LimitingRelay, mailing_id: int
) -> None:
    clients.change(store, ada, address("nobody"), good=True)
    clients.change(store, ada, address("full"), email="new@example.org")
    done = retry(home, "--failed", "--json")
    assert (done.json["queued"], done.json["left_out"]) == (3, 0)
    assert reached(store, relay) == {"nobody", "new", "policy"}


def test_deleted_client_is_left_out(
    store: Store, ada: Actor, home: Home, relay: LimitingRelay, mailing_id: int
) -> None:
    clients.remove(store, ada, address("expired"))
    done = retry(home, "--expired", "--json")
    assert (done.status, done.json["queued"], done.json["left_out"]) == (0, 0, 1)
    assert reached(store, relay) == set()


def test_mailing_that_has_ended_sends_nothing(store: Store, home: Home, mailing_id: int) -> None:
    with store.write() as db:
        db.execute(update(Mailing.__table__).values(start_at=datetime.now(UTC) - DAY, end_at=datetime.now(UTC)))
    done = retry(home)
    assert (done.status, done.out) == (6, "")
    assert done.err.startswith("error: mailing 1 ended at ")
    assert 'hint: run "skychimp mailings update 1 --no-end", or give it another --end' in done.err
    assert state_counts(store) == {"sent": 1, "failed": 3, "expired": 1, "cancelled": 1}
    assert home.call("mailings", "update", "1", "--no-end").status == 0
    assert retry(home, "--json").json["queued"] == 3


def test_nobody_retries_the_mailing_of_another(
    store: Store, home_of: Callable[[Actor], Home], bob: Actor, manager: Actor, admin: Actor, mailing_id: int
) -> None:
    assert retry(home_of(bob)).status == 4
    assert retry(home_of(admin)).status == 4
    assert retry(home_of(manager)).status == 5
    with pytest.raises(NotLoggedIn):
        retries.retry(store, ANONYMOUS, mailing_id)
    assert state_counts(store) == {"sent": 1, "failed": 3, "expired": 1, "cancelled": 1}


def test_mailing_without_an_occurrence_has_nothing_to_retry(store: Store, ada: Actor, home: Home) -> None:
    create_mailing(store, ada)
    done = retry(home, "--json")
    assert (done.status, done.json["queued"], "nothing to retry" in done.err) == (0, 0, True)


@pytest.mark.parametrize(("answer", "status", "is_queued"), [("n\n", 1, False), ("y\n", 0, True)])
def test_person_is_asked_on_a_terminal(
    store: Store, home: Home, mailing_id: int, answer: str, status: int, is_queued: bool
) -> None:
    done = home.on_terminal("mailings", "retry", "1", answers=[("Send to 3 clients now? [y/N]", answer)])
    assert done.status == status
    assert ("cancelled" in done.out) == (not is_queued)
    assert state_counts(store)["queued"] == (3 if is_queued else 0)
    assert state_counts(store)["failed"] == (1 if is_queued else 3)


def test_stopped_mailing_is_told_to_be_enabled_first(store: Store, ada: Actor, home: Home, mailing_id: int) -> None:
    mailings.disable(store, ada, mailing_id)
    assert 'disabled; run "skychimp mailings enable 1" to enable it' in retry(home).err


def test_only_the_last_occurrence_is_sent_again(
    store: Store, ada: Actor, home: Home, relay: LimitingRelay, mailing_id: int
) -> None:
    relay.limit = refuse
    daily = create_mailing(store, ada, [address("full"), address("policy"), address("sent")], every=Every.DAY)
    settings = make_settings(relay.port)
    send(store, settings)
    send(store, settings, later=DAY)
    relay.limit = lambda request: None
    done = home.call("mailings", "retry", str(daily), "--json")
    assert done.json["queued"] == 2
    relay.accepted.clear()
    send(store, settings, later=DAY)
    assert relay.recipients == {address("full"): 1, address("policy"): 1}


def test_many_are_queued_in_small_transactions(
    store: Store, ada: Actor, relay: LimitingRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay.limit = lambda request: b"550 5.2.%d no %s\r\n" % (len(request.recipient), request.recipient.encode())
    number = 7
    created = create_mailing(store, ada, [f"{name}@example.org" for name in "abcdefg"])
    relay.limit = lambda request: None
    send(store, make_settings(relay.port))
    with store.write() as db:
        db.execute(update(Delivery.__table__).values(state=DeliveryState.FAILED))
    monkeypatch.setattr(retries, "BATCH", 2)
    assert retries.retry(store, ada, created).queued == number
    assert state_counts(store) == {"queued": number}


@pytest.mark.parametrize("reply", ["", "550"])
def test_the_rest_is_queued_after_a_kill_between_two_batches(
    store: Store, ada: Actor, relay: LimitingRelay, monkeypatch: pytest.MonkeyPatch, reply: str
) -> None:
    """Each email is queued, counted and sent once, also if what was queued first fails again meanwhile."""
    relay.limit = lambda request: b"550 5.7.1 no\r\n" if request.command == "RCPT" else None
    names = [f"{name}@{name}.example" for name in "abcdefg"]
    created = create_mailing(store, ada, names)
    settings = make_settings(relay.port)
    for _ in names:
        send(store, settings)
        mailings.enable(store, ada, created)
    monkeypatch.setattr(retries, "BATCH", 2)
    with store.write() as db:
        db.execute(update(Delivery.__table__).values(state=DeliveryState.FAILED, next_try_at=None))
    number = len(attempts(store))

    with stopped_after_batches(monkeypatch, 2), pytest.raises(KeyboardInterrupt):
        retries.retry(store, ada, created, reply=reply)
    assert state_counts(store) == {"queued": 4, "failed": 3}
    again = retries.retry(store, ada, created, reply=reply)

    assert (again.queued, again.left_out, state_counts(store)) == (3, 0, {"queued": 7})
    relay.limit = lambda request: None
    relay.accepted.clear()
    send(store, settings)
    assert relay.recipients == dict.fromkeys(names, 1)
    assert len(attempts(store)) == number + len(names)


def test_those_whose_new_address_gets_another_email_end_again(
    store: Store, ada: Actor, home: Home, mailing_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients.remove(store, ada, address("sent"))
    clients.change(store, ada, address("cancelled"), email=address("sent"))
    monkeypatch.setattr(retries, "BATCH", 1)
    assert retry(home, "--cancelled").status == 0
    assert state_counts(store) == {"sent": 1, "failed": 3, "expired": 1, "cancelled": 1}
