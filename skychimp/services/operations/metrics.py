"""Count what a monitor watches, in the text format of Prometheus (version 0.0.4)."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import func, select

from skychimp.models import DeliveryState, tables
from skychimp.services.clients.suppressions import COMPLAINT, UNSUBSCRIBED
from skychimp.store import ledger
from skychimp.store.clients.suppressions import BOUNCE, is_in_force
from skychimp.store.database import Store

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PENDING_STATES = (DeliveryState.QUEUED, DeliveryState.DEFERRED, DeliveryState.CLAIMED, DeliveryState.SENDING)

OTHER = "other"
REASONS = (UNSUBSCRIBED, "paused", COMPLAINT, BOUNCE)
"""The reasons of suppressions that are counted. Texts of users are OTHER: they may name somebody."""

_R = tables.run
_S = tables.suppression


def read_metrics(store: Store) -> str:
    """Return the metrics of a store. Raises StoreFailed."""
    with store.read() as transaction:
        db = transaction.connection()
        queue = ledger.count_pending_by_state(db)
        heartbeat_at: datetime | None = db.scalar(select(func.max(_R.c.heartbeat_at)))
        by_reason = db.execute(select(_S.c.reason, func.count()).where(is_in_force()).group_by(_S.c.reason))
        suppressions = dict.fromkeys((*REASONS, OTHER), 0)
        for reason, number in by_reason:
            suppressions[reason if reason in REASONS else OTHER] += number
    queued = {state.value: queue.get(state, 0) for state in PENDING_STATES}
    lines = [*_gauge("skychimp_queue", "Emails that wait or are being sent, by state.", "state", queued)]
    if heartbeat_at is not None:
        lines += _gauge(
            "skychimp_last_heartbeat_timestamp_seconds",
            "When a sending process was last alive.",
            "",
            {"": round(heartbeat_at.timestamp(), 3)},
        )
    lines += _gauge("skychimp_suppressions", "Suppressed addresses and domains, by reason.", "reason", suppressions)
    return "\n".join(lines) + "\n"


def _gauge(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Iterable[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} gauge"
    for value, number in values.items():
        yield f'{name}{{{label}="{value}"}} {number}' if label else f"{name} {number}"
