"""A forged report scores at most. Hostile mail crashes nothing, takes little time, and counts for its own email."""

import json
import time
from collections.abc import Callable

import pytest
from conftest import create_user
from support.queue_steps import create_client, get_row, rows, update_row
from support.returned import INBOX, bounce, complaint, return_path, send_mailing, token_for, unsubscribe_address

from skychimp.config.settings import InboundSettings
from skychimp.delivery.composing.tokens import Purpose
from skychimp.delivery.inbound.severity import MAX_REPLY_LENGTH
from skychimp.models import Client, Occurrence, ReturnedMail, Suppression
from skychimp.permissions import Actor
from skychimp.services.inbound import processing
from skychimp.services.inbound.processing import ReceivedMail, Result
from skychimp.store.database import Store

GRACE, MALLORY = "grace@example.org", "mallory@example.org"
NO_USER = "550 5.1.1 no such user"
MAX_SECONDS = 5
"""Of processor time on a slow machine. Without limits it takes minutes."""


@pytest.fixture
def sent(store: Store, ada: Actor) -> dict[str, int]:
    """The deliveries to Grace and Mallory, who is a client too and so has a token."""
    ids = send_mailing(store, ada, "grace", "mallory")
    update_row(store, Occurrence, 1, opened_at=store.now())
    return dict(zip((GRACE, MALLORY), ids, strict=True))


def receive(store: Store, data: bytes, recipient: str | None = None) -> Result:
    (result,) = processing.process(store, InboundSettings(), [ReceivedMail(data, recipient)]).results
    return result


def bad(store: Store) -> list[str]:
    return [client.email for client in rows(store, Client) if client.bad_at is not None]


def notification(kind: str, returned: str = "") -> bytes:
    """Return a notification of Amazon SES about Grace, with a header of our email."""
    recipients = [{"emailAddress": GRACE, "status": "5.1.1", "diagnosticCode": NO_USER}]
    said = {
        "notificationType": kind,
        "bounce": {"bouncedRecipients": recipients},
        "complaint": {"complainedRecipients": recipients},
        "mail": {"headers": [{"name": "Return-Path", "value": returned}]},
    }
    return b"From: x <no-reply@sns.amazonaws.com>\nSubject: AWS Notification Message\n\n" + json.dumps(said).encode()


def outlook_complaint(returned: str) -> bytes:
    head = 'Subject: complaint about message from 192.0.2.7\nContent-Type: multipart/mixed; boundary="m"\n\n'
    part = f"--m\nContent-Type: message/rfc822\n\nX-HmXmrOriginalRecipient: {GRACE}\n{returned}\n\nHello\n--m--\n"
    return (head + part).encode()


REPORTS: dict[str, Callable[[str], bytes]] = {
    "delivery_status": lambda path: bounce(GRACE, NO_USER, returned=f"Return-Path: <{path}>\n"),
    "feedback": lambda path: complaint(f"Return-Path: <{path}>\n\n", more=f"Original-Rcpt-To: {GRACE}\n"),
    "outlook": lambda path: outlook_complaint(f"Return-Path: <{path}>"),
    "ses_bounce": lambda path: notification("Bounce", path),
    "ses_complaint": lambda path: notification("Complaint", path),
}


@pytest.mark.parametrize("kind", REPORTS)
def test_report_without_a_token_has_no_effect(store: Store, sent: dict[str, int], kind: str) -> None:
    for path in (INBOX, INBOX.replace("@", "+" + "0" * 34 + "@"), return_path(store, 999)):
        assert receive(store, REPORTS[kind](path)) in (Result.BOUNCE, Result.COMPLAINT, Result.REPEATED)
    assert (bad(store), rows(store, Suppression)) == ([], [])
    assert [each.has_token for each in rows(store, ReturnedMail)] == [False]


@pytest.mark.parametrize("kind", REPORTS)
def test_report_with_a_token_has_its_effect(store: Store, sent: dict[str, int], kind: str) -> None:
    receive(store, REPORTS[kind](return_path(store, sent[GRACE])))
    (suppression,) = rows(store, Suppression)
    assert suppression.address == GRACE
    assert suppression.reason in ("bounce", "complaint")


@pytest.mark.parametrize("kind", REPORTS)
def test_token_of_another_email_counts_only_for_that_one(store: Store, sent: dict[str, int], kind: str) -> None:
    """Mallory has a token, and reports about Grace with it."""
    receive(store, REPORTS[kind](return_path(store, sent[MALLORY])))
    assert {each.delivery_id for each in rows(store, ReturnedMail)} == {sent[MALLORY]}
    assert {each.address for each in rows(store, Suppression)} <= {MALLORY}
    assert get_row(store, Client, 1).bad_at is None


