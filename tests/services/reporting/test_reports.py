"""Test the reports of mailings and of ranges of days, and who may see them."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ledger_rows
from support.queue_steps import update_row
from support.sending import rows

from skychimp.errors import InvalidValue, NotFound, NotLoggedIn
from skychimp.models import DeliveryState, Occurrence, OccurrenceState, Outcome
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.messages import messages
from skychimp.services.reporting import reports, rollups
from skychimp.services.reporting.reports import format_percent, sending_rate
from skychimp.store.database import Store

NINE = ledger_rows.NINE
NO_SUCH_USER = "550 5.1.1 <{}> no such user"
STATES = {
    Outcome.SENT: DeliveryState.SENT,
    Outcome.FAILED: DeliveryState.FAILED,
    Outcome.UNKNOWN: DeliveryState.UNKNOWN,
}


def create_delivery(store: Store, occurrence_id: int, address: str, *outcomes: Outcome, at: datetime = NINE) -> None:
    """Create a delivery with attempts of these outcomes, a minute apart."""
    state = STATES[outcomes[-1]] if outcomes else DeliveryState.QUEUED
    delivery = ledger_rows.delivery(store, occurrence_id, address, state, at)
    replies = {Outcome.SENT: "250 2.0.0 queued as 4X7", Outcome.FAILED: NO_SUCH_USER.format(address)}
    for number, outcome in enumerate(outcomes):
        ledger_rows.attempt(store, delivery, outcome, replies.get(outcome, "450 later"), at + timedelta(minutes=number))


@pytest.fixture
def mailing_id(store: Store, ada: Actor) -> int:
    """Create a mailing with a finished and an open occurrence."""
    mailing_id = ledger_rows.mailing(store, ada)
    finished = ledger_rows.occurrence(store, mailing_id)
    create_delivery(store, finished, "a@one.example", Outcome.DEFERRED, Outcome.SENT)
    create_delivery(store, finished, "b@two.example", Outcome.FAILED)
    create_delivery(store, finished, "c@two.example", Outcome.FAILED)
    update_row(store, Occurrence, finished, state=OccurrenceState.FINISHED, finished_at=NINE + timedelta(hours=1))
    unfinished = ledger_rows.occurrence(store, mailing_id, NINE + timedelta(days=1))
    create_delivery(store, unfinished, "a@one.example")
    create_delivery(store, unfinished, "b@two.example", Outcome.UNKNOWN)
    return mailing_id


def test_report_counts_deliveries_and_attempts(store: Store, ada: Actor, mailing_id: int) -> None:
    for _ in range(2):
        report = reports.mailing_report(store, ada, mailing_id)

        assert (report.deliveries, report.attempts, report.tries) == (5, 5, {0: 1, 1: 3, 2: 1})
        assert {state: number for state, number in report.counts.items() if number} == {
            "sent": 1, "failed": 2, "unknown": 1, "queued": 1,
        }  # fmt: skip
        first, second = report.occurrences
        assert (first.state, first.deliveries, first.attempts, first.duration) == ("finished", 3, 4, timedelta(hours=1))
        assert (second.state, second.deliveries, second.counts["unknown"], second.duration) == ("open", 2, 1, None)
        assert [(domain.domain, domain.deliveries, domain.counts["failed"]) for domain in report.domains] == [
            ("two.example", 3, 2),
            ("one.example", 2, 0),
        ]


def test_smaller_domains_are_counted_together(
    store: Store, ada: Actor, mailing_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MAX_DOMAINS", 1)

    domains = reports.mailing_report(store, ada, mailing_id).domains
    assert [(domain.domain, domain.deliveries) for domain in domains] == [("two.example", 3), ("", 2)]


def test_similar_replies_are_grouped(store: Store, ada: Actor, mailing_id: int) -> None:
    most, *others = reports.mailing_report(store, ada, mailing_id).replies

    assert (most.outcome, most.code, most.words, most.attempts) == ("failed", 550, "no such user", 2)
    assert most.meaning
    assert {group.outcome for group in others} == {"sent", "deferred", "unknown"}


def test_owners_managers_and_admins_see_a_report(
    store: Store, bob: Actor, manager: Actor, admin: Actor, mailing_id: int
) -> None:
    for actor in (manager, admin):
        assert reports.mailing_report(store, actor, mailing_id).deliveries == 5
    with pytest.raises(NotFound):
        reports.mailing_report(store, bob, mailing_id)
    with pytest.raises(NotLoggedIn):
        reports.mailing_report(store, ANONYMOUS, mailing_id)


def test_report_of_a_mailing_that_was_never_due(store: Store, ada: Actor) -> None:
    report = reports.mailing_report(store, ada, ledger_rows.mailing(store, ada))

    assert (report.deliveries, report.occurrences, report.replies, report.domains) == (0, [], [], [])


def test_subjects_are_those_that_were_sent(store: Store, ada: Actor, mailing_id: int) -> None:
    """A later change of the message changes neither the title nor the occurrences. A missed one has no subject."""
    sent, open_, missed = (row.id or 0 for row in _occurrences_with_a_missed_one(store, mailing_id))
    update_row(store, Occurrence, sent, subject="January")
    update_row(store, Occurrence, open_, subject="February")
    messages.change(store, ada, 1, subject="March")

    report = reports.mailing_report(store, ada, mailing_id)

    assert report.subject == "February"
    assert [(row.id, row.subject) for row in report.occurrences] == [
        (sent, "January"),
        (open_, "February"),
        (missed, ""),
    ]


def _occurrences_with_a_missed_one(store: Store, mailing_id: int) -> list[Occurrence]:
    missed = ledger_rows.occurrence(store, mailing_id, NINE + timedelta(days=2))
    update_row(store, Occurrence, missed, state=OccurrenceState.MISSED, finished_at=NINE + timedelta(days=2))
    return rows(store, Occurrence)


def test_subject_of_a_mailing_that_has_sent_nothing_is_its_messages(store: Store, ada: Actor) -> None:
    mailing_id = ledger_rows.mailing(store, ada)
    messages.change(store, ada, 1, subject="March")

    assert reports.mailing_report(store, ada, mailing_id).subject == "March"


# Over time


def test_rate_ends_before_the_retries() -> None:
    slots = [(slot, Outcome.SENT, 100) for slot in range(10)] + [(slot, Outcome.SENT, 1) for slot in (500, 900)]
    points = sending_rate(slots, 1000)

    assert len(points) == 10
    assert {point.per_second for point in points} == {100 / rollups.SLOT_S}
    assert (points[0].at, points[-1].at) == (rollups.slot_start(0), rollups.slot_start(9))


SLOTS = st.dictionaries(
    st.tuples(st.integers(0, 5000), st.sampled_from(Outcome)), st.integers(1, 10_000), min_size=1, max_size=40
)


@given(SLOTS, st.integers(1, 60))
def test_rate_counts_every_attempt_in_a_limited_number_of_points(
    counts: dict[tuple[int, Outcome], int], max_points: int
) -> None:
    slots = sorted((slot, outcome, number) for (slot, outcome), number in counts.items())
    points = sending_rate(slots, emails=10**9, max_points=max_points)

    assert 1 <= len(points) <= max_points
    total: Counter[str] = Counter()
    for point in points:
        total.update(point.counts)
    for outcome in Outcome:
        assert total[outcome] == sum(number for _, which, number in slots if which == outcome)


def test_rate_without_attempts_is_empty() -> None:
    assert sending_rate([], 5) == []


@pytest.mark.parametrize(
    ("number", "total", "formatted"),
    [
        (0, 0, "0 %"),
        (0, 9, "0 %"),
        (9, 9, "100 %"),
        (1, 3, "33.3 %"),
        (1, 10**6, "0.1 %"),
        (10**6 - 1, 10**6, "99.9 %"),
    ],
)
def test_percentages_are_exact_only_at_the_ends(number: int, total: int, formatted: str) -> None:
    assert format_percent(number, total) == formatted


# A range of days

JANUARY = date(2026, 1, 1)


def test_days_of_a_range_are_those_of_its_time_zone(store: Store, ada: Actor) -> None:
    occurrence = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))
    for name, at in (
        ("a", datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC)),
        ("b", datetime(2026, 1, 2, 0, 0, tzinfo=UTC)),
        ("c", datetime(2026, 1, 2, 18, 29, tzinfo=UTC)),
        ("d", datetime(2026, 1, 2, 18, 31, tzinfo=UTC)),
    ):
        create_delivery(store, occurrence, f"{name}@one.example", Outcome.SENT, at=at)

    def sent(timezone: str, since: date = JANUARY, days: int = 2) -> list[int]:
        report = reports.range_report(store, ada, since, since + timedelta(days=days), timezone)
        return [day.counts["sent"] for day in report.days]

    assert sent("UTC") == [1, 3, 0]
    assert sent("America/New_York") == [2, 2, 0]
    assert sent("Asia/Kolkata") == [0, 3, 1]  # 18:30 UTC is midnight
    assert sent("UTC", date(2026, 1, 2), 0) == [3]
    assert sent("UTC", date(2025, 6, 1), 3) == [0, 0, 0, 0]


def test_attempt_at_the_last_midnight_belongs_to_the_next_day(store: Store, ada: Actor) -> None:
    """A range ends with the slot before its last midnight: in counts, failures and domains."""
    occurrence = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))
    midnight = datetime(2026, 1, 2, tzinfo=UTC)
    for number in range(reports.RANKED_FROM):
        create_delivery(store, occurrence, f"a{number}@one.example", Outcome.FAILED, at=midnight)

    first_day = reports.range_report(store, ada, JANUARY, JANUARY, "UTC")
    next_day = reports.range_report(store, ada, midnight.date(), midnight.date(), "UTC")

    assert [(day.day, sum(day.counts.values())) for day in first_day.days] == [(JANUARY, 0)]
    assert (first_day.failures, first_day.best, first_day.worst) == ([], [], [])
    assert next_day.days[0].counts["failed"] == reports.RANKED_FROM
    assert [domain.domain for domain in next_day.worst] == ["one.example"]


def test_range_report_shows_failures_and_domains(store: Store, ada: Actor) -> None:
    occurrence = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))
    for number in range(10):
        create_delivery(store, occurrence, f"a{number}@good.example", Outcome.SENT)
        create_delivery(store, occurrence, f"b{number}@bad.example", Outcome.FAILED if number else Outcome.SENT)
    create_delivery(store, occurrence, "c@small.example", Outcome.FAILED)
    create_delivery(store, occurrence, "d@good.example")  # not tried yet: does not count for its domain
    report = reports.range_report(store, ada, JANUARY, JANUARY, "UTC")

    assert [(group.outcome, group.attempts) for group in report.failures] == [("failed", 10)]
    assert [domain.domain for domain in report.best] == ["good.example"]
    assert [(domain.domain, domain.share_sent) for domain in report.worst] == [("bad.example", 0.1)]


def test_range_report_covers_own_mailings_or_all_for_managers(
    store: Store, ada: Actor, bob: Actor, manager: Actor, admin: Actor
) -> None:
    for owner in (ada, bob):
        create_delivery(
            store, ledger_rows.occurrence(store, ledger_rows.mailing(store, owner)), "a@one.example", Outcome.SENT
        )

    def sent(actor: Actor) -> int:
        return reports.range_report(store, actor, JANUARY, JANUARY, "UTC").days[0].counts["sent"]

    assert [sent(actor) for actor in (ada, bob, manager, admin)] == [1, 1, 2, 2]
    with pytest.raises(NotLoggedIn):
        sent(ANONYMOUS)


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("7d", date(2026, 3, 4), date(2026, 3, 10)),
        ("1d", date(2026, 3, 10), date(2026, 3, 10)),
        ("2026-02", date(2026, 2, 1), date(2026, 2, 28)),
        ("2024-12", date(2024, 12, 1), date(2024, 12, 31)),
        ("2026-01-31", date(2026, 1, 31), date(2026, 1, 31)),
        (" 2026-01-31..2026-02-01 ", date(2026, 1, 31), date(2026, 2, 1)),
    ],
)
def test_valid_ranges(text: str, since: date, until: date) -> None:
    assert reports.parse_range(text, today=date(2026, 3, 10)) == (since, until)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "0d",
        "99999d",
        "2026",
        "2026-13",
        "2026-02-30",
        "2026-01-01..",
        "..2026-01-01",
        "9999-12",
        "9999-12-31",
        "0001-01-01",
        "٧d",
    ],
)
def test_invalid_ranges_are_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        reports.parse_range(text, today=date(2026, 3, 10))


@pytest.mark.parametrize("until", [date(2025, 12, 31), date(2099, 1, 1)])
def test_reversed_or_too_long_range_is_refused(store: Store, ada: Actor, until: date) -> None:
    with pytest.raises(InvalidValue):
        reports.range_report(store, ada, JANUARY, until, "UTC")
