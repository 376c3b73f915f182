"""Report what happened to a mailing's emails, and to all emails in a range of days."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Select, and_, select, true

from skychimp.delivery.sending.refusals import faults
from skychimp.errors import InvalidValue
from skychimp.models import (
    DeliveryState,
    MailingStatus,
    OccurrenceState,
    Outcome,
    tables,
)
from skychimp.permissions import Action, Actor, Scope, authorize
from skychimp.services.mailings import mailings
from skychimp.services.reporting import returns, rollups
from skychimp.services.reporting.returns import RateReport
from skychimp.services.reporting.rollups import SLOT_S, OutcomeCount
from skychimp.store.database import Store
from skychimp.store.occurrences import return_counts
from skychimp.store.occurrences.return_counts import NOTHING_RETURNED, Returned
from skychimp.store.session import Session
from skychimp.store.sql import total
from skychimp.translation import Phrase, tr

_O = tables.occurrence
_M = tables.mailing
_ATTEMPTS = tables.attempt_rollup
_REPLY = tables.reply_kind

MAX_POINTS = 60
"""Points of an occurrence's sending rate."""

OCCURRENCES_WITH_RATE = 60
"""How many of the latest occurrences have a sending rate."""

MAX_DOMAINS = 20
"""Domains that a report names; the others are counted together."""

RANKED_FROM = 10
"""A domain with fewer tried deliveries is neither among the best nor among the worst."""

LONGEST_RANGE = timedelta(days=3660)
STATUSES = ("sent", "outbox", "deferred", "failed", "unknown", "queued", "expired", "cancelled")
"""The statuses that reports show, in their order."""

_NEARLY_ALL = 0.99
_IN_PROGRESS = ("queued", "claimed", "sending")


@dataclass(frozen=True)
class RatePoint:
    """Attempts by outcome in the `seconds` after `at`."""

    at: datetime
    seconds: int
    counts: Mapping[str, int]

    @property
    def per_second(self) -> float:
        return sum(self.counts.values()) / self.seconds


@dataclass(frozen=True)
class ReplyGroup:
    """Replies that differ only in addresses, ids and numbers (shown as `…`), with their meaning and what to do."""

    outcome: Outcome
    phase: str
    code: int | None
    enhanced: str
    words: str
    attempts: int
    meaning: str
    remedy: Phrase


@dataclass(frozen=True)
class DomainReport:
    """The deliveries to one domain, by state. The domain "" stands for all smaller domains together."""

    domain: str
    deliveries: int
    counts: Mapping[str, int]

    @property
    def tried(self) -> int:
        """Deliveries with an outcome. Those that wait for their first attempt say nothing about a domain."""
        return self.deliveries - sum(self.counts[name] for name in (*_IN_PROGRESS, "cancelled"))

    @property
    def share_sent(self) -> float:
        return self.counts["sent"] / self.tried if self.tried else 0.0


@dataclass(frozen=True)
class OccurrenceReport:
    """One occurrence: its subject as it was sent, its deliveries by state, its attempts and its sending rate.

    Nothing more of it is sent after its `deadline`, which is the mailing's end, None if that has none. `subject` is ""
    if nothing was sent (missed, skipped). `rate` ends when there were nearly as many attempts as emails; later attempts
    are retries. `peak` is in emails per second, and None if all were sent within a few seconds. `returned` and `rates`
    are as in Report.
    """

    id: int
    due_at: datetime
    state: OccurrenceState
    subject: str
    opened_at: datetime
    finished_at: datetime | None
    deadline: datetime | None
    deliveries: int
    attempts: int
    counts: Mapping[str, int]
    rate: Sequence[RatePoint]
    peak: float | None
    returned: Mapping[str, int]
    rates: Sequence[RateReport]

    @property
    def duration(self) -> timedelta | None:
        """The time from opening to finishing, None unless it is finished."""
        if self.state != OccurrenceState.FINISHED or self.finished_at is None:
            return None
        return self.finished_at - self.opened_at


