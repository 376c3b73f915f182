"""Reports: what became of a mailing, and of all that one may see in a range of days."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Row, Select, and_, func, select, true
from sqlmodel import Session

from skychimp.delivery.sending import replies
from skychimp.errors import InvalidValue
from skychimp.models import (
    AttemptRollup,
    DeliveryState,
    Mailing,
    MailingStatus,
    Occurrence,
    OccurrenceState,
    Outcome,
    ReplyKind,
)
from skychimp.permissions import Action, Actor, Scope, authorize
from skychimp.services.mailings import mailings
from skychimp.services.reporting import rollups
from skychimp.services.reporting.rollups import SLOT, Outcomes
from skychimp.store.database import Store

_O = Occurrence.__table__
_M = Mailing.__table__
_P = AttemptRollup.__table__
_CAUSE = ReplyKind.__table__

MOST_POINTS = 60
"""Of an occurrence's rate."""

CHARTED = 60
"""How many of the latest occurrences come with their rate."""

MOST_DOMAINS = 20
"""Named in a report; the others come together."""

RATED_FROM = 10
"""A domain with fewer tried deliveries is neither among the best nor among the worst."""

LONGEST_RANGE = timedelta(days=3660)
_NEARLY_ALL = 0.99
_UNDER_WAY = ("queued", "claimed", "sending")


@dataclass(frozen=True)
class RatePoint:
    """How many attempts came to which outcome in some seconds from `at` on."""

    at: datetime
    seconds: int
    counts: Mapping[str, int]

    @property
    def a_second(self) -> float:
        return sum(self.counts.values()) / self.seconds


@dataclass(frozen=True)
class ReplyGroup:
    """Answers that say the same, counted: with `…` in their words for what varies, what they mean, and what to do."""

    outcome: Outcome
    phase: str
    code: int | None
    enhanced: str
    words: str
    attempts: int
    meaning: str
    remedy: str


@dataclass(frozen=True)
class DomainReport:
    """What the deliveries to one domain came to; "" is all smaller ones together."""

    domain: str
    deliveries: int
    counts: Mapping[str, int]

    @property
    def tried(self) -> int:
        """Those that something came of: what still waits for its first try tells nothing of a domain."""
        return self.deliveries - sum(self.counts[name] for name in (*_UNDER_WAY, "cancelled"))

    @property
    def share_sent(self) -> float:
        return self.counts["sent"] / self.tried if self.tried else 0.0


@dataclass(frozen=True)
class OccurrenceReport:
    """One occurrence: how many of its deliveries are in each state, how many attempts they took, and when they went.

    `rate` runs until there were nearly as many attempts as letters (later ones are tries again); `peak` is letters a
    second, None where all went within a few seconds.
    """

    id: int
    due_at: datetime
    state: OccurrenceState
    opened_at: datetime
    finished_at: datetime | None
    deadline: datetime
    deliveries: int
    attempts: int
    counts: Mapping[str, int]
    rate: Sequence[RatePoint]
    peak: float | None

    @property
    def took(self) -> timedelta | None:
        """From opening to finishing."""
        is_over = self.state == OccurrenceState.FINISHED and self.finished_at is not None
        return self.finished_at - self.opened_at if is_over else None  # type: ignore[operator]


@dataclass(frozen=True)
class Report:
    """A mailing, over all of its occurrences; `tries` maps attempts made to the number of deliveries."""

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


@dataclass(frozen=True)
class Day:
    """The attempts of one day, by outcome."""

    day: date
    counts: Mapping[str, int]


@dataclass(frozen=True)
class RangeReport:
    """The days from `since` to `until`, both included; `best` and `worst` domains by their share of sent letters."""

    since: date
    until: date
    days: Sequence[Day]
    failures: Sequence[ReplyGroup]
    best: Sequence[DomainReport]
    worst: Sequence[DomainReport]


def report(store: Store, actor: Actor, mailing_id: int) -> Report:
    """What became of a mailing, the oldest occurrence first. Raises NotFound."""
    mailing = mailings.show(store, actor, mailing_id)
    rollups.add_up(store)
    with store.read() as db:
        mine = select(_O).where(_O.c.mailing_id == mailing_id)
        rows = db.execute(mine.order_by(_O.c.due_at, _O.c.id)).all()
        ids = [row.id for row in rows]
        rates = {one: _slots(db, one) for one in ids[-CHARTED:]}
        groups = _groups(db, select(_P.c.cause_id, _P.c.attempts).where(_P.c.occurrence_id.in_(ids)))
    results = rollups.results(store, ids)
    occurrences = [_occurrence(row, results.get(row.id, ()), rates.get(row.id, [])) for row in rows]
    everything = [one for found in results.values() for one in found]
    return Report(
        id=mailing.id,
        subject=mailing.subject,
        owner=mailing.owner,
        status=mailing.status,
        disabled=mailing.disabled,
        as_of=datetime.now(UTC),
        deliveries=sum(one.deliveries for one in occurrences),
        attempts=sum(one.attempts for one in occurrences),
        counts=_by_state(everything),
        tries=_tries(everything),
        occurrences=occurrences,
        replies=groups,
        domains=_domains(everything, MOST_DOMAINS),
    )


