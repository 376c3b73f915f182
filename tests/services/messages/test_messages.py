"""Messages: checked when they are kept, seen by the right people, and shown as a client would read them."""

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
from skychimp.services.mailings.mailings import Audience, When
from skychimp.services.messages import messages
from skychimp.services.messages.messages import MessageInfo
from skychimp.store.database import Store

HUGE = 10**30
TEXT = MessageContent("Hello {{ client.name }}", "Dear {{ client.name }},\n{{ client.tags | join(', ') }}", Format.TEXT)
HTML = MessageContent("Hello", "Dear {{ client.name }}", Format.HTML, "<p>Dear {{ client.name }}</p>")
MARKDOWN = MessageContent("Hello", "Dear *{{ client.name }}*", Format.MARKDOWN)


@pytest.mark.parametrize("words", [TEXT, HTML, MARKDOWN, MessageContent("吳 Ж", "", Format.TEXT)])
def test_what_is_created_is_shown(store: Store, ada: Actor, words: MessageContent) -> None:
    made = messages.create(store, ada, words)

    assert (made.subject, made.body, made.format, made.html) == words
    assert messages.show(store, ada, made.id) == made
    assert made.created_at.utcoffset() is not None


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
def test_words_that_can_not_be_rendered_are_refused_and_change_nothing(
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
def test_a_change_keeps_the_rest_and_a_message_has_html_of_its_own_only_where_it_says_so(
    store: Store, ada: Actor, before: MessageContent, change: dict[str, Any], after: MessageContent
) -> None:
    made = messages.create(store, ada, before)

    changed = messages.change(store, ada, made.id, **change)

    assert (changed.subject, changed.body, changed.format, changed.html) == after
    assert changed.updated_at > made.updated_at
    assert changed.created_at == made.created_at


@pytest.mark.parametrize("message_id", [0, -1, 99, HUGE, -HUGE])
def test_an_unknown_message_is_not_there(store: Store, ada: Actor, message_id: int) -> None:
    for action in (messages.show, messages.change, messages.remove, messages.preview):
        with pytest.raises(NotFound):
            action(store, ada, message_id)


def test_messages_are_changed_by_their_owner_and_seen_by_managers_too(
    store: Store, ada: Actor, bob: Actor, manager: Actor, admin: Actor
) -> None:
    made = messages.create(store, ada, TEXT)
    refusals: list[tuple[Actor, type[Exception]]] = [
        (bob, NotFound), (admin, NotFound), (manager, Denied), (ANONYMOUS, NotLoggedIn)
    ]  # fmt: skip

    for actor, refusal in refusals:
        with pytest.raises(refusal):
            messages.change(store, actor, made.id, subject="Mine now")
        with pytest.raises(refusal):
            messages.remove(store, actor, made.id)
        with pytest.raises(refusal):
            messages.test_letter(
                store, actor, made.id, sender="x@example.org", to="y@example.org", name="<1@x>", blog_url=None
            )

    for actor in (manager, admin):
        assert messages.show(store, actor, made.id) == made
        assert list(messages.list_messages(store, actor, ListOptions())) == [made]
    assert list(messages.list_messages(store, bob, ListOptions())) == []
    with pytest.raises(NotFound):
        messages.show(store, bob, made.id)


def test_a_message_that_a_mailing_uses_stays_until_the_mailing_goes(store: Store, ada: Actor) -> None:
    made = messages.create(store, ada, TEXT)
    when = When("2030-01-01 09:00", None, Every.DAY, "UTC")
    mailing = mailings.create(store, ada, message_id=made.id, when=when, audience=Audience(all_clients=True))

    with pytest.raises(Conflict, match=f"mailing {mailing.id}"):
        messages.remove(store, ada, made.id)
    mailings.remove(store, ada, mailing.id)

    assert messages.remove(store, ada, made.id) == made
    assert list(messages.list_messages(store, ada, ListOptions())) == []


def test_a_preview_is_what_that_client_would_read(store: Store, ada: Actor, bob: Actor) -> None:
    clients.create(store, ada, email="zoe@example.org", name="Zoë <b>", tags=["vip", "a"])
    clients.create(store, bob, email="bobs@example.org")
    text, html = messages.create(store, ada, TEXT), messages.create(store, ada, HTML)

    seen = messages.preview(store, ada, text.id, "zoe@example.org")
    assert seen == messages.Preview("zoe@example.org", "Hello Zoë <b>", "Dear Zoë <b>,\na, vip", None)
    assert messages.preview(store, ada, html.id, "1").html == "<p>Dear Zoë &lt;b&gt;</p>"
    assert "Ada Lovelace" in messages.preview(store, ada, text.id).text
    with pytest.raises(NotFound):
        messages.preview(store, ada, text.id, "bobs@example.org")


@pytest.mark.parametrize(("to", "name"), [("ZOE@example.org", "Zoë"), ("stranger@example.org", "Ada Lovelace")])
def test_a_test_letter_is_whole_and_goes_to_one_address(store: Store, ada: Actor, to: str, name: str) -> None:
    clients.create(store, ada, email="zoe@example.org", name="Zoë")
    made = messages.create(store, ada, HTML)

    data = messages.test_letter(
        store, ada, made.id, sender="Me <me@example.org>", to=to, name="<1@example.org>", blog_url=None
    )

    letter = message_from_bytes(data, policy=policy.default)
    (mailbox,) = letter["To"].addresses
    assert mailbox.addr_spec.lower() == to.lower()
    assert mailbox.display_name == name
    text = letter.get_body(("plain",))
    assert text is not None
    assert text.get_content().strip() == f"Dear {name}"


@pytest.mark.parametrize(
    ("page", "found"),
    [
        (ListOptions(), [1, 2, 3]),
        (ListOptions(search="HELLO"), [1, 2, 3]),
        (ListOptions(search="*"), [3]),
        (ListOptions(sort="-created_at", limit=1), [3]),
        (ListOptions(limit=HUGE, offset=2), [3]),
    ],
)
def test_a_list_in_part_and_in_order(store: Store, ada: Actor, page: ListOptions, found: list[int]) -> None:
    made: dict[int, MessageInfo] = {}
    for words in (TEXT, HTML, MARKDOWN):
        message = messages.create(store, ada, words)
        made[message.id] = message

    assert list(messages.list_messages(store, ada, page)) == [made[number] for number in found]


# Digests


def publish(store: Store, title: str, at: datetime) -> None:
    with store.write() as db:
        values: dict[str, Any] = {"created_at": at, "updated_at": at, "published_at": at}
        db.add(Post(author_id=1, slug=title.lower(), title=title, content=f"About {title}.", **values))


def test_a_digest_is_shown_with_the_latest_posts(store: Store, ada: Actor) -> None:
    made = messages.create(store, ada, MARKDOWN._replace(body="News:\n\n{{ posts }}\n\nBye"), digest=True)
    assert made.digest
    assert messages.preview(store, ada, made.id).text == "News:\n\n\n\nBye"

    now = datetime.now(UTC)
    for number in range(7):
        publish(store, f"P{number}", now - timedelta(days=7 - number))
    publish(store, "Coming", now + timedelta(days=1))

    seen = messages.preview(store, ada, made.id, blog_url="https://x.example")
    told = "\n\n".join(f"## [P{n}](<https://x.example/posts/p{n}.html>)\n\nAbout P{n}." for n in range(2, 7))
    assert seen.text == f"News:\n\n{told}\n\nBye"
    assert '<h2><a href="https://x.example/posts/p6.html">P6</a></h2>' in (seen.html or "")
    letter = messages.test_letter(
        store, ada, made.id, sender="a@x.example", to="b@x.example", name="<1@x>", blog_url=None
    )
    assert b"## P2" in letter


@pytest.mark.parametrize(
    "wrong",
    [
        HTML,
        TEXT._replace(body="{{ posts | upper }}"),
        TEXT._replace(subject="{{ posts }}"),
        TEXT._replace(body="{% for post in posts %}{% endfor %}"),
    ],
)
def test_what_is_no_digest(store: Store, ada: Actor, wrong: MessageContent) -> None:
    with pytest.raises(InvalidValue):
        messages.create(store, ada, wrong, digest=True)
    assert list(messages.list_messages(store, ada, ListOptions())) == []


def test_only_a_digest_has_posts(store: Store, ada: Actor) -> None:
    with_posts = TEXT._replace(body="{{ posts }}")
    with pytest.raises(InvalidValue, match="only a digest"):
        messages.create(store, ada, with_posts)
    made = messages.create(store, ada, with_posts, digest=True)
    with pytest.raises(InvalidValue, match="only a digest"):
        messages.change(store, ada, made.id, digest=False)
    assert messages.change(store, ada, made.id, subject="Other").digest
    assert not messages.change(store, ada, made.id, body="Other", digest=False).digest
