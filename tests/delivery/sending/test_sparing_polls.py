"""Test that a store is polled when that may find something, and only then."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from support.queue_steps import MINUTE, create_client, create_mailing, open_mailing, update_row, write

from skychimp.delivery.sending.due_work import LONGEST_QUIET
from skychimp.delivery.sending.sparing_polls import SparingPolls, StoreWatch
from skychimp.errors import StoreFailed
from skychimp.models import Mailing
from skychimp.permissions import Actor
from skychimp.store import runs
from skychimp.store.database import Store
from skychimp.store.sqlite import SqliteStore


@pytest.fixture
def count_polls(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that polls a quiet store, lets something happen, and returns how often it is polled then.

    `wait` moves the clock, and three polls may take place.
    """

    def count(happens: Callable[[], object] = lambda: None, wait: timedelta = timedelta()) -> int:
        return asyncio.run(count_async(happens, wait))

    async def count_async(happens: Callable[[], object], wait: timedelta) -> int:
        polled: list[datetime] = []

        async def poll() -> None:
            write(store, runs.newest_heartbeat)  # on PostgreSQL, this is a transaction that others notice
            polled.append(store.now())

        with StoreWatch(store) as watch:
            polls = SparingPolls(watch, poll)
            await polls.poll()
            await polls.poll()
            assert len(polled) == 1
            happens()
            later = store.now() + wait
            monkeypatch.setattr(store, "now", lambda: later)
            for _ in range(3):
                await polls.poll()
        return len(polled) - 1

    return count


def test_unchanged_store_is_polled_once_a_minute(count_polls: Callable[..., int]) -> None:
    assert count_polls(wait=LONGEST_QUIET - timedelta(seconds=1)) == 0
    assert count_polls(wait=LONGEST_QUIET) == 1


def test_commit_is_noticed(store: Store, ada: Actor, count_polls: Callable[..., int]) -> None:
    assert count_polls(lambda: create_client(store, ada, "bob")) == 1


def test_due_time_is_noticed(store: Store, ada: Actor, count_polls: Callable[..., int]) -> None:
    create_mailing(store, ada, start=store.now() + MINUTE / 2)
    assert count_polls(wait=MINUTE / 4) == 0
    assert count_polls(wait=MINUTE / 2) == 3  # until the mailing is opened, which these polls don't do


def test_clock_that_was_set_back_is_noticed(count_polls: Callable[..., int]) -> None:
    assert count_polls(wait=-MINUTE) == 1


def test_store_is_polled_at_each_interval_while_an_email_waits(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob")
    polled = asyncio.run(poll_often(store, 5))
    assert polled == 5
    update_row(store, Mailing, 1, held_at=store.now())
    assert asyncio.run(poll_often(store, 5)) == 1


async def poll_often(store: Store, number: int) -> int:
    polled = 0

    async def poll() -> None:
        nonlocal polled
        polled += 1

    with StoreWatch(store) as watch:
        polls = SparingPolls(watch, poll)
        for _ in range(number):
            await polls.poll()
    return polled


@pytest.mark.sqlite
def test_store_that_cannot_be_read_counts_as_changed(store: Store) -> None:
    """What is wrong is then found by the poll, and reported."""
    assert isinstance(store, SqliteStore)
    content = store.path.read_bytes()

    async def look() -> list[bool]:
        with StoreWatch(store) as watch:
            changes = [await watch.has_changed(), await watch.has_changed()]
            store.path.write_bytes(b"no database" * 1000)
            store.path.with_name(store.path.name + "-wal").unlink(missing_ok=True)
            changes += [await watch.has_changed(), await watch.has_changed()]
            store.path.write_bytes(content)
            return [*changes, await watch.has_changed(), await watch.has_changed()]

    assert asyncio.run(look()) == [True, False, True, True, True, False]


@pytest.mark.postgres
def test_lost_connection_counts_as_a_change(store: Store) -> None:
    async def look() -> list[bool]:
        with StoreWatch(store) as watch:
            changes = [await watch.has_changed(), await watch.has_changed()]
            with store.read() as db:
                others = "FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
                db.connection().exec_driver_sql(f"SELECT pg_terminate_backend(pid) {others}")
            return [*changes, *[await watch.has_changed() for _ in range(3)]]

    assert asyncio.run(look()) == [True, False, True, True, False]


@pytest.mark.sqlite
def test_deleted_store_is_noticed(store: Store, tmp_path: Path, count_polls: Callable[..., int]) -> None:
    with pytest.raises(StoreFailed, match="was deleted"):
        count_polls(lambda: store.path.rename(tmp_path / "old.db"))
