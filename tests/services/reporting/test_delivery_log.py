"""Test the log of a mailing: its attempts in order, its filters, and who may see it."""

from datetime import timedelta

import pytest
from sqlalchemy import event
from support import ledger_rows

from skychimp.errors import InvalidValue, NotFound, NotLoggedIn
from skychimp.models import DeliveryState, Outcome
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.listing import ListOptions
from skychimp.services.reporting import delivery_log
from skychimp.services.reporting.delivery_log import AttemptInfo
from skychimp.store import ledger
from skychimp.store.database import Store

BUSY, REFUSED, ACCEPTED = "451 4.3.0 try\nagain", "550 5.1.1 no such user", "250 2.0.0 queued as 7"


@pytest.fixture
def mailing_id(store: Store, ada: Actor) -> int:
    """Create a mailing with a delivery sent at the second attempt, a refused, an unknown and an untried one."""
    mailing_id, other_id = ledger_rows.mailing(store, ada), ledger_rows.mailing(store, ada)
    occurrence = ledger_rows.occurrence(store, mailing_id)
    first, second, third = (
        ledger_rows.delivery(store, occurrence, f"{name}@example.org", state)
        for name, state in (("a_b", DeliveryState.SENT), ("gone", DeliveryState.FAILED), ("c", DeliveryState.UNKNOWN))
    )
    ledger_rows.delivery(store, occurrence, "d@example.org", DeliveryState.QUEUED)
    ledger_rows.attempt(store, first, Outcome.DEFERRED, BUSY)
    foreign = ledger_rows.delivery(
        store, ledger_rows.occurrence(store, other_id), "other@example.org", DeliveryState.SENT
    )
    ledger_rows.attempt(store, foreign, Outcome.SENT, ACCEPTED)
    ledger_rows.attempt(store, second, Outcome.FAILED, REFUSED)
    ledger_rows.attempt(store, first, Outcome.SENT, ACCEPTED)
    ledger_rows.attempt(store, third, Outcome.UNKNOWN, "closed after the dot")
    return mailing_id


def log(
    store: Store, actor: Actor, mailing_id: int, options: ListOptions | None = None, **filters: object
) -> list[AttemptInfo]:
    return list(delivery_log.list_attempts(store, actor, mailing_id, options or ListOptions(), **filters))  # type: ignore[arg-type]


def summary(rows: list[AttemptInfo]) -> list[tuple[str, str, int, str]]:
    return [(row.email[0], row.status, row.attempt, row.reply) for row in rows]


DEFERRED, FAILED, SENT, UNKNOWN = (
    ("a", "deferred", 1, BUSY),
    ("g", "failed", 1, REFUSED),
    ("a", "sent", 2, ACCEPTED),
    ("c", "unknown", 1, "closed after the dot"),
)


