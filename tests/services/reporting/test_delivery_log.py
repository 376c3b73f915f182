"""The log of a mailing: every attempt, the oldest first, with the server's words."""

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
from skychimp.store.database import Store

BUSY, GONE, FINE = "451 4.3.0 try\nagain", "550 5.1.1 no such user", "250 2.0.0 queued as 7"


@pytest.fixture
def mailing_id(store: Store, ada: Actor) -> int:
    """A mailing with deliveries that were sent at a second try, refused, unknown and not tried; and another mailing."""
    wanted, other = ledger_rows.mailing(store, ada), ledger_rows.mailing(store, ada)
    occurrence = ledger_rows.occurrence(store, wanted)
    first, second, third = (
        ledger_rows.delivery(store, occurrence, f"{name}@example.org", state)
        for name, state in (("a_b", DeliveryState.SENT), ("gone", DeliveryState.FAILED), ("c", DeliveryState.UNKNOWN))
    )
    ledger_rows.delivery(store, occurrence, "d@example.org", DeliveryState.QUEUED)
    ledger_rows.attempt(store, first, Outcome.DEFERRED, BUSY)
    foreign = ledger_rows.delivery(store, ledger_rows.occurrence(store, other), "other@example.org", DeliveryState.SENT)
    ledger_rows.attempt(store, foreign, Outcome.SENT, FINE)
    ledger_rows.attempt(store, second, Outcome.FAILED, GONE)
    ledger_rows.attempt(store, first, Outcome.SENT, FINE)
    ledger_rows.attempt(store, third, Outcome.UNKNOWN, "closed after the dot")
    return wanted


def log(
    store: Store, actor: Actor, mailing_id: int, page: ListOptions | None = None, **how: object
) -> list[AttemptInfo]:
    return list(delivery_log.log(store, actor, mailing_id, page or ListOptions(), **how))  # type: ignore[arg-type]


def words(rows: list[AttemptInfo]) -> list[tuple[str, str, int, str]]:
    return [(row.email[0], row.status, row.attempt, row.reply) for row in rows]


DEFERRED, FAILED, SENT, UNKNOWN = (
    ("a", "deferred", 1, BUSY),
    ("g", "failed", 1, GONE),
    ("a", "sent", 2, FINE),
    ("c", "unknown", 1, "closed after the dot"),
)


def test_every_attempt_is_there_with_the_servers_words(store: Store, ada: Actor, mailing_id: int) -> None:
    rows = log(store, ada, mailing_id)

    assert words(rows) == [DEFERRED, FAILED, SENT, UNKNOWN]
    assert {(row.at, row.due_at, row.phase, row.relay) for row in rows} == {
        (ledger_rows.NINE, ledger_rows.NINE, "dot", "relay.example:25")
    }
    assert [row.code for row in rows] == [451, 550, 250, None]


