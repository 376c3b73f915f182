"""Test that a message with custom fields is refused where clients have no values."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from support.queue_steps import rows, update_row

from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import InvalidValue
from skychimp.models import Client, Every, Format, Mailing
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import messages, rendering
from skychimp.store.database import Store

PEOPLE: Mapping[str, Mapping[str, str]] = {
    "ann": {"city": "Riga", "visits": "3"}, "bob": {"city": "Oslo"}, "eve": {},
}  # fmt: skip


@pytest.fixture
def people(store: Store, ada: Actor) -> None:
    for name, fields in PEOPLE.items():
        clients.create(store, ada, email=f"{name}@x.org", fields=fields, tags=[name])


def write(store: Store, actor: Actor, body: str) -> int:
    return messages.create(store, actor, MessageContent("Hello", body, Format.TEXT)).id


def create(store: Store, actor: Actor, message_id: int, *tags: str) -> int:
    audience = Audience(all_clients=not tags, tags=tags)
    schedule = ScheduleInput("now", None, Every.ONCE, "UTC")
    return mailings.create(store, actor, message_id=message_id, schedule=schedule, audience=audience).id


@pytest.mark.usefixtures("people")
def test_message_is_refused_if_clients_have_no_value(store: Store, ada: Actor) -> None:
    message = write(store, ada, "{{ client.fields.CITY }} {{ client.fields.visits }}")

    with pytest.raises(InvalidValue) as caught:
        create(store, ada, message)
    assert caught.value.message == (
        "message 1 needs a value of each field for all clients: 1 client has no city, 2 no visits"
    )
    assert 'client.fields.city | default("...")' in (caught.value.hint or "")
    with pytest.raises(InvalidValue, match="1 client has no visits"):
        create(store, ada, message, "bob")
    assert rows(store, Mailing) == []

    created = create(store, ada, message, "ann")
    with pytest.raises(InvalidValue, match="1 client has no visits"):
        mailings.change(store, ada, created, audience=Audience(tags=["bob"]))
    assert mailings.show(store, ada, created).tags == ["ann"]


@pytest.mark.usefixtures("people")
def test_clients_who_get_no_email_need_no_value(store: Store, ada: Actor) -> None:
    message = write(store, ada, "{{ client.fields.city }}")
    update_row(store, Client, 3, bad_at=datetime.now(UTC))

    assert create(store, ada, message) == 1


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("body", ["{{ client.fields.city | default('there') }}", "{{ client.fields.city or 'there' }}"])
def test_message_with_a_default_is_for_all(store: Store, ada: Actor, body: str) -> None:
    assert create(store, ada, write(store, ada, body)) == 1


def test_message_with_a_field_that_only_another_user_has_is_refused(store: Store, ada: Actor, bob: Actor) -> None:
    clients.create(store, bob, email="a@x.org", fields={"city": "Riga"})
    with pytest.raises(InvalidValue, match="unknown field city"):
        write(store, ada, "{{ client.fields.city }}")


@pytest.mark.usefixtures("people")
def test_previews_have_values(store: Store, ada: Actor) -> None:
    message = write(store, ada, "{{ client.fields.city }} {{ client.fields.visits | default('-') }}")

    assert rendering.preview(store, ada, message).text == "city 12"
    assert rendering.preview(store, ada, message, "bob@x.org").text == "Oslo -"
    with pytest.raises(InvalidValue, match=r"no value for client\.fields\.city"):
        rendering.preview(store, ada, message, "eve@x.org")
