"""Test the IMAP client with a real Dovecot, and that a responder of its Sieve plugin is silent."""

import smtplib
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import Home
from support.inbound_servers import PASSWORD, STARTTLS_HOST, Dovecot
from support.queue_steps import open_mailing
from support.returned import INBOX, bounce, return_path, send_mailing, unsubscribe_address
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.permissions import Actor
from skychimp.store.database import Store

if TYPE_CHECKING:
    import trustme

pytestmark = [pytest.mark.mta, pytest.mark.sqlite]

HEADERS = ("List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "Auto-Submitted", "Precedence")
PLAIN = "From: Eve <eve@example.org>\nTo: grace@example.org\nSubject: Lunch\nMessage-ID: <1@example.org>\n\nAt one?\n"


@pytest.fixture
def responses() -> Iterator[ScriptedServer]:
    """Return the mail server that takes the answers of a responder."""
    with ScriptedServer([GREETING, accept_mail()]) as server:
        yield server


@pytest.fixture
def dovecot(authority: "trustme.CA", responses: ScriptedServer) -> Iterator[Dovecot]:
    if problem := Dovecot.why_not_here():
        pytest.skip(problem)
    with Dovecot(authority, responses_port=responses.port) as dovecot:
        yield dovecot


def deliver(dovecot: Dovecot, data: bytes, sender: str, recipient: str) -> None:
    """Deliver an email by LMTP. Then a responder has answered, too."""
    with smtplib.LMTP("127.0.0.1", dovecot.lmtp_port) as lmtp:
        assert lmtp.sendmail(sender, [recipient], data) == {}


def test_mailbox_is_read_over_tls(
    store: Store, ada: Actor, home: Home, dovecot: Dovecot, ca_file: Path, tmp_path: Path
) -> None:
    bounced, left = send_mailing(store, ada, "grace", "eve")
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text(PASSWORD)
    trusted = {"SSL_CERT_FILE": str(ca_file), "SKYCHIMP_INBOUND__PASSWORD_FILE": str(password)}
    imaps = trusted | {"SKYCHIMP_INBOUND__IMAP_URL": f"imaps://bounces@127.0.0.1:{dovecot.port}"}
    starttls = trusted | {"SKYCHIMP_INBOUND__IMAP_URL": f"imap://bounces@{STARTTLS_HOST}:{dovecot.port}/INBOX"}
    deliver(dovecot, bounce("grace@example.org", "550 5.1.1 no such user"), "", return_path(store, bounced))
    deliver(dovecot, PLAIN.encode(), "eve@example.org", INBOX)

    refused = home.call("inbound", "imap", environ=imaps | {"SSL_CERT_FILE": "/dev/null"})
    assert refused.status != 0
    assert "certificate verify failed" in refused.err
    first = home.call("inbound", "imap", "--json", environ=imaps).json
    deliver(dovecot, b"Subject: unsubscribe\n\n", "eve@example.org", unsubscribe_address(store, left))
    second = home.call("inbound", "imap", "--json", environ=starttls).json
    third = home.call("inbound", "imap", "--json", environ=imaps).json

    assert {name: count for name, count in first.items() if count} == {"bounces": 1, "ignored": 1, "marked_bad": 1}
    assert {name: count for name, count in second.items() if count} == {"unsubscribes": 1}
    assert not any(third.values())
    kept = [path.name.rpartition(":")[2] for path in (dovecot.folder / "home/Maildir/cur").iterdir()]
    assert kept == ["2,S"] * 3


def test_responder_is_silent(
    store: Store, ada: Actor, home: Home, dovecot: Dovecot, responses: ScriptedServer, tmp_path: Path
) -> None:
    """It answers the same email without our headers, and that answer is ignored and counted."""
    open_mailing(store, ada, "grace")
    addresses = {"SKYCHIMP_INBOUND__ADDRESS": INBOX, "SKYCHIMP_WEB__URL": "https://news.skychimp.test"}
    assert home.call("run", environ=addresses).status == 0
    (path,) = (tmp_path / "outbox/new").iterdir()
    email = message_from_bytes(path.read_bytes())
    sender = return_path(store, 1)
    assert all(email[name] for name in HEADERS)

    deliver(dovecot, path.read_bytes(), sender, "grace@example.org")
    assert responses.emails == []
    for name in HEADERS:
        del email[name]
    deliver(dovecot, email.as_bytes(), sender, "grace@example.org")
    (answer,) = responses.emails
    assert sender in message_from_bytes(answer)["To"]

    read = home.call("inbound", "read", "--recipient", sender, "-", "--json", stdin=answer.decode()).json
    assert {name: count for name, count in read.items() if count} == {"ignored": 1, "automatic": 1}
