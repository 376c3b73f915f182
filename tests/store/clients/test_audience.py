"""One rule decides who is in a mailing's audience: opening, forecast, address history and home page agree."""

from dataclasses import dataclass

import pytest
from sqlalchemy import update
from support.queue_steps import (
    NOW,
    create_client,
    create_deliveries,
    create_mailing,
    delivery_states,
    open_due,
    write,
)

from skychimp.models import MailingClient
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.mailings.forecast import forecast
from skychimp.services.reporting.address_history import address_history
from skychimp.services.reporting.home import home
from skychimp.store.database import Store


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


@dataclass(frozen=True)
class Audience:
    """Ada's mailing: to all of her clients, or to those with one of the tags and those she names."""

    all_clients: bool = False
    tags: tuple[str, ...] = ()
    names_clients: bool = False

    def includes(self, person: Person) -> bool:
        """State the rule again, as simply as possible."""
        if person.tags is None:
            return False
        return self.all_clients or bool({*self.tags} & {*person.tags}) or (self.names_clients and person.is_named)


AUDIENCES = {
    "all clients": Audience(all_clients=True),
    "one tag": Audience(tags=("vip",)),
    "two tags": Audience(tags=("gold", "vip")),
    "unused tag": Audience(tags=("silver",)),
    "named clients": Audience(names_clients=True),
    "named clients and a tag": Audience(tags=("gold",), names_clients=True),
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


@pytest.mark.parametrize("kind", AUDIENCES)
def test_all_agree_about_an_audience(store: Store, ada: Actor, bob: Actor, manager: Actor, kind: str) -> None:
    audience = AUDIENCES[kind]
    ids = create_people(store, ada, bob)
    named = [ids[name] for name in ids if audience.names_clients and PEOPLE[name].is_named]
    mailing_id = create_mailing(store, ada, client_ids=named, tags=audience.tags)
    members = {name for name, person in PEOPLE.items() if audience.includes(person)}
    recipients = {name for name in members if not PEOPLE[name].is_bad}

    rows = [(row.email.partition("@")[0], row.left_out) for row in forecast(store, NOW)]
    assert {name for name, _ in rows} == members
    assert {name for name, left_out in rows if left_out is None} == recipients
    assert len(rows) == len(members)

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
