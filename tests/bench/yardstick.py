"""How fast a small client with the same promise can be: a yardstick for `skychimp run`.

    python tests/bench/yardstick.py PORT EMAILS CONNECTIONS SIZE FILE

It sends personal emails to a mail server with PIPELINING and keeps a durable ledger in an SQLite file: leases of 500,
an intent that is checked and committed before the final dot, the reply as an attempt, and one fold per lease. It
retries nothing, and asserts that every reply is the expected one. Prints the seconds and the CPU seconds after its
set-up.
"""

import asyncio
import base64
import gc
import hmac
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from html import escape
from typing import Any, cast

import uvloop

from skychimp.store.sqlite import driver

LEASE_SIZE = 500
KEY = os.urandom(32)
SCHEMA = """
PRAGMA journal_mode = wal; PRAGMA synchronous = full;
CREATE TABLE mailing (id INTEGER PRIMARY KEY, enabled INT, held TEXT); INSERT INTO mailing VALUES (1, 1, NULL);
CREATE TABLE suppression (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE delivery (id INTEGER PRIMARY KEY, email TEXT, name TEXT, key BLOB, state TEXT DEFAULT 'queued');
CREATE TABLE lease (id INTEGER PRIMARY KEY, low INT, high INT, run INT, is_open INT);
CREATE TABLE intent (delivery INTEGER PRIMARY KEY, lease INT, at REAL);
CREATE TABLE attempt (id INTEGER PRIMARY KEY, delivery INT, number INT, outcome TEXT, reply TEXT, at REAL);
"""
COMMIT_INTENTS = """
INSERT INTO intent (delivery, lease, at) SELECT d.id, ?2, ?3 FROM json_each(?1) j JOIN delivery d ON d.id = j.value
JOIN lease l ON l.id = ?2 AND l.is_open AND l.run = 1
WHERE EXISTS (SELECT 1 FROM mailing m WHERE m.id = 1 AND m.enabled AND m.held IS NULL)
AND NOT EXISTS (SELECT 1 FROM suppression s WHERE s.key = d.key) RETURNING delivery
"""
HEADERS = """From: Bench <bench@example.com>
To: {{ name }} <{{ email }}>
Subject: News for you, {{ name }}
Date: Sat, 28 Nov 2026 10:00:00 +0000
Message-ID: <{{ id }}.1@example.com>
List-Id: News <1.example.com>
List-Unsubscribe: <{{ url }}>, <mailto:bounces+{{ token }}@example.com?subject=unsubscribe>
List-Unsubscribe-Post: List-Unsubscribe=One-Click
Feedback-ID: 1:news:skychimp
Auto-Submitted: auto-generated
MIME-Version: 1.0
"""
LINES = (
    "the new timetable is out, and from Monday on we open at eight in the morning\n"
    "your last order has left the house and should be with you within three days\n"
    "if you would rather come by, our door is open, and the coffee is on us\n"
)
Recipient = tuple[int, str, str]
"""The id, address and name of a delivery."""


def message(size: str) -> str:
    """Return a whole email as one template, with headers and parts."""
    text = "Dear {{ name }},\n" + "".join(f"{i}.\n{LINES}" for i in range(12 if size == "10k" else 3))
    text += "You get this at {{ email }}.\n{{ url }}\n"
    if size != "10k":
        return f"{HEADERS}Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 7bit\n\n{text}"
    page = "".join(f"<h2><a href='https://www.example.com/{i}'>Number {i}</a></h2><p>{LINES}</p>\n" for i in range(24))
    html = f"<html><body>{page}<p>{{{{ html_name }}}} {{{{ email }}}}</p></body></html>\n"
    head = f'{HEADERS}Content-Type: multipart/alternative; boundary="b"\n\n'
    plain = f"--b\nContent-Type: text/plain; charset=utf-8\n\n{text}"
    return f"{head}{plain}\n--b\nContent-Type: text/html; charset=utf-8\n\n{html}\n--b--\n"


class Composer:
    def __init__(self, size: str) -> None:
        self._segments = re.split(r"\{\{ (\w+) \}\}", message(size).replace("\n", "\r\n"))
        self._names = self._segments[1::2]

    def compose(self, recipient: Recipient) -> bytes:
        """Return the email, dot-stuffed and with its final dot."""
        key, email, name = recipient
        token = base64.urlsafe_b64encode(hmac.digest(KEY, b"%d" % key, "sha256")[:18]).decode()
        url = f"https://mail.example.org/u/{token}"
        values = {"id": str(key), "email": email, "name": name, "html_name": escape(name), "token": token, "url": url}
        parts = self._segments[:]
        parts[1::2] = map(values.__getitem__, self._names)
        text = "".join(parts)
        if "\n." in text:
            text = text.replace("\n.", "\n..")
        return text.encode() + b".\r\n"


