"""The home page: its figures are those of the store, from the cache as well, and each person sees what is theirs."""

import contextlib
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import enrol
from sqlalchemy import event
from support.queue_steps import (
    change,
    claim,
    client,
    delete_client,
    delete_mailing,
    entry,
    intend,
    mailing,
    opened,
    record,
    rows,
    run,
    write,
)

from skychimp.config import sources
from skychimp.errors import Conflict
from skychimp.models import (
    Client,
    ClientTag,
    Delivery,
    DeliveryState,
    Every,
    Mailing,
    MailingClient,
    MailingStatus,
    MailingTag,
    Outcome,
    Role,
    StoreInfo,
)
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.blog import posts
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.mailings import Audience
from skychimp.services.reporting.cache import Cache, Cached, refresh
from skychimp.services.reporting.home import Home, Yours, home
from skychimp.store import queue, relay_pauses
from skychimp.store.database import Store

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture
def cached(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    """Of a cache in a folder, which must not complain."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Cache(sources.load({"store.url": str(store.path)}, environ={}), pytest.fail).cached


@pytest.fixture
def editor(store: Store) -> Actor:
    return enrol(store, "editor", Role.EDITOR)


def figures(page: Home) -> tuple[int, int, int]:
    return page.mailings, page.active_mailings, page.unique_clients


def counted(store: Store, now: datetime, owner: Actor | None = None) -> tuple[int, int, int]:
    """The figures, by a way of their own: every row is looked at, one after the other."""
    chosen = [
        row
        for row in rows(store, Mailing)
        if row.deleted_at is None and (owner is None or row.owner_id == owner.user_id)
    ]
    tags, named = rows(store, MailingTag), rows(store, MailingClient)
    tagged = {(row.client_id, row.tag) for row in rows(store, ClientTag)}
    addresses = set()
    for one in chosen:
        wanted = {row.tag for row in tags if row.mailing_id == one.id}
        ids = {row.client_id for row in named if row.mailing_id == one.id}
        for person in rows(store, Client):
            mine = person.owner_id == one.owner_id
            if mine and (one.all_clients or person.id in ids or any((person.id, tag) in tagged for tag in wanted)):
                addresses.add(person.address_key)
    active = [
        one
        for one in chosen
        if one.status != MailingStatus.COMPLETED and not one.disabled_at and (one.end_at is None or one.end_at > now)
    ]
    return len(chosen), len(active), len(addresses)


# Figures


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ({}, True),
        ({"status": MailingStatus.RUNNING}, True),
        ({"status": MailingStatus.COMPLETED}, False),
        ({"disabled_at": NOW}, False),
        ({"end_at": NOW}, False),
        ({"end_at": NOW + timedelta(seconds=1)}, True),
        ({"start": NOW + 30 * DAY}, True),
    ],
    ids=["created", "running", "completed", "disabled", "over", "not yet over", "not yet begun"],
)
def test_a_mailing_is_active_while_it_goes_on(
    store: Store, ada: Actor, cached: Cached, values: dict[str, Any], counts: bool
) -> None:
    mailing(store, ada, **values)

    for way in (cached, cached, refresh):
        assert figures(home(store, ANONYMOUS, way, now=NOW)) == (1, int(counts), 0)


def test_a_deleted_mailing_and_its_audience_do_not_count(store: Store, ada: Actor, cached: Cached) -> None:
    client(store, ada, "zoe")
    gone = mailing(store, ada)
    assert figures(home(store, ANONYMOUS, cached)) == (1, 1, 1)

    delete_mailing(store, gone)
    assert figures(home(store, ANONYMOUS, cached)) == (0, 0, 0)


def test_each_address_counts_once_whoever_writes_to_it(store: Store, ada: Actor, bob: Actor, cached: Cached) -> None:
    zoe, yan, _ = client(store, ada, "zoe", tags=["vip"]), client(store, ada, "yan"), client(store, ada, "xan")
    client(store, bob, "zoe", tags=["vip"])
    client(store, bob, "bobs", tags=["vip"])

    steps: list[tuple[Callable[[], object], int]] = [
        (lambda: mailing(store, ada, tags=["nobody"]), 0),
        (lambda: mailing(store, ada, tags=["vip", "nobody"]), 1),  # Bob's are not Ada's, whatever their tags
        (lambda: mailing(store, ada, client_ids=[zoe, yan]), 2),
        (lambda: mailing(store, bob, tags=["vip"]), 3),
        (lambda: mailing(store, ada), 4),
        (lambda: client(store, ada, "new"), 5),
        (lambda: delete_client(store, yan), 4),
    ]
    for step, number in steps:
        step()
        assert home(store, ANONYMOUS, cached).unique_clients == number
        assert figures(home(store, ANONYMOUS, cached)) == counted(store, NOW)


def test_an_end_that_passes_needs_no_write(store: Store, ada: Actor, cached: Cached) -> None:
    for hours in (1, 2):
        mailing(store, ada, start=NOW - DAY, end_at=NOW + timedelta(hours=hours))
    mailing(store, ada)

    active = [
        home(store, ANONYMOUS, cached, now=NOW + timedelta(hours=hours)).active_mailings for hours in (0, 1, 2, 0)
    ]
    assert active == [3, 2, 1, 3]


class Changes:
    """Any change of Ada's or Bob's mailings and clients, by chance."""

    def __init__(self, store: Store, owners: tuple[Actor, Actor], seed: int) -> None:
        self.store, self.owners, self.chance = store, owners, random.Random(seed)

    def make(self, number: int, now: datetime) -> None:
        store, chance = self.store, self.chance
        owner, tags = chance.choice(self.owners), chance.choice([[], ["a"], ["a", "b"]])
        changes: list[Callable[[], object]] = [
            lambda: clients.create(store, owner, email=f"{number}@example.org", tags=tags),
            lambda: clients.create(store, owner, email=f"{number - 1}@example.net", tags=tags),
            lambda: clients.create(store, self.owners[number % 2], email=f"{number // 2}@example.com"),
            lambda: clients.change(store, *self._client(), tags=tags),
            lambda: clients.change(store, *self._client(), email=f"renamed{number}@example.org"),
            lambda: clients.change(store, *self._client(), name="counts for nothing"),
            lambda: clients.remove(store, *self._client()),
            lambda: mailing(store, owner, tags=tags),
            lambda: mailing(store, owner, end_at=max(now, NOW) + number * timedelta(minutes=20)),
            lambda: mailings.change(store, *self._mailing(), audience=self._audience()),
            lambda: mailings.remove(store, *self._mailing()),
            lambda: mailings.disable(store, *self._mailing()),
            lambda: mailings.enable(store, *self._mailing()),
            lambda: change(store, Mailing, self._mailing()[1], status=MailingStatus.COMPLETED),
            lambda: write(store, lambda db: queue.disable(db, self._mailing()[1], "failures", NOW)),
        ]
        with contextlib.suppress(Conflict):
            chance.choice(changes)()

    def _client(self) -> tuple[Actor, str]:
        row = self.chance.choice(rows(self.store, Client))
        return self._owner(row.owner_id), str(row.id)

    def _mailing(self) -> tuple[Actor, int]:
        row = self.chance.choice([row for row in rows(self.store, Mailing) if row.deleted_at is None])
        self.changed = row
        return self._owner(row.owner_id), row.id or 0

    def _audience(self) -> Audience:
        mine = [row.id for row in rows(self.store, Client) if row.owner_id == self.changed.owner_id and row.id]
        some = self.chance.sample(mine, min(2, len(mine)))
        return self.chance.choice([Audience(True), Audience(tags=["a"]), Audience(tags=["b"], client_ids=some)])

    def _owner(self, user_id: int) -> Actor:
        return next(owner for owner in self.owners if owner.user_id == user_id)


@pytest.mark.parametrize("seed", range(2))
def test_whoever_has_written_sees_it_at_once(store: Store, ada: Actor, bob: Actor, cached: Cached, seed: int) -> None:
    """After each change the page from the cache is the one that is counted row by row."""
    for owner in (ada, bob):
        for number in range(12):
            client(store, owner, f"first{number}", tags=["a"] if number % 2 else [])
            mailing(store, owner, tags=["a"] if number % 3 else ["b"])
    changes, now = Changes(store, (ada, bob), seed), NOW
    for number in range(60):
        now += timedelta(minutes=changes.chance.randrange(60))
        changes.make(number, now)
        page = home(store, ada, cached, now=now)
        assert figures(page) == counted(store, now)
        assert page.yours is not None
        yours = page.yours
        assert (yours.mailings, yours.active_mailings, yours.unique_clients) == counted(store, now, ada)
        assert yours.clients == sum(person.owner_id == ada.user_id for person in rows(store, Client))


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO client_tag VALUES (3, 'vip')",
        "DELETE FROM client_tag",
        "UPDATE client_tag SET tag = 'other'",
        "INSERT INTO mailing_client VALUES (2, 3)",
        "DELETE FROM mailing_client",
        "UPDATE mailing_client SET client_id = 1",
        "INSERT INTO mailing_tag VALUES (2, 'new')",
        "DELETE FROM mailing_tag",
        "UPDATE mailing_tag SET tag = 'other'",
        "UPDATE mailing SET all_clients = 1 WHERE id = 1",
        "UPDATE client SET address_key = 'zoe@example.org' WHERE id = 4",
        "DELETE FROM client WHERE id = 2",
    ],
)
def test_any_row_that_changes_an_audience_is_seen(
    store: Store, ada: Actor, bob: Actor, cached: Cached, change: str
) -> None:
    for name in ("zoe", "yan", "xan"):
        client(store, ada, name, tags={"zoe": ["vip"], "xan": ["new"]}.get(name, []))
    mailing(store, ada, tags=["vip"])
    mailing(store, ada, client_ids=[2])
    client(store, bob, "bobs", tags=["vip"])
    mailing(store, bob)
    before = figures(home(store, ANONYMOUS, cached))

    write(store, lambda connection: connection.exec_driver_sql(change))
    assert before != figures(home(store, ANONYMOUS, cached)) == counted(store, NOW)


def test_letters_that_go_out_leave_the_cache_alone(store: Store, ada: Actor, cached: Cached) -> None:
    ids = opened(store, ada, "zoe", "yan", every=Every.DAY)
    assert ids
    before = home(store, ANONYMOUS, cached)

    claimed = claim(store)
    intend(store, 1, *claimed)
    record(store, 1, *(entry(one, Outcome.SENT) for one in claimed))
    assert home(store, ANONYMOUS, cached).as_of == before.as_of < home(store, ANONYMOUS).as_of


def test_a_restored_store_does_not_take_its_later_figures_for_those_of_then(
    store: Store, ada: Actor, cached: Cached
) -> None:
    client(store, ada, "zoe")
    store.checkpoint()
    shutil.copy(store.path, store.path.with_name("copy"))
    mailing(store, ada)
    assert figures(home(store, ANONYMOUS, cached)) == (1, 1, 1)

    store.close()
    for left in store.path.parent.glob(f"{store.path.name}-*"):
        left.unlink()
    shutil.copy(store.path.with_name("copy"), store.path)
    assert figures(home(store, ANONYMOUS, cached)) == (0, 0, 0)
    mailing(store, ada, tags=["nobody"])
    assert figures(home(store, ANONYMOUS, cached)) == (1, 1, 0)


def test_figures_are_counted_by_indexes(store: Store, ada: Actor) -> None:
    """Clients and their tags are found by indexes, and the ledger is not looked at: it may be as long as it likes."""
    counts: list[str] = []

    def hear(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        counts.extend([statement] if statement.startswith(("SELECT count", "SELECT sum")) else [])

    event.listen(store.engine, "before_cursor_execute", hear)
    home(store, ada)
    event.remove(store.engine, "before_cursor_execute", hear)
    with store.read() as db:
        explained = [
            step.detail
            for statement in counts
            for step in db.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", (1,) * statement.count("?"))
        ]
    tables = [step.split()[1] for step in explained if step.startswith("SCAN")]
    assert len(counts) >= 5
    assert not {"client", "client_tag", "attempt"} & set(tables)
    assert [step for step in explained if "delivery" in step or "occurrence" in step] == [
        "SCAN delivery USING COVERING INDEX ix_delivery_unknown",  # which holds the unknown ones alone
        "SEARCH occurrence USING INTEGER PRIMARY KEY (rowid=?)",
    ]


# Posts


def test_three_published_posts_are_drawn_and_their_views_are_live(store: Store, editor: Actor, cached: Cached) -> None:
    assert home(store, ANONYMOUS, cached).posts == []
    for number in range(6):
        posts.create(store, editor, title=f"Post {number}", content="x", publish=number < 5, at=NOW - DAY)
    posts.create(store, editor, title="Coming", content="x", publish=True, at=NOW + DAY)

    drawn = [home(store, ANONYMOUS, cached, now=NOW).posts for _ in range(40)]
    assert {len({post.id for post in posts}) for posts in drawn} == {3}
    assert {post.title for posts in drawn for post in posts} == {f"Post {number}" for number in range(5)}
    assert len({tuple(post.id for post in posts) for posts in drawn}) > 5
    for post_id in range(1, 6):
        posts.view(store, ANONYMOUS, str(post_id))
    assert {post.views for post in home(store, ANONYMOUS, cached, now=NOW).posts} == {1}
    for post_id in (1, 2):
        posts.remove(store, editor, str(post_id))
    assert {len(home(store, ANONYMOUS, cached, now=NOW).posts) for _ in range(10)} == {3}


def test_a_post_to_come_is_drawn_once_its_time_has_come(store: Store, editor: Actor, cached: Cached) -> None:
    posts.create(store, editor, title="Coming", content="x", publish=True, at=NOW + DAY)

    shown = [len(home(store, ANONYMOUS, cached, now=NOW + days * DAY).posts) for days in (0, 1, 0)]
    assert shown == [0, 1, 0]


def test_what_an_editor_has_done_is_seen_at_once(store: Store, editor: Actor, cached: Cached) -> None:
    def titles() -> list[str]:
        return [post.title for post in home(store, ANONYMOUS, cached).posts]

    post = posts.create(store, editor, title="A", content="x")
    assert titles() == []
    posts.publish(store, editor, post.slug)
    assert titles() == ["A"]
    posts.change(store, editor, post.slug, title="B")
    assert titles() == ["B"]
    posts.publish(store, editor, post.slug, NOW + DAY)
    assert titles() == []
    posts.publish(store, editor, post.slug)
    assert titles() == ["B"]
    posts.unpublish(store, editor, post.slug)
    assert titles() == []
    posts.publish(store, editor, post.slug)
    posts.remove(store, editor, post.slug)
    assert titles() == []


# What is yours, and what needs you


def test_each_sees_their_own(store: Store, ada: Actor, bob: Actor, manager: Actor, editor: Actor) -> None:
    client(store, ada, "zoe", tags=["vip"])
    client(store, ada, "yan")
    mailing(store, ada, tags=["vip"], start=NOW + 2 * DAY)
    mailing(store, ada, tags=["vip"], start=NOW + DAY, disabled_at=NOW)
    mailing(store, bob, start=NOW + DAY)

    assert home(store, ada).yours == Yours(2, 1, 1, 2, NOW + 2 * DAY)
    assert home(store, bob).yours == Yours(1, 1, 0, 0, NOW + DAY)
    for other in (ANONYMOUS, manager, editor):
        assert home(store, other).yours is None


def concerns(store: Store, actor: Actor) -> dict[str, str]:
    """What needs this person, and the command that helps."""
    return {concern.about: concern.command for concern in home(store, actor).attention}


def test_what_needs_a_person_is_told_to_who_can_do_something_about_it(
    store: Store, ada: Actor, bob: Actor, manager: Actor, editor: Actor, admin: Actor
) -> None:
    everybody = (ANONYMOUS, ada, bob, manager, editor, admin)
    assert [concerns(store, actor) for actor in everybody] == [{}] * 6

    opened(store, ada, "zoe", "yan")
    change(store, Delivery, 1, state=DeliveryState.UNKNOWN, next_try_at=None)
    change(store, Delivery, 2, state=DeliveryState.UNKNOWN, next_try_at=NOW)  # will be sent again by itself
    stopped = mailing(store, ada, disabled_at=NOW, disabled_reason="too many failures")
    mailing(store, ada, disabled_at=NOW, disabled_by_id=ada.user_id, disabled_reason="by hand")
    run(store, failed=7, heartbeat_at=NOW - timedelta(hours=1))
    run(store, failed=70, heartbeat_at=NOW - 2 * DAY)

    report, resolve = {"disabled": f"skychimp report {stopped}"}, {"unknown": "skychimp resolve"}
    failed = {"failed": "skychimp mailings log ID --status failed"}
    expected = [{}, resolve | report, {}, report | failed, {}, resolve | report | failed]
    assert [concerns(store, actor) for actor in everybody] == expected
    words = [concern.words for concern in home(store, admin).attention]
    assert words == [
        "1 letter whose end nobody knows: was it sent?",
        f"mailing {stopped} was disabled by the system: too many failures",
        "7 letters failed since yesterday",
    ]


def test_a_paused_relay_and_a_restored_store_are_told_to_all_who_are_logged_in(store: Store, ada: Actor) -> None:
    write(store, lambda db: relay_pauses.pause(db, "relay:25", "hash", "535 5.7.8 no", NOW))
    change(store, StoreInfo, 1, held_at=NOW)

    assert concerns(store, ada) == {"held": "skychimp resolve --restored", "relay": "skychimp doctor"}
    assert concerns(store, ANONYMOUS) == {}
