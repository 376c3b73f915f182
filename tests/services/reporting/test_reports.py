"""Reports: what became of a mailing and of a range of days, for whom it is to know."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ledger_rows
from support.queue_steps import change

from skychimp.errors import InvalidValue, NotFound, NotLoggedIn
from skychimp.models import DeliveryState, Occurrence, OccurrenceState, Outcome
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.reporting import reports, rollups
from skychimp.services.reporting.reports import percent, rate
from skychimp.store.database import Store

NINE = ledger_rows.NINE
GONE = "550 5.1.1 <{}> no such user"
STATES = {
    Outcome.SENT: DeliveryState.SENT,
    Outcome.FAILED: DeliveryState.FAILED,
    Outcome.UNKNOWN: DeliveryState.UNKNOWN,
}


def tried(store: Store, occurrence_id: int, address: str, *outcomes: Outcome, at: datetime = NINE) -> None:
    """A delivery with these attempts, a minute apart."""
    state = STATES[outcomes[-1]] if outcomes else DeliveryState.QUEUED
    delivery = ledger_rows.delivery(store, occurrence_id, address, state, at)
    replies = {Outcome.SENT: "250 2.0.0 queued as 4X7", Outcome.FAILED: GONE.format(address)}
    for number, outcome in enumerate(outcomes):
        ledger_rows.attempt(store, delivery, outcome, replies.get(outcome, "450 later"), at + timedelta(minutes=number))


@pytest.fixture
def mailing_id(store: Store, ada: Actor) -> int:
    """A mailing with an occurrence that is finished and one that is open."""
    made = ledger_rows.mailing(store, ada)
    finished = ledger_rows.occurrence(store, made)
    tried(store, finished, "a@one.example", Outcome.DEFERRED, Outcome.SENT)
    tried(store, finished, "b@two.example", Outcome.FAILED)
    tried(store, finished, "c@two.example", Outcome.FAILED)
    over = {"state": OccurrenceState.FINISHED, "finished_at": NINE + timedelta(hours=1)}
    change(store, Occurrence, finished, **over)
    unfinished = ledger_rows.occurrence(store, made, NINE + timedelta(days=1))
    tried(store, unfinished, "a@one.example")
    tried(store, unfinished, "b@two.example", Outcome.UNKNOWN)
    return made


def test_what_became_of_a_mailing(store: Store, ada: Actor, mailing_id: int) -> None:
    for _ in range(2):
        found = reports.report(store, ada, mailing_id)

        assert (found.deliveries, found.attempts, found.tries) == (5, 5, {0: 1, 1: 3, 2: 1})
        assert {state: number for state, number in found.counts.items() if number} == {
            "sent": 1, "failed": 2, "unknown": 1, "queued": 1,
        }  # fmt: skip
        first, second = found.occurrences
        assert (first.state, first.deliveries, first.attempts, first.took) == ("finished", 3, 4, timedelta(hours=1))
        assert (second.state, second.deliveries, second.counts["unknown"], second.took) == ("open", 2, 1, None)
        assert [(one.domain, one.deliveries, one.counts["failed"]) for one in found.domains] == [
            ("two.example", 3, 2),
            ("one.example", 2, 0),
        ]


def test_smaller_domains_come_together(
    store: Store, ada: Actor, mailing_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MOST_DOMAINS", 1)

    found = [(one.domain, one.deliveries) for one in reports.report(store, ada, mailing_id).domains]
    assert found == [("two.example", 3), ("", 2)]


def test_replies_that_say_the_same_are_one(store: Store, ada: Actor, mailing_id: int) -> None:
    most, *others = reports.report(store, ada, mailing_id).replies

    assert (most.outcome, most.code, most.words, most.attempts) == ("failed", 550, "no such user", 2)
    assert most.meaning
    assert {one.outcome for one in others} == {"sent", "deferred", "unknown"}


def test_a_report_is_for_its_owner_and_for_managers(
    store: Store, bob: Actor, manager: Actor, admin: Actor, mailing_id: int
) -> None:
    for actor in (manager, admin):
        assert reports.report(store, actor, mailing_id).deliveries == 5
    with pytest.raises(NotFound):
        reports.report(store, bob, mailing_id)
    with pytest.raises(NotLoggedIn):
        reports.report(store, ANONYMOUS, mailing_id)


def test_one_that_has_not_been_due(store: Store, ada: Actor) -> None:
    found = reports.report(store, ada, ledger_rows.mailing(store, ada))

    assert (found.deliveries, found.occurrences, found.replies, found.domains) == (0, [], [], [])


# Over time


def test_the_rate_ends_where_tries_again_begin() -> None:
    slots = [(slot, Outcome.SENT, 100) for slot in range(10)] + [(slot, Outcome.SENT, 1) for slot in (500, 900)]
    points = rate(slots, 1000)

    assert len(points) == 10
    assert {point.a_second for point in points} == {100 / rollups.SLOT}
    assert (points[0].at, points[-1].at) == (rollups.slot_time(0), rollups.slot_time(9))


SLOTS = st.dictionaries(
    st.tuples(st.integers(0, 5000), st.sampled_from(Outcome)), st.integers(1, 10_000), min_size=1, max_size=40
)


@given(SLOTS, st.integers(1, 60))
def test_a_rate_counts_each_attempt_up_to_its_end_in_few_points(
    counts: dict[tuple[int, Outcome], int], most: int
) -> None:
    slots = sorted((slot, outcome, number) for (slot, outcome), number in counts.items())
    points = rate(slots, letters=10**9, most=most)

    assert 1 <= len(points) <= most
    total: Counter[str] = Counter()
    for point in points:
        total.update(point.counts)
    for outcome in Outcome:
        assert total[outcome] == sum(number for _, which, number in slots if which == outcome)


def test_no_attempts_make_no_rate() -> None:
    assert rate([], 5) == []


@pytest.mark.parametrize(
    ("number", "of", "said"),
    [
        (0, 0, "0 %"),
        (0, 9, "0 %"),
        (9, 9, "100 %"),
        (1, 3, "33.3 %"),
        (1, 10**6, "0.1 %"),
        (10**6 - 1, 10**6, "99.9 %"),
    ],
)
def test_a_share_in_words(number: int, of: int, said: str) -> None:
    assert percent(number, of) == said


# A range of days

JANUARY = date(2026, 1, 1)


def test_a_range_has_every_day_in_its_zone(store: Store, ada: Actor) -> None:
    occurrence = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))
    for name, at in (
        ("a", datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC)),
        ("b", datetime(2026, 1, 2, 0, 0, tzinfo=UTC)),
        ("c", datetime(2026, 1, 2, 18, 29, tzinfo=UTC)),
        ("d", datetime(2026, 1, 2, 18, 31, tzinfo=UTC)),
    ):
        tried(store, occurrence, f"{name}@one.example", Outcome.SENT, at=at)

    def sent(timezone: str, since: date = JANUARY, days: int = 2) -> list[int]:
        found = reports.range_report(store, ada, since, since + timedelta(days=days), timezone)
        return [day.counts["sent"] for day in found.days]

    assert sent("UTC") == [1, 3, 0]
    assert sent("America/New_York") == [2, 2, 0]
    assert sent("Asia/Kolkata") == [0, 3, 1]  # 18:30 UTC is midnight
    assert sent("UTC", date(2026, 1, 2), 0) == [3]
    assert sent("UTC", date(2025, 6, 1), 3) == [0, 0, 0, 0]


def test_a_range_names_causes_and_domains(store: Store, ada: Actor) -> None:
    occurrence = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))
    for number in range(10):
        tried(store, occurrence, f"a{number}@good.example", Outcome.SENT)
        tried(store, occurrence, f"b{number}@bad.example", Outcome.FAILED if number else Outcome.SENT)
    tried(store, occurrence, "c@small.example", Outcome.FAILED)
    tried(store, occurrence, "d@good.example")  # its turn is to come: nothing is said of its domain
    found = reports.range_report(store, ada, JANUARY, JANUARY, "UTC")

    assert [(one.outcome, one.attempts) for one in found.failures] == [("failed", 10)]
    assert [one.domain for one in found.best] == ["good.example"]
    assert [(one.domain, one.share_sent) for one in found.worst] == [("bad.example", 0.1)]


def test_a_range_is_of_ones_own(store: Store, ada: Actor, bob: Actor, manager: Actor, admin: Actor) -> None:
    for owner in (ada, bob):
        tried(store, ledger_rows.occurrence(store, ledger_rows.mailing(store, owner)), "a@one.example", Outcome.SENT)

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
def test_a_range_as_a_person_writes_it(text: str, since: date, until: date) -> None:
    assert reports.parse_range(text, today=date(2026, 3, 10)) == (since, until)


@pytest.mark.parametrize(
    "text", ["", "7", "0d", "99999d", "2026", "2026-13", "2026-02-30", "2026-01-01..", "..2026-01-01", "9999-12", "٧d"]
)
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(InvalidValue):
        reports.parse_range(text, today=date(2026, 3, 10))


@pytest.mark.parametrize("until", [date(2025, 12, 31), date(2099, 1, 1)])
def test_a_range_that_can_not_be_meant(store: Store, ada: Actor, until: date) -> None:
    with pytest.raises(InvalidValue):
        reports.range_report(store, ada, JANUARY, until, "UTC")
