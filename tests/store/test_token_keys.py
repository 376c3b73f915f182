"""Test the keys of tokens."""

from datetime import UTC, datetime, timedelta

import pytest

from skychimp.errors import Conflict
from skychimp.store import token_keys
from skychimp.store.database import Store

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def replace(store: Store, now: datetime) -> int:
    with store.write() as db:
        return token_keys.replace(db.connection(), now)


def good_keys(store: Store, now: datetime) -> dict[int, bytes]:
    with store.read() as db:
        return token_keys.read(db.connection(), now)


def test_new_store_has_a_key_of_its_own(store: Store) -> None:
    ((number, key),) = good_keys(store, NOW).items()
    assert (number, len(key)) == (1, 32)


def test_replaced_key_is_good_for_60_days(store: Store) -> None:
    first = good_keys(store, NOW)
    assert replace(store, NOW) == 2
    assert list(good_keys(store, NOW)) == [1, 2]  # the new one is last
    assert good_keys(store, NOW + timedelta(days=59))[1] == first[1]
    assert list(good_keys(store, NOW + timedelta(days=61))) == [2]


def test_numbers_are_used_again_once_their_keys_are_forgotten(store: Store) -> None:
    numbers = [replace(store, NOW + number * timedelta(days=1)) for number in range(300)]
    assert numbers[253:256] == [255, 1, 2]
    assert len(good_keys(store, NOW + timedelta(days=300))) == 60
    assert list(good_keys(store, NOW + timedelta(days=299)))[-1] == numbers[-1]


def test_there_is_no_key_without_a_number(store: Store) -> None:
    with store.write() as db:
        for _ in range(token_keys.MAX_NUMBER - 1):
            token_keys.replace(db.connection(), NOW)
    with pytest.raises(Conflict, match="there are 255 keys already"):
        replace(store, NOW + timedelta(days=59))
    assert replace(store, NOW + timedelta(days=60)) == 1
