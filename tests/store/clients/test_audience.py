"""One rule decides who is in a mailing's audience: opening, forecast, address history and home page agree."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta

import pytest
from sqlalchemy import insert, update
from support.queue_steps import (
    NOW,
    create_client,
    create_deliveries,
    create_mailing,
    delivery_states,
    get_row,
    occurrence_state,
    open_due,
    update_row,
    write,
)

from skychimp.models import (
    ClientField,
    DeliveryState,
    Every,
    FieldType,
    Mailing,
    MailingClient,
    MailingFilter,
    OccurrenceState,
    Segment,
)
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience as Given
from skychimp.services.mailings.forecast import forecast
from skychimp.services.mailings.mailings import count_recipients_of_new
from skychimp.services.mailings.recipients import count_recipients, list_recipients
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.reporting.address_history import address_history
from skychimp.services.reporting.home import home
from skychimp.store.clients.audience import AudienceCount
from skychimp.store.database import Store
from skychimp.store.occurrences import opening
from skychimp.text import folded
from skychimp.translation import verbatim

_S = Segment.__table__


@dataclass(frozen=True)
class Person:
    """Somebody who is Ada's client, Bob's client, or both, with the tags that each of them gave."""

    tags: tuple[str, ...] | None = None
    tags_by_bob: tuple[str, ...] | None = None
    is_named: bool = False
    is_bad: bool = False


PEOPLE = {
    "plain": Person(tags=()),
    "vip": Person(tags=("vip",)),
    "gold": Person(tags=("gold",)),
    "both": Person(tags=("gold", "vip")),
    "named": Person(tags=(), is_named=True),
    "namedvip": Person(tags=("vip",), is_named=True),
    "bad": Person(tags=("vip",), is_named=True, is_bad=True),
    "bobs": Person(tags_by_bob=("vip", "gold")),
    "shared": Person(tags=(), tags_by_bob=("vip", "gold")),
    "sharedvip": Person(tags=("vip",), tags_by_bob=()),
}


QUERIES: dict[str, Callable[[str, Person], bool]] = {
    "name LIKE 'named%'": lambda name, person: name.startswith("named"),
    "tag = 'GOLD'": lambda name, person: "gold" in (person.tags or ()),
    "tag IS NULL": lambda name, person: not person.tags,
    "NOT name LIKE '%'": lambda name, person: False,
}
"""Queries, and whether they choose a client of Ada's."""


@dataclass(frozen=True)
class Audience:
    """Ada's mailing: to all of her clients, or to those with a tag, named, in a segment or chosen by a query.

    Some of them are excluded. Segments are given as their queries.
    """

    all_clients: bool = False
    tags: tuple[str, ...] = ()
    names_clients: bool = False
    segments: tuple[str, ...] = ()
    where: str | None = None
    except_tags: tuple[str, ...] = ()
    except_segments: tuple[str, ...] = ()
    except_where: str | None = None

    def chooses(self, name: str) -> bool:
        """State the rule again, as simply as possible."""
        person = PEOPLE[name]
        if person.tags is None:
            return False
        is_tagged, is_named = bool({*self.tags} & {*person.tags}), self.names_clients and person.is_named
        return self.all_clients or is_tagged or is_named or any_chooses(name, *self.segments, self.where)

    def excludes(self, name: str) -> bool:
        is_tagged = bool({*self.except_tags} & {*(PEOPLE[name].tags or ())})
        return is_tagged or any_chooses(name, *self.except_segments, self.except_where)

    def save_filters(self, store: Store, owner: Actor, mailing_id: int) -> None:
        """Give a mailing the segments, queries and exclusions."""
        for leaves_out, tags, segments, query in (
            (False, (), self.segments, self.where),
            (True, self.except_tags, self.except_segments, self.except_where),
        ):
            rows: list[dict[str, object]] = [{"tag": tag.upper()} for tag in tags]
            rows += [{"segment_id": save_segment(store, owner, segment)} for segment in segments]
            rows += [] if query is None else [{"expression": query}]
            for row in rows:
                values = {"mailing_id": mailing_id, "leaves_out": leaves_out, **row}
                write(store, lambda db: db.execute(insert(MailingFilter).values(values)))  # noqa: B023


def any_chooses(name: str, *queries: str | None) -> bool:
    return any(QUERIES[query](name, PEOPLE[name]) for query in queries if query is not None)


def save_segment(store: Store, owner: Actor, query: str) -> int:
    times = {"created_at": NOW, "updated_at": NOW}
    values = {"owner_id": owner.user_id, "key": folded(query), "name": query, "expression": query, **times}
    return write(store, lambda db: int(db.scalar(insert(Segment).values(values).returning(_S.c.id)) or 0))


