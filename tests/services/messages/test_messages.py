"""Test messages: validation, access, lists, previews, test emails and digests."""

from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest

from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import Conflict, Denied, InvalidValue, NotFound, NotLoggedIn
from skychimp.models import Every, Format, Post
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.clients import clients
from skychimp.services.listing import ListOptions
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import messages
from skychimp.services.messages.messages import MessageInfo
from skychimp.store.database import Store

HUGE = 10**30
TEXT = MessageContent("Hello {{ client.name }}", "Dear {{ client.name }},\n{{ client.tags | join(', ') }}", Format.TEXT)
HTML = MessageContent("Hello", "Dear {{ client.name }}", Format.HTML, "<p>Dear {{ client.name }}</p>")
MARKDOWN = MessageContent("Hello", "Dear *{{ client.name }}*", Format.MARKDOWN)


@pytest.mark.parametrize("content", [TEXT, HTML, MARKDOWN, MessageContent("吳 Ж", "", Format.TEXT)])
def test_created_message_is_shown(store: Store, ada: Actor, content: MessageContent) -> None:
    created = messages.create(store, ada, content)

    assert (created.subject, created.body, created.format, created.html) == content
    assert messages.show(store, ada, created.id) == created
    assert created.created_at.utcoffset() is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": ""},
        {"subject": " "},
        {"subject": "a\nBcc: x@example.org"},
        {"subject": "half \ud800"},
        {"subject": "{{ client.shoe_size }}"},
        {"body": "{{ client.name"},
        {"body": "{% for x in range(10) %}{% endfor %}"},
        {"body": "half \udfff"},
        {"body": "{{ client.name | frobnicate }}"},
        {"html": "<p>{{ client.nome }}</p>"},
        {"html": " \n"},
        {"html": None},
    ],
    ids=str,
)
def test_content_that_cannot_be_rendered_is_refused_and_changes_nothing(
    store: Store, ada: Actor, wrong: dict[str, Any]
) -> None:
    good = messages.create(store, ada, HTML)

    with pytest.raises(InvalidValue):
        messages.create(store, ada, HTML._replace(**wrong))
    if wrong != {"html": None}:
        with pytest.raises(InvalidValue):
            messages.change(store, ada, good.id, **wrong)

    assert list(messages.list_messages(store, ada, ListOptions())) == [good]


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (TEXT, {"subject": "New"}, TEXT._replace(subject="New")),
        (MARKDOWN, {"body": "*new*"}, MARKDOWN._replace(body="*new*")),
        (HTML, {"body": "new"}, HTML._replace(body="new")),
        (HTML, {"html": "<p>new</p>"}, HTML._replace(html="<p>new</p>")),
        (HTML, {"format": Format.MARKDOWN}, HTML._replace(format=Format.MARKDOWN, html=None)),
        (HTML, {"format": Format.TEXT}, HTML._replace(format=Format.TEXT, html=None)),
        (MARKDOWN, {"format": Format.HTML, "html": "<b>x</b>"}, MessageContent(*MARKDOWN[:2], Format.HTML, "<b>x</b>")),
        (TEXT, {"format": Format.MARKDOWN}, TEXT._replace(format=Format.MARKDOWN)),
    ],
)
def test_change_keeps_the_other_values_and_only_html_messages_have_an_html_part(
    store: Store, ada: Actor, before: MessageContent, change: dict[str, Any], after: MessageContent
) -> None:
    created = messages.create(store, ada, before)

    changed = messages.change(store, ada, created.id, **change)

    assert (changed.subject, changed.body, changed.format, changed.html) == after
    assert changed.updated_at > created.updated_at
    assert changed.created_at == created.created_at


@pytest.mark.parametrize("message_id", [0, -1, 99, HUGE, -HUGE])
def test_unknown_message_is_not_found(store: Store, ada: Actor, message_id: int) -> None:
    for action in (messages.show, messages.change, messages.remove, messages.preview):
        with pytest.raises(NotFound):
            action(store, ada, message_id)


def test_only_the_owner_changes_a_message_and_managers_see_it(
    store: Store, ada: Actor, bob: Actor, manager: Actor, admin: Actor
) -> None:
    created = messages.create(store, ada, TEXT)
    refusals: list[tuple[Actor, type[Exception]]] = [
        (bob, NotFound), (admin, NotFound), (manager, Denied), (ANONYMOUS, NotLoggedIn)
    ]  # fmt: skip

    for actor, refusal in refusals:
        with pytest.raises(refusal):
            messages.change(store, actor, created.id, subject="Changed")
        with pytest.raises(refusal):
            messages.remove(store, actor, created.id)
        with pytest.raises(refusal):
            messages.compose_test_email(
                store,
                actor,
                created.id,
                sender="x@example.org",
                to="y@example.org",
                message_id_header="<1@x>",
                blog_url=None,
            )

    for actor in (manager, admin):
        assert messages.show(store, actor, created.id) == created
        assert list(messages.list_messages(store, actor, ListOptions())) == [created]
    assert list(messages.list_messages(store, bob, ListOptions())) == []
    with pytest.raises(NotFound):
        messages.show(store, bob, created.id)


