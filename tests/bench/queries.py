"""Measure queries over many clients with ten fields, beside plain SQL, and the opening of a mailing with a query.

    python tests/bench/queries.py                     1,000,000 clients
    python tests/bench/queries.py --clients 100000    fewer

Counts are the best of some rounds, each query beside the same one of Python's `sqlite3` on the same file.
"""

import argparse
import json
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from programs import measure
from sqlalchemy import func, insert, select

from skychimp.models import (
    Client,
    ClientField,
    ClientTag,
    Every,
    FieldType,
    Format,
    Mailing,
    MailingFilter,
    MailingStatus,
    Message,
    User,
)
from skychimp.roles import Role
from skychimp.store.clients.queries.conditions import Evaluation
from skychimp.store.database import Store
from skychimp.store.schema import create_store, open_store
from skychimp.store.sqlite import driver

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
CITIES = ("Riga", "Oslo", "Paris", "Tallinn", "Rīga")
ROUNDS = 3

QUERIES = {
    "fields.city = 'Riga'": "json_extract(fields, '$.city') = 'Riga'",
    "fields.age > 30": "json_extract(fields, '$.age') > 30",
    "fields.city LIKE '%ig%'": "json_extract(fields, '$.city') LIKE '%ig%'",
    "name LIKE '%99%'": "name LIKE '%99%'",
    "tag = 'vip'": "EXISTS (SELECT 1 FROM client_tag WHERE client_id = client.id AND tag = 'vip')",
    "created_at > '2026-01-01'": "created_at > '2026-01-01'",
    "fields.city = 'Riga' AND fields.age > 30 OR tag = 'vip'": (
        "json_extract(fields, '$.city') = 'Riga' AND json_extract(fields, '$.age') > 30"
        " OR EXISTS (SELECT 1 FROM client_tag WHERE client_id = client.id AND tag = 'vip')"
    ),
}
"""Each query, and how a person would write it in SQL."""

ALL, BY_QUERY, BUT_QUERY = "all clients", '--where "fields.age >= 0"', 'all but --except-where "fields.age < 0"'
"""Mailings that go to the same clients."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1_000_000)
    parser.add_argument("--folder", help="folder for the stores")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-", dir=options.folder) as name:
        path = Path(name) / "skychimp.db"
        with closing(create_store(f"sqlite:///{path}")) as store:
            fill(store, options.clients)
            compare_counts(store, path)
        for audience in (ALL, BY_QUERY, BUT_QUERY):
            measure_opening(path, audience)


def fill(store: Store, clients: int) -> None:
    """Create a user, their fields and clients: one in ten has a tag."""
    with store.write() as db:
        db.add(User(email="a@x.org", address_key="a@x.org", role=Role.USER, created_at=NOW, verified_at=NOW))
        names = {"city": FieldType.TEXT, "age": FieldType.NUMBER} | {f"f{n}": FieldType.TEXT for n in range(8)}
        rows = [{"owner_id": 1, "key": name, "name": name, "type": kind} for name, kind in names.items()]
        db.execute(insert(ClientField), rows)
    for start in range(1, clients + 1, 50_000):
        numbers = range(start, min(start + 50_000, clients + 1))
        with store.write() as db:
            db.execute(insert(Client), [client(number) for number in numbers])
            db.execute(insert(ClientTag), [{"client_id": n, "tag": "vip"} for n in numbers if n % 10 == 0])


def client(number: int) -> dict[str, object]:
    fields = {"city": CITIES[number % 5], "age": number % 90}
    fields |= {f"f{n}": f"value {number % 97} of field {n}" for n in range(8)}
    email = f"client{number}@example.org"
    return {
        "id": number, "owner_id": 1, "email": email, "address_key": email, "name": f"Client {number}", "comment": "",
        "created_at": NOW, "fields": json.dumps(fields, ensure_ascii=False),
    }  # fmt: skip


def compare_counts(store: Store, path: Path) -> None:
    print(f"{'query':60}{'ours':>8}{'SQL':>8}{'ratio':>7}")
    for query, condition in QUERIES.items():
        with closing(connect(path)) as plain, store.read() as session:
            db = session.connection()
            statement = f"SELECT count(*) FROM client WHERE owner_id = 1 AND ({condition})"
            is_chosen = Evaluation(db, 1, "UTC", NOW).condition(query)
            table = Client.__table__
            ours = select(func.count(table.c.id)).where(table.c.owner_id == 1, is_chosen)
            (found, mine), (expected, theirs) = (
                best(lambda: db.scalar(ours)),  # noqa: B023
                best(lambda: plain.execute(statement).fetchone()[0]),  # noqa: B023
            )
        note = "" if found == expected else f"  {found:,} and {expected:,} clients"
        print(f"{query:60}{mine:8.2f}{theirs:8.2f}{mine / theirs:7.2f}{note}", flush=True)


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection with the same SQLite as ours."""
    connection: sqlite3.Connection = driver().connect(path)
    return connection


def best(count: Callable[[], int | None]) -> tuple[int | None, float]:
    """Return a count and the least number of seconds that it takes."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        number = count()
        seconds.append(time.perf_counter() - started)
    return number, min(seconds)


def measure_opening(path: Path, audience: str) -> None:
    used = path.with_name("used.db")
    shutil.copy(path, used)
    with closing(open_store(f"sqlite:///{used}")) as store:
        add_mailing(store, audience)
        store.checkpoint()
    measured = measure([sys.executable, str(Path(__file__).with_name("opening.py")), str(used)])
    seconds, deliveries = map(float, measured.stdout.split())
    print(
        f"opening for {audience}: {deliveries:,.0f} in {seconds:.1f} s,"
        f" {seconds / deliveries * 1e6:.1f} us a client, peak {measured.peak_mib:.0f} MiB",
        flush=True,
    )
    used.unlink()


def add_mailing(store: Store, audience: str) -> None:
    with store.write() as db:
        db.add(Message(owner_id=1, subject="Hello", body="x", format=Format.TEXT, created_at=NOW, updated_at=NOW))
        db.flush()
        mailing = Mailing(
            owner_id=1, message_id=1, all_clients=audience != BY_QUERY, start_local="2026-03-02T09:00:00",
            timezone="UTC", start_at=NOW, every=Every.ONCE, status=MailingStatus.CREATED, next_at=NOW, created_at=NOW,
        )  # fmt: skip
        db.add(mailing)
        db.flush()
        assert mailing.id is not None
        if audience == BY_QUERY:
            db.add(MailingFilter(mailing_id=mailing.id, leaves_out=False, expression="fields.age >= 0"))
        elif audience == BUT_QUERY:
            db.add(MailingFilter(mailing_id=mailing.id, leaves_out=True, expression="fields.age < 0"))


if __name__ == "__main__":
    main()
