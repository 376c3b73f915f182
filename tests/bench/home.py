"""What the home page costs on a large store, from the cache and counted anew, beside the same on an empty store.

python tests/bench/home.py [CLIENTS [MAILINGS [ROUNDS]]]    1,000,000, 10,000 and 15 if not said otherwise

Ten users own the clients, the first of them half, and some addresses are clients of two. Their mailings go to all
clients, to a tag, or to two hundred that are named. Rounds are interleaved; medians and their ratios are shown.
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
from skychimp.services.clients.importing import ClientRow
from skychimp.services.listing import ListOptions
from skychimp.services.mailings import mailings
from skychimp.services.mailings.mailings import Audience, When
from skychimp.services.messages import messages
from skychimp.store.database import Store
from skychimp.store.schema import create_store

OWNERS = 10
NAMED = 200
POSTS = 1_000
TOKEN = "the first owner's"
ROW = "{:<40}{:>8}{:>8}"


def main(people: int, settings: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-") as folder:
        empty, large = Path(folder) / "empty.db", Path(folder) / "large.db"
        _fill(empty, 0, 0)
        _fill(large, people, settings)
        guest = {"PATH": os.environ["PATH"], "HOME": folder}
        owner = guest | {"SKYCHIMP_TOKEN": TOKEN}
        pages: dict[str, tuple[dict[str, str], list[str]]] = {
            "from the cache": (guest, []),
            "from the cache, logged in": (owner, []),
            "counted anew": (guest, ["--fresh"]),
        }
        taken: dict[tuple[str, Path], list[float]] = {(name, path): [] for name in pages for path in (empty, large)}
        for number in range(rounds + 1):
            for (name, path), seconds in taken.items():
                environ, options = pages[name]
                took = measure([SKYCHIMP, "--store", str(path), "stats", *options], environ).seconds
                if number:  # the first round fills the cache
                    seconds.append(took * 1000)
    print(ROW.format("ms", "empty", "large") + f"{'ratio':>8}")
    for name in pages:
        small, big = median(taken[name, empty]), median(taken[name, large])
        print(ROW.format(name, round(small), round(big)) + f"{big / small:>8.2f}", flush=True)


def _fill(path: Path, people: int, settings: int) -> None:
    """A store with its users and, where there are to be people, their clients, mailings and posts."""
    store = create_store(f"sqlite:///{path}")
    owners = [_user(store, number, Role.USER) for number in range(OWNERS)]
    _log_in(store, owners[0])
    if people:
        for number, owner in enumerate(owners):
            share = people // 2 // (1 if number == 0 else OWNERS - 1)
            first = 0 if number == 0 else people // 4 + share * number
            rows = (_row(each) for each in range(first, first + share))
            importing.import_rows(store, owner, rows, on_bad=print)
            _make_mailings(store, owner, settings // OWNERS, all_clients=number % 2 == 0)
        editor = _user(store, OWNERS, Role.EDITOR)
        for number in range(POSTS):
            posts.create(store, editor, title=f"Post {number}", content="MessageContent", publish=True)
    store.close()


def _make_mailings(store: Store, owner: Actor, number: int, *, all_clients: bool) -> None:
    message = messages.create(store, owner, MessageContent("Hello", "Hello", Format.TEXT)).id
    named = [client.id for client in clients.list_clients(store, owner, ListOptions(limit=NAMED))]
    audiences = [Audience(tags=["vip"]), Audience(client_ids=named), *([Audience(True)] if all_clients else [])]
    for each in range(number):
        when = When("2027-01-01 09:00", "2028-01-01 09:00" if each % 3 else None, Every.DAY, "UTC")
        mailings.create(store, owner, message_id=message, when=when, audience=audiences[each % len(audiences)])


def _row(number: int) -> ClientRow:
    return ClientRow(number, f"{number * 7919 % 1_000_003}.{number}@example.org", "", "", ["vip"] * (number % 10 == 0))


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