def range_report(store: Store, actor: Actor, since: date, until: date, timezone: str) -> RangeReport:
    """What was sent in the days from `since` to `until`, both included, in a time zone; everybody's for who may see it.

    The domains are those of the occurrences that were sent in these days. Raises InvalidValue, NotLoggedIn, Denied.
    """
    allowed = authorize(actor, Action.SEE_REPORTS)
    if since > until:
        raise InvalidValue("the range ends before it begins", "the first day comes first")
    if until - since > LONGEST_RANGE:
        raise InvalidValue("the range is longer than ten years")
    rollups.add_up(store)
    first, last = (_midnight(day, timezone) for day in (since, until + timedelta(days=1)))
    mine = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(_M.c.owner_id == actor.user_id)
    within = and_(
        _P.c.slot.between(rollups.slot_of(first), rollups.slot_of(last) - 1),
        _P.c.occurrence_id.in_(mine) if allowed == Scope.OWN else true(),
    )
    with store.read() as db:
        failed = _CAUSE.c.outcome.in_((Outcome.FAILED, Outcome.DEFERRED, Outcome.UNKNOWN))
        paces = select(_P.c.cause_id, _P.c.attempts).where(within)
        groups = _groups(db, paces.join(_CAUSE, _CAUSE.c.id == _P.c.cause_id).where(failed))
        days = list(_days(db, select(_P).where(within), since, until, timezone))
        ids = list(db.execute(select(_P.c.occurrence_id).where(within).distinct()).scalars())
    everything = [one for found in rollups.results(store, ids).values() for one in found]
    rated = [one for one in _domains(everything) if one.domain and one.tried >= RATED_FROM]
    order = sorted(rated, key=lambda one: (one.share_sent, -one.deliveries))
    worst = [one for one in order if one.share_sent < 1][:MOST_DOMAINS]
    best = [one for one in sorted(rated, key=lambda one: (-one.share_sent, -one.deliveries)) if one not in worst]
    return RangeReport(since, until, days, groups, best[:MOST_DOMAINS], worst)


_RANGE = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.\.(\d{4}-\d\d-\d\d))?", re.ASCII)
_EXAMPLES = "write 7d, 2026-01, 2026-01-31 or 2026-01-01..2026-01-31"


def parse_range(text: str, today: date) -> tuple[date, date]:
    """The first and the last day that a person meant. Raises InvalidValue."""
    text = text.strip()
    try:
        if match := re.fullmatch(r"([1-9][0-9]{0,3})d", text, re.ASCII):
            return today - timedelta(days=int(match[1]) - 1), today
        if re.fullmatch(r"\d{4}-\d\d", text, re.ASCII):
            first = date.fromisoformat(f"{text}-01")
            return first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
        if match := _RANGE.fullmatch(text):
            return date.fromisoformat(match[1]), date.fromisoformat(match[2] or match[1])
    except (ValueError, OverflowError):
        pass
    raise InvalidValue(f"{text!r} is not a range of days", _EXAMPLES)


# From rows to figures; pure


