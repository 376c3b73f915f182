"""Test that a message with custom fields is refused where clients have no values."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest
from support.command import Home
from support.queue_steps import rows, update_row

from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import InvalidValue
from skychimp.models import Client, Every, Format, Mailing
from skychimp.permissions import Actor
from skychimp.services.clients import clients, suppressions
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import layouts, messages, rendering, variants
from skychimp.services.messages.variants import VariantChanges
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


@pytest.mark.usefixtures("people")
def test_clients_left_out_for_want_of_a_consent_need_no_value(store: Store, ada: Actor, home: Home) -> None:
    message = write(store, ada, "{{ client.fields.city }}")
    for name in ("ann", "bob"):
        assert home.call("clients", "update", f"{name}@x.org", "--consent", "news").status == 0
    make = ("mailings", "create", "--message", str(message), "--start", "+1d", "--every", "once", "--all-clients")

    assert home.call(*make).status == 2
    required = {"SKYCHIMP_DELIVERY__REQUIRE_CONSENT": "true"}
    created = str(home.call(*make, "--json", environ=required).json["id"])
    for change in (("update", created, "--all-clients"), ("duplicate", created)):
        assert home.call("mailings", *change).status == 2
        assert home.call("mailings", *change, environ=required).status == 0
    body = ("messages", "update", str(message), "--body", "{{ client.fields.city }} {{ client.fields.visits }}")
    assert "2 clients have no visits" in home.call(*body).err
    assert "1 client has no visits" in home.call(*body, environ=required).err


@pytest.mark.usefixtures("people")
def test_changed_message_must_fit_the_clients_of_its_mailings(store: Store, ada: Actor) -> None:
    message = write(store, ada, "Hello")
    create(store, ada, message, "ann")
    create(store, ada, message, "ann", "eve")

    with pytest.raises(InvalidValue) as caught:
        messages.change(store, ada, message, body="{{ client.fields.city }} {{ client.fields.visits | default('-') }}")
    assert caught.value.message == "mailing 2 needs a value of each field for all clients: 1 client has no city"
    assert 'client.fields.city | default("...")' in (caught.value.hint or "")
    assert messages.show(store, ada, message).body == "Hello"
    assert messages.change(store, ada, message, body="{{ client.fields.city or 'there' }}").subject == "Hello"


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("state", ["disabled", "deleted", "ended", "other segment"])
def test_mailings_that_send_nothing_do_not_count(store: Store, ada: Actor, state: str) -> None:
    message = write(store, ada, "Hello")
    mailing = create(store, ada, message)
    if state == "disabled":
        mailings.disable(store, ada, mailing)
    elif state == "deleted":
        mailings.remove(store, ada, mailing)
    elif state == "ended":
        mailings.change(store, ada, mailing, start="2020-01-01", end="2020-02-01")
    else:
        mailings.change(store, ada, mailing, audience=Audience(where="fields.city = 'Riga'"))

    assert messages.change(store, ada, message, body="{{ client.fields.city }}").id == message


@pytest.mark.usefixtures("people")
def test_message_that_lacked_values_before_can_be_changed(store: Store, ada: Actor) -> None:
    """A client who came later, without the field, is no reason to refuse the fix of a typo."""
    message = write(store, ada, "{{ client.fields.city }}")
    create(store, ada, message, "ann")
    clients.create(store, ada, email="new@x.org", tags=["ann"])

    assert messages.change(store, ada, message, subject="Fixed").subject == "Fixed"
    with pytest.raises(InvalidValue, match=r"mailing 1 needs .* 1 client has no visits"):
        messages.change(store, ada, message, subject="{{ client.fields.visits }}")


@pytest.mark.usefixtures("people")
def test_changed_layout_must_fit_the_clients_of_all_mailings(store: Store, ada: Actor) -> None:
    layouts.create(store, ada, "frame", "<p>{{ content }}</p>")
    content = MessageContent("Hello", "Hello", Format.MARKDOWN)
    create(store, ada, messages.create(store, ada, content, layout="frame").id, "ann", "eve")

    with pytest.raises(InvalidValue, match="mailing 1 needs a value of each field for all clients: 1 client has no"):
        layouts.change(store, ada, "frame", html="{{ client.fields.city }}{{ content }}")
    assert layouts.show(store, ada, "frame").html == "<p>{{ content }}</p>"
    assert layouts.change(store, ada, "frame", html="{{ client.fields.city or '' }}{{ content }}").name == "frame"


@pytest.mark.usefixtures("people")
def test_enable_warns_of_emails_that_would_fail(store: Store, ada: Actor, home: Home) -> None:
    message = write(store, ada, "Hello")
    mailing = str(create(store, ada, message))
    assert home.call("mailings", "disable", mailing).status == 0
    messages.change(store, ada, message, body="{{ client.fields.city }}")

    enabled = home.call("mailings", "enable", mailing)
    assert enabled.status == 0
    assert "warning: some emails of mailing 1 would fail: 1 client has no city\n" in enabled.err


NEEDS_VISITS = VariantChanges("Новости", "{{ client.fields.visits }}")


@pytest.fixture
def by_city(store: Store, ada: Actor, people: None) -> int:
    """Return a message to all, with variants for the cities of ann, who has visits, and of bob, who has none."""
    message = messages.create(store, ada, MessageContent("Hello", "Hello", Format.TEXT), variant_by="city").id
    variants.set_variant(store, ada, message, "riga", NEEDS_VISITS)
    variants.set_variant(store, ada, message, "oslo", VariantChanges("Hei", "Hei"))
    create(store, ada, message)
    return message


def test_variant_must_fit_the_clients_who_get_it(store: Store, ada: Actor, by_city: int) -> None:
    variants.set_variant(store, ada, by_city, "riga", VariantChanges("{{ client.fields.visits }}"))
    with pytest.raises(InvalidValue, match="mailing 1 needs a value of each field for all clients: 1 client has no vi"):
        variants.set_variant(store, ada, by_city, "oslo", NEEDS_VISITS)
    assert variants.show(store, ada, by_city, "oslo").body == "Hei"
    variants.remove(store, ada, by_city, "oslo")
    with pytest.raises(InvalidValue, match="1 client has no visits"):
        variants.set_variant(store, ada, by_city, "oslo", NEEDS_VISITS)
    assert [each.value for each in variants.list_variants(store, ada, by_city)] == ["riga"]


def test_field_that_a_variant_needs_already_may_be_missing_in_others(store: Store, ada: Actor, by_city: int) -> None:
    with pytest.raises(InvalidValue, match="1 client has no visits"):
        messages.change(store, ada, by_city, body="{{ client.fields.visits }}")
    assert messages.change(store, ada, by_city, body="Hello {{ client.name }}").id == by_city


@pytest.mark.parametrize(
    "change",
    [
        lambda store, ada, message: variants.remove(store, ada, message, "oslo"),
        lambda store, ada, message: messages.change(store, ada, message, no_variant_by=True),
        lambda store, ada, message: messages.change(store, ada, message, variant_by="visits"),
    ],
    ids=["deleted", "no field", "other field"],
)
def test_clients_without_their_variant_must_fit_what_they_get_then(
    store: Store, ada: Actor, people: None, change: Callable[[Store, Actor, int], object]
) -> None:
    content = MessageContent("Hello", "{{ client.fields.visits }}", Format.TEXT)
    message = messages.create(store, ada, content, variant_by="city").id
    variants.set_variant(store, ada, message, "oslo", VariantChanges("Hei", "Hei"))
    create(store, ada, message, "bob")

    with pytest.raises(InvalidValue, match="mailing 1 needs a value of each field for all clients: 1 client has no vi"):
        change(store, ada, message)
    assert messages.show(store, ada, message).variant_by == "city"
    assert [each.value for each in variants.list_variants(store, ada, message)] == ["oslo"]


@pytest.mark.parametrize("is_of_message", [True, False])
def test_changed_layout_must_fit_the_clients_who_get_it(
    store: Store, ada: Actor, people: None, is_of_message: bool
) -> None:
    layouts.create(store, ada, "frame", "<p>{{ content }}</p>")
    content = MessageContent("Hello", "Hello", Format.MARKDOWN)
    own, other = ("frame", "none") if is_of_message else ("none", "frame")
    message = messages.create(store, ada, content, variant_by="city", layout=own).id
    variants.set_variant(store, ada, message, "oslo", VariantChanges("Hello", "Hello", layout=other))
    create(store, ada, message, "ann", "bob")

    changed = "{{ client.fields.visits }}{{ content }}"
    if is_of_message:
        assert layouts.change(store, ada, "frame", html=changed).html == changed
    else:
        with pytest.raises(InvalidValue, match="1 client has no visits"):
            layouts.change(store, ada, "frame", html=changed)


@pytest.mark.usefixtures("people")
def test_new_layout_of_a_digest_must_fit_the_clients(store: Store, ada: Actor) -> None:
    layouts.create(store, ada, "frame", "<p>{{ client.fields.city }}{{ content }}</p>")
    message = messages.create(store, ada, MessageContent("Posts", "Posts", Format.MARKDOWN), digest=True).id
    create(store, ada, message)

    with pytest.raises(InvalidValue, match="1 client has no city"):
        messages.change(store, ada, message, layout="frame")
    assert messages.show(store, ada, message).layout == "default"


@pytest.mark.usefixtures("people")
def test_new_recipients_are_those_after_all_changes(store: Store, ada: Actor) -> None:
    """An exclusion that ends adds clients, and a new topic leaves out those who have unsubscribed from it."""
    message = write(store, ada, "{{ client.fields.city }}")
    create(store, ada, message, "ann")
    mailings.change(store, ada, 1, audience=Audience(tags=["ann", "eve"], except_tags=["eve"]))
    with pytest.raises(InvalidValue, match="1 client has no city"):
        mailings.change(store, ada, 1, no_except=True)
    assert mailings.show(store, ada, 1).except_tags == ["eve"]

    suppressions.add(store, ada, [suppressions.new_suppression("eve@x.org")], topic="offers")
    assert mailings.change(store, ada, 1, no_except=True, topic="offers").topic == "offers"
    assert mailings.change(store, ada, 1, audience=Audience(tags=["eve"])).tags == ["eve"]
    with pytest.raises(InvalidValue, match="1 client has no city"):
        mailings.change(store, ada, 1, audience=Audience(tags=["eve", "ann"]), no_topic=True)


@pytest.mark.usefixtures("people")
def test_mailing_without_a_next_time_is_enabled_without_a_warning(store: Store, ada: Actor, home: Home) -> None:
    message = write(store, ada, "Hello")
    create(store, ada, message)
    assert home.call("run").status == 0
    assert home.call("mailings", "disable", "1").status == 0
    messages.change(store, ada, message, body="{{ client.fields.city }}")

    assert "warning" not in home.call("mailings", "enable", "1").err
