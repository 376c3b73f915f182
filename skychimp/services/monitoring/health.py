"""Decide whether sending works, and whether a daemon does."""

from datetime import timedelta

from skychimp.services.operations.status import Status


def max_silence_s(interval: timedelta) -> int:
    """Return for how many seconds a daemon that works may show no sign of life. `interval` is that of its polls."""
    return max(120, 3 * round(interval.total_seconds()))


def find_failures(current: Status) -> list[str]:
    """Return what keeps emails from being sent until it is fixed. Email that is deferred, or waits, is none of that."""
    failures = [f"the store is on hold {current.held_reason}"] if current.held else []
    if current.relay is not None:
        failures.append(f"the mail server is paused: {current.relay.reason}")
    if current.unavailable_relay is not None:
        failures.append(f"the mail server is unavailable: {current.unavailable_relay.reason}")
    return failures + [f"mailing {mailing.id} is held: {mailing.reason}" for mailing in current.held_mailings]
