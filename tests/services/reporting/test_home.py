"""The home page's figures are those of the store, from the cache too, and each user sees their own."""

import contextlib
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import create_user
from sqlalchemy import event
from support.queue_steps import (
    claim,
    create_client,
    create_mailing,
    create_run,
    delete_client,
    delete_mailing,
    make_attempt,
    open_mailing,
    record_attempts,
    record_intents,
    rows,
    update_row,
    write,
)

from skychimp.config import sources
from skychimp.errors import Conflict, NotFound
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
    User,
)
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.return_rates import ReturnCounts
from skychimp.services.blog import posts
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.operations import unknown_deliveries
from skychimp.services.reporting import returns
from skychimp.services.reporting.cache import Cached, open_cache, refresh
from skychimp.services.reporting.home import Home, OwnFigures, home
from skychimp.services.users import users
from skychimp.store import holds, relay_pauses
from skychimp.store.database import Store

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
NO_RATES = returns.report_rates(ReturnCounts())


@pytest.fixture
def cached(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    """A cache in a folder. A warning from it fails the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_cache(sources.load_settings({"store.url": str(store.path)}, environ={}), pytest.fail)


@pytest.fixture
def editor(store: Store) -> Actor:
    return create_user(store, "editor", Role.EDITOR)


def figures(page: Home) -> tuple[int, int, int]:
    return page.mailings, page.active_mailings, page.unique_clients


def expected_figures(store: Store, now: datetime, owner: Actor | None = None) -> tuple[int, int, int]:
    """Count the figures in another way: row by row."""
    mailings = [
        row
        for row in rows(store, Mailing)
        if row.deleted_at is None and (owner is None or row.owner_id == owner.user_id)
    ]
    mailing_tags, mailing_clients = rows(store, MailingTag), rows(store, MailingClient)
    client_tags = {(row.client_id, row.tag) for row in rows(store, ClientTag)}
    addresses = set()
    for mailing in mailings:
        tags = {row.tag for row in mailing_tags if row.mailing_id == mailing.id}
        ids = {row.client_id for row in mailing_clients if row.mailing_id == mailing.id}
        for client in rows(store, Client):
            is_included = (
                mailing.all_clients or client.id in ids or any((client.id, tag) in client_tags for tag in tags)
            )
            if client.owner_id == mailing.owner_id and is_included:
                addresses.add(client.address_key)
    blocked = {row.id for row in rows(store, User) if row.blocked_at}
    active = [
        row
        for row in mailings
        if row.status != MailingStatus.COMPLETED
        and not row.disabled_at
        and (row.end_at is None or row.end_at > now)
        and row.owner_id not in blocked
    ]
    return len(mailings), len(active), len(addresses)


# Figures


@pytest.mark.parametrize(
    ("values", "is_active"),
    [
        ({}, True),
        ({"status": MailingStatus.RUNNING}, True),
        ({"status": MailingStatus.COMPLETED}, False),
        ({"disabled_at": NOW}, False),
        ({"end_at": NOW}, False),
        ({"end_at": NOW + timedelta(seconds=1)}, True),
        ({"start": NOW + 30 * DAY}, True),
    ],
    ids=["created", "running", "completed", "disabled", "ended", "not ended", "not started"],
)
def test_mailing_is_active_until_it_is_stopped_or_over(
    store: Store, ada: Actor, cached: Cached, values: dict[str, Any], is_active: bool
) -> None:
    create_mailing(store, ada, **values)

    for cache in (cached, cached, refresh):
        assert figures(home(store, ANONYMOUS, cache, now=NOW)) == (1, int(is_active), 0)


def test_mailing_of_a_blocked_owner_is_not_active(
    store: Store, ada: Actor, bob: Actor, manager: Actor, cached: Cached
) -> None:
    """Blocking and unblocking is visible at once, from the cache too."""
    create_client(store, ada, "zoe")
    create_mailing(store, ada, start=NOW)
    create_mailing(store, bob, start=NOW)
    assert figures(home(store, ANONYMOUS, cached)) == (2, 2, 1)

    users.block(store, manager, ada.email)
    assert figures(home(store, ANONYMOUS, cached)) == (2, 1, 1)
    assert home(store, ada, cached).yours == OwnFigures(1, 0, 1, 1, None, NO_RATES)
    assert home(store, bob, cached).yours == OwnFigures(1, 1, 0, 0, NOW, NO_RATES)

    users.unblock(store, manager, ada.email)
    assert figures(home(store, ANONYMOUS, cached)) == (2, 2, 1)
    assert home(store, ada, cached).yours == OwnFigures(1, 1, 1, 1, NOW, NO_RATES)


def test_deleted_mailing_and_its_audience_do_not_count(store: Store, ada: Actor, cached: Cached) -> None:
    create_client(store, ada, "zoe")
    mailing_id = create_mailing(store, ada)
    assert figures(home(store, ANONYMOUS, cached)) == (1, 1, 1)

    delete_mailing(store, mailing_id)
    assert figures(home(store, ANONYMOUS, cached)) == (0, 0, 0)


def test_each_address_counts_once_for_all_owners(store: Store, ada: Actor, bob: Actor, cached: Cached) -> None:
    zoe, yan = create_client(store, ada, "zoe", tags=["vip"]), create_client(store, ada, "yan")
    create_client(store, ada, "xan")
    create_client(store, bob, "zoe", tags=["vip"])
    create_client(store, bob, "bobs", tags=["vip"])

    steps: list[tuple[Callable[[], object], int]] = [
        (lambda: create_mailing(store, ada, tags=["unused"]), 0),
        (lambda: create_mailing(store, ada, tags=["vip", "unused"]), 1),  # Bob's clients with this tag do not count
        (lambda: create_mailing(store, ada, client_ids=[zoe, yan]), 2),
        (lambda: create_mailing(store, bob, tags=["vip"]), 3),
        (lambda: create_mailing(store, ada), 4),
        (lambda: create_client(store, ada, "new"), 5),
        (lambda: delete_client(store, yan), 4),
    ]
    for step, number in steps:
        step()
        assert home(store, ANONYMOUS, cached).unique_clients == number
        assert figures(home(store, ANONYMOUS, cached)) == expected_figures(store, NOW)


def test_mailing_ends_without_any_write(store: Store, ada: Actor, cached: Cached) -> None:
    for hours in (1, 2):
        create_mailing(store, ada, start=NOW - DAY, end_at=NOW + timedelta(hours=hours))
    create_mailing(store, ada)

    active = [
        home(store, ANONYMOUS, cached, now=NOW + timedelta(hours=hours)).active_mailings for hours in (0, 1, 2, 0)
    ]
    assert active == [3, 2, 1, 3]


class Changes:
    """Makes random changes of Ada's and Bob's mailings and clients."""

    def __init__(self, store: Store, owners: tuple[Actor, Actor], seed: int) -> None:
        self.store, self.owners, self.random = store, owners, random.Random(seed)

    def make(self, number: int, now: datetime) -> None:
        store, choice = self.store, self.random.choice
        owner, tags = choice(self.owners), choice([[], ["a"], ["a", "b"]])
        changes: list[Callable[[], object]] = [
            lambda: clients.create(store, owner, email=f"{number}@example.org", tags=tags),
            lambda: clients.create(store, owner, email=f"{number - 1}@example.net", tags=tags),
            lambda: clients.create(store, self.owners[number % 2], email=f"{number // 2}@example.com"),
            lambda: clients.change(store, *self._client(), tags=tags),
            lambda: clients.change(store, *self._client(), email=f"renamed{number}@example.org"),
            lambda: clients.change(store, *self._client(), name="is not counted"),
            lambda: clients.remove(store, *self._client()),
            lambda: create_mailing(store, owner, tags=tags),
            lambda: create_mailing(store, owner, end_at=max(now, NOW) + number * timedelta(minutes=20)),
            lambda: mailings.change(store, *self._mailing(), audience=self._audience()),
            lambda: mailings.remove(store, *self._mailing()),
            lambda: mailings.disable(store, *self._mailing()),
            lambda: mailings.enable(store, *self._mailing()),
            lambda: update_row(store, Mailing, self._mailing()[1], status=MailingStatus.COMPLETED),
            lambda: update_row(store, User, owner.user_id, blocked_at=NOW),
            lambda: update_row(store, User, owner.user_id, blocked_at=None),
            lambda: write(store, lambda db: holds.disable_mailing(db, self._mailing()[1], "failures", NOW)),
        ]
        with contextlib.suppress(Conflict):
            choice(changes)()

    def _client(self) -> tuple[Actor, str]:
        row = self.random.choice(rows(self.store, Client))
        return self._owner(row.owner_id), str(row.id)

    def _mailing(self) -> tuple[Actor, int]:
        row = self.random.choice([row for row in rows(self.store, Mailing) if row.deleted_at is None])
        self.changed = row
        return self._owner(row.owner_id), row.id or 0

    def _audience(self) -> Audience:
        own_ids = [row.id for row in rows(self.store, Client) if row.owner_id == self.changed.owner_id and row.id]
        named = self.random.sample(own_ids, min(2, len(own_ids)))
        return self.random.choice([Audience(True), Audience(tags=["a"]), Audience(tags=["b"], client_ids=named)])

    def _owner(self, user_id: int) -> Actor:
        return next(owner for owner in self.owners if owner.user_id == user_id)


@pytest.mark.parametrize(
    ("seed", "steps"),
    [(0, 25), pytest.param(0, 60, marks=pytest.mark.slow), pytest.param(1, 60, marks=pytest.mark.slow)],
)
def test_any_change_is_visible_at_once(
    store: Store, ada: Actor, bob: Actor, cached: Cached, seed: int, steps: int
) -> None:
    """After each change, the figures from the cache equal those counted row by row."""
    for owner in (ada, bob):
        for number in range(6):
            create_client(store, owner, f"first{number}", tags=["a"] if number % 2 else [])
            create_mailing(store, owner, tags=["a"] if number % 3 else ["b"])
    changes, now = Changes(store, (ada, bob), seed), NOW
    for number in range(steps):
        now += timedelta(minutes=changes.random.randrange(60))
        changes.make(number, now)
        page = home(store, ada, cached, now=now)
        assert figures(page) == expected_figures(store, now)
        assert page.yours is not None
        yours = page.yours
        assert (yours.mailings, yours.active_mailings, yours.unique_clients) == expected_figures(store, now, ada)
        assert yours.clients == sum(client.owner_id == ada.user_id for client in rows(store, Client))


@pytest.mark.parametrize(
    "statement",
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
        "UPDATE mailing SET all_clients = true WHERE id = 1",
        "UPDATE client SET address_key = 'zoe@example.org' WHERE id = 4",
        "DELETE FROM client WHERE id = 2",
        'UPDATE "user" SET blocked_at = created_at WHERE id = 1',
    ],
)
def test_any_changed_row_is_visible_at_once(
    store: Store, ada: Actor, bob: Actor, cached: Cached, statement: str
) -> None:
    for name in ("zoe", "yan", "xan"):
        create_client(store, ada, name, tags={"zoe": ["vip"], "xan": ["new"]}.get(name, []))
    create_mailing(store, ada, tags=["vip"])
    create_mailing(store, ada, client_ids=[2])
    create_client(store, bob, "bobs", tags=["vip"])
    create_mailing(store, bob)
    before = figures(home(store, ANONYMOUS, cached))

    write(store, lambda connection: connection.exec_driver_sql(statement))
    assert before != figures(home(store, ANONYMOUS, cached)) == expected_figures(store, NOW)


def test_sending_does_not_invalidate_the_cache(store: Store, ada: Actor, cached: Cached) -> None:
    open_mailing(store, ada, "zoe", "yan", every=Every.DAY)
    before = home(store, ANONYMOUS, cached)

    claimed = claim(store)
    record_intents(store, 1, *claimed)
    record_attempts(store, 1, *(make_attempt(delivery, Outcome.SENT) for delivery in claimed))
    assert home(store, ANONYMOUS, cached).as_of == before.as_of < home(store, ANONYMOUS).as_of


@pytest.mark.sqlite
def test_restored_store_does_not_show_figures_cached_after_the_backup(store: Store, ada: Actor, cached: Cached) -> None:
    create_client(store, ada, "zoe")
    store.checkpoint()
    shutil.copy(store.path, store.path.with_name("copy"))
    create_mailing(store, ada)
    assert figures(home(store, ANONYMOUS, cached)) == (1, 1, 1)

    store.close()
    for log in store.path.parent.glob(f"{store.path.name}-*"):
        log.unlink()
    shutil.copy(store.path.with_name("copy"), store.path)
    assert figures(home(store, ANONYMOUS, cached)) == (0, 0, 0)
    create_mailing(store, ada, tags=["unused"])
    assert figures(home(store, ANONYMOUS, cached)) == (1, 1, 0)


@pytest.mark.sqlite
def test_figures_are_counted_with_indexes(store: Store, ada: Actor) -> None:
    """Clients and tags are found by indexes, and the ledger is not read, however long it is."""
    counts: list[str] = []

    def collect(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        counts.extend([statement] if statement.startswith(("SELECT count", "SELECT sum")) else [])

    event.listen(store.engine, "before_cursor_execute", collect)
    home(store, ada)
    event.remove(store.engine, "before_cursor_execute", collect)
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
        "SCAN delivery USING COVERING INDEX ix_delivery_unknown",  # which contains only unknown deliveries
        "SEARCH occurrence USING INTEGER PRIMARY KEY (rowid=?)",
    ]


# Posts


def test_three_random_published_posts_are_shown_with_current_views(store: Store, editor: Actor, cached: Cached) -> None:
    assert home(store, ANONYMOUS, cached).posts == []
    for number in range(6):
        posts.create(store, editor, title=f"Post {number}", content="x", publish=number < 5, at=NOW - DAY)
    posts.create(store, editor, title="Coming", content="x", publish=True, at=NOW + DAY)

    samples = [home(store, ANONYMOUS, cached, now=NOW).posts for _ in range(40)]
    assert {len({post.id for post in posts}) for posts in samples} == {3}
    assert {post.title for posts in samples for post in posts} == {f"Post {number}" for number in range(5)}
    assert len({tuple(post.id for post in posts) for posts in samples}) > 5
    for post_id in range(1, 6):
        posts.view(store, ANONYMOUS, str(post_id))
    assert {post.views for post in home(store, ANONYMOUS, cached, now=NOW).posts} == {1}
    for post_id in (1, 2):
        posts.remove(store, editor, str(post_id))
    assert {len(home(store, ANONYMOUS, cached, now=NOW).posts) for _ in range(10)} == {3}


def test_scheduled_post_is_shown_after_its_publication_time(store: Store, editor: Actor, cached: Cached) -> None:
    posts.create(store, editor, title="Coming", content="x", publish=True, at=NOW + DAY)

    shown = [len(home(store, ANONYMOUS, cached, now=NOW + days * DAY).posts) for days in (0, 1, 0)]
    assert shown == [0, 1, 0]


def test_change_of_a_post_is_visible_at_once(store: Store, editor: Actor, cached: Cached) -> None:
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


# Own figures, and what needs attention


def test_users_see_their_own_figures(store: Store, ada: Actor, bob: Actor, manager: Actor, editor: Actor) -> None:
    create_client(store, ada, "zoe", tags=["vip"])
    create_client(store, ada, "yan")
    create_mailing(store, ada, tags=["vip"], start=NOW + 2 * DAY)
    create_mailing(store, ada, tags=["vip"], start=NOW + DAY, disabled_at=NOW)
    create_mailing(store, bob, start=NOW + DAY)

    assert home(store, ada).yours == OwnFigures(2, 1, 1, 2, NOW + 2 * DAY, NO_RATES)
    assert home(store, bob).yours == OwnFigures(1, 1, 0, 0, NOW + DAY, NO_RATES)
    for other in (ANONYMOUS, manager, editor):
        assert home(store, other).yours is None


def concerns(store: Store, actor: Actor) -> dict[str, str]:
    """Return what needs this person's attention, with the command to run."""
    return {concern.about: concern.command for concern in home(store, actor).attention}


def test_concerns_are_shown_to_users_who_can_act(
    store: Store, ada: Actor, bob: Actor, manager: Actor, editor: Actor, admin: Actor
) -> None:
    everybody = (ANONYMOUS, ada, bob, manager, editor, admin)
    assert [concerns(store, actor) for actor in everybody] == [{}] * 6

    open_mailing(store, ada, "zoe", "yan")
    update_row(store, Delivery, 1, state=DeliveryState.UNKNOWN, next_try_at=None)
    update_row(store, Delivery, 2, state=DeliveryState.UNKNOWN, next_try_at=NOW)  # is sent again without a decision
    stopped = create_mailing(store, ada, disabled_at=NOW, disabled_reason="too many failures")
    create_mailing(store, ada, disabled_at=NOW, disabled_by_id=ada.user_id, disabled_reason="by hand")
    create_run(store, failed=7, heartbeat_at=NOW - timedelta(hours=1))
    create_run(store, failed=70, heartbeat_at=NOW - 2 * DAY)

    report, resolve = {"disabled": f"skychimp report {stopped}"}, {"unknown": "skychimp resolve"}
    failed = {"failed": "skychimp mailings log ID --status failed"}
    expected = [{}, resolve | report, {}, report | failed, {}, resolve | report | failed]
    assert [concerns(store, actor) for actor in everybody] == expected
    words = [concern.words for concern in home(store, admin).attention]
    assert words == [
        "1 email with an unknown outcome",
        f"mailing {stopped} was disabled by the system: too many failures",
        "7 emails failed since yesterday",
    ]


def test_paused_server_and_held_store_are_shown_to_every_user(store: Store, ada: Actor) -> None:
    write(store, lambda db: relay_pauses.pause(db, "relay:25", "hash", "535 5.7.8 no", NOW))
    update_row(store, StoreInfo, 1, held_at=NOW)

    assert concerns(store, ada) == {"held": "skychimp resolve --restored", "relay": "skychimp doctor"}
    assert concerns(store, ANONYMOUS) == {}


def test_held_mailings_are_shown_to_those_who_see_them(store: Store, ada: Actor, bob: Actor, manager: Actor) -> None:
    mailing_id = create_mailing(store, ada)
    write(store, lambda db: holds.hold_mailing(db, mailing_id, "12 % of its emails bounced", None, NOW))

    assert concerns(store, ada) == concerns(store, manager) == {"held_mailing": f"skychimp mailings show {mailing_id}"}
    assert concerns(store, bob) == concerns(store, ANONYMOUS) == {}
    assert [concern.words for concern in home(store, ada).attention] == [
        f"mailing {mailing_id} is held: 12 % of its emails bounced"
    ]


def test_unknown_deliveries_of_a_deleted_mailing_need_no_decision(store: Store, ada: Actor, admin: Actor) -> None:
    open_mailing(store, ada, "zoe")
    update_row(store, Delivery, 1, state=DeliveryState.UNKNOWN, next_try_at=None)
    assert [concerns(store, actor) for actor in (ada, admin)] == [{"unknown": "skychimp resolve"}] * 2

    delete_mailing(store, 1)

    assert [concerns(store, actor) for actor in (ada, admin)] == [{}, {}]
    for actor in (ada, admin):
        assert list(unknown_deliveries.list_unknown(store, actor)) == []
        resolution = unknown_deliveries.Resolution.RESEND
        result = unknown_deliveries.resolve(store, actor, resolution)
        assert result.resolved == 0
        with pytest.raises(NotFound):
            unknown_deliveries.resolve(store, actor, resolution, ids=[1])
    assert rows(store, Delivery)[0].state == DeliveryState.UNKNOWN