@dataclass(frozen=True)
class Report:
    """All occurrences of a mailing. `tries` maps a number of attempts to the number of deliveries that took as many.

    `subject` is the one that was sent last; if nothing was sent yet, it is the message's. `returned` counts the sent
    emails for which something came back, by what that was, such as `bounced`. `rates` are its bounces and complaints
    beside the published limits.
    """

    id: int
    subject: str
    owner: str
    status: MailingStatus
    disabled: bool
    as_of: datetime
    deliveries: int
    attempts: int
    counts: Mapping[str, int]
    tries: Mapping[int, int]
    occurrences: Sequence[OccurrenceReport]
    replies: Sequence[ReplyGroup]
    domains: Sequence[DomainReport]
    returned: Mapping[str, int]
    rates: Sequence[RateReport]


@dataclass(frozen=True)
class Day:
    """The attempts of one day, by outcome."""

    day: date
    counts: Mapping[str, int]


@dataclass(frozen=True)
class RangeReport:
    """The days from `since` to `until`, both included; the domains with the best and the worst share of sent emails."""

    since: date
    until: date
    days: Sequence[Day]
    failures: Sequence[ReplyGroup]
    best: Sequence[DomainReport]
    worst: Sequence[DomainReport]


def mailing_report(
    store: Store, actor: Actor, mailing_id: int, progress: Callable[[int], object] = lambda counted: None
) -> Report:
    """Return what happened to a mailing's emails, the oldest occurrence first. Raises NotFound.

    `progress` is called now and then with the number of deliveries counted so far.
    """
    mailing = mailings.find(store, actor, mailing_id)
    rollups.count_new_attempts(store)
    with store.read() as db:
        rows = _occurrence_rows(db, mailing_id)
        ids = [row.id for row in rows]
        slots = {occurrence_id: _slots(db, occurrence_id) for occurrence_id in ids[-OCCURRENCES_WITH_RATE:]}
        attempts = select(_ATTEMPTS.c.cause_id, _ATTEMPTS.c.attempts).where(_ATTEMPTS.c.occurrence_id.in_(ids))
        reply_groups = _reply_groups(db, attempts)
        returned = return_counts.read(db.connection(), _O.c.mailing_id == mailing_id)
    outcomes = rollups.delivery_outcomes(store, ids, progress)
    occurrences = [
        _occurrence_report(row, outcomes.get(row.id, ()), slots.get(row.id, []), returned.get(row.id, NOTHING_RETURNED))
        for row in rows
    ]
    total = [count for counts in outcomes.values() for count in counts]
    counts = _by_state(total)
    return Report(
        id=mailing.id,
        subject=next((row.subject for row in reversed(rows) if row.subject), mailing.subject),
        owner=mailing.owner,
        status=mailing.status,
        disabled=mailing.disabled,
        as_of=store.now(),
        deliveries=sum(occurrence.deliveries for occurrence in occurrences),
        attempts=sum(occurrence.attempts for occurrence in occurrences),
        counts=counts,
        tries=_by_attempts(total),
        occurrences=occurrences,
        replies=reply_groups,
        domains=_by_domain(total, MAX_DOMAINS),
        returned=returns.by_kind(returned.values()),
        rates=_rates(counts, returned.values()),
    )