AUDIENCES = {
    "all clients": Audience(all_clients=True),
    "one tag": Audience(tags=("vip",)),
    "two tags": Audience(tags=("gold", "vip")),
    "unused tag": Audience(tags=("silver",)),
    "named clients": Audience(names_clients=True),
    "named clients and a tag": Audience(tags=("gold",), names_clients=True),
    "a segment": Audience(segments=("tag = 'GOLD'",)),
    "a query": Audience(where="name LIKE 'named%'"),
    "all ways": Audience(False, ("vip",), True, ("tag = 'GOLD'", "name LIKE 'named%'"), "tag IS NULL"),
    "nobody got it": Audience(where="NOT name LIKE '%'"),
    "all but a tag": Audience(all_clients=True, except_tags=("vip",)),
    "all but a segment": Audience(all_clients=True, except_segments=("tag = 'GOLD'",)),
    "all but a query": Audience(all_clients=True, except_where="tag IS NULL"),
    "all but all": Audience(True, (), False, (), None, ("vip",), ("tag = 'GOLD'", "NOT name LIKE '%'"), "tag IS NULL"),
    "a tag but a query": Audience(tags=("vip",), except_where="name LIKE 'named%'"),
    "a query but a tag": Audience(where="name LIKE 'named%'", except_tags=("vip", "unused")),
}


def create_people(store: Store, ada: Actor, bob: Actor) -> dict[str, int]:
    """Create Bob's clients before Ada's, and return the ids of Ada's by name."""
    for name, person in PEOPLE.items():
        if person.tags_by_bob is not None:
            create_client(store, bob, name, tags=person.tags_by_bob)
    bad = {"bad_at": NOW, "bad_reason": "550 5.1.1 unknown"}
    return {
        name: create_client(store, ada, name, tags=person.tags, **(bad if person.is_bad else {}))
        for name, person in PEOPLE.items()
        if person.tags is not None
    }


PARTS_OF_OTHERS = ("one tag", "named clients and a tag", "a segment", "a query", "all but a segment", "all but a query")
"""Each is a part of an audience that is always tested."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in PARTS_OF_OTHERS else ()) for kind in AUDIENCES]
)
def test_all_agree_about_an_audience(store: Store, ada: Actor, bob: Actor, manager: Actor, kind: str) -> None:
    audience = AUDIENCES[kind]
    ids = create_people(store, ada, bob)
    named = [ids[name] for name in ids if audience.names_clients and PEOPLE[name].is_named]
    mailing_id = create_mailing(store, ada, client_ids=named, tags=audience.tags, all_clients=audience.all_clients)
    audience.save_filters(store, ada, mailing_id)
    chosen = {name for name in PEOPLE if audience.chooses(name)}
    members = {name for name in chosen if not audience.excludes(name)}
    recipients = {name for name in members if not PEOPLE[name].is_bad}

    rows = [(row.email.partition("@")[0], row.left_out) for row in forecast(store, NOW)]
    assert {name for name, _ in rows} == chosen
    assert {name for name, left_out in rows if left_out is None} == recipients
    assert {name for name, left_out in rows if (left_out or "").startswith("excluded: ")} == chosen - members
    assert len(rows) == len(chosen)
    counted = count_recipients(store, ada, mailing_id)
    assert counted == AudienceCount(len(recipients), bad=len(members - recipients), excluded=len(chosen - members))
    new = count_new(store, ada, audience, named)
    assert new == counted
    for only_left_out, expected in ((False, chosen), (True, chosen - recipients)):
        listed = list_recipients(store, ada, mailing_id, only_left_out=only_left_out)
        assert {row.email.partition("@")[0] for row in listed} == expected

    for viewer in (ada, manager):
        assert {name for name in PEOPLE if is_included(store, viewer, name, mailing_id)} == recipients

    assert home(store, ANONYMOUS, now=NOW).unique_clients == len(members)

    open_due(store)
    create_deliveries(store, batch=3)
    assert set(delivery_states(store)) == recipients
    for viewer in (ada, manager):
        for name in PEOPLE.keys() - recipients - {"bobs"}:
            history = address_history(store, viewer, f"{name}@example.org")
            assert [row.mailing_id for row in history.left_out] == [mailing_id], (name, viewer.role)


def count_new(store: Store, owner: Actor, audience: Audience, named: list[int]) -> AudienceCount | None:
    """Count the clients of a mailing that is like the one that exists."""
    given = asdict(audience) | {"client_ids": named}
    del given["names_clients"]
    return count_recipients_of_new(
        store, owner, message_id=1, schedule=ScheduleInput("now", None, Every.ONCE, "UTC"), audience=Given(**given)
    )


def is_included(store: Store, viewer: Actor, name: str, mailing_id: int) -> bool:
    """Return whether an address would get the mailing's next occurrence, as its history says."""
    if PEOPLE[name].tags is None and viewer.email.startswith("ada"):
        return False  # Ada does not know the address
    history = address_history(store, viewer, f"{name}@example.org")
    reasons = [row.reason for row in history.coming if row.mailing_id == mailing_id]
    return reasons == [None]


