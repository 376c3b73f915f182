"""A query chooses the same clients on SQLite and PostgreSQL: those that SQL's rules say, evaluated in Python."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import delete, select
from support.client_queries import (
    NOW,
    TIMEZONE,
    Person,
    add_fields,
    evaluate,
    people,
    queries,
    write_query,
)
from support.queue_steps import (
    claim,
    close_leases,
    create_client,
    create_deliveries,
    create_mailing,
    make_attempt,
    open_due,
    open_mailing,
    record_attempts,
    record_intents,
    rows,
    send,
    update_row,
    write,
)

from skychimp.errors import InvalidQuery
from skychimp.models import Attempt, Client, ClientField, FieldType, Mailing, Outcome
from skychimp.permissions import Actor
from skychimp.store.clients.queries.conditions import Evaluation
from skychimp.store.clients.queries.syntax import Node
from skychimp.store.database import Store

_C = Client.__table__


def create_people(store: Store, owner: Actor, crowd: Sequence[Person]) -> None:
    for person in crowd:
        name = person.email.partition("@")[0]
        create_client(store, owner, name, tags=person.tags, **person.columns())


def chosen(store: Store, owner: Actor, query: str) -> set[str]:
    """Return the names in the addresses of the owner's clients that a query chooses."""
    with store.read() as transaction:
        db = transaction.connection()
        condition = Evaluation(db, owner.user_id, TIMEZONE, NOW).condition(query)
        emails = db.scalars(select(_C.c.email).where(_C.c.owner_id == owner.user_id, condition))
        return {email.partition("@")[0] for email in emails}


ANN = {"city": "Rīga", "Größe": 5, "paid": True}
BEN = {"city": "oslo", "Größe": 7.5, "born": "1990-05-01"}
ZOE = {"city": 5, "Größe": "5", "paid": 1, "born": "soon"}  # each of another type than the field's
EVE = {"paid": False, "Größe": -3}
CROWD = [
    Person("ann@example.org", "Ann", "likes 100% cotton", tags=["vip"], fields=ANN),
    Person("ben@example.org", "BEN", created_at=NOW - timedelta(days=40), fields=BEN),
    Person("zoë@example.org", "ZOË", "back\\slash", consent_at=NOW, tags=["vip", "día"], fields=ZOE),
    Person("eve@other.example", fields=EVE),
]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("email = 'ANN@example.org'", "ann"),
        ("email <> 'ANN@example.org'", "ben zoë eve"),
        ("email LIKE '%@EXAMPLE.org'", "ann ben zoë"),
        ("email LIKE 'ZOË@%'", "zoë"),
        ("email BETWEEN 'b' AND 'c'", "ben"),
        ("name = 'Ben'", ""),
        ("name LIKE 'ben'", "ben"),
        ("name LIKE '_o_'", "zoë"),
        ("name LIKE 'zoë'", "zoë"),
        ("name > 'B'", "ben zoë"),
        ("name <> 'Ann'", "ben zoë"),
        ("name IS NULL", "eve"),
        ("name LIKE '%'", "ann ben zoë"),
        ("comment LIKE '%100!% %'", ""),
        ("comment LIKE '%\\slash'", "zoë"),
        ("comment LIKE '%\\%'", "zoë"),
        ("created_at < '-30d'", "ben"),
        ("created_at >= '2026-03-02'", "ann zoë eve"),
        ("created_at = '2026-03-02 11:00'", "ann zoë eve"),
        ("created_at = '2026-03-02T09:00Z'", "ann zoë eve"),
        ("consent_at IS NOT NULL", "zoë"),
        ("consent_at < '-1d'", ""),
        ("fields.city = 'Rīga'", "ann"),
        ("fields.city LIKE 'RĪ%'", "ann"),
        ("fields.city IS NULL", "zoë eve"),
        ("fields.city IN ('oslo', 'Rīga')", "ann ben"),
        ("fields.city NOT IN ('oslo')", "ann"),
        ("fields.Größe = 5", "ann"),
        ("fields.Größe = 5.0", "ann"),
        ("fields.Größe > 5", "ben"),
        ("fields.Größe < -2.5", "eve"),
        ("fields.Größe BETWEEN 5 AND 7.5", "ann ben"),
        ("NOT fields.Größe > 5", "ann eve"),
        ("fields.paid = TRUE", "ann"),
        ("fields.paid <> TRUE", "eve"),
        ("fields.paid IS NULL", "ben zoë"),
        ("fields.born < '2000-01-01'", "ben"),
        ("fields.born IS NULL", "ann zoë eve"),
        ("tag = 'VIP'", "ann zoë"),
        ("tag <> 'vip'", "ben eve"),
        ("tag IN ('DÍA', 'unused')", "zoë"),
        ("tag = 'unused'", ""),
        ("tag LIKE 'D%'", "zoë"),
        ("tag IS NULL", "ben eve"),
        ("fields.city = 'Rīga' OR fields.Größe < 0 AND name IS NULL", "ann eve"),
    ],
)
def test_query_chooses_these_clients(store: Store, ada: Actor, bob: Actor, query: str, names: str) -> None:
    write(store, lambda db: add_fields(db, ada.user_id))
    create_people(store, ada, CROWD)
    create_people(store, bob, CROWD[:1])

    assert chosen(store, ada, query) == set(names.split())


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=queries(), crowd=people())
def test_random_query_chooses_what_sqls_rules_say(store: Store, ada: Actor, query: Node, crowd: list[Person]) -> None:
    if not rows(store, ClientField):
        write(store, lambda db: add_fields(db, ada.user_id))
        for _ in range(3):
            create_mailing(store, ada)  # sent to nobody
    write(store, lambda db: db.execute(delete(Client)))
    create_people(store, ada, crowd)

    expected = {person.email.partition("@")[0] for person in crowd if evaluate(query, person)}
    assert chosen(store, ada, write_query(query)) == expected


