"""Measure how many returned emails a second `skychimp inbound maildir` processes.

    python tests/bench/returned.py                  10,000 emails in a Maildir, 3 rounds
    python tests/bench/returned.py --emails 2000 --rounds 1

A run sends a mailing to as many clients first. Each email in the Maildir is about one of them: a delivery status, a
bounce in plain words, a complaint, a request to unsubscribe, an automatic reply, or an email that is none of ours.
`per CPU second` counts the time of the process alone: another one may use the processor meanwhile. The last line reads
the same emails without a store.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import stores
from sink import sink
from sqlalchemy import select
from templates import SIZES

from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose, TokenKey
from skychimp.delivery.inbound import reading
from skychimp.models import Delivery
from skychimp.store import token_keys
from skychimp.store.schema import open_store

ROW = "{:<8}{:>10}{:>12}{:>18}  {}"

BOUNCE = """\
Delivered-To: {bounce}
From: Mail Delivery System <mailer-daemon@mx.example.net>
To: {bounce}
Date: Mon, 2 Mar 2026 09:00:00 +0000
Message-ID: <{number}@mx.example.net>
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="=_b"

--=_b
Content-Type: text/plain; charset=us-ascii

This is the mail system at host mx.example.net.

I'm sorry to have to inform you that your message could not be delivered to one or more recipients.

<{address}>: host mx.example.org[192.0.2.7] said: {reply} (in reply to RCPT TO command)

--=_b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
Arrival-Date: Mon, 2 Mar 2026 09:00:00 +0000

Final-Recipient: rfc822; {address}
Action: failed
Status: {status}
Diagnostic-Code: smtp; {reply}

--=_b
Content-Type: text/rfc822-headers

Return-Path: <{bounce}>
Subject: Hello
Message-ID: <0123456789abcdef@example.com>

--=_b--
"""
PLAIN = """\
Delivered-To: {bounce}
From: Mail Delivery System <Mailer-Daemon@mx.example.net>
To: {bounce}
Date: Mon, 2 Mar 2026 09:00:00 +0000
Message-ID: <{number}@mx.example.net>
X-Failed-Recipients: {address}
Subject: Mail delivery failed: returning message to sender

This message was created automatically by mail delivery software.
A message that you sent could not be delivered to one or more of its recipients:

  {address}
    SMTP error from remote mail server after RCPT TO:<{address}>:
    550 5.1.1 no such user

------ This is a copy of your message, including all the headers. ------

Subject: Hello
"""
UNSUBSCRIBE = """\
Delivered-To: {unsubscribe}
From: {address}
To: {unsubscribe}
Message-ID: <{number}@example.org>
Subject: unsubscribe

"""
COMPLAINT = """\
From: feedback@isp.example
To: abuse@example.com
Message-ID: <{number}@isp.example>
Subject: FW: Hello
Content-Type: multipart/report; report-type=feedback-report; boundary="=_b"

--=_b
Content-Type: text/plain

This is an abuse report.

--=_b
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: ISP/1.0
Version: 1

--=_b
Content-Type: message/rfc822

Return-Path: <{bounce}>
Subject: Hello

Hello
--=_b--
"""
VACATION = """\
From: {address}
To: {bounce}
Message-ID: <{number}@example.org>
Auto-Submitted: auto-replied (vacation)
Subject: Out of office: Hello

I am away until Monday.
"""
NOISE = """\
From: list@lists.example
To: somebody@example.com
Message-ID: <{number}@lists.example>
Precedence: list
Subject: [list] Digest {number}
Content-Type: text/html; charset=utf-8

<html><body>{paragraphs}</body></html>
"""
_WORDS = {
    "hard": {"reply": "550 5.1.1 no such user", "status": "5.1.1"},
    "soft": {"reply": "552 5.2.2 mailbox full", "status": "5.2.2"},
    "noise": {"paragraphs": "<p>A paragraph of a mailing list.</p>\n" * 100},
}
KINDS: Mapping[str, tuple[int, str]] = {
    "hard": (30, BOUNCE),
    "soft": (15, BOUNCE),
    "plain": (10, PLAIN),
    "complaint": (5, COMPLAINT),
    "unsubscribe": (10, UNSUBSCRIBE),
    "vacation": (20, VACATION),
    "noise": (10, NOISE),
}
"""How many of a hundred emails are of a kind, and what these are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emails", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-") as name:
        folder = Path(name) / "store"
        stores.make_store(folder, options.emails, SIZES["1k"])
        with sink() as receiver:
            stores.run(folder, receiver.port, 10)
        emails = list(_emails(folder, options.emails))
        print(ROW.format("round", "emails", "per second", "per CPU second", "what they were"))
        for number in range(options.rounds):
            copy = stores.copy_store(folder, Path(name) / f"round{number}")
            _measure(str(number + 1), copy, emails)
    started = time.process_time()
    kinds = Counter(reading.read(data).kind.value for data in emails)
    seconds = time.process_time() - started
    print(ROW.format("reading", f"{len(emails):,}", "", f"{len(emails) / seconds:,.0f}", dict(kinds)))


def _measure(name: str, folder: Path, emails: list[bytes]) -> None:
    maildir = folder / "Maildir"
    for part in ("new", "cur", "tmp"):
        (maildir / part).mkdir(parents=True, mode=0o700)
    for number, data in enumerate(emails):
        (maildir / "new" / f"{number:06}.host").write_bytes(data)
    measured = stores.skychimp(folder, "inbound", "maildir", str(maildir), "--json")
    summary = {kind: count for kind, count in json.loads(measured.stdout).items() if count}
    rates = (len(emails) / measured.seconds, len(emails) / measured.cpu_seconds)
    print(ROW.format(name, f"{len(emails):,}", *(f"{rate:,.0f}" for rate in rates), summary), flush=True)


def _emails(folder: Path, count: int) -> Iterator[bytes]:
    """Yield emails of all kinds, mixed, each about a delivery of its own."""
    keys, addresses = _keys_and_addresses(folder, count)
    kinds = [kind for kind, (share, _) in KINDS.items() for _ in range(share)]
    for number, (delivery_id, address) in enumerate(addresses):
        kind = kinds[number * 37 % len(kinds)]
        returned = {
            purpose.value: f"bounces+{tokens.make(keys, purpose, delivery_id)}@example.com" for purpose in Purpose
        }
        yield KINDS[kind][1].format(number=number, address=address, **returned, **_WORDS.get(kind, {})).encode()


def _keys_and_addresses(folder: Path, count: int) -> tuple[TokenKey, Sequence[tuple[int, str]]]:
    store = open_store(f"sqlite:///{folder / 'skychimp.db'}")
    with store.read() as db:
        keys = token_keys.read(db.connection(), store.now())
        table = Delivery.__table__
        rows = db.execute(select(table.c.id, table.c.address).order_by(table.c.id).limit(count))
        addresses = [(row.id, row.address) for row in rows]
    store.close()
    return TokenKey(1, keys[1]), addresses


if __name__ == "__main__":
    main()
