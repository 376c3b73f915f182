"""Test who may write and read posts, when they are published, and that their content can do no harm."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from conftest import create_user
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from skychimp import markdown
from skychimp.errors import Conflict, Denied, InvalidValue, NotFound, NotLoggedIn
from skychimp.models import AuditEntry, Role
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.blog import posts
from skychimp.services.blog.posts import PostDetail
from skychimp.services.listing import ListOptions
from skychimp.store.database import Store

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture
def editor(store: Store) -> Actor:
    return create_user(store, "editor", Role.EDITOR)


def write(store: Store, editor: Actor, title: str = "A title", **more: datetime | bool) -> PostDetail:
    return posts.create(store, editor, title=title, content="Words", **({"publish": True} | more))  # type: ignore[arg-type]


def audited(store: Store) -> list[tuple[str, str, int | None, str]]:
    trail = AuditEntry.__table__.c
    query = select(trail.action, trail.object, trail.object_id, trail.detail).order_by(trail.id)
    with store.read() as db:
        return [tuple(row) for row in db.execute(query)]


# Permissions


@pytest.mark.parametrize("role", [None, Role.USER, Role.MANAGER])
def test_readers_see_only_published_posts(store: Store, editor: Actor, role: Role | None) -> None:
    reader = create_user(store, "reader", role) if role else ANONYMOUS
    published, draft, scheduled = (
        write(store, editor),
        write(store, editor, publish=False),
        write(store, editor, at=NOW + DAY),
    )

    assert posts.view(store, reader, published.slug).content == "Words"
    assert [post.id for post in posts.list_posts(store, reader, ListOptions())] == [published.id]
    for unpublished in (draft, scheduled):
        for name in (unpublished.slug, str(unpublished.id)):
            with pytest.raises(NotFound):
                posts.view(store, reader, name)
    refused_calls: list[Callable[[], object]] = [
        partial(write, store, reader),
        partial(posts.change, store, reader, published.slug, title="Mine"),
        partial(posts.publish, store, reader, draft.slug),
        partial(posts.unpublish, store, reader, published.slug),
        partial(posts.remove, store, reader, published.slug),
        partial(posts.find, store, reader, draft.slug),
        lambda: list(posts.list_posts(store, reader, ListOptions(), unpublished=True)),
    ]
    for refused_call in refused_calls:
        with pytest.raises(NotLoggedIn if role is None else Denied):
            refused_call()
    assert [
        post.id
        for post in posts.list_posts(
            store,
            editor,
            ListOptions(),
            unpublished=True,
        )
    ] == [3, 1, 2]


@pytest.mark.parametrize("role", [Role.EDITOR, Role.ADMIN])
def test_writers_may_change_all_posts(store: Store, editor: Actor, role: Role) -> None:
    other = create_user(store, "other", role)
    draft = write(store, editor, publish=False)

    assert posts.view(store, other, draft.slug).views == 0
    assert posts.change(store, other, draft.slug, title="Better").title == "Better"
    assert posts.publish(store, other, draft.slug).published_at is not None
    assert posts.remove(store, other, draft.slug).id == draft.id
    assert [action for action, *_ in audited(store)] == ["create", "update", "publish", "delete"]


# From draft to published


def test_post_is_stored_as_written(store: Store, editor: Actor) -> None:
    made = posts.create(store, editor, title=" Привет, 吳 ", content="a\r\n\r\n\tb *c*\n")

    assert (made.title, made.content) == ("Привет, 吳", "a\n\n\tb *c*\n")
    assert (made.views, made.revision, made.published_at, made.image, made.author) == (0, 1, None, None, "")
    assert made.created_at == made.updated_at
    assert made.created_at.utcoffset() is not None
    assert posts.find(store, editor, str(made.id)) == posts.find(store, editor, made.slug) == made


def test_scheduled_post_publishes_itself(store: Store, editor: Actor) -> None:
    at = NOW + DAY
    scheduled = write(store, editor, at=at)

    assert posts.published_posts(store, at - timedelta(microseconds=1)) == []
    assert posts.published_posts(store, at) == [scheduled]
    assert posts.published_posts(store, at + DAY, since=at) == []


def test_newest_posts_come_first(store: Store, editor: Actor) -> None:
    for days in (2, 1, 3):
        write(store, editor, f"{days} days ago", at=NOW - days * DAY)

    order = ["1 days ago", "2 days ago", "3 days ago"]
    assert [post.title for post in posts.published_posts(store, NOW)] == order
    assert [post.title for post in posts.published_posts(store, NOW, since=NOW - 3 * DAY)] == order[:2]
    assert [post.title for post in posts.list_posts(store, ANONYMOUS, ListOptions())] == order
    assert [post.title for post in posts.list_posts(store, ANONYMOUS, ListOptions(sort="title", limit=2))] == order[:2]


def test_publishing_again_changes_the_time_only_if_one_is_given(store: Store, editor: Actor) -> None:
    post = write(store, editor, publish=False)
    first = posts.publish(store, editor, post.slug)

    assert first.published_at is not None
    assert first.published_at > NOW
    assert posts.publish(store, editor, post.slug) == first
    assert posts.publish(store, editor, post.slug, NOW - DAY).published_at == NOW - DAY
    assert posts.publish(store, editor, post.slug, NOW + DAY).published_at == NOW + DAY
    assert posts.publish(store, editor, post.slug).published_at not in (
        None,
        NOW + DAY,
    )  # now
    assert posts.unpublish(store, editor, post.slug).published_at is None
    entries = [(action, kind, number, detail) for action, kind, number, detail in audited(store)]
    actions = ["create", *["publish"] * 4, "unpublish"]
    assert entries == [(action, "post", post.id, "A title") for action in actions]


def test_change_increments_the_revision_and_keeps_the_slug(store: Store, editor: Actor) -> None:
    old = write(store, editor)

    assert posts.change(store, editor, old.slug, title=old.title, content=old.content) == old
    new = posts.change(store, editor, old.slug, title="Other", content="More")
    assert (new.slug, new.title, new.content, new.revision) == (old.slug, "Other", "More", 2)
    assert new.updated_at > old.updated_at
    assert (new.created_at, new.published_at) == (old.created_at, old.published_at)


def test_concurrent_change_is_not_overwritten(store: Store, editor: Actor) -> None:
    post = write(store, editor)
    posts.change(store, editor, post.slug, content="theirs")

    with pytest.raises(Conflict):
        posts.change(store, editor, post.slug, content="mine", expected_revision=post.revision)
    assert posts.find(store, editor, post.slug).content == "theirs"


# Views


def test_only_views_of_published_posts_are_counted(store: Store, editor: Actor) -> None:
    post = write(store, editor)

    assert [posts.view(store, reader, name).views for reader, name in ((ANONYMOUS, post.slug), (editor, "1"))] == [1, 2]
    list(posts.list_posts(store, ANONYMOUS, ListOptions()))
    posts.published_posts(store, datetime.now(UTC))
    posts.find(store, editor, post.slug)
    posts.unpublish(store, editor, post.slug)
    assert posts.view(store, editor, post.slug).views == 2


# Slugs


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("Hello, World!", "hello-world"),
        ("Привет, мир", "privet-mir"),
        ("2024", "post-2024"),
        ("١٢٣", "post-123"),
        ("🎉", "post"),
        ("../etc/passwd", "etc-passwd"),
        ("word " * 40, "word-" * 9 + "word"),
    ],
)
def test_slug_is_the_title_in_ascii_and_never_an_id(store: Store, editor: Actor, title: str, slug: str) -> None:
    assert write(store, editor, title).slug == slug


def test_slug_of_a_repeated_title_is_numbered(store: Store, editor: Actor) -> None:
    assert [write(store, editor, "1").slug for _ in range(3)] == ["post-1", "post-1-2", "post-1-3"]
    assert write(store, editor, "Post 1 2").slug == "post-1-2-2"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1, max_size=posts.LONGEST_TITLE))
def test_every_valid_title_gets_a_slug_that_finds_the_post(store: Store, title: str) -> None:
    admin = Actor(1, "admin@skychimp.test", Role.ADMIN)
    if not list(posts.list_posts(store, admin, ListOptions(limit=1))):
        create_user(store, "first", Role.ADMIN)
    try:
        made = write(store, admin, title)
    except InvalidValue:
        assert not title.isprintable() or not title.strip()
        return
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", made.slug)
    assert not made.slug.isdigit()
    assert posts.find(store, admin, made.slug) == made


@pytest.mark.parametrize(
    "name", ["nothing", "9", "0", "", "A-Title", "a title", "9" * 30, "half \ud800", "' OR 1=1", "١"]
)
def test_unknown_name_is_not_found(store: Store, editor: Actor, name: str) -> None:
    write(store, editor)

    for action in (posts.view, posts.find, posts.change, posts.publish, posts.unpublish, posts.remove):
        with pytest.raises(NotFound):
            action(store, editor, name)


# Content


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": ""}, {"title": " "}, {"title": "a\nb"}, {"title": "a\x1b[2J"}, {"title": "half \ud800"},
        {"title": "a" * 201}, {"content": ""}, {"content": " \n"}, {"content": "a\x1b]0;x\x07"}, {"content": "a\x00"},
        {"content": "half \udfff"}, {"content": "a" * 1_000_001},
        {"content": "> \n>> \n**" * 5_000},
    ],
    ids=lambda wrong: repr(wrong)[:40],
)  # fmt: skip
def test_invalid_title_or_content_is_refused_and_changes_nothing(
    store: Store, editor: Actor, wrong: dict[str, str]
) -> None:
    good = write(store, editor)

    with pytest.raises(InvalidValue):
        posts.create(store, editor, title=wrong.get("title", "A title"), content=wrong.get("content", "Words"))
    with pytest.raises(InvalidValue):
        posts.change(store, editor, good.slug, **wrong)  # type: ignore[arg-type]
    assert [posts.find(store, editor, str(post.id)) for post in posts.list_posts(store, editor, ListOptions())] == [
        good
    ]


@pytest.mark.parametrize(
    "link",
    ["javascript:x", "JaVaScRiPt&#58;x", "&Tab;javascript:x", "data:image/png;base64,xx", "vbscript:x", "file:///x",
     "java\\\nscript:x", "x-unknown:y"],
)  # fmt: skip
def test_links_with_unsafe_schemes_are_not_rendered(link: str) -> None:
    html = markdown.to_html(f"[x]({link}) ![x]({link}) <{link}>")

    assert "<a" not in html
    assert "<img" not in html


@pytest.mark.parametrize("link", ["https://example.org/a?b=c:d", "mailto:a@example.org", "/a/b:c", "#a", "a.html"])
def test_safe_links_are_rendered(link: str) -> None:
    assert markdown.to_html(f"[x]({link})") == f'<p><a href="{link}">x</a></p>\n'


def test_raw_html_is_escaped() -> None:
    assert markdown.to_html("<script>x</script>\n\na <b onclick=x>") == (
        "<p>&lt;script&gt;x&lt;/script&gt;</p>\n<p>a &lt;b onclick=x&gt;</p>\n"
    )


def test_html_is_cached_until_the_content_changes(store: Store, editor: Actor) -> None:
    cache: dict[str, object] = {}

    def cached(key: str, compute: Callable[[], object]) -> object:
        return cache[key] if key in cache else cache.setdefault(key, compute())

    post = write(store, editor)
    assert posts.render_html(post, cached) == posts.render_html(post) == "<p>Words</p>\n"
    cache.update(dict.fromkeys(cache, "from the cache"))
    assert posts.render_html(post, cached) == "from the cache"
    assert posts.render_html(posts.change(store, editor, post.slug, title="Other"), cached) == "from the cache"
    assert posts.render_html(posts.change(store, editor, post.slug, content="New"), cached) == "<p>New</p>\n"
