"""Bounces, complaints and unsubscribe requests have their effect once, and only with a valid token."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from conftest import create_user
from support.queue_steps import create_client, create_mailing, get_row, open_due, rows, update_row
from support.returned import bounce, complaint, return_path, send_mailing, token_for, unsubscribe_address

from skychimp.config.settings import InboundSettings
from skychimp.delivery.composing import compose
from skychimp.delivery.composing.tokens import Purpose
from skychimp.models import (
    Client,
    Delivery,
    DeliveryState,
    Occurrence,
    ReturnedKind,
    ReturnedMail,
    StoreInfo,
    Suppression,
)
from skychimp.permissions import Actor
from skychimp.services.inbound import processing
from skychimp.services.inbound.processing import ReceivedMail, Result
from skychimp.services.users import privacy
from skychimp.store.database import Store

SETTINGS = InboundSettings(soft_bounces=3)
GRACE = "grace@example.org"
NO_USER, FULL, POLICY = "550 5.1.1 no such user", "552 5.2.2 mailbox full", "550 5.7.1 refused by policy"
UNSUBSCRIBE = b"From: grace@example.org\nSubject: whatever\n\nplease"


@pytest.fixture
def sent(store: Store, ada: Actor) -> int:
    """The delivery of a mailing that was sent to Grace just now."""
    (delivery_id,) = send_mailing(store, ada, "grace")
    update_row(store, Occurrence, 1, opened_at=store.now())
    return delivery_id


def receive(store: Store, data: bytes, recipient: str | None = None) -> Result:
    (result,) = processing.process(store, SETTINGS, [ReceivedMail(data, recipient)]).results
    return result


def grace(store: Store) -> Client:
    return get_row(store, Client, 1)


def message_id_of(store: Store, delivery_id: int) -> str:
    (info,) = rows(store, StoreInfo)
    return compose.message_id(info.secret, delivery_id, "skychimp.test")


def test_hard_bounce_marks_the_client_bad(store: Store, sent: int) -> None:
    assert receive(store, bounce(GRACE, NO_USER), return_path(store, sent)) == Result.BOUNCE

    assert grace(store).bad_reason == f"smtp; {NO_USER}"
    (suppression,) = rows(store, Suppression)
    assert (suppression.address, suppression.reason, suppression.source) == (GRACE, "bounce", "bounce")
    (returned,) = rows(store, ReturnedMail)
    assert (returned.delivery_id, returned.kind, returned.has_token) == (sent, ReturnedKind.BOUNCED, True)
    assert get_row(store, Delivery, sent).state == DeliveryState.SENT


@pytest.mark.parametrize("header", ["Delivered-To", "X-Original-To", "Envelope-To", "To"])
def test_token_may_be_in_a_header(store: Store, sent: int, header: str) -> None:
    data = f"{header}: <{return_path(store, sent).upper()}>\n".encode() + bounce(GRACE, NO_USER, to="postmaster")
    assert receive(store, data) == Result.BOUNCE
    assert grace(store).bad_at is not None


def test_token_may_be_in_what_is_returned(store: Store, sent: int) -> None:
    """Some servers send a report to the From address."""
    data = bounce(GRACE, NO_USER, returned=f"Return-Path: <{return_path(store, sent)}>\n")
    assert receive(store, data, "news@skychimp.test") == Result.BOUNCE
    assert grace(store).bad_at is not None


def test_same_report_counts_once(store: Store, sent: int) -> None:
    data, recipient = bounce(GRACE, NO_USER), return_path(store, sent)
    processed = processing.process(store, SETTINGS, [ReceivedMail(data, recipient)] * 2)
    assert processed.results == [Result.BOUNCE, Result.REPEATED]
    assert receive(store, b"Received: again\n" + data, recipient) == Result.REPEATED
    assert len(rows(store, ReturnedMail)) == 1


@pytest.mark.parametrize("reply", [FULL, POLICY])
def test_other_bounces_leave_the_client_good(store: Store, sent: int, reply: str) -> None:
    assert receive(store, bounce(GRACE, reply, status="5.0.0"), return_path(store, sent)) == Result.BOUNCE
    assert grace(store).bad_at is None
    assert rows(store, Suppression) == []


def later(store: Store, monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    at = store.now() + timedelta(days=days)
    monkeypatch.setattr(type(store), "now", lambda self: at)


def soft_bounce(store: Store, sent: int, number: int, reply: str = FULL) -> None:
    data = bounce(GRACE, reply, status="5.2.2" if reply == FULL else "5.7.1", date=f"report {number}")
    assert receive(store, data, return_path(store, sent)) == Result.BOUNCE


def test_soft_bounces_on_many_days_mark_the_client_bad(
    store: Store, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        soft_bounce(store, sent, number)
    assert grace(store).bad_at is None  # all on one day

    for day in (1, 2):
        later(store, monkeypatch, 1)
        soft_bounce(store, sent, 10 + day)

    assert grace(store).bad_reason == f"bounced on 3 days, at last: smtp; {FULL}"


def test_soft_bounces_decay(store: Store, sent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        soft_bounce(store, sent, number)
        later(store, monkeypatch, 31)  # of a period of 60 days
    assert grace(store).bad_at is None


def test_policy_bounces_are_not_scored(store: Store, sent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        soft_bounce(store, sent, number, POLICY)
        later(store, monkeypatch, 1)
    assert grace(store).bad_at is None


FORGED: dict[str, Any] = {
    "wrong_token": lambda store, sent: return_path(store, sent).replace("+", "+0"),
    "token_of_another_purpose": unsubscribe_address,
    "none": lambda store, sent: "bounces@skychimp.test",
}


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("names", ["message_id", "address"])
def test_forged_bounce_only_scores(
    store: Store, sent: int, monkeypatch: pytest.MonkeyPatch, kind: str, names: str
) -> None:
    returned = f"Message-ID: {message_id_of(store, sent)}\n" if names == "message_id" else "Subject: x\n"
    for day in range(10):
        data = bounce(GRACE, NO_USER, returned=returned, date=f"day {day}")
        assert receive(store, data, FORGED[kind](store, sent)) == Result.BOUNCE
        assert receive(store, data + b"x", FORGED[kind](store, sent)) == Result.REPEATED  # one a day
        later(store, monkeypatch, 1)
    assert grace(store).bad_at is None
    assert rows(store, Suppression) == []
    assert Counter(returned.has_token for returned in rows(store, ReturnedMail)) == {False: 10}


def test_report_about_an_old_or_unknown_email_is_ignored(
    store: Store, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert receive(store, bounce("eve@example.org", NO_USER), "bounces@skychimp.test") == Result.OTHER
    assert receive(store, bounce("not an address", NO_USER), "bounces@skychimp.test") == Result.OTHER
    later(store, monkeypatch, 15)
    assert receive(store, bounce(GRACE, NO_USER), "bounces@skychimp.test") == Result.OTHER
    assert rows(store, ReturnedMail) == []


def test_message_id_tells_which_email_it_was(store: Store, ada: Actor, sent: int) -> None:
    bob = create_user(store, "bob")
    create_client(store, bob, "grace")
    create_mailing(store, bob)
    open_due(store)
    with store.write() as db:
        values: dict[str, Any] = {"occurrence_id": 2, "client_id": 2, "address": GRACE, "address_key": GRACE}
        db.add(Delivery(**values, state=DeliveryState.SENT, attempts=1))
    update_row(store, Occurrence, 2, opened_at=store.now())

    receive(store, bounce(GRACE, NO_USER, returned=f"Message-ID: {message_id_of(store, sent)}\n"), "x@skychimp.test")
    later_one = bounce(GRACE, NO_USER, date="later")
    receive(store, later_one, "x@skychimp.test")

    assert [returned.delivery_id for returned in rows(store, ReturnedMail)] == [sent]


def test_failure_of_a_forwarded_address_is_scored(store: Store, sent: int) -> None:
    data = bounce("grace@forwarded.example", NO_USER)
    assert receive(store, data, return_path(store, sent)) == Result.BOUNCE
    assert grace(store).bad_at is None
    assert rows(store, ReturnedMail)[0].kind == ReturnedKind.SOFT_BOUNCE


def test_changed_address_is_not_marked(store: Store, sent: int) -> None:
    update_row(store, Client, 1, email="new@example.org", address_key="new@example.org")
    assert receive(store, bounce(GRACE, NO_USER), return_path(store, sent)) == Result.BOUNCE
    assert grace(store).bad_at is None


TOKEN_PLACES: dict[str, Any] = {
    "return_path": lambda store, sent: f"Return-Path: <{return_path(store, sent)}>\n\n",
    "list_unsubscribe": lambda store, sent: (
        f"List-Unsubscribe: <https://news.skychimp.test/u/{token_for(store, Purpose.UNSUBSCRIBE, sent)}>\n\n"
    ),
    "mailto": lambda store, sent: f"List-Unsubscribe: <mailto:{unsubscribe_address(store, sent)}>\n\n",
}


@pytest.mark.parametrize("place", TOKEN_PLACES)
def test_complaint_suppresses_all_mail_of_the_user(store: Store, ada: Actor, place: str) -> None:
    (sent,) = send_mailing(store, ada, "grace", topic="News")
    assert receive(store, complaint(TOKEN_PLACES[place](store, sent))) == Result.COMPLAINT

    (suppression,) = rows(store, Suppression)
    assert (suppression.address, suppression.owner_id, suppression.topic) == (GRACE, ada.user_id, "")
    assert (suppression.reason, suppression.source) == ("complaint", "complaint")
    assert grace(store).bad_at is None
    assert rows(store, ReturnedMail)[0].kind == ReturnedKind.COMPLAINT


def test_forged_complaint_suppresses_nobody(store: Store, sent: int) -> None:
    returned = f"Message-ID: {message_id_of(store, sent)}\n\n"
    data = complaint(returned, more=f"Original-Rcpt-To: {GRACE}\n")
    assert receive(store, data) == Result.COMPLAINT
    assert rows(store, Suppression) == []


@pytest.mark.parametrize("topic", ["", "News"])
def test_mail_unsubscribes(store: Store, ada: Actor, topic: str) -> None:
    (sent,) = send_mailing(store, ada, "grace", topic=topic)

    for _ in range(2):
        assert receive(store, UNSUBSCRIBE, unsubscribe_address(store, sent)) == Result.UNSUBSCRIBE

    (suppression,) = rows(store, Suppression)
    assert (suppression.address, suppression.topic) == (GRACE, topic)
    assert (suppression.reason, suppression.source) == ("unsubscribed", "mail")


def test_bounce_token_does_not_unsubscribe(store: Store, sent: int) -> None:
    assert receive(store, UNSUBSCRIBE, return_path(store, sent)) == Result.OTHER
    assert receive(store, b"Auto-Submitted: auto-replied\n\nI am away", return_path(store, sent)) == Result.AUTOMATIC
    assert rows(store, Suppression) == []


def test_forgotten_person_can_unsubscribe_and_bounce(store: Store, ada: Actor, sent: int) -> None:
    privacy.forget(store, ada, GRACE)

    assert receive(store, bounce(GRACE, NO_USER), return_path(store, sent)) == Result.BOUNCE
    assert receive(store, UNSUBSCRIBE, unsubscribe_address(store, sent)) == Result.UNSUBSCRIBE

    assert [(each.address, each.reason) for each in rows(store, Suppression)] == [(None, "unsubscribed")]
    assert [(each.reply, each.kind) for each in rows(store, ReturnedMail)] == [("", ReturnedKind.BOUNCED)]


def test_forgetting_erases_replies(store: Store, ada: Actor, sent: int) -> None:
    receive(store, bounce(GRACE, f"{NO_USER} <{GRACE}>"), return_path(store, sent))
    privacy.forget(store, ada, GRACE)
    assert [each.reply for each in rows(store, ReturnedMail)] == ["erased"]


def test_control_characters_are_kept_as_text(store: Store, sent: int) -> None:
    receive(store, bounce(GRACE, f"{NO_USER} \0\x1b[31m"), return_path(store, sent))
    assert grace(store).bad_reason == (f"smtp; {NO_USER} \\x00\x1b[31m")
