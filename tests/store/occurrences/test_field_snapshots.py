"""Test which custom fields deliveries keep, when their occurrence opens and when its content changes."""

import json
from typing import Any

import pytest
from support.queue_steps import (
    claim,
    close_leases,
    create_client,
    create_deliveries,
    create_mailing,
    delete_client,
    open_due,
    rows,
    send,
    update_row,
    write,
)

from skychimp.fields import Field
from skychimp.models import Client, Delivery, FieldType, Message, Occurrence, Outcome
from skychimp.permissions import Actor
from skychimp.store import ledger
from skychimp.store.clients import fields as store_fields
from skychimp.store.database import Store
from skychimp.store.occurrences import opening

FIELDS = [
    Field("City", FieldType.TEXT), Field("n", FieldType.NUMBER), Field("vip", FieldType.BOOLEAN),
    Field("имя", FieldType.TEXT),
]  # fmt: skip
VALUES: tuple[dict[str, Any], ...] = (
    {"City": 'Ri"ga', "n": 0.30000000000000004, "vip": True, "имя": "Ада"}, {"n": 3, "vip": False}, {},
)  # fmt: skip


def open_with(store: Store, ada: Actor, body: str) -> None:
    """Open a mailing to clients with and without values."""
    write(store, lambda db: store_fields.register(db, ada.user_id, FIELDS))
    for name, values in zip("abc", VALUES, strict=True):
        create_client(store, ada, name, fields=json.dumps(values, ensure_ascii=False))
    create_mailing(store, ada)
    update_row(store, Message, 1, body=body)
    open_due(store)
    create_deliveries(store)


def kept(store: Store) -> list[Any]:
    return [None if row.fields is None else json.loads(row.fields) for row in rows(store, Delivery)]


def used(store: Store) -> list[str]:
    (occurrence,) = rows(store, Occurrence)
    return list(json.loads(occurrence.fields))


def test_deliveries_keep_only_the_fields_that_the_content_uses(store: Store, ada: Actor) -> None:
    body = "{{ client.fields.city }} {{ client.fields.N }} {{ client.fields.vip }} {{ client.fields.gone }}"
    open_with(store, ada, body)

    assert used(store) == ["City", "n", "vip"]
    expected = [{name: value for name, value in values.items() if name != "имя"} for values in VALUES]
    assert kept(store) == expected
    assert [type(value) for value in kept(store)[1].values()] == [int, bool]
    (claimed, *_) = claim(store, limit=1)
    assert json.loads(claimed.fields or "") == expected[0]
    update_row(store, Client, 1, fields="{}")
    assert kept(store) == expected


def test_content_without_fields_keeps_none(store: Store, ada: Actor) -> None:
    open_with(store, ada, "these are fields")

    assert (used(store), kept(store)) == ([], [None, None, None])


def change(store: Store, *names: str) -> None:
    taken = opening.take_fields(store, 1, names)
    assert write(store, lambda db: opening.change_content(db, 1, fields=taken, body=f"uses {names}"))


@pytest.mark.parametrize("batch", [1, 100])
def test_changed_content_takes_what_is_missing(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(opening, "TAKE_BATCH", batch)
    open_with(store, ada, "{{ client.fields.n }}")
    for number in (1, 2):
        update_row(store, Client, number, fields='{"n": 9, "vip": true}')
    delete_client(store, 3)

    change(store, "n", "vip")

    assert used(store) == ["n", "vip"]
    assert kept(store) == [{"n": VALUES[0]["n"], "vip": True}, {"n": 3, "vip": True}, {}]
    change(store)
    assert (used(store), kept(store)[1]) == ([], {"n": 3, "vip": True})


def test_deliveries_that_are_created_meanwhile_take_them_too(store: Store, ada: Actor) -> None:
    open_with(store, ada, "x")
    taken = opening.take_fields(store, 1, ["n"])

    for number in range(1, 4):
        update_row(store, Delivery, number, fields=None)
    assert write(store, lambda db: opening.change_content(db, 1, fields=taken._replace(until=1), body="y"))

    assert kept(store) == [None, {"n": 3}, {}]


def test_emails_that_may_have_been_sent_keep_their_fields(store: Store, ada: Actor) -> None:
    """Otherwise a resend could differ: the field may have got a value since, and the email had a default."""
    open_with(store, ada, "{{ client.fields.n | default(1) }}")
    send(store, 1, Outcome.UNKNOWN, *claim(store, limit=1))
    send(store, 1, Outcome.SENT, *claim(store, limit=1))
    close_leases(store)
    before = kept(store)
    for number in (1, 2, 3):
        update_row(store, Client, number, fields='{"n": 9, "vip": true}')

    change(store, "n", "vip")

    assert kept(store) == [*before[:2], {"vip": True}]


def test_nothing_changes_while_emails_are_being_sent(store: Store, ada: Actor) -> None:
    open_with(store, ada, "x")
    claim(store, limit=1)
    taken = opening.take_fields(store, 1, ["n"])

    assert not write(store, lambda db: opening.change_content(db, 1, fields=taken, body="y"))
    assert used(store) == []


def test_fields_of_a_forgotten_person_are_erased(store: Store, ada: Actor) -> None:
    open_with(store, ada, "{{ client.fields.city }}")

    write(store, lambda db: ledger.erase_recipients(db, [1]))

    assert kept(store) == [None, {}, {}]
