"""A paused mail server is probed at growing intervals, and at once when its settings change."""

from datetime import datetime, timedelta

import pytest
from support.queue_steps import DAY, MINUTE, NOW, rows, write

from skychimp.models import RelayState
from skychimp.store import relay_pauses
from skychimp.store.database import Store

SETTINGS, FIXED_SETTINGS = "hash of the settings", "hash of the fixed settings"


def pause(
    store: Store, now: datetime = NOW, settings: str = SETTINGS, reason: str = "535 no", relay: str = "a:25"
) -> None:
    write(store, lambda db: relay_pauses.pause(db, relay, settings, reason, now))


def pause_reason(store: Store, now: datetime = NOW, settings: str = SETTINGS, relay: str = "a:25") -> str | None:
    return write(store, lambda db: relay_pauses.pause_reason(db, relay, settings, now))


def is_paused(store: Store, settings: str = SETTINGS, relay: str = "a:25") -> bool:
    return write(store, lambda db: relay_pauses.is_paused(db, relay, settings))


def test_first_probe_is_after_15_minutes(store: Store) -> None:
    assert pause_reason(store) is None

    pause(store)

    assert pause_reason(store, NOW + 15 * MINUTE - timedelta(microseconds=1)) == "535 no"
    assert pause_reason(store, NOW + 15 * MINUTE) is None
    assert is_paused(store)
    for relay, settings in (("b:25", SETTINGS), ("a:25", FIXED_SETTINGS)):
        assert pause_reason(store, relay=relay, settings=settings) is None
        assert not is_paused(store, relay=relay, settings=settings)


def test_failed_probe_doubles_the_wait_up_to_four_hours(store: Store) -> None:
    now, waits = NOW, []
    for number in range(20):
        pause(store, now, reason=f"535 no {number}")
        (state,) = rows(store, RelayState)
        waits.append((state.next_probe_at - now) / MINUTE)
        now = state.next_probe_at

    assert waits == [15, 30, 60, 120, *[240] * 16]
    assert (state.paused_at, state.reason) == (NOW, "535 no 19")


def test_refused_new_settings_start_with_the_first_probe(store: Store) -> None:
    for _ in range(3):
        pause(store)

    pause(store, NOW + DAY, FIXED_SETTINGS)

    (state,) = rows(store, RelayState)
    assert (state.paused_at, state.next_probe_at) == (NOW + DAY, NOW + DAY + 15 * MINUTE)


@pytest.mark.parametrize(("resumed", "left"), [("a:25", ["b:25"]), ("b:25", ["a:25"]), ("c:25", ["a:25", "b:25"])])
def test_resumed_server_is_no_longer_paused(store: Store, resumed: str, left: list[str]) -> None:
    pause(store)
    pause(store, relay="b:25")

    write(store, lambda db: relay_pauses.resume(db, resumed, NOW))

    assert [state.relay for state in rows(store, RelayState)] == left


def test_latest_pause_is_returned(store: Store) -> None:
    assert write(store, relay_pauses.latest_pause) is None
    pause(store, NOW + MINUTE, reason="certificate", relay="b:25")
    pause(store)

    latest = write(store, relay_pauses.latest_pause)

    assert latest == ("b:25", NOW + MINUTE, "certificate", NOW + 16 * MINUTE)


def test_unavailable_server_is_not_paused(store: Store) -> None:
    write(store, lambda db: relay_pauses.record_unavailable(db, "a:25", "connection refused", NOW))
    write(store, lambda db: relay_pauses.record_unavailable(db, "a:25", "no route", NOW + MINUTE))

    assert write(store, relay_pauses.unavailable_relay) == ("a:25", NOW, "connection refused")
    assert write(store, relay_pauses.latest_pause) is None
    assert pause_reason(store) is None

    pause(store)

    assert pause_reason(store) == "535 no"
    assert write(store, relay_pauses.unavailable_relay) is None

    write(store, lambda db: relay_pauses.record_unavailable(db, "a:25", "no route", NOW + MINUTE))
    write(store, relay_pauses.record_available)

    assert pause_reason(store) == "535 no"


def test_accepted_email_ends_the_record_of_any_unavailable_server(store: Store) -> None:
    """The settings may have named another server before."""
    write(store, lambda db: relay_pauses.record_unavailable(db, "a:25", "connection refused", NOW))

    write(store, lambda db: relay_pauses.resume(db, "b:25", NOW))

    assert rows(store, RelayState) == []