def test_manager_is_told_that_another_owners_tag_does_not_count(
    store: Store, ada: Actor, bob: Actor, manager: Actor
) -> None:
    create_client(store, ada, "zoe")
    create_client(store, bob, "zoe", tags=["vip"])
    create_mailing(store, ada, tags=["vip"])

    (coming,) = address_history(store, manager, "zoe@example.org").coming
    assert coming.reason == "the client has none of the mailing's tags: vip"
    open_due(store)
    create_deliveries(store)
    assert delivery_states(store) == {}
    (left_out,) = address_history(store, manager, "zoe@example.org").left_out
    assert left_out.reason == coming.reason


def test_client_of_another_owner_is_never_in_an_audience(store: Store, ada: Actor, bob: Actor, manager: Actor) -> None:
    """Not even if a mailing names the client, which the service refuses."""
    foreign = create_client(store, bob, "zoe")
    own = create_client(store, ada, "yan")
    create_mailing(store, ada, client_ids=[own])
    write(store, lambda db: db.execute(update(MailingClient).values(client_id=foreign)))

    assert list(forecast(store, NOW)) == []
    assert home(store, ANONYMOUS, now=NOW).unique_clients == 0
    open_due(store)
    create_deliveries(store)
    assert delivery_states(store) == {}


# Saved queries that have become invalid


def mailing_to_riga(store: Store, owner: Actor) -> int:
    """Create a mailing to those whose field city is Riga, except for a segment by the same field."""
    add_fields(store, owner)
    create_client(store, owner, "ann", fields='{"city": "Riga"}')
    create_client(store, owner, "ben", fields='{"city": "Oslo"}')
    mailing_id = create_mailing(store, owner, all_clients=False)
    Audience(where="fields.city = 'Riga'", except_segments=("fields.city = 'Oslo'",)).save_filters(
        store, owner, mailing_id
    )
    return mailing_id


def add_fields(store: Store, owner: Actor) -> None:
    row = {"owner_id": owner.user_id, "key": "city", "name": "city", "type": FieldType.TEXT}
    write(store, lambda db: db.execute(insert(ClientField).values(row)))


@pytest.mark.parametrize("change", ["the field is removed", "the field has another type"])
def test_mailing_is_held_if_its_query_is_no_longer_valid(store: Store, ada: Actor, change: str) -> None:
    """Rather nobody gets it than the wrong clients. Once the query is valid again and it is enabled, it goes on."""
    mailing_id = mailing_to_riga(store, ada)
    problem = {
        "the field is removed": "the mailing's --where is no longer valid: unknown field city",
        "the field has another type": "the mailing's --where is no longer valid: fields.city is a number",
    }[change]
    fields = ClientField.__table__
    removed = fields.delete() if change == "the field is removed" else update(fields).values(type=FieldType.NUMBER)
    write(store, lambda db: db.execute(removed))

    assert count_recipients(store, ada, mailing_id) == AudienceCount(problem=verbatim(problem))
    assert [row.left_out for row in forecast(store, NOW)] == [f"the mailing would be held: {problem}"]
    assert home(store, ANONYMOUS, now=NOW).unique_clients == 0
    assert address_history(store, ada, "ann@example.org").coming[0].reason == problem
    open_due(store)
    create_deliveries(store)
    held = get_row(store, Mailing, mailing_id)
    assert (held.held_reason, held.held_settings, delivery_states(store)) == (problem, None, {})
    assert occurrence_state(store) == OccurrenceState.OPENING

    write(store, lambda db: db.execute(fields.delete()))
    add_fields(store, ada)
    mailings.enable(store, ada, mailing_id)
    create_deliveries(store)
    assert delivery_states(store) == {"ann": DeliveryState.QUEUED}


def test_segment_is_evaluated_for_each_batch_as_it_is(store: Store, ada: Actor) -> None:
    """A changed segment counts for the clients whose turn has not come. Times are relative to the opening."""
    for number, name in enumerate(("ann", "ben", "cid", "dan")):
        create_client(store, ada, name, created_at=NOW - number * timedelta(days=1))
    mailing_id = create_mailing(store, ada, all_clients=False)
    Audience(segments=("created_at >= '-36h'",)).save_filters(store, ada, mailing_id)
    open_due(store)
    write(store, lambda db: opening.create_deliveries(db, 1, 2))
    update_row(store, Segment, 1, expression="name = 'Dan'")
    create_deliveries(store, batch=2)

    assert list(delivery_states(store)) == ["ann", "ben", "dan"]
