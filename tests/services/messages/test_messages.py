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
from skychimp.services.messages import messages, rendering
from skychimp.services.messages.messages import MessageInfo
from skychimp.store.database import Store

HUGE = 10**30
TEXT = MessageContent("Hello {{ client.name }}", "Dear {{ client.name }},\n{{ client.tags | join(', ') }}", Format.TEXT)
HTML = MessageContent("Hello", "Dear {{ client.name }}", Format.HTML, "<p>Dear {{ client.name }}</p>")
MARKDOWN = MessageContent("Hello", "Dear *{{ client.name }}*", Format.MARKDOWN)


@pytest.mark.parametrize("content", [TEXT, HTML, MARKDOWN, MessageContent("吳 Ж", "", Format.TEXT)])
def test_created_message_is_shown(store: Store, ada: Actor, content: MessageContent) -> None:
    created = messages.create(store, ada, content)

    assert (created.subject, created.body, created.format, created.html) == content[:4]
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

    assert (changed.subject, changed.body, changed.format, changed.html) == after[:4]
    assert changed.updated_at > created.updated_at
    assert changed.created_at == created.created_at


PAGE = "<style>p{color:red}</style><p>Dear <b>{{ client.name }}</b></p>"
PAGE_TEXT = "Dear {{ client.name }}\n"


def test_text_part_is_made_from_html_again_unless_it_was_changed(store: Store, ada: Actor) -> None:
    created = messages.create(store, ada, MessageContent("Hello", "", Format.HTML, PAGE))
    assert created.body == PAGE_TEXT
    assert messages.has_made_body(created)
    assert messages.change(store, ada, created.id, subject="New").body == PAGE_TEXT

    remade = messages.change(store, ada, created.id, html="<p>New</p>")
    assert remade.body == "New\n"
    by_hand = messages.change(store, ada, created.id, body="By hand")
    assert not messages.has_made_body(by_hand)
    assert messages.change(store, ada, created.id, html=PAGE).body == "By hand"
    assert messages.change(store, ada, created.id, body=" ").body == PAGE_TEXT