def shown(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by state as a person asks for them: all that is under way is queued."""
    names = ("sent", "deferred", "failed", "unknown", "queued", "expired", "cancelled")
    return {name: counts[name] for name in names} | {"queued": sum(counts[name] for name in _UNDER_WAY)}


def rate(slots: Sequence[tuple[int, Outcome, int]], letters: int, most: int = MOST_POINTS) -> list[RatePoint]:
    """The rate over time, in at most so many points, from counts by slot in order.

    It ends with the slot by which there were nearly as many attempts as `letters`: tries again would draw it out.
    """
    if not slots:
        return []
    left, first, last = _NEARLY_ALL * letters, slots[0][0], slots[0][0]
    for slot, _, number in slots:
        if left <= 0:
            break
        left, last = left - number, slot
    width = -(-(last - first + 1) // most)
    points: list[Counter[Outcome]] = [Counter() for _ in range((last - first) // width + 1)]
    for slot, outcome, number in slots:
        if slot <= last:
            points[(slot - first) // width][outcome] += number
    return [
        RatePoint(rollups.slot_time(first + place * width), width * SLOT, {str(one): counts[one] for one in Outcome})
        for place, counts in enumerate(points)
    ]


def percent(number: int, of: int) -> str:
    """A share with one decimal, which says all or nothing only where that is so."""
    if not of or number in (0, of):
        return "100 %" if number else "0 %"
    return f"{min(max(100 * number / of, 0.1), 99.9):.1f} %"


def _peak(slots: Sequence[tuple[int, Outcome, int]]) -> float | None:
    by_slot: Counter[int] = Counter()
    for slot, _, number in slots:
        by_slot[slot] += number
    return max(by_slot.values()) / SLOT if len(by_slot) > 2 else None


def _by_state(results: Iterable[Outcomes]) -> dict[str, int]:
    counts: Counter[DeliveryState] = Counter()
    for one in results:
        counts[one.state] += one.deliveries
    return {str(state): counts[state] for state in DeliveryState}


def _tries(results: Iterable[Outcomes]) -> dict[int, int]:
    tries: Counter[int] = Counter()
    for one in results:
        tries[one.attempts] += one.deliveries
    return dict(sorted(tries.items()))


def _domains(results: Iterable[Outcomes], most: int | None = None) -> list[DomainReport]:
    """By domain, the largest first, and at the end all others together: those beyond `most`, too."""
    sizes: Counter[str] = Counter()
    results = list(results)
    for one in results:
        sizes[one.domain] += one.deliveries
    del sizes[""]
    named = {domain for domain, _ in sizes.most_common(most)}
    found: dict[str, list[Outcomes]] = {}
    for one in results:
        found.setdefault(one.domain if one.domain in named else "", []).append(one)
    made = [DomainReport(domain, sum(_by_state(some).values()), _by_state(some)) for domain, some in found.items()]
    return sorted(made, key=lambda one: (one.domain == "", -one.deliveries, one.domain))


def _occurrence(
    row: Row[Any], found: Sequence[Outcomes], slots: Sequence[tuple[int, Outcome, int]]
) -> OccurrenceReport:
    return OccurrenceReport(
        id=row.id,
        due_at=row.due_at,
        state=OccurrenceState(row.state),
        opened_at=row.opened_at,
        finished_at=row.finished_at,
        deadline=row.deadline,
        deliveries=sum(one.deliveries for one in found),
        attempts=sum(one.attempts * one.deliveries for one in found),
        counts=_by_state(found),
        rate=rate(slots, sum(one.deliveries for one in found if one.attempts)),
        peak=_peak(slots),
    )


def _midnight(day: date, timezone: str) -> datetime:
    return datetime.combine(day, time(), ZoneInfo(timezone))


# What is kept


def _slots(db: Session, occurrence_id: int) -> list[tuple[int, Outcome, int]]:
    query = (
        select(_P.c.slot, _CAUSE.c.outcome, func.sum(_P.c.attempts))
        .join(_CAUSE, _CAUSE.c.id == _P.c.cause_id)
        .where(_P.c.occurrence_id == occurrence_id)
        .group_by(_P.c.slot, _CAUSE.c.outcome)
        .order_by(_P.c.slot)
    )
    return [(slot, Outcome(outcome), number) for slot, outcome, number in db.execute(query)]


def _groups(db: Session, paces: Select[tuple[int, int]]) -> list[ReplyGroup]:
    """The causes of these attempts, the most frequent first."""
    chosen = paces.subquery()
    counted = select(chosen.c.cause_id, func.sum(chosen.c.attempts).label("number")).group_by(chosen.c.cause_id)
    some = counted.subquery()
    query = select(_CAUSE, some.c.number).join(some, some.c.cause_id == _CAUSE.c.id)
    groups = []
    for row in db.execute(query.order_by(some.c.number.desc(), _CAUSE.c.id)):
        meaning = replies.explain(row.outcome, row.phase, row.code, row.enhanced)
        code = row.code or None
        groups.append(
            ReplyGroup(
                Outcome(row.outcome), row.phase, code, row.enhanced, row.words, row.number, meaning.what, meaning.remedy
            )
        )
    return groups


_QUARTER = 900 // SLOT
"""Slots in a quarter of an hour: every zone's midnight is at the beginning of one."""


def _days(db: Session, paces: Select[tuple[object, ...]], since: date, until: date, timezone: str) -> Iterator[Day]:
    """Every day of a range, also those without an attempt."""
    chosen = paces.subquery()
    quarter = chosen.c.slot // _QUARTER
    query = select(quarter * _QUARTER, _CAUSE.c.outcome, func.sum(chosen.c.attempts))
    query = query.join(_CAUSE, _CAUSE.c.id == chosen.c.cause_id).group_by(quarter, _CAUSE.c.outcome)
    days: dict[date, Counter[Outcome]] = {}
    for slot, outcome, number in db.execute(query):
        day = rollups.slot_time(slot).astimezone(ZoneInfo(timezone)).date()
        days.setdefault(day, Counter())[Outcome(outcome)] += number
    for number in range((until - since).days + 1):
        day = since + timedelta(days=number)
        counts = days.get(day, Counter())
        yield Day(day, {str(outcome): counts[outcome] for outcome in Outcome})