def test_report_about_the_client_of_another_user_has_no_effect(store: Store, sent: dict[str, int]) -> None:
    bob = create_user(store, "bob")
    create_client(store, bob, "grace")
    receive(store, bounce(GRACE, NO_USER), INBOX)
    receive(store, bounce(GRACE, NO_USER, date="x"), return_path(store, sent[MALLORY]))
    assert GRACE not in bad(store)


def _changed(token: str) -> str:
    return token[:-5] + ("0" if token[-5] != "0" else "1") + token[-4:]


REWRITTEN: dict[str, tuple[Callable[[str], str], bool]] = {
    "upper_case": (lambda path: path.upper(), True),
    "mixed_case": (lambda path: path.swapcase().title(), True),
    "other_separator": (lambda path: path.replace("+", "-"), True),
    "escaped": (lambda path: path.replace("+", "%2B"), True),
    "batv": (lambda path: f"prvs=0123456789={path}", True),
    "other_domain": (lambda path: path.partition("@")[0] + "@mx7.skychimp.test", True),
    "cut": (lambda path: path.replace("@", "x@")[:-30] + "@skychimp.test", False),
    "extended": (lambda path: path.replace("@", "0@"), False),
    "changed": (lambda path: _changed(path.partition("@")[0]) + "@skychimp.test", False),
    "no_separator": (lambda path: path.replace("+", ""), False),
}


@pytest.mark.parametrize("way", REWRITTEN)
def test_token_is_found_in_a_rewritten_address_and_not_in_a_damaged_one(
    store: Store, sent: dict[str, int], way: str
) -> None:
    rewrite, is_valid = REWRITTEN[way]
    receive(store, bounce(GRACE, NO_USER), rewrite(return_path(store, sent[GRACE])))
    assert bad(store) == ([GRACE] if is_valid else [])


def test_unsubscribe_token_proves_no_bounce(store: Store, sent: dict[str, int]) -> None:
    receive(store, bounce(GRACE, NO_USER), unsubscribe_address(store, sent[GRACE]))
    token = token_for(store, Purpose.UNSUBSCRIBE, sent[GRACE])
    receive(store, bounce(GRACE, NO_USER, returned=f"X: {token}\n", date="x"), INBOX)
    assert bad(store) == []


def _many_recipients() -> bytes:
    one = "Final-Recipient: rfc822; {}\nAction: failed\nStatus: 5.1.1\n\n"
    others = "".join(one.format(f"client{number}@example.org") for number in range(10_000))
    return bounce(GRACE, f"{NO_USER}\n\n{others}{one.format(MALLORY)}")


def _nested(depth: int) -> bytes:
    head = "".join(f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(depth))
    return head.encode() + bounce(GRACE, NO_USER)


HOSTILE: dict[str, tuple[Callable[[], bytes], bool]] = {
    "many_recipients": (_many_recipients, True),
    "nested": (lambda: _nested(3), True),
    "deeply_nested": (lambda: _nested(20_000), False),
    "enormous_header": (lambda: b"X-Large: " + b"x" * 900_000 + b"\n" + bounce(GRACE, NO_USER), False),
    "folded_headers": (lambda: b"X: y\n" + b" z\n" * 200_000 + bounce(GRACE, NO_USER), False),
    "unknown_charset": (lambda: bounce(GRACE, NO_USER).replace(b"text/plain", b"text/plain; charset=rot13"), True),
    "wrong_charset": (lambda: bounce(GRACE, NO_USER).replace(b"no such", b"no \xff\xfe \x1b$B\x7f such"), True),
    "large": (lambda: bounce(GRACE, NO_USER) + b"x" * 50_000_000, True),
    "control_characters": (lambda: bounce(GRACE, f"{NO_USER} \x1b]0;title\x07\x9b31m\u202e" + "x" * 10_000), True),
}
"""Each with whether it counts: what is beyond a limit is left out."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_report_is_bounded_and_counts_for_its_own_email(store: Store, sent: dict[str, int], name: str) -> None:
    make, counts = HOSTILE[name]
    data = make()
    started = time.process_time()
    receive(store, b"Message-ID: <other>\n" + data, INBOX)
    assert bad(store) == []
    receive(store, data, return_path(store, sent[GRACE]))
    assert time.process_time() - started < MAX_SECONDS
    assert bad(store) == ([GRACE] if counts else [])
    reports = rows(store, ReturnedMail)
    assert len(reports) == (2 if counts else 0)
    assert {each.delivery_id for each in reports} <= {sent[GRACE]}
    assert all(len(each.reply) <= MAX_REPLY_LENGTH for each in reports)