def test_two_changes_at_the_same_time_are_both_kept(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    created = messages.create(store, ada, TEXT)
    changed_content = messages.changed_content

    def changed_content_while_another_command_runs(*arguments: Any) -> MessageContent:
        monkeypatch.undo()
        messages.change(store, ada, created.id, subject="Other")
        return changed_content(*arguments)

    monkeypatch.setattr(messages, "changed_content", changed_content_while_another_command_runs)
    changed = messages.change(store, ada, created.id, body="Mine")
    assert (changed.subject, changed.body) == ("Other", "Mine")


def test_html_of_a_text_message_leaves_its_body_as_it_is(store: Store, ada: Actor) -> None:
    created = messages.create(store, ada, TEXT)
    assert messages.change(store, ada, created.id, format=Format.HTML, html=PAGE).body == TEXT.body


def test_text_part_of_a_digest_has_its_posts(store: Store, ada: Actor) -> None:
    content = MessageContent("News", "", Format.HTML, "<h1>News</h1><div>{{ posts }}</div><p>Bye</p>")
    created = messages.create(store, ada, content, digest=True)
    assert created.body == "News\n\n{{ posts }}\n\nBye\n"


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<img src='x.png'>", "no text part can be made from the HTML part: it has no text"),
        ("<b>" * 30_000 + "x", "no text part can be made from the HTML part: the HTML has too many tags"),
        ("{% if client.name %}<p>A</p><style>{% endif %}</style>", "no text part can be made from the HTML part: the"),
        ("<p>" + "x" * 200_001, "no text part can be made from the HTML part: the body is larger than 200 kB"),
        ("<p>{{ client.shoe_size }}", "the HTML, line 1: unknown attribute"),
        ("<p>half \ud800", "the HTML contains invalid Unicode"),
        ("<p>a\0b", "the message contains a NUL character"),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_html_without_a_text_part_is_refused_if_none_can_be_made(
    store: Store, ada: Actor, html: str, reason: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        messages.create(store, ada, MessageContent("Hello", "", Format.HTML, html))
    assert caught.value.message.startswith(reason)


def test_front_matter_gives_what_is_not_given_otherwise(store: Store, ada: Actor) -> None:
    body = "---\nsubject: Weekly\ndigest: true\n---\n# News\n"
    created = messages.create(store, ada, MessageContent("", body, Format.MARKDOWN))
    assert (created.subject, created.body, created.digest) == ("Weekly", "# News\n", True)

    changed = messages.change(store, ada, created.id, body=body.replace("Weekly", "Other"), digest=False)
    assert (changed.subject, changed.body, changed.digest) == ("Other", "# News\n", False)
    assert messages.change(store, ada, created.id, body=body, subject="Mine").subject == "Mine"
    assert messages.create(store, ada, MessageContent("Mine", body, Format.MARKDOWN)).subject == "Mine"
    assert messages.create(store, ada, MessageContent("Mine", body, Format.TEXT)).body == body
    with pytest.raises(InvalidValue, match="unknown key"):
        messages.change(store, ada, created.id, body="---\ntitle: Weekly\n---\n# News\n")


@pytest.mark.parametrize(
    ("parts", "tags"),
    [
        (("Hi *|FNAME|*", "{$name}", "<p>*|FNAME|* <a href='%unsubscribe_url%'>x</a>"),
         ["*|FNAME|*", "{$name}", "%unsubscribe_url%"]),
        ((None, None, "<style>p{$a}{name}</style><script>x={name}</script><p style='{$a}'>[[firstname]]"),
         ["[[firstname]]"]),
        (("Hello", "Dear {{ client.name }}", "<b>" * 30_000), []),
    ],
    ids=["each part", "no styles and scripts", "none"],
)  # fmt: skip
def test_merge_tags_of_other_tools_are_found(parts: tuple[str | None, ...], tags: list[str]) -> None:
    assert messages.foreign_merge_tags(*parts) == tags


@pytest.mark.parametrize("message_id", [0, -1, 99, HUGE, -HUGE])
def test_unknown_message_is_not_found(store: Store, ada: Actor, message_id: int) -> None:
    for action in (messages.show, messages.change, messages.remove, rendering.preview):
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
            rendering.compose_test_email(
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

    rendered = rendering.preview(store, ada, text.id, "zoe@example.org")
    assert rendered == rendering.Preview("zoe@example.org", "Hello Zoë <b>", "Dear Zoë <b>,\na, vip", None, [])
    assert rendering.preview(store, ada, html.id, "1").html == "<p>Dear Zoë &lt;b&gt;</p>"
    assert "Ada Lovelace" in rendering.preview(store, ada, text.id).text
    with pytest.raises(NotFound):
        rendering.preview(store, ada, text.id, "bobs@example.org")


@pytest.mark.parametrize(("to", "name"), [("ZOE@example.org", "Zoë"), ("stranger@example.org", "Ada Lovelace")])
def test_test_email_is_complete_and_goes_to_one_address(store: Store, ada: Actor, to: str, name: str) -> None:
    clients.create(store, ada, email="zoe@example.org", name="Zoë")
    created = messages.create(store, ada, HTML)

    data = rendering.compose_test_email(
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
    content = MARKDOWN._replace(body="News:\n\n{{ posts }}\n\nBye")
    created = messages.create(store, ada, content, digest=True, layout="none")
    assert created.digest
    assert rendering.preview(store, ada, created.id).text == "News:\n\nBye\n"

    now = datetime.now(UTC)
    for number in range(7):
        add_post(store, f"P{number}", now - timedelta(days=7 - number))
    add_post(store, "Future", now + timedelta(days=1))

    rendered = rendering.preview(store, ada, created.id, blog_url="https://x.example")
    expected = "\n\n".join(f"P{n} <https://x.example/posts/p{n}.html>\n\nAbout P{n}." for n in range(2, 7))
    assert rendered.text == f"News:\n\n{expected}\n\nBye\n"
    assert '<h2><a href="https://x.example/posts/p6.html">P6</a></h2>' in (rendered.html or "")
    test_email = rendering.compose_test_email(
        store, ada, created.id, sender="a@x.example", to="b@x.example", message_id_header="<1@x>", blog_url=None
    )
    assert b"\nP2" in test_email


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
