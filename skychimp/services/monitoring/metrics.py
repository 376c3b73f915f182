"""Count what a monitor watches, in the text format of Prometheus (version 0.0.4).

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from sqlalchemy import Connection, func, select

from skychimp.models import DeliveryState, tables
from skychimp.services.clients.suppressions import COMPLAINT, UNSUBSCRIBED
from skychimp.services.operations.status import Status
from skychimp.services.operations.status import status as read_status
from skychimp.services.reporting import rollups
from skychimp.store import ledger
from skychimp.store.clients.suppressions import BOUNCE, is_in_force
from skychimp.store.database import Store

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PENDING_STATES = (DeliveryState.QUEUED, DeliveryState.DEFERRED, DeliveryState.CLAIMED, DeliveryState.SENDING)

OTHER = "other"
REASONS = (UNSUBSCRIBED, "paused", COMPLAINT, BOUNCE)
"""The reasons of suppressions that are counted. Texts of users are OTHER: they may name somebody."""

LAST_SUCCESS = "skychimp_last_success_timestamp_seconds"

_R = tables.run
_S = tables.suppression


def read_metrics(store: Store) -> str:
    """Return the metrics that the web server may count. Raises StoreFailed."""
    with store.read() as transaction:
        db = transaction.connection()
        queue = ledger.count_pending_by_state(db)
        heartbeat_at: datetime | None = db.scalar(select(func.max(_R.c.heartbeat_at)))
        suppressions = _count_suppressions(db)
    return _text(_basic_metrics(queue, heartbeat_at, suppressions))


def read_all_metrics(store: Store, last_success_at: float | None) -> str:
    """Return all metrics of a store, and when this host's runs last had success. Raises StoreFailed."""
    current = read_status(store)
    with store.read() as transaction:
        db = transaction.connection()
        suppressions, attempts = _count_suppressions(db), rollups.total_outcomes(db)
    lines = [*_basic_metrics(current.queue, current.last_heartbeat_at, suppressions), *_status_metrics(current)]
    by_outcome = {outcome.value: number for outcome, number in attempts.items()}
    lines += _metric("skychimp_attempts_total", "Attempts to send an email, by outcome.", by_outcome, "outcome")
    if last_success_at is not None:
        lines += _metric(LAST_SUCCESS, "When sending last worked on this machine.", last_success_at)
    return _text(lines)


def _count_suppressions(db: Connection) -> dict[str, int]:
    suppressions = dict.fromkeys((*REASONS, OTHER), 0)
    for reason, number in db.execute(select(_S.c.reason, func.count()).where(is_in_force()).group_by(_S.c.reason)):
        suppressions[reason if reason in REASONS else OTHER] += number
    return suppressions


def _basic_metrics(
    queue: Mapping[DeliveryState, int], heartbeat_at: datetime | None, suppressions: Mapping[str, int]
) -> Iterator[str]:
    queued = {state.value: queue.get(state, 0) for state in PENDING_STATES}
    yield from _metric("skychimp_queue", "Emails that wait or are being sent, by state.", queued, "state")
    if heartbeat_at is not None:
        meaning = "When a sending process was last alive."
        yield from _metric("skychimp_last_heartbeat_timestamp_seconds", meaning, round(heartbeat_at.timestamp(), 3))
    yield from _metric("skychimp_suppressions", "Suppressed addresses and domains, by reason.", suppressions, "reason")


def _status_metrics(current: Status) -> Iterator[str]:
    yield from _metric("skychimp_sending_processes", "Runs and daemons that are alive.", current.sending)
    oldest = min(filter(None, (current.oldest_due_at, current.oldest_waiting_at)), default=None)
    if oldest is not None:
        meaning = "Since when the email waits that has been due for the longest time."
        yield from _metric("skychimp_oldest_due_timestamp_seconds", meaning, round(oldest.timestamp(), 3))
    flags = {
        "skychimp_relay_paused": ("Whether a mail server is paused until its next probe.", current.relay),
        "skychimp_relay_unavailable": ("Whether a mail server does not answer.", current.unavailable_relay),
        "skychimp_store_held": ("Whether the store is on hold.", current.held_reason),
    }
    for name, (meaning, value) in flags.items():
        yield from _metric(name, meaning, int(value is not None))
    yield from _metric("skychimp_held_mailings", "Mailings that wait for a person.", len(current.held_mailings))


def _metric(name: str, meaning: str, values: float | Mapping[str, float], label: str = "") -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
    if isinstance(values, Mapping):
        for value, number in values.items():
            yield f'{name}{{{label}="{value}"}} {number}'
    else:
        yield f"{name} {values}"


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
