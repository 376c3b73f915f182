"""Delays after wrong passwords: how long they are, and when they end."""

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


def record_failures(db: Session, count: int, at: datetime = NOW) -> None:
    for _ in range(count):
        login_throttle.record_failure(db, KEY, at)


def is_delayed(db: Session, at: datetime, key: str = KEY) -> bool:
    try:
        login_throttle.require_no_delay(db, key, at)
    except Denied:
        return True
    return False


def test_delay_begins_at_the_third_failure_and_doubles() -> None:
    assert [login_throttle.delay(failures).total_seconds() for failures in range(9)] == [0, 0, 0, 1, 2, 4, 8, 16, 32]


def test_delay_is_limited() -> None:
    assert {login_throttle.delay(failures) for failures in (20, 1000, 10**9)} == {login_throttle.LONGEST_DELAY}
    assert timedelta(minutes=15) >= login_throttle.LONGEST_DELAY


@pytest.mark.parametrize("failures", range(1, 15))
def test_login_is_refused_until_the_delay_is_over(store: Store, failures: int) -> None:
    with store.write() as db:
        record_failures(db, failures)
        delay = login_throttle.delay(failures)
        assert is_delayed(db, NOW) == (failures > login_throttle.FREE_FAILURES)
        assert is_delayed(db, NOW + delay - SECOND / 2) == (failures > login_throttle.FREE_FAILURES)
        assert not is_delayed(db, NOW + delay)
        assert not is_delayed(db, NOW, "bob@example.org")


def test_refused_login_does_not_extend_the_delay(store: Store) -> None:
    with store.write() as db:
        record_failures(db, 5)
        assert all(is_delayed(db, NOW + timedelta(milliseconds=n)) for n in range(100))
        assert not is_delayed(db, NOW + login_throttle.delay(5))


def test_slower_process_is_refused_too(store: Store) -> None:
    with store.write() as db:
        record_failures(db, 3)
        assert is_delayed(db, NOW - SECOND)


def test_failure_recorded_by_a_wrong_clock_locks_nobody_out(store: Store) -> None:
    with store.write() as db:
        record_failures(db, 5, NOW + timedelta(days=365))
        assert not is_delayed(db, NOW)


def test_failures_expire_after_a_day(store: Store) -> None:
    with store.write() as db:
        record_failures(db, 5)
        login_throttle.record_failure(db, "bob@example.org", NOW + SECOND)
        record_failures(db, 1, NOW + login_throttle.FAILURE_LIFETIME)
        assert not is_delayed(db, NOW + login_throttle.FAILURE_LIFETIME)
        login_throttle.delete_expired(db, NOW + login_throttle.FAILURE_LIFETIME + SECOND)
    assert [(row.address_key, row.failures) for row in rows(store, LoginFailure)] == [(KEY, 1)]


def test_failures_can_be_cleared(store: Store) -> None:
    with store.write() as db:
        record_failures(db, 5)
        login_throttle.clear(db, KEY)
        assert not is_delayed(db, NOW)
