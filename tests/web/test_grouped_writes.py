"""Changes of many requests are written together, and a failing one fails alone."""

import asyncio
from typing import NoReturn
from unittest.mock import patch

import pytest
from sqlalchemy import Connection, select, update

from skychimp.models import StoreInfo
from skychimp.store.database import Store
from skychimp.web.grouped_writes import MOST_AT_ONCE, GroupedWrites

COLUMN = StoreInfo.__table__.c.counted_to


def count(db: Connection) -> int:
    """Add 1 to a number of the store, and return it."""
    number: int = (db.scalar(select(COLUMN)) or 0) + 1
    db.execute(update(StoreInfo).values(counted_to=number))
    return number


def fail(db: Connection) -> NoReturn:
    count(db)
    raise KeyError


async def write_all(writes: GroupedWrites, changes: int) -> list[object]:
    given = [writes.write(fail if number == 3 else count) for number in range(changes)]
    return await asyncio.gather(*given, return_exceptions=True)


def test_failing_change_fails_alone(store: Store) -> None:
    outcomes = asyncio.run(write_all(GroupedWrites(store), 6))
    assert [type(outcome) for outcome in outcomes] == [int, int, int, KeyError, int, int]
    with store.read() as db:
        assert db.scalar(select(COLUMN)) == 5


def test_few_transactions_have_many_changes(store: Store) -> None:
    changes = 2 * MOST_AT_ONCE
    with patch.object(store, "write", wraps=store.write) as write:
        asyncio.run(write_counts(store, changes))
    assert write.call_count <= 3
    with store.read() as db:
        assert db.scalar(select(COLUMN)) == changes


async def write_counts(store: Store, changes: int) -> None:
    writes = GroupedWrites(store)
    outcomes = await asyncio.gather(*(writes.write(count) for _ in range(changes)))
    assert outcomes == list(range(1, changes + 1))


def test_request_that_is_gone_does_not_stop_the_others(store: Store) -> None:
    async def leave() -> int:
        writes = GroupedWrites(store)
        gone = asyncio.create_task(writes.write(count))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await writes.write(count)

    assert asyncio.run(leave()) == 2
