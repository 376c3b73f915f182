"""Reports: what became of a mailing."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from skychimp.access import Actor
from skychimp.models import Attempt, Delivery, DeliveryState, MailingStatus, Occurrence, OccurrenceState
from skychimp.services import mailings
from skychimp.store.engine import Store

_A = Attempt.__table__
_D = Delivery.__table__
_O = Occurrence.__table__


@dataclass(frozen=True)
class OccurrenceReport:
    """One occurrence: how many of its deliveries are in each state, and how many attempts they took."""

    id: int
    due_at: datetime
    state: OccurrenceState
    opened_at: datetime
    finished_at: datetime | None
    deadline: datetime
    deliveries: int
    attempts: int
    counts: dict[DeliveryState, int]


@dataclass(frozen=True)
class Report:
    """A mailing, over all of its occurrences."""

    id: int
    subject: str
    status: MailingStatus
    disabled: bool
    deliveries: int
    attempts: int
    counts: dict[DeliveryState, int]
    occurrences: list[OccurrenceReport]


def report(store: Store, actor: Actor, mailing_id: int) -> Report:
    """What became of a mailing, the oldest occurrence first. Raises NotFound."""
    mailing = mailings.show(store, actor, mailing_id)
    mine = select(_O.c.id).where(_O.c.mailing_id == mailing_id)
    states = (
        select(_D.c.occurrence_id, _D.c.state, func.count(), func.sum(_D.c.attempts))
        .where(_D.c.occurrence_id.in_(mine))
        .group_by(_D.c.occurrence_id, _D.c.state)
    )
    with store.read() as session:
        occurrences = session.execute(select(_O).where(_O.c.id.in_(mine)).order_by(_O.c.due_at, _O.c.id)).all()
        counted: dict[int, dict[DeliveryState, tuple[int, int]]] = {}
        for occurrence_id, state, number, attempts in session.execute(states):
            counted.setdefault(occurrence_id, {})[DeliveryState(state)] = (number, attempts)
    rows = []
    for row in occurrences:
        found = counted.get(row.id, {})
        counts = {state: found.get(state, (0, 0))[0] for state in DeliveryState}
        rows.append(
            OccurrenceReport(
                id=row.id,
                due_at=row.due_at,
                state=OccurrenceState(row.state),
                opened_at=row.opened_at,
                finished_at=row.finished_at,
                deadline=row.deadline,
                deliveries=sum(counts.values()),
                attempts=sum(attempts for _, attempts in found.values()),
                counts=counts,
            )
        )
    total = {state: sum(row.counts[state] for row in rows) for state in DeliveryState}
    return Report(
        id=mailing.id,
        subject=mailing.subject,
        status=mailing.status,
        disabled=mailing.disabled,
        deliveries=sum(total.values()),
        attempts=sum(row.attempts for row in rows),
        counts=total,
        occurrences=rows,
    )