def range_report(
    store: Store,
    actor: Actor,
    since: date,
    until: date,
    timezone: str,
    progress: Callable[[int], object] = lambda counted: None,
) -> RangeReport:
    """Return what was sent from `since` to `until`, both included, in days of a time zone.

    It covers the actor's own mailings, or everybody's for a manager or administrator. The domains are those of the
    occurrences that were sent in these days. `progress` is called now and then with the number of deliveries counted so
    far. Raises InvalidValue, NotLoggedIn and Denied.
    """
    scope = authorize(actor, Action.SEE_REPORTS)
    if since > until:
        raise InvalidValue(tr("the range ends before it begins"), tr("use {until}..{since}", until=until, since=since))
    if until - since > LONGEST_RANGE:
        raise InvalidValue(tr("the range is longer than ten years"), tr("use a shorter range"))
    rollups.count_new_attempts(store)
    start, end = (_midnight(day, timezone) for day in (since, until + timedelta(days=1)))
    own_ids = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(_M.c.owner_id == actor.user_id)
    in_range = and_(
        # The slot that begins at the last midnight belongs to the next day.
        _ATTEMPTS.c.slot.between(rollups.slot_of(start), rollups.slot_of(end) - 1),
        _ATTEMPTS.c.occurrence_id.in_(own_ids) if scope == Scope.OWN else true(),
    )
    with store.read() as db:
        not_sent = _REPLY.c.outcome.in_((Outcome.FAILED, Outcome.DEFERRED, Outcome.UNKNOWN))
        attempts = select(_ATTEMPTS.c.cause_id, _ATTEMPTS.c.attempts).where(in_range)
        failures = _reply_groups(db, attempts.join(_REPLY, _REPLY.c.id == _ATTEMPTS.c.cause_id).where(not_sent))
        days = list(_days(db, select(_ATTEMPTS).where(in_range), since, until, timezone))
        ids = list(db.execute(select(_ATTEMPTS.c.occurrence_id).where(in_range).distinct()).scalars())
    outcomes = rollups.delivery_outcomes(store, ids, progress)
    best, worst = _ranked([count for counts in outcomes.values() for count in counts])
    return RangeReport(since, until, days, failures, best, worst)


_YEARS = range(1900, 9000)
"""The years of a range. The first and last days of the calendar have no UTC time in some time zones."""

_RANGE = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.\.(\d{4}-\d\d-\d\d))?", re.ASCII)


def parse_range(text: str, today: date) -> tuple[date, date]:
    """Return the first and the last day of a range such as `7d`, `2026-01` or `2026-01-01..2026-01-31`.

    Raises InvalidValue.
    """
    with suppress(ValueError, OverflowError):
        since, until = _read_range(text.strip(), today)
        if since.year in _YEARS and until.year in _YEARS:
            return since, until
    raise InvalidValue(
        tr("invalid range {value!r}", value=text), tr("use 7d, 2026-01, 2026-01-31 or 2026-01-01..2026-01-31")
    )


def _read_range(text: str, today: date) -> tuple[date, date]:
    """Return the first and the last day of a range. Raises ValueError and OverflowError."""
    if match := re.fullmatch(r"([1-9][0-9]{0,3})d", text, re.ASCII):
        return today - timedelta(days=int(match[1]) - 1), today
    if re.fullmatch(r"\d{4}-\d\d", text, re.ASCII):
        first = date.fromisoformat(f"{text}-01")
        return first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    if match := _RANGE.fullmatch(text):
        return date.fromisoformat(match[1]), date.fromisoformat(match[2] or match[1])
    raise ValueError(text)


# From rows to figures; pure


