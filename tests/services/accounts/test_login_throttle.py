"""Delays after wrong passwords: how long they are, and that they end."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import Session
from support.sending import rows

from skychimp.errors import Denied
from skychimp.models import LoginFailure
from skychimp.services.accounts import login_throttle
from skychimp.store.database import Store

NOW = datetime.now(UTC)
SECOND = timedelta(seconds=1)
KEY = "ada@example.org"


def is_refused(db: Session, at: datetime, key: str = KEY) -> bool:
    try:
        login_throttle.check(db, key, at)
    except Denied:
        return True
    return False


def test_it_begins_at_the_third_and_doubles() -> None:
    assert [login_throttle.delay(failures).total_seconds() for failures in range(9)] == [0, 0, 0, 1, 2, 4, 8, 16, 32]


def test_it_has_an_end() -> None:
    assert {login_throttle.delay(failures) for failures in (20, 1000, 10**9)} == {login_throttle.LONGEST}
    assert timedelta(minutes=15) >= login_throttle.LONGEST


@pytest.mark.parametrize("failures", range(1, 15))
def test_a_login_is_refused_until_it_is_over(store: Store, failures: int) -> None:
    with store.write() as db:
        for _ in range(failures):
            login_throttle.count(db, KEY, NOW)
        wait = login_throttle.delay(failures)
        assert is_refused(db, NOW) == (failures > login_throttle.FREE)
        assert is_refused(db, NOW + wait - SECOND / 2) == (failures > login_throttle.FREE)
        assert not is_refused(db, NOW + wait)
        assert not is_refused(db, NOW, "bob@example.org")


def test_being_refused_makes_it_no_longer(store: Store) -> None:
    with store.write() as db:
        for _ in range(5):
            login_throttle.count(db, KEY, NOW)
        assert all(is_refused(db, NOW + timedelta(milliseconds=n)) for n in range(100))
        assert not is_refused(db, NOW + login_throttle.delay(5))


def test_who_was_slower_to_get_the_store_is_refused_too(store: Store) -> None:
    with store.write() as db:
        for _ in range(3):
            login_throttle.count(db, KEY, NOW)
        assert is_refused(db, NOW - SECOND)


def test_a_clock_that_was_ahead_keeps_nobody_out(store: Store) -> None:
    with store.write() as db:
        for _ in range(5):
            login_throttle.count(db, KEY, NOW + timedelta(days=365))
        assert not is_refused(db, NOW)


def test_a_day_later_they_are_forgotten(store: Store) -> None:
    with store.write() as db:
        for _ in range(5):
            login_throttle.count(db, KEY, NOW)
        login_throttle.count(db, "bob@example.org", NOW + SECOND)
        login_throttle.count(db, KEY, NOW + login_throttle.FORGOTTEN)
        assert not is_refused(db, NOW + login_throttle.FORGOTTEN)
        login_throttle.forget(db, NOW + login_throttle.FORGOTTEN + SECOND)
    assert [(row.address_key, row.failures) for row in rows(store, LoginFailure)] == [(KEY, 1)]


def test_they_can_be_cleared(store: Store) -> None:
    with store.write() as db:
        for _ in range(5):
            login_throttle.count(db, KEY, NOW)
        login_throttle.clear(db, KEY)
        assert not is_refused(db, NOW)