class Ledger:
    """Leases, intents and attempts, with one commit for all connections that are ready."""

    def __init__(self, file: str, emails: int) -> None:
        self._emails = emails
        self._waiting: list[tuple[Connection, tuple[int, str] | None, int | None]] = []
        self._leases = 0
        self._rows: list[Recipient] = []
        self._left: dict[int, int] = {}
        self.db = driver().connect(file, isolation_level=None)
        self.db.executescript(SCHEMA)
        people = ((i, f"client{i}@example.com", f"Ada Lovelace {i}") for i in range(emails))
        rows = ((*one, hmac.digest(KEY, one[1].encode(), "sha256")[:16]) for one in people)
        self.db.execute("BEGIN")
        self.db.executemany("INSERT INTO delivery (id, email, name, key) VALUES (?, ?, ?, ?)", rows)
        self.db.execute("COMMIT")

    def next(self) -> Recipient | None:
        """Return the next delivery, of a new lease when the last one is handed out."""
        if not self._rows:
            low, high = self._leases * LEASE_SIZE, (self._leases + 1) * LEASE_SIZE
            if low >= self._emails:
                return None
            self._leases += 1
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute("INSERT INTO lease VALUES (?, ?, ?, 1, 1)", (self._leases, low, high))
            sql = "SELECT id, email, name FROM delivery WHERE id >= ? AND id < ? AND state = 'queued' ORDER BY id DESC"
            self._rows = self.db.execute(sql, (low, high)).fetchall()
            self.db.execute("COMMIT")
            self._left[self._leases] = len(self._rows)
        return self._rows.pop()

    def ask(self, connection: "Connection", outcome: tuple[int, str] | None, intent: int | None) -> None:
        """Record an outcome, and ask for an intent. `connection.go` is called after the commit."""
        self._waiting.append((connection, outcome, intent))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        group, self._waiting = self._waiting, []
        self._commit([outcome for _, outcome, _ in group if outcome], [one for *_, one in group if one is not None])
        for connection, _, _ in group:
            connection.go()

    def _commit(self, outcomes: list[tuple[int, str]], intents: list[int]) -> None:
        now, done, by_lease = time.time(), [], dict[int, list[int]]()
        self.db.execute("BEGIN IMMEDIATE")
        sql = "INSERT INTO attempt (delivery, number, outcome, reply, at) VALUES (?, 1, 'sent', ?, ?)"
        self.db.executemany(sql, [(*outcome, now) for outcome in outcomes])
        for delivery, _ in outcomes:
            lease = delivery // LEASE_SIZE + 1
            self._left[lease] -= 1
            if not self._left[lease]:
                done.append(lease)
        for intent in intents:
            by_lease.setdefault(intent // LEASE_SIZE + 1, []).append(intent)
        for lease, ids in by_lease.items():
            assert len(self.db.execute(COMMIT_INTENTS, (json.dumps(ids), lease, now)).fetchall()) == len(ids)
        for lease in done:
            limits = ((lease - 1) * LEASE_SIZE, lease * LEASE_SIZE)
            self.db.execute("UPDATE delivery SET state = 'sent' WHERE id >= ? AND id < ?", limits)
            self.db.execute("DELETE FROM intent WHERE lease = ?", (lease,))
            self.db.execute("UPDATE lease SET is_open = 0 WHERE id = ?", (lease,))
        self.db.execute("COMMIT")


class Connection(asyncio.Protocol):
    """Greeting, EHLO, an envelope, then again and again a body, its dot and the next envelope, and QUIT."""

    def __init__(self, ledger: Ledger, compose: Callable[[Recipient], bytes], ended: Callable[[], None]) -> None:
        self._ledger, self._compose, self._ended = ledger, compose, ended
        self._step, self._data, self._expected = "greeting", b"", 1
        self._current: Recipient | None = None
        self._following: Recipient | None = None
        self._body = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        data = self._data + data
        is_ehlo_open = self._step == "ehlo" and b"\n250 " not in b"\n" + data
        if not data.endswith(b"\r\n") or data.count(b"\n") < self._expected or is_ehlo_open:
            self._data = data
            return
        self._data = b""
        if self._step == "greeting":
            self._step = "ehlo"
            self._transport.write(b"EHLO yardstick.example.com\r\n")
        elif self._step == "ehlo":
            self._step, self._expected, self._following = "mail", 3, self._ledger.next()
            if self._following:
                self._transport.write(self._envelope(self._following))
            else:
                self._quit()
        else:
            self._take_replies(data.split(b"\r\n"))

    def go(self) -> None:
        """Write the body, its dot and the next envelope, as the intent is committed."""
        if not self._current:
            self._quit()
            return
        self._following = self._ledger.next()
        self._expected = 4 if self._following else 1
        self._transport.write(self._body + (self._envelope(self._following) if self._following else b""))

    def _envelope(self, recipient: Recipient) -> bytes:
        return f"MAIL FROM:<bounces+x@example.com>\r\nRCPT TO:<{recipient[1]}>\r\nDATA\r\n".encode()

    def _take_replies(self, lines: list[bytes]) -> None:
        outcome = None
        if self._current:
            assert lines[0].startswith(b"250"), lines
            outcome = (self._current[0], lines.pop(0).decode("latin-1"))
        self._current = self._following
        if self._current:
            assert lines[2].startswith(b"354"), lines
            self._body = self._compose(self._current)
        self._ledger.ask(self, outcome, self._current[0] if self._current else None)

    def _quit(self) -> None:
        self._transport.write(b"QUIT\r\n")
        self._transport.close()
        self._ended()


async def main(port: str, emails: str, connections: str, size: str, file: str) -> None:
    loop, open_count, finished = asyncio.get_running_loop(), int(connections), asyncio.Event()

    def ended() -> None:
        nonlocal open_count
        open_count -= 1
        if not open_count:
            finished.set()

    ledger, composer = Ledger(file, int(emails)), Composer(size)
    gc.collect()
    gc.freeze()
    began, cpu_began = time.perf_counter(), _cpu_seconds()
    for _ in range(int(connections)):
        await loop.create_connection(lambda: Connection(ledger, composer.compose, ended), "127.0.0.1", int(port))
    await finished.wait()
    seconds, cpu_seconds = time.perf_counter() - began, _cpu_seconds() - cpu_began
    assert ledger.db.execute("SELECT count(*) FROM delivery WHERE state = 'sent'").fetchone()[0] == int(emails)
    print(seconds, cpu_seconds)


def _cpu_seconds() -> float:
    usage: Any = resource.getrusage(resource.RUSAGE_SELF)
    return float(usage.ru_utime + usage.ru_stime)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
