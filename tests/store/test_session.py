"""Test the transactions of a store, with SQLModel and without it."""

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, insert, select, update

from skychimp.models import LoginFailure, tables
from skychimp.store.database import Store
from skychimp.store.session import Session, call_after_commit

NOW = datetime(2026, 12, 1, tzinfo=UTC)
_F = tables.login_failure


@pytest.fixture(params=["with SQLModel", "without SQLModel"], autouse=True)
def _sqlmodel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with SQLModel, and as if it was not imported yet."""
    if request.param == "without SQLModel":
        monkeypatch.delitem(sys.modules, "sqlmodel")


def insert_row(db: Session, key: str) -> None:
    db.execute(insert(_F).values(address_key=key, failures=1, failed_at=NOW))


def add_object(db: Session, key: str) -> None:
    db.add(LoginFailure(address_key=key, failures=1, failed_at=NOW))


def keys(store: Store) -> list[str]:
    with store.read() as db:
        return list(db.scalars(select(_F.c.address_key).order_by(_F.c.address_key)))


@pytest.mark.parametrize("write", [insert_row, add_object])
def test_changes_are_committed_at_the_end(store: Store, write: Callable[[Session, str], None]) -> None:
    with store.write() as db:
        write(db, "a")
    assert keys(store) == ["a"]


@pytest.mark.parametrize("steps", [(insert_row, add_object), (add_object, insert_row)])
def test_sql_and_objects_are_in_one_transaction(
    store: Store, steps: tuple[Callable[[Session, str], None], ...]
) -> None:
    with store.write() as db:
        for step, key in zip(steps, "ab", strict=True):
            step(db, key)
    assert keys(store) == ["a", "b"]
    with suppress(ZeroDivisionError), store.write() as db:
        for step, key in zip(steps, "cd", strict=True):
            step(db, key)
        db.flush()
        raise ZeroDivisionError
    assert keys(store) == ["a", "b"]


def test_changed_object_is_written_at_the_end(store: Store) -> None:
    with store.write() as db:
        insert_row(db, "a")
    with store.write() as db:
        db.get_one(LoginFailure, "a").failures = 7
    with store.read() as db:
        assert db.scalar(select(_F.c.failures)) == 7


def test_object_is_what_sql_has_changed_before(store: Store) -> None:
    with store.write() as db:
        insert_row(db, "a")
        db.execute(update(_F).values(failures=5))
        assert db.get_one(LoginFailure, "a").failures == 5
        assert db.connection().scalar(select(func.count()).select_from(_F)) == 1


@pytest.mark.parametrize("write", [insert_row, add_object])
def test_action_follows_the_commit(store: Store, write: Callable[[Session, str], None]) -> None:
    seen: list[list[str]] = []
    with store.write() as db:
        write(db, "a")
        call_after_commit(db, lambda: seen.append(keys(store)))
        assert seen == []
    assert seen == [["a"]]


@pytest.mark.parametrize("write", [insert_row, add_object])
def test_no_action_follows_a_rollback(store: Store, write: Callable[[Session, str], None]) -> None:
    with store.write() as db:
        write(db, "a")
        call_after_commit(db, pytest.fail)
        db.rollback()
    with suppress(ZeroDivisionError), store.write() as db:
        write(db, "b")
        call_after_commit(db, pytest.fail)
        raise ZeroDivisionError
    assert keys(store) == []


def test_transaction_without_a_statement_takes_no_lock(store: Store) -> None:
    with store.write(), store.write() as db:
        insert_row(db, "a")
    assert keys(store) == ["a"]


def test_connections_are_given_back(store: Store) -> None:
    for _ in range(20):  # more than there are in the pool
        with suppress(ZeroDivisionError), store.write() as db:
            insert_row(db, "a")
            raise ZeroDivisionError
    assert keys(store) == []
