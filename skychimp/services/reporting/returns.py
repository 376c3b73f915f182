"""Report how many emails bounced or were marked as spam, and hold the mailings for which that is too much.

What counts is said in `return_rates.ReturnCounts`.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, func, select

from skychimp.models import Outcome, ReturnedKind, tables
from skychimp.return_rates import Limits, Rate, ReturnCounts, format_rate
from skychimp.services.reporting import rollups
from skychimp.store.database import Store
from skychimp.store.occurrences import return_counts
from skychimp.store.occurrences.return_counts import Returned
from skychimp.store.sql import id_list, total
from skychimp.translation import Phrase, tr, trn

log = logging.getLogger("skychimp")

_A = tables.attempt
_D = tables.delivery
_M = tables.mailing
_O = tables.occurrence
_SUMS = tables.attempt_rollup
_REPLY = tables.reply_kind
_INFO = tables.store_info

OWN_PERIOD = timedelta(days=30)
"""A user's own rates are those of the due times in this period."""

MAX_UNCOUNTED = 100_000
"""With more attempts that are not added up yet, a user's own rates would take too long."""


@dataclass(frozen=True)
class RateReport:
    """A rate beside the limits that somebody has published for it.

    `rate` is a fraction, None without any email. It is good below `advised`, and has consequences from `limit` on.
    """

    kind: str
    emails: int
    of: int
    rate: float | None
    advised: float
    limit: float
    publisher: str
    source: str

    @property
    def is_good(self) -> bool:
        return self.rate is None or self.rate < self.advised

    @property
    def in_words(self) -> Phrase:
        """The rate and its figures: `2.5 % (25 of 1,000 emails)`."""
        if self.rate is None:
            return tr("no emails sent")
        return trn(
            "{rate} ({returned:,} of {number:,} email)",
            "{rate} ({returned:,} of {number:,} emails)",
            self.of,
            rate=format_rate(self.rate),
            returned=self.emails,
        )

    @property
    def advice(self) -> Phrase:
        """The published limits in words."""
        return tr(
            "keep below {advised}, never reach {limit} ({publisher})",
            advised=format_rate(self.advised),
            limit=format_rate(self.limit),
            publisher=self.publisher,
        )


def report_rates(counts: ReturnCounts) -> list[RateReport]:
    """Return both rates as reports show them."""
    return [_report(rate) for rate in counts.rates]


def _report(rate: Rate) -> RateReport:
    published = rate.published
    value = None if rate.value is None else round(rate.value, 6)
    return RateReport(
        rate.kind.value,
        rate.number,
        rate.of,
        value,
        published.advised,
        published.most,
        published.publisher,
        published.source,
    )


def counts_of(sent: int, returned: Iterable[Returned]) -> ReturnCounts:
    """Return the counts of some occurrences together."""
    rows = list(returned)
    return ReturnCounts(
        sent,
        sum(row.refused for row in rows),
        sum(row.bounced for row in rows),
        sum(row.complaint for row in rows),
    )


def by_kind(returned: Iterable[Returned]) -> dict[str, int]:
    """Return how many emails came back, by what that was."""
    rows = list(returned)
    return {kind.value: sum(getattr(row, kind.value) for row in rows) for kind in ReturnedKind}


def own_counts(db: Connection, owner_id: int, now: datetime) -> ReturnCounts | None:
    """Return the counts of what a user's mailings have sent lately. None if they would take too long to count."""
    newest, counted_to = (db.scalar(select(column)) or 0 for column in (func.max(_A.c.id), _INFO.c.counted_to))
    if newest - counted_to > MAX_UNCOUNTED:
        return None
    of_owner = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id)
    recent = of_owner.where(_M.c.owner_id == owner_id, _O.c.opened_at > now - OWN_PERIOD)
    ids = db.scalars(recent).all()
    sent = _count_sent(db, ids) + _count_sent_since(db, ids, counted_to)
    return counts_of(sum(sent.values()), return_counts.read(db, _O.c.id.in_(id_list(ids))).values())


def hold_bad_mailings(store: Store, occurrence_ids: Sequence[int], limits: Limits) -> None:
    """Hold the mailings of those of these occurrences whose rates are too high. Raises StoreFailed.

    It is called when something came back for them. The sums of what was sent may be old. They only get larger, so a
    rate that is not too high by them is not. Otherwise they are brought up to date first.
    """
    suspects = [each for each, counts in _read_counts(store, occurrence_ids).items() if counts.may_be_too_high(limits)]
    if not suspects:
        return
    rollups.count_new_attempts(store)
    for occurrence_id, counts in _read_counts(store, suspects).items():
        for kind, reason in counts.why_too_high(limits):
            with store.write() as db:
                mailing_id = return_counts.hold(db.connection(), occurrence_id, kind, reason, store.now())
            if mailing_id is not None:
                log.error("mailing held", extra={"mailing": mailing_id, "reason": reason})


def _read_counts(store: Store, occurrence_ids: Sequence[int]) -> Mapping[int, ReturnCounts]:
    """Return the counts of occurrences, by the sums of what was sent."""
    if not occurrence_ids:
        return {}
    with store.read() as transaction:
        db = transaction.connection()
        returned = return_counts.read(db, _O.c.id.in_(id_list(occurrence_ids)))
        sent = _count_sent(db, occurrence_ids)
    return {each: counts_of(sent[each], [row]) for each, row in returned.items()}


def _count_sent(db: Connection, occurrence_ids: Sequence[int]) -> Counter[int]:
    """Return how many emails of each occurrence were sent, by the sums of the attempts."""
    query = select(_SUMS.c.occurrence_id, total(_SUMS.c.attempts)).join(_REPLY, _REPLY.c.id == _SUMS.c.cause_id)
    is_sent = and_(_SUMS.c.occurrence_id.in_(id_list(occurrence_ids)), _REPLY.c.outcome == Outcome.SENT)
    return Counter(dict(db.execute(query.where(is_sent).group_by(_SUMS.c.occurrence_id)).all()))


def _count_sent_since(db: Connection, occurrence_ids: Sequence[int], attempt_id: int) -> Counter[int]:
    """Return how many emails of each occurrence were sent by attempts after this one."""
    # A subquery rather than a join: a database might begin with the deliveries, of which there are most.
    occurrence_id = select(_D.c.occurrence_id).where(_D.c.id == _A.c.delivery_id).scalar_subquery()
    new = select(occurrence_id.label("id")).where(_A.c.id > attempt_id, _A.c.outcome == Outcome.SENT).subquery()
    query = select(new.c.id, func.count()).where(new.c.id.in_(id_list(occurrence_ids))).group_by(new.c.id)
    return Counter(dict(db.execute(query).all()))
