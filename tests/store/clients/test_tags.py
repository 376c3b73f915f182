"""Spellings of tags: a user has one of each tag, on both databases, also in a store of an earlier version."""

import unicodedata
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import create_user
from support.old_stores import make_store_before_leases
from support.queue_steps import (
    create_client,
    create_deliveries,
    create_mailing,
    delete_mailing,
    delivery_states,
    open_due,
    write,
)

from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.listing import ListOptions
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.store import schema
from skychimp.store.clients import tags
from skychimp.store.database import Store
from skychimp.store.sqlite import SqliteStore

NFD = unicodedata.normalize("NFD", "Café")


def spell(store: Store, owner: Actor, *given: str) -> list[str]:
    return write(store, lambda db: [*tags.spell(db, owner.user_id, given).values()])


def tags_of(store: Store, owner: Actor) -> list[list[str]]:
    return [client.tags for client in clients.list_clients(store, owner, ListOptions())]


def test_new_tag_is_spelled_as_it_is_given_first(store: Store, ada: Actor) -> None:
    assert spell(store, ada, "VIP", "gold", "vip", NFD) == ["VIP", "gold", "VIP", "Café"]


def test_known_spelling_of_the_user_wins(store: Store, ada: Actor, bob: Actor) -> None:
    create_client(store, bob, "bobs", tags=["VIP"])
    create_client(store, ada, "zoe", tags=["Vip"])

    assert spell(store, ada, "vip") == ["Vip"]
    assert spell(store, bob, "vip", "Vip") == ["VIP", "VIP"]


def test_another_users_spelling_does_not_count(store: Store, ada: Actor, bob: Actor) -> None:
    create_client(store, bob, "bobs", tags=["VIP"])

    assert spell(store, ada, "vip") == ["vip"]


def test_spelling_of_a_mailing_counts_until_it_is_deleted(store: Store, ada: Actor) -> None:
    mailing_id = create_mailing(store, ada, tags=["ViP"])

    assert spell(store, ada, "vip") == ["ViP"]
    delete_mailing(store, mailing_id)
    assert spell(store, ada, "vip") == ["vip"]


@pytest.fixture
def mixed(store: Store, ada: Actor, bob: Actor) -> Store:
    """Return a store with several spellings, as earlier versions kept them."""
    create_client(store, bob, "bobs", tags=["vip"])
    create_client(store, ada, "a", tags=["VIP", NFD])
    create_client(store, ada, "b", tags=["vip", "Vip", "café", "other"])
    create_client(store, ada, "c", tags=["vip"])
    create_client(store, ada, "d", tags=["gold"])
    create_mailing(store, ada, tags=["vip", "VIP"])
    create_mailing(store, bob, tags=["VIP"])
    return store


def test_given_tag_merges_its_spellings(mixed: Store, ada: Actor, bob: Actor) -> None:
    assert spell(mixed, ada, "vIP") == ["VIP"]

    assert [sorted(each) for each in tags_of(mixed, ada)] == [
        sorted(["VIP", NFD]),
        sorted(["VIP", "café", "other"]),
        ["VIP"],
        ["gold"],
    ]
    assert mailings.show(mixed, ada, 1).tags == ["VIP"]
    assert (tags_of(mixed, bob), mailings.show(mixed, bob, 2).tags) == ([["vip"]], ["VIP"])


def test_merging_all_spellings_changes_each_owners_tags_once(mixed: Store, ada: Actor, bob: Actor) -> None:
    write(mixed, tags.merge_spellings)

    expected = [["Café", "VIP"], ["Café", "VIP", "other"], ["VIP"], ["gold"]]
    assert [sorted(each) for each in tags_of(mixed, ada)] == expected
    assert tags_of(mixed, bob) == [["vip"]]
    assert (mailings.show(mixed, ada, 1).tags, mailings.show(mixed, bob, 2).tags) == (["VIP"], ["vip"])
    write(mixed, tags.merge_spellings)
    assert [sorted(each) for each in tags_of(mixed, ada)] == expected


def test_mixed_spellings_are_listed_before_they_are_merged(mixed: Store, ada: Actor) -> None:
    for tag in ("vip", "VIP", "viP"):
        names = [client.email[0] for client in clients.list_clients(mixed, ada, ListOptions(), tag)]
        assert (names, clients.count(mixed, ada, tag)) == (["a", "b", "c"], 3)
    assert clients.count(mixed, ada, "CAFÉ") == 2


@pytest.mark.parametrize("tag", ["vip", "VIP", "vIp"])
def test_mailing_to_any_spelling_goes_to_all(mixed: Store, ada: Actor, tag: str) -> None:
    changed = mailings.change(mixed, ada, 1, audience=Audience(tags=[tag]))

    assert changed.tags == ["VIP"]
    open_due(mixed)
    create_deliveries(mixed)
    assert {"a", "b", "c"} <= set(delivery_states(mixed))


@pytest.mark.sqlite
def test_upgrade_merges_the_spellings_of_an_old_store(store: Store, tmp_path: Path) -> None:
    ada = create_user(store, "ada")
    create_client(store, ada, "a", tags=["VIP"])
    create_client(store, ada, "b", tags=["vip"])
    create_mailing(store, ada, tags=["vip"], start=datetime.now(UTC))
    old = make_store_before_leases(store.path, tmp_path / "old.db", ["queued"])

    with closing(schema.open_store(f"sqlite:///{old}")) as upgraded:
        assert isinstance(upgraded, SqliteStore)
        assert tags_of(upgraded, ada) == [["VIP"], ["VIP"]]
        assert mailings.show(upgraded, ada, 1).tags == ["VIP"]