@pytest.mark.parametrize(
    ("page", "found"),
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
def test_a_log_in_part_and_in_order(
    store: Store, ada: Actor, mailing_id: int, page: ListOptions, found: list[tuple[str, str, int, str]]
) -> None:
    assert words(log(store, ada, mailing_id, page)) == found


@pytest.mark.parametrize(
    ("status", "found"), [("sent", [SENT]), ("deferred", [DEFERRED]), ("unknown", [UNKNOWN]), ("given_back", [])]
)
def test_a_log_by_status(
    store: Store, ada: Actor, mailing_id: int, status: str, found: list[tuple[str, str, int, str]]
) -> None:
    assert words(log(store, ada, mailing_id, status=status)) == found


@pytest.mark.parametrize(
    ("wanted", "found"),
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
def test_a_log_by_reply_domain_and_time(
    store: Store, ada: Actor, mailing_id: int, wanted: dict[str, object], found: list[tuple[str, str, int, str]]
) -> None:
    assert words(log(store, ada, mailing_id, None, **wanted)) == found


def test_a_domain_beyond_ascii(store: Store, ada: Actor) -> None:
    made = ledger_rows.mailing(store, ada)
    there = ledger_rows.delivery(
        store, ledger_rows.occurrence(store, made), "a@xn--mnchen-3ya.example", DeliveryState.SENT
    )
    ledger_rows.attempt(store, there, Outcome.SENT, FINE)

    assert len(log(store, ada, made, domain="münchen.example")) == 1


def test_the_newest_attempt_of_all(store: Store, ada: Actor) -> None:
    assert delivery_log.newest(store) == 0
    there = ledger_rows.delivery(
        store, ledger_rows.occurrence(store, ledger_rows.mailing(store, ada)), "a@b.example", DeliveryState.SENT
    )
    assert delivery_log.newest(store) == 0
    assert ledger_rows.attempt(store, there, Outcome.SENT, FINE) == delivery_log.newest(store)


def test_the_last_attempt_of_each_delivery(store: Store, ada: Actor, mailing_id: int) -> None:
    rows = log(store, ada, mailing_id, last=True)

    assert words(rows) == [SENT, FAILED, UNKNOWN, ("d", "queued", 0, "")]
    assert (rows[-1].at, rows[-1].id) == (None, None)
    assert words(log(store, ada, mailing_id, last=True, status="sent")) == [SENT]


def test_only_what_is_new(store: Store, ada: Actor, mailing_id: int) -> None:
    seen = log(store, ada, mailing_id)[1].id

    assert words(log(store, ada, mailing_id, after=seen)) == [SENT, UNKNOWN]


@pytest.mark.parametrize(
    "how",
    [
        {}, {"last": True}, {"after": 2}, {"status": "sent"}, {"domain": "example.org"}, {"reply": "550"},
        {"reply": "no"}, {"since": ledger_rows.NINE, "until": ledger_rows.NINE}, {"last": True, "since": ledger_rows.NINE},
    ],
    ids=str,
)  # fmt: skip
def test_a_long_log_is_read_in_order_without_a_sort_that_would_hold_it_in_memory(
    store: Store, ada: Actor, mailing_id: int, how: dict[str, object]
) -> None:
    asked: list[tuple[str, object]] = []
    event.listen(store.engine, "before_cursor_execute", lambda *said: asked.append((said[2], said[3])))

    log(store, ada, mailing_id, None, **how)

    ((query, values),) = [
        (query, values) for query, values in asked if "FROM delivery" in query or "FROM attempt" in query
    ]
    with store.engine.connect() as db:
        plan = [row.detail for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values)]  # type: ignore[arg-type]
    assert plan
    assert not [step for step in plan if "TEMP B-TREE" in step or step.startswith("SCAN")]


def test_a_log_is_for_its_owner_and_for_managers(
    store: Store, bob: Actor, manager: Actor, admin: Actor, mailing_id: int
) -> None:
    for actor in (manager, admin):
        assert len(log(store, actor, mailing_id)) == 4
    with pytest.raises(NotFound):
        log(store, bob, mailing_id)
    with pytest.raises(NotLoggedIn):
        log(store, ANONYMOUS, mailing_id)


@pytest.mark.parametrize("unknown", [0, -1, 99, 10**30])
def test_the_log_of_an_unknown_mailing_is_not_there(store: Store, ada: Actor, unknown: int) -> None:
    with pytest.raises(NotFound):
        log(store, ada, unknown)


def test_a_log_that_can_not_be_made_is_refused(store: Store, ada: Actor, mailing_id: int) -> None:
    for page in (ListOptions(sort="shoe size"), ListOptions(search="\udcff")):
        with pytest.raises(InvalidValue):
            log(store, ada, mailing_id, page)
    for wanted in ({"domain": "no domain"}, {"domain": ""}, {"reply": "\udcff"}):
        with pytest.raises(InvalidValue):
            log(store, ada, mailing_id, None, **wanted)