def counts_by_status(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts by state as reports show them: everything that is in progress counts as queued."""
    return {name: counts[name] for name in STATUSES} | {"queued": sum(counts[name] for name in _IN_PROGRESS)}


def sending_rate(
    slots: Sequence[tuple[int, Outcome, int]], emails: int, max_points: int = MAX_POINTS
) -> list[RatePoint]:
    """Return the rate over time in at most `max_points` points, from attempts by slot in order.

    It ends with the slot by which there were nearly as many attempts as `emails`; retries would stretch it.
    """
    if not slots:
        return []
    remaining, first, last = _NEARLY_ALL * emails, slots[0][0], slots[0][0]
    for slot, _, number in slots:
        if remaining <= 0:
            break
        remaining, last = remaining - number, slot
    slots_per_point = -(-(last - first + 1) // max_points)
    points: list[Counter[Outcome]] = [Counter() for _ in range((last - first) // slots_per_point + 1)]
    for slot, outcome, number in slots:
        if slot <= last:
            points[(slot - first) // slots_per_point][outcome] += number
    return [
        RatePoint(
            at=rollups.slot_start(first + index * slots_per_point),
            seconds=slots_per_point * SLOT_S,
            counts={str(outcome): counts[outcome] for outcome in Outcome},
        )
        for index, counts in enumerate(points)
    ]


def format_percent(number: int, total: int) -> str:
    """Return a share with one decimal; `0 %` and `100 %` only if that is exact."""
    if not total or number in (0, total):
        return "100 %" if number else "0 %"
    return f"{min(max(100 * number / total, 0.1), 99.9):.1f} %"


def _peak(slots: Sequence[tuple[int, Outcome, int]]) -> float | None:
    by_slot: Counter[int] = Counter()
    for slot, _, number in slots:
        by_slot[slot] += number
    return max(by_slot.values()) / SLOT_S if len(by_slot) > 2 else None


def _rates(counts: Mapping[str, int], returned: Iterable[Returned]) -> list[RateReport]:
    return returns.report_rates(returns.counts_of(counts["sent"], returned))


def _by_state(outcomes: Iterable[OutcomeCount]) -> dict[str, int]:
    counts: Counter[DeliveryState] = Counter()
    for outcome in outcomes:
        counts[outcome.state] += outcome.deliveries
    return {str(state): counts[state] for state in DeliveryState}


def _by_attempts(outcomes: Iterable[OutcomeCount]) -> dict[int, int]:
    counts: Counter[int] = Counter()
    for outcome in outcomes:
        counts[outcome.attempts] += outcome.deliveries
    return dict(sorted(counts.items()))


def _by_domain(outcomes: Sequence[OutcomeCount], most: int | None = None) -> list[DomainReport]:
    """Return the largest domains, at most `most`, and at the end all others together."""
    sizes: Counter[str] = Counter()
    for outcome in outcomes:
        sizes[outcome.domain] += outcome.deliveries
    del sizes[""]
    named = {domain for domain, _ in sizes.most_common(most)}
    by_domain: dict[str, list[OutcomeCount]] = {}
    for outcome in outcomes:
        by_domain.setdefault(outcome.domain if outcome.domain in named else "", []).append(outcome)
    reports = [_domain_report(domain, counts) for domain, counts in by_domain.items()]
    return sorted(reports, key=lambda report: (report.domain == "", -report.deliveries, report.domain))


def _domain_report(domain: str, outcomes: Sequence[OutcomeCount]) -> DomainReport:
    counts = _by_state(outcomes)
    return DomainReport(domain, sum(counts.values()), counts)


def _ranked(outcomes: Sequence[OutcomeCount]) -> tuple[list[DomainReport], list[DomainReport]]:
    """Return the best and the worst domains by their share of sent emails."""
    ranked = [domain for domain in _by_domain(outcomes) if domain.domain and domain.tried >= RANKED_FROM]
    ascending = sorted(ranked, key=lambda domain: (domain.share_sent, -domain.deliveries))
    descending = sorted(ranked, key=lambda domain: (-domain.share_sent, -domain.deliveries))
    worst = [domain for domain in ascending if domain.share_sent < 1][:MAX_DOMAINS]
    return [domain for domain in descending if domain not in worst][:MAX_DOMAINS], worst


def _midnight(day: date, timezone: str) -> datetime:
    return datetime.combine(day, time(), ZoneInfo(timezone))


# Reading the store


class _OccurrenceRow(NamedTuple):
    id: int
    due_at: datetime
    state: OccurrenceState
    subject: str
    opened_at: datetime
    finished_at: datetime | None
    deadline: datetime | None


def _occurrence_rows(db: Session, mailing_id: int) -> list[_OccurrenceRow]:
    columns = (_O.c.id, _O.c.due_at, _O.c.state, _O.c.subject, _O.c.opened_at, _O.c.finished_at, _M.c.end_at)
    query = select(*columns).join(_M, _M.c.id == _O.c.mailing_id).where(_O.c.mailing_id == mailing_id)
    return [_OccurrenceRow(*row) for row in db.execute(query.order_by(_O.c.due_at, _O.c.id))]


def _occurrence_report(
    row: _OccurrenceRow,
    outcomes: Sequence[OutcomeCount],
    slots: Sequence[tuple[int, Outcome, int]],
    returned: Returned,
) -> OccurrenceReport:
    counts = _by_state(outcomes)
    return OccurrenceReport(
        **row._asdict(),
        deliveries=sum(outcome.deliveries for outcome in outcomes),
        attempts=sum(outcome.attempts * outcome.deliveries for outcome in outcomes),
        counts=counts,
        rate=sending_rate(slots, sum(outcome.deliveries for outcome in outcomes if outcome.attempts)),
        peak=_peak(slots),
        returned=returns.by_kind([returned]),
        rates=_rates(counts, [returned]),
    )


def _slots(db: Session, occurrence_id: int) -> list[tuple[int, Outcome, int]]:
    """Return an occurrence's attempts by slot and outcome, in the order of the slots."""
    query = (
        select(_ATTEMPTS.c.slot, _REPLY.c.outcome, total(_ATTEMPTS.c.attempts))
        .join(_REPLY, _REPLY.c.id == _ATTEMPTS.c.cause_id)
        .where(_ATTEMPTS.c.occurrence_id == occurrence_id)
        .group_by(_ATTEMPTS.c.slot, _REPLY.c.outcome)
        .order_by(_ATTEMPTS.c.slot)
    )
    return [(slot, Outcome(outcome), number) for slot, outcome, number in db.execute(query)]


def _reply_groups(db: Session, attempts: Select[tuple[int, int]]) -> list[ReplyGroup]:
    """Return the replies to these attempts, the most frequent first."""
    chosen = attempts.subquery()
    counts = select(chosen.c.cause_id, total(chosen.c.attempts).label("number")).group_by(chosen.c.cause_id).subquery()
    query = select(_REPLY, counts.c.number).join(counts, counts.c.cause_id == _REPLY.c.id)
    groups = []
    for row in db.execute(query.order_by(counts.c.number.desc(), _REPLY.c.id)):
        explanation = faults.explain(row.outcome, row.phase, row.code, row.enhanced, row.words)
        group = ReplyGroup(
            outcome=Outcome(row.outcome),
            phase=row.phase,
            code=row.code or None,
            enhanced=row.enhanced,
            words=row.words,
            attempts=row.number,
            meaning=explanation.meaning,
            remedy=explanation.remedy,
        )
        groups.append(group)
    return groups


_SLOTS_PER_QUARTER = 900 // SLOT_S
"""Slots in a quarter of an hour: midnight is at the beginning of one in every time zone."""


def _days(db: Session, attempts: Select[tuple[object, ...]], since: date, until: date, timezone: str) -> Iterator[Day]:
    """Yield every day of a range, also days without an attempt."""
    chosen = attempts.subquery()
    quarter = chosen.c.slot // _SLOTS_PER_QUARTER
    query = select(quarter * _SLOTS_PER_QUARTER, _REPLY.c.outcome, total(chosen.c.attempts))
    query = query.join(_REPLY, _REPLY.c.id == chosen.c.cause_id).group_by(quarter, _REPLY.c.outcome)
    by_day: dict[date, Counter[Outcome]] = {}
    for slot, outcome, number in db.execute(query):
        day = rollups.slot_start(slot).astimezone(ZoneInfo(timezone)).date()
        by_day.setdefault(day, Counter())[Outcome(outcome)] += number
    for offset in range((until - since).days + 1):
        day = since + timedelta(days=offset)
        counts = by_day.get(day, Counter())
        yield Day(day, {str(outcome): counts[outcome] for outcome in Outcome})