def test_field_of_another_owner_is_unknown(store: Store, ada: Actor, bob: Actor) -> None:
    write(store, lambda db: add_fields(db, bob.user_id, {"city": FieldType.TEXT}))
    with pytest.raises(InvalidQuery, match="unknown field city"):
        chosen(store, ada, "fields.city = 'x'")


# What was sent


def send_to(store: Store, owner: Actor, *names: str) -> None:
    """Create clients and mailing 1, send it to those named, and let the first one's lease stay open."""
    for name in ("ann", "ben", "zoë"):
        create_client(store, owner, name)
    create_mailing(store, owner)
    open_due(store)
    create_deliveries(store)
    claims = {claimed.address.partition("@")[0]: claimed for claimed in claim(store)}
    for name in names:
        send(store, 1, Outcome.SENT, claims[name], now=NOW)


@pytest.mark.parametrize("is_leased", [True, False])
def test_got_chooses_those_whose_email_was_sent(store: Store, ada: Actor, is_leased: bool) -> None:
    """Also while a run has its lease open, and after the attempts were removed as they are old."""
    send_to(store, ada, "ann", "zoë")
    if not is_leased:
        close_leases(store)

    assert chosen(store, ada, "got(1)") == {"ann", "zoë"}
    assert chosen(store, ada, "NOT got(1)") == {"ben"}
    assert chosen(store, ada, "got(1, '2026-03-02')") == {"ann", "zoë"}
    assert chosen(store, ada, "got(1, '2026-03-02 11:01')") == set()
    if not is_leased:
        write(store, lambda db: db.execute(delete(Attempt)))
        assert chosen(store, ada, "got(1)") == {"ann", "zoë"}


@pytest.mark.parametrize("is_leased", [True, False])
def test_nobody_got_what_was_only_written_to_the_outbox(store: Store, ada: Actor, is_leased: bool) -> None:
    open_mailing(store, ada, "ann", "ben")
    written, sent = claim(store)
    record_intents(store, 1, written, sent)
    outcomes = (Outcome.OUTBOX, Outcome.SENT)
    records = [make_attempt(each, outcome) for each, outcome in zip((written, sent), outcomes, strict=True)]
    record_attempts(store, 1, *records, folds=not is_leased)
    assert chosen(store, ada, "got(1)") == {"ben"}
    assert chosen(store, ada, "got(1, '2026-01-01')") == {"ben"}


def test_got_knows_own_mailings_only_also_deleted_ones(store: Store, ada: Actor, bob: Actor) -> None:
    send_to(store, ada, "ann")
    with pytest.raises(InvalidQuery, match="column 5: mailing 1 not found"):
        chosen(store, bob, "got(1)")
    update_row(store, Mailing, 1, deleted_at=NOW, message_id=None)
    assert chosen(store, ada, "got(1)") == {"ann"}


def test_nothing_of_a_query_is_sql_text(store: Store, ada: Actor) -> None:
    """Not even the name of a field."""
    write(store, lambda db: add_fields(db, ada.user_id))
    query = "fields.city LIKE 'marker1' AND fields.Größe > 424242 AND tag = 'marker2' AND got(1, '2026-01-01')"
    create_mailing(store, ada)
    with store.read() as db:
        condition = Evaluation(db.connection(), ada.user_id, TIMEZONE, NOW).condition(query)
        sql = str(condition.compile(db.connection().engine))
    assert not [part for part in ("city", "Größe", "marker", "424242", "2026") if part in sql]
