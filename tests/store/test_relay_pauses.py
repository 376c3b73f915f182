"""Relays that wait for a person: one probe now and then, and at once when the settings were changed."""

from datetime import datetime, timedelta

import pytest
from support.queue_steps import DAY, MINUTE, NOW, rows, write

from skychimp.models import RelayState
from skychimp.store import relay_pauses
from skychimp.store.database import Store

SETTINGS, MENDED = "hash of the settings", "hash of others"


def pause(
    store: Store, now: datetime = NOW, settings: str = SETTINGS, reason: str = "535 no", relay: str = "a:25"
) -> None:
    write(store, lambda db: relay_pauses.pause(db, relay, settings, reason, now))


def paused(store: Store, now: datetime = NOW, settings: str = SETTINGS, relay: str = "a:25") -> str | None:
    return write(store, lambda db: relay_pauses.paused(db, relay, settings, now))


def test_a_paused_relay_waits_a_quarter_of_an_hour_for_its_probe(store: Store) -> None:
    assert paused(store) is None

    pause(store)

    assert paused(store, NOW + 15 * MINUTE - timedelta(microseconds=1)) == "535 no"
    assert paused(store, NOW + 15 * MINUTE) is None
    assert paused(store, relay="b:25") is None
    assert paused(store, settings=MENDED) is None


def test_each_probe_in_vain_doubles_the_wait_up_to_four_hours(store: Store) -> None:
    now, waits = NOW, []
    for number in range(20):
        pause(store, now, reason=f"535 no {number}")
        (state,) = rows(store, RelayState)
        waits.append((state.next_probe_at - now) / MINUTE)
        now = state.next_probe_at

    assert waits == [15, 30, 60, 120, *[240] * 16]
    assert (state.paused_at, state.reason) == (NOW, "535 no 19")


def test_other_settings_that_are_refused_begin_anew(store: Store) -> None:
    for _ in range(3):
        pause(store)

    pause(store, NOW + DAY, MENDED)

    (state,) = rows(store, RelayState)
    assert (state.paused_at, state.next_probe_at) == (NOW + DAY, NOW + DAY + 15 * MINUTE)


@pytest.mark.parametrize(("resumed", "left"), [("a:25", ["b:25"]), ("b:25", ["a:25"]), ("c:25", ["a:25", "b:25"])])
def test_one_that_takes_mail_again_is_paused_no_more(store: Store, resumed: str, left: list[str]) -> None:
    pause(store)
    pause(store, relay="b:25")

    write(store, lambda db: relay_pauses.resume(db, resumed))

    assert [state.relay for state in rows(store, RelayState)] == left


def test_the_latest_that_was_paused_is_shown(store: Store) -> None:
    assert write(store, relay_pauses.latest_paused) is None
    pause(store, NOW + MINUTE, reason="certificate", relay="b:25")
    pause(store)

    found = write(store, relay_pauses.latest_paused)

    assert found == ("b:25", NOW + MINUTE, "certificate", NOW + 16 * MINUTE)
