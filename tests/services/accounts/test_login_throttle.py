"""Delays after wrong passwords: how long they are, and that they end."""

from datetime import UTC, datetime, timedelta

import pytest
from sending import rows
from sqlmodel import Session

from skychimp.errors import Denied
from skychimp.models import LoginFailure
from skychimp.services import delays
from skychimp.store.engine import Store

NOW = datetime.now(UTC)
SECOND = timedelta(seconds=1)
KEY = "ada@example.org"


def is_refused(session: Session, at: datetime, key: str = KEY) -> bool:
    try:
        delays.check(session, key, at)
    except Denied:
        return True
    return False


def test_it_begins_at_the_third_and_doubles() -> None:
    assert [delays.delay(failures).total_seconds() for failures in range(9)] == [0, 0, 0, 1, 2, 4, 8, 16, 32]


def test_it_has_an_end() -> None:
    assert {delays.delay(failures) for failures in (20, 1000, 10**9)} == {delays.LONGEST}
    assert timedelta(minutes=15) >= delays.LONGEST


@pytest.mark.parametrize("failures", range(1, 15))
def test_a_login_is_refused_until_it_is_over(store: Store, failures: int) -> None:
    with store.write() as session:
        for _ in range(failures):
            delays.count(session, KEY, NOW)
        wait = delays.delay(failures)
        assert is_refused(session, NOW) == (failures > delays.FREE)
        assert is_refused(session, NOW + wait - SECOND / 2) == (failures > delays.FREE)
        assert not is_refused(session, NOW + wait)
        assert not is_refused(session, NOW, "bob@example.org")


def test_being_refused_makes_it_no_longer(store: Store) -> None:
    with store.write() as session:
        for _ in range(5):
            delays.count(session, KEY, NOW)
        assert all(is_refused(session, NOW + timedelta(milliseconds=n)) for n in range(100))
        assert not is_refused(session, NOW + delays.delay(5))


def test_who_was_slower_to_get_the_store_is_refused_too(store: Store) -> None:
    with store.write() as session:
        for _ in range(3):
            delays.count(session, KEY, NOW)
        assert is_refused(session, NOW - SECOND)


def test_a_clock_that_was_ahead_keeps_nobody_out(store: Store) -> None:
    with store.write() as session:
        for _ in range(5):
            delays.count(session, KEY, NOW + timedelta(days=365))
        assert not is_refused(session, NOW)


def test_a_day_later_they_are_forgotten(store: Store) -> None:
    with store.write() as session:
        for _ in range(5):
            delays.count(session, KEY, NOW)
        delays.count(session, "bob@example.org", NOW + SECOND)
        delays.count(session, KEY, NOW + delays.FORGOTTEN)
        assert not is_refused(session, NOW + delays.FORGOTTEN)
        delays.forget(session, NOW + delays.FORGOTTEN + SECOND)
    assert [(row.address_key, row.failures) for row in rows(store, LoginFailure)] == [(KEY, 1)]


def test_they_can_be_cleared(store: Store) -> None:
    with store.write() as session:
        for _ in range(5):
            delays.count(session, KEY, NOW)
        delays.clear(session, KEY)
        assert not is_refused(session, NOW)
