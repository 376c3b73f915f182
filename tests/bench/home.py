"""Compare the time of the home page on a large store, cached and uncached, with that on an empty store.

python tests/bench/home.py [CLIENTS [MAILINGS [ROUNDS]]]    default: 1,000,000, 10,000 and 15

Ten users own the clients. The first of them owns half, and some addresses are clients of two users. Their mailings go
to all clients, to a tag, or to two hundred named clients. Rounds are interleaved. The table shows medians and ratios.
"""

import hashlib
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from programs import measure
from stores import SKYCHIMP

from skychimp.delivery.composing.compose import MessageContent
from skychimp.models import Every, Format, Login, Role, User
from skychimp.permissions import Actor
from skychimp.services.blog import posts
from skychimp.services.clients import clients, importing
from skychimp.services.clients.importing import ImportedRow
from skychimp.services.listing import ListOptions
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import messages
from skychimp.store.database import Store
from skychimp.store.schema import create_store

OWNERS = 10
NAMED_CLIENTS = 200
POSTS = 1_000
TOKEN = "the first owner's"
ROW = "{:<40}{:>8}{:>8}"


def main(clients_count: int, mailing_count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-") as folder:
        empty, large = Path(folder) / "empty.db", Path(folder) / "large.db"
        _fill(empty, 0, 0)
        _fill(large, clients_count, mailing_count)
        anonymous = {"PATH": os.environ["PATH"], "HOME": folder}
        owner = anonymous | {"SKYCHIMP_TOKEN": TOKEN}
        pages: dict[str, tuple[dict[str, str], list[str]]] = {
            "from the cache": (anonymous, []),
            "from the cache, logged in": (owner, []),
            "not cached": (anonymous, ["--fresh"]),
        }
        milliseconds: dict[tuple[str, Path], list[float]] = {
            (name, path): [] for name in pages for path in (empty, large)
        }
        for number in range(rounds + 1):
            for (name, path), taken in milliseconds.items():
                environ, options = pages[name]
                seconds = measure([SKYCHIMP, "--store", str(path), "stats", *options], environ).seconds
                if number:  # the first round fills the cache
                    taken.append(seconds * 1000)
    print(ROW.format("ms", "empty", "large") + f"{'ratio':>8}")
    for name in pages:
        small, big = median(milliseconds[name, empty]), median(milliseconds[name, large])
        print(ROW.format(name, round(small), round(big)) + f"{big / small:>8.2f}", flush=True)


def _fill(path: Path, clients_count: int, mailing_count: int) -> None:
    """Create a store with users and, if `clients_count` is not 0, their clients, mailings and posts."""
    store = create_store(f"sqlite:///{path}")
    owners = [_user(store, number, Role.USER) for number in range(OWNERS)]
    _log_in(store, owners[0])
    if clients_count:
        for number, owner in enumerate(owners):
            share = clients_count // 2 // (1 if number == 0 else OWNERS - 1)
            first = 0 if number == 0 else clients_count // 4 + share * number
            rows = (_row(index) for index in range(first, first + share))
            importing.import_rows(store, owner, rows, on_rejected=print)
            _make_mailings(store, owner, mailing_count // OWNERS, all_clients=number % 2 == 0)
        editor = _user(store, OWNERS, Role.EDITOR)
        for number in range(POSTS):
            posts.create(store, editor, title=f"Post {number}", content="Text", publish=True)
    store.close()


def _make_mailings(store: Store, owner: Actor, number: int, *, all_clients: bool) -> None:
    message = messages.create(store, owner, MessageContent("Hello", "Hello", Format.TEXT)).id
    named = [client.id for client in clients.list_clients(store, owner, ListOptions(limit=NAMED_CLIENTS))]
    audiences = [Audience(tags=["vip"]), Audience(client_ids=named), *([Audience(True)] if all_clients else [])]
    for index in range(number):
        schedule = ScheduleInput("2027-01-01 09:00", "2028-01-01 09:00" if index % 3 else None, Every.DAY, "UTC")
        mailings.create(store, owner, message_id=message, schedule=schedule, audience=audiences[index % len(audiences)])


def _row(number: int) -> ImportedRow:
    return ImportedRow(
        number, f"{number * 7919 % 1_000_003}.{number}@example.org", "", "", ["vip"] * (number % 10 == 0)
    )


def _user(store: Store, number: int, role: Role) -> Actor:
    email, now = f"user-{number}@example.org", datetime.now(UTC)
    with store.write() as db:
        user = User(email=email, address_key=email, role=role, created_at=now, verified_at=now)
        db.add(user)
        db.flush()
        assert user.id is not None
        return Actor(user.id, email, role)


def _log_in(store: Store, user: Actor) -> None:
    digest, now = hashlib.sha256(TOKEN.encode()).hexdigest(), datetime.now(UTC)
    until = now + timedelta(days=1)
    with store.write() as db:
        db.add(Login(user_id=user.user_id, token_hash=digest, created_at=now, seen_at=now, expires_at=until))


if __name__ == "__main__":
    sizes = [int(word.replace(",", "")) for word in sys.argv[1:]]
    main(*sizes, *(1_000_000, 10_000, 15)[len(sizes) :])