def test_message_of_a_mailing_cannot_be_deleted_before_the_mailing(store: Store, ada: Actor) -> None:
    created = messages.create(store, ada, TEXT)
    schedule = ScheduleInput("2030-01-01 09:00", None, Every.DAY, "UTC")
    mailing = mailings.create(store, ada, message_id=created.id, schedule=schedule, audience=Audience(all_clients=True))

    with pytest.raises(Conflict, match=f"mailing {mailing.id}"):
        messages.remove(store, ada, created.id)
    mailings.remove(store, ada, mailing.id)

    assert messages.remove(store, ada, created.id) == created
    assert list(messages.list_messages(store, ada, ListOptions())) == []


def test_preview_is_rendered_for_a_client(store: Store, ada: Actor, bob: Actor) -> None:
    clients.create(store, ada, email="zoe@example.org", name="Zoë <b>", tags=["vip", "a"])
    clients.create(store, bob, email="bobs@example.org")
    text, html = messages.create(store, ada, TEXT), messages.create(store, ada, HTML)

    rendered = messages.preview(store, ada, text.id, "zoe@example.org")
    assert rendered == messages.Preview("zoe@example.org", "Hello Zoë <b>", "Dear Zoë <b>,\na, vip", None)
    assert messages.preview(store, ada, html.id, "1").html == "<p>Dear Zoë &lt;b&gt;</p>"
    assert "Ada Lovelace" in messages.preview(store, ada, text.id).text
    with pytest.raises(NotFound):
        messages.preview(store, ada, text.id, "bobs@example.org")


@pytest.mark.parametrize(("to", "name"), [("ZOE@example.org", "Zoë"), ("stranger@example.org", "Ada Lovelace")])
def test_test_email_is_complete_and_goes_to_one_address(store: Store, ada: Actor, to: str, name: str) -> None:
    clients.create(store, ada, email="zoe@example.org", name="Zoë")
    created = messages.create(store, ada, HTML)

    data = messages.compose_test_email(
        store, ada, created.id, sender="Me <me@example.org>", to=to, message_id_header="<1@example.org>", blog_url=None
    )

    email = message_from_bytes(data, policy=policy.default)
    (mailbox,) = email["To"].addresses
    assert mailbox.addr_spec.lower() == to.lower()
    assert mailbox.display_name == name
    text = email.get_body(("plain",))
    assert text is not None
    assert text.get_content().strip() == f"Dear {name}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ListOptions(), [1, 2, 3]),
        (ListOptions(search="HELLO"), [1, 2, 3]),
        (ListOptions(search="*"), [3]),
        (ListOptions(sort="-created_at", limit=1), [3]),
        (ListOptions(limit=HUGE, offset=2), [3]),
    ],
)
def test_list_options_limit_sort_and_search(
    store: Store, ada: Actor, options: ListOptions, expected: list[int]
) -> None:
    created: dict[int, MessageInfo] = {}
    for content in (TEXT, HTML, MARKDOWN):
        message = messages.create(store, ada, content)
        created[message.id] = message

    assert list(messages.list_messages(store, ada, options)) == [created[number] for number in expected]


# Digests


def add_post(store: Store, title: str, at: datetime) -> None:
    """Add a post that is published at a time."""
    with store.write() as db:
        values: dict[str, Any] = {"created_at": at, "updated_at": at, "published_at": at}
        db.add(Post(author_id=1, slug=title.lower(), title=title, content=f"About {title}.", **values))


def test_preview_of_a_digest_shows_the_latest_posts(store: Store, ada: Actor) -> None:
    created = messages.create(store, ada, MARKDOWN._replace(body="News:\n\n{{ posts }}\n\nBye"), digest=True)
    assert created.digest
    assert messages.preview(store, ada, created.id).text == "News:\n\n\n\nBye"

    now = datetime.now(UTC)
    for number in range(7):
        add_post(store, f"P{number}", now - timedelta(days=7 - number))
    add_post(store, "Future", now + timedelta(days=1))

    rendered = messages.preview(store, ada, created.id, blog_url="https://x.example")
    expected = "\n\n".join(f"## [P{n}](<https://x.example/posts/p{n}.html>)\n\nAbout P{n}." for n in range(2, 7))
    assert rendered.text == f"News:\n\n{expected}\n\nBye"
    assert '<h2><a href="https://x.example/posts/p6.html">P6</a></h2>' in (rendered.html or "")
    test_email = messages.compose_test_email(
        store, ada, created.id, sender="a@x.example", to="b@x.example", message_id_header="<1@x>", blog_url=None
    )
    assert b"## P2" in test_email


@pytest.mark.parametrize(
    "wrong",
    [
        HTML,
        TEXT._replace(body="{{ posts | upper }}"),
        TEXT._replace(subject="{{ posts }}"),
        TEXT._replace(body="{% for post in posts %}{% endfor %}"),
    ],
)
def test_invalid_digest_is_refused(store: Store, ada: Actor, wrong: MessageContent) -> None:
    with pytest.raises(InvalidValue):
        messages.create(store, ada, wrong, digest=True)
    assert list(messages.list_messages(store, ada, ListOptions())) == []


def test_only_a_digest_has_posts(store: Store, ada: Actor) -> None:
    with_posts = TEXT._replace(body="{{ posts }}")
    with pytest.raises(InvalidValue, match="only a digest"):
        messages.create(store, ada, with_posts)
    created = messages.create(store, ada, with_posts, digest=True)
    with pytest.raises(InvalidValue, match="only a digest"):
        messages.change(store, ada, created.id, digest=False)
    assert messages.change(store, ada, created.id, subject="Other").digest
    assert not messages.change(store, ada, created.id, body="Other", digest=False).digest
