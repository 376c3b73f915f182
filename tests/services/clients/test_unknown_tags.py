"""Tags that no client of the user has, and what is suggested for them."""

import pytest
from support.queue_steps import create_client

from skychimp.errors import InvalidValue, NotLoggedIn
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.clients.unknown_tags import find_unknown_tags
from skychimp.store.database import Store


def test_unknown_tag_has_a_similar_tag_of_the_user(store: Store, ada: Actor, bob: Actor) -> None:
    create_client(store, ada, "a", tags=["VIP", "newsletter", "Café"])
    create_client(store, bob, "b", tags=["vpi", "customers"])

    assert find_unknown_tags(store, ada, ["vpi", "cafe", "newletter", "zzz", "customer"]) == [
        ("cafe", "Café"),
        ("customer", None),
        ("newletter", "newsletter"),
        ("vpi", "VIP"),
        ("zzz", None),
    ]


@pytest.mark.parametrize("tag", ["VIP", "vip", "Cafe\N{COMBINING ACUTE ACCENT}", "CAFÉ"])
def test_every_spelling_of_a_tag_is_known(store: Store, ada: Actor, tag: str) -> None:
    create_client(store, ada, "a", tags=["Vip", "café"])

    assert find_unknown_tags(store, ada, [tag]) == []


def test_invalid_tag_and_anonymous_user_are_refused(store: Store, ada: Actor) -> None:
    with pytest.raises(InvalidValue):
        find_unknown_tags(store, ada, ["a,b"])
    with pytest.raises(NotLoggedIn):
        find_unknown_tags(store, ANONYMOUS, ["a"])
