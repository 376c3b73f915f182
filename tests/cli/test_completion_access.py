"""Check that completion and the commands agree on who may see what."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import create_user
from sqlalchemy import update
from sqlmodel import col
from support import ledger_rows
from support.command import Home

from skychimp.cli import completion
from skychimp.errors import Denied
from skychimp.models import DeliveryState, Login, Mailing, Post, Role, User
from skychimp.permissions import Actor
from skychimp.services.accounts import sessions
from skychimp.services.blog import posts
from skychimp.services.clients import clients, fields, segments, suppressions
from skychimp.services.listing import ListOptions
from skychimp.services.mailings import mailings
from skychimp.services.messages import layouts, messages
from skychimp.services.operations import unknown_deliveries
from skychimp.services.users import users
from skychimp.store.database import Store

DAY = timedelta(days=1)
NO_OPTIONS = ListOptions()
BY_NAME = ("tag", "field", "variant_by", "suppression")
"""Kinds that have no ids."""
SESSION_STATES: dict[str, Callable[[datetime], Any]] = {
    "valid": lambda now: update(User).values(name="Eve"),
    "idle": lambda now: update(Login).values(seen_at=now - 15 * DAY),
    "expired": lambda now: update(Login).values(expires_at=now),
    "blocked": lambda now: update(User).values(blocked_at=now),
    "unverified": lambda now: update(User).values(verified_at=None),
    "unknown token": lambda now: update(Login).values(token_hash="x"),
}
"""What is done to the store so that the session is in this state."""


def create_objects(store: Store, owner: Actor, name: str) -> None:
    """Create a client with a tag and fields, a suppression, and two mailings with unknown deliveries, one deleted."""
    clients.create(store, owner, email=f"{name}@example.org", tags=[name, "all"], fields={name: "1", "Size": "2"})
    suppressions.add(store, owner, [suppressions.new_suppression(f"{name}@example.net")])
    segments.create(store, owner, name, "name IS NULL", "UTC")
    layouts.create(store, owner, name, "{{ content }}")
    for is_deleted in (False, True):
        mailing = ledger_rows.mailing(store, owner)
        ledger_rows.delivery(store, ledger_rows.occurrence(store, mailing), "x@example.org", DeliveryState.UNKNOWN)
        if is_deleted:
            with store.write() as db:
                db.execute(update(Mailing).where(col(Mailing.id) == mailing).values(deleted_at=datetime.now(UTC)))


def create_posts(store: Store, author: Actor) -> None:
    now = datetime.now(UTC)
    with store.write() as db:
        for slug, published_at in (("news", now - DAY), ("draft", None), ("scheduled", now + DAY)):
            post = Post(
                author_id=author.user_id, slug=slug, title=slug, content="", created_at=now, updated_at=now,
                published_at=published_at,
            )  # fmt: skip
            db.add(post)


def listed(store: Store, actor: Actor, kind: str) -> Iterator[str]:
    """The ids, tags or addresses that the commands show to this actor."""
    if kind == "tag":
        yield from {tag for client in clients.list_clients(store, actor, NO_OPTIONS) for tag in client.tags}
        return
    if kind in ("field", "variant_by"):
        yield from (each.name for each in fields.list_fields(store, actor))
        return
    if kind == "suppression":
        yield from (str(each.address) for each in suppressions.list_suppressions(store, actor, NO_OPTIONS))
        return
    lists: dict[str, Callable[[], Iterable[Any]]] = {
        "client": lambda: clients.list_clients(store, actor, NO_OPTIONS),
        "layout": lambda: layouts.list_layouts(store, actor, NO_OPTIONS),
        "message": lambda: messages.list_messages(store, actor, NO_OPTIONS),
        "mailing": lambda: mailings.list_mailings(store, actor, NO_OPTIONS),
        "segment": lambda: segments.list_segments(store, actor, NO_OPTIONS),
        "deliveries": lambda: unknown_deliveries.list_unknown(store, actor),
        "user": lambda: users.list_users(store, actor, NO_OPTIONS),
        "post": lambda: posts.list_posts(store, actor, NO_OPTIONS, unpublished=True),
    }
    try:
        yield from (str(item.id) for item in lists[kind]())
    except Denied:
        if kind == "post":
            yield from (str(post.id) for post in posts.list_posts(store, actor, NO_OPTIONS, unpublished=False))
        raise


@pytest.mark.parametrize("session_state", SESSION_STATES)
@pytest.mark.parametrize("role", Role)
def test_completion_suggests_what_the_commands_show(
    store: Store, ada: Actor, home_of: Callable[[Actor], Home], role: Role, session_state: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    eve = create_user(store, "eve")
    for owner, name in ((ada, "ada"), (eve, "eve")):
        create_objects(store, owner, name)
    create_posts(store, ada)
    for other in Role:
        create_user(store, f"another-{other}", other)
    home = home_of(eve)
    with store.write() as db:
        db.execute(update(User).where(col(User.id) == eve.user_id).values(role=role))
        db.execute(SESSION_STATES[session_state](datetime.now(UTC)))
    for variable, value in home.environ.items():
        monkeypatch.setenv(variable, value)
    actor = sessions.find_actor(store, home.environ["SKYCHIMP_TOKEN"])
    assert (actor.role == role) == (session_state == "valid")
    for kind in completion.KINDS:
        suggested = [
            value for value, _ in completion.find_suggestions({}, completion.KINDS[kind], "", by_name=kind in BY_NAME)
        ]
        expected = set()
        try:
            for each in listed(store, actor, kind):
                expected.add(each)
        except Denied:
            pass
        assert set(suggested) == expected, kind
        assert len(suggested) == len(expected)