def test_every_attempt_is_there_with_the_servers_reply(store: Store, ada: Actor, mailing_id: int) -> None:
    rows = log(store, ada, mailing_id)

    assert summary(rows) == [DEFERRED, FAILED, SENT, UNKNOWN]
    assert {(row.at, row.due_at, row.phase, row.relay) for row in rows} == {
        (ledger_rows.NINE, ledger_rows.NINE, "dot", "relay.example:25")
    }
    assert [row.code for row in rows] == [451, 550, 250, None]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ListOptions(limit=2), [DEFERRED, FAILED]),
        (ListOptions(offset=3), [UNKNOWN]),
        (ListOptions(offset=10**30), []),
        (ListOptions(search="A_B"), [DEFERRED, SENT]),
        (ListOptions(search="gone@"), [FAILED]),
        (ListOptions(search="%"), []),
        (ListOptions(sort="-id"), [UNKNOWN, SENT, FAILED, DEFERRED]),
        (ListOptions(sort="email"), [DEFERRED, SENT, UNKNOWN, FAILED]),
    ],
)
def test_log_is_limited_searched_and_sorted(
    store: Store, ada: Actor, mailing_id: int, options: ListOptions, expected: list[tuple[str, str, int, str]]
) -> None:
    assert summary(log(store, ada, mailing_id, options)) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ListOptions(limit=2), [DEFERRED, FAILED]),
        (ListOptions(limit=2, sort="-id"), [UNKNOWN, SENT]),
        (ListOptions(limit=2, offset=3), [UNKNOWN]),
        (ListOptions(limit=1, sort="email", offset=3), [FAILED]),
        (ListOptions(limit=1, search="gone@"), [FAILED]),
    ],
)
def test_log_of_a_large_mailing_is_limited(
    store: Store,
    ada: Actor,
    mailing_id: int,
    options: ListOptions,
    expected: list[tuple[str, str, int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The attempts are read in another way then."""
    other = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))
    ledger_rows.attempt(
        store, ledger_rows.delivery(store, other, "x@y.org", DeliveryState.SENT), Outcome.SENT, "250 ok"
    )
    monkeypatch.setattr(delivery_log, "LARGE_MAILING", 1)
    assert summary(log(store, ada, mailing_id, options)) == expected


@pytest.mark.parametrize(
    ("status", "expected"), [("sent", [SENT]), ("deferred", [DEFERRED]), ("unknown", [UNKNOWN]), ("given_back", [])]
)
def test_log_filtered_by_status(
    store: Store, ada: Actor, mailing_id: int, status: str, expected: list[tuple[str, str, int, str]]
) -> None:
    assert summary(log(store, ada, mailing_id, status=status)) == expected


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"reply": "550"}, [FAILED]),
        ({"reply": "250"}, [SENT]),
        ({"reply": "4.3.0"}, [DEFERRED]),
        ({"reply": "5.1"}, [FAILED]),
        ({"reply": "QUEUED as"}, [SENT]),
        ({"reply": "%"}, []),
        ({"reply": "after the dot"}, [UNKNOWN]),
        ({"domain": "example.org"}, [DEFERRED, FAILED, SENT, UNKNOWN]),
        ({"domain": "@Example.ORG "}, [DEFERRED, FAILED, SENT, UNKNOWN]),
        ({"domain": "org"}, []),
        ({"since": ledger_rows.NINE}, [DEFERRED, FAILED, SENT, UNKNOWN]),
        ({"since": ledger_rows.NINE + timedelta(microseconds=1)}, []),
        ({"until": ledger_rows.NINE}, []),
        ({"until": ledger_rows.NINE + timedelta(microseconds=1)}, [DEFERRED, FAILED, SENT, UNKNOWN]),
        ({"status": "sent", "reply": "550"}, []),
        ({"last": True, "reply": "550"}, [FAILED]),
        ({"last": True, "domain": "example.org", "until": ledger_rows.NINE}, []),
    ],
    ids=str,
)
def test_log_filtered_by_reply_domain_and_time(
    store: Store, ada: Actor, mailing_id: int, filters: dict[str, object], expected: list[tuple[str, str, int, str]]
) -> None:
    assert summary(log(store, ada, mailing_id, None, **filters)) == expected


def test_domain_filter_accepts_non_ascii_domains(store: Store, ada: Actor) -> None:
    made = ledger_rows.mailing(store, ada)
    delivery = ledger_rows.delivery(
        store, ledger_rows.occurrence(store, made), "a@xn--mnchen-3ya.example", DeliveryState.SENT
    )
    ledger_rows.attempt(store, delivery, Outcome.SENT, ACCEPTED)

    assert len(log(store, ada, made, domain="münchen.example")) == 1


def test_newest_attempt_id(store: Store, ada: Actor) -> None:
    assert ledger.newest_attempt_id(store) == 0
    delivery = ledger_rows.delivery(
        store, ledger_rows.occurrence(store, ledger_rows.mailing(store, ada)), "a@b.example", DeliveryState.SENT
    )
    assert ledger.newest_attempt_id(store) == 0
    assert ledger_rows.attempt(store, delivery, Outcome.SENT, ACCEPTED) == ledger.newest_attempt_id(store)


def test_last_attempt_of_each_delivery(store: Store, ada: Actor, mailing_id: int) -> None:
    rows = log(store, ada, mailing_id, last=True)

    assert summary(rows) == [SENT, FAILED, UNKNOWN, ("d", "queued", 0, "")]
    assert (rows[-1].at, rows[-1].id) == (None, None)
    assert summary(log(store, ada, mailing_id, last=True, status="sent")) == [SENT]


def test_only_attempts_after_an_id(store: Store, ada: Actor, mailing_id: int) -> None:
    last_seen = log(store, ada, mailing_id)[1].id

    assert summary(log(store, ada, mailing_id, after=last_seen)) == [SENT, UNKNOWN]


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "filters",
    [
        {}, {"last": True}, {"after": 2}, {"status": "sent"}, {"domain": "example.org"}, {"reply": "550"},
        {"reply": "no"}, {"since": ledger_rows.NINE, "until": ledger_rows.NINE},
        {"last": True, "since": ledger_rows.NINE},
    ],
    ids=str,
)  # fmt: skip
def test_log_is_read_in_order_without_sorting_in_memory(
    store: Store, ada: Actor, mailing_id: int, filters: dict[str, object]
) -> None:
    statements: list[tuple[str, object]] = []
    event.listen(store.engine, "before_cursor_execute", lambda *event: statements.append((event[2], event[3])))

    log(store, ada, mailing_id, None, **filters)

    queries = [
        statement for statement in statements if "FROM delivery" in statement[0] or "FROM attempt" in statement[0]
    ]
    with store.engine.connect() as db:
        plans = [db.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all() for query, values in queries]  # type: ignore[arg-type]
    plan = [row.detail for rows in plans for row in rows]
    assert plan
    plan = [step for step in plan if not step.startswith(("SCAN lease", "SCAN anon"))]  # what is being sent: few rows
    assert not [step for step in plan if "TEMP B-TREE" in step or step.startswith("SCAN")]


def test_owners_managers_and_admins_see_a_log(
    store: Store, bob: Actor, manager: Actor, admin: Actor, mailing_id: int
) -> None:
    for actor in (manager, admin):
        assert len(log(store, actor, mailing_id)) == 4
    with pytest.raises(NotFound):
        log(store, bob, mailing_id)
    with pytest.raises(NotLoggedIn):
        log(store, ANONYMOUS, mailing_id)


@pytest.mark.parametrize("unknown", [0, -1, 99, 10**30])
def test_log_of_an_unknown_mailing_is_not_found(store: Store, ada: Actor, unknown: int) -> None:
    with pytest.raises(NotFound):
        log(store, ada, unknown)


def test_invalid_options_are_refused(store: Store, ada: Actor, mailing_id: int) -> None:
    for options in (ListOptions(sort="shoe size"), ListOptions(search="\udcff")):
        with pytest.raises(InvalidValue):
            log(store, ada, mailing_id, options)
    for filters in ({"domain": "no domain"}, {"domain": ""}, {"reply": "\udcff"}):
        with pytest.raises(InvalidValue):
            log(store, ada, mailing_id, None, **filters)
