"""Test `skychimp blog build`: which posts and files it writes, and who may run it."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from conftest import create_user
from PIL import Image
from sqlalchemy import insert, update
from support.command import Home
from support.contents import lose_image

from skychimp.config.settings import Settings
from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import Denied, NotLoggedIn, StoreFailed
from skychimp.models import Every, Format, Post, Role
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.blog import images, posts
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import messages
from skychimp.site.build import build
from skychimp.store.database import Store

ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture
def grace(store: Store) -> Actor:
    """Return an editor."""
    return create_user(store, "grace", Role.EDITOR)


def publish_post(store: Store, editor: Actor, title: str, *, at: datetime | None = None, **more: Any) -> str:
    """Publish a post, and return its slug."""
    created = posts.create(store, editor, title=title, content=f"About *{title}*.", publish=True, at=at, **more)
    return created.slug


def picture() -> images.Image:
    raw = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(raw, "PNG")
    return images.reencode(raw.getvalue())


def feed_ids(site: Path) -> list[str]:
    return [element.text or "" for element in ET.parse(site / "feed.xml").iter(f"{ATOM}id")]


def test_site_contains_published_posts_only(store: Store, grace: Actor, ada: Actor, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with_picture = publish_post(store, grace, "One", image=picture())
    publish_post(store, grace, "Two", at=now - timedelta(days=1))
    publish_post(store, grace, "Scheduled", at=now + timedelta(days=1))
    posts.create(store, grace, title="Draft", content="Draft")
    clients.create(store, ada, email="bob@example.org")
    message = messages.create(store, ada, MessageContent("Hello", "Hello", Format.TEXT))
    schedule = ScheduleInput("now", None, Every.DAY, "UTC")
    mailings.create(store, ada, message_id=message.id, schedule=schedule, audience=Audience(all_clients=True))

    built = build(store, grace, tmp_path / "site", Settings())

    home = (tmp_path / "site/index.html").read_text()
    assert "<dt>All mailings</dt><dd>1</dd>" in home
    assert "<dt>Unique clients</dt><dd>1</dd>" in home
    assert [path.name for path in sorted((tmp_path / "site/posts").iterdir())] == ["one.html", "two.html"]
    page = (tmp_path / f"site/posts/{with_picture}.html").read_text()
    assert "<p>About <em>One</em>.</p>" in page
    (copy,) = (tmp_path / "site/images").iterdir()
    assert copy.read_bytes() == images.read(store, copy.name)
    assert f'<img src="../images/{copy.name}" width="60" height="40"' in page
    assert (built.posts, built.removed, built.unchanged) == (2, [], 0)
    assert "Draft" not in home
    assert "Scheduled" not in home
    assert "@" not in home + page  # no email addresses


def test_deleted_post_is_removed_from_the_site(store: Store, grace: Actor, tmp_path: Path) -> None:
    slug = publish_post(store, grace, "One", image=picture())
    publish_post(store, grace, "Two")
    build(store, grace, tmp_path / "site", Settings())
    posts.remove(store, grace, slug)

    built = build(store, grace, tmp_path / "site", Settings())

    assert sorted(path.partition("/")[0] for path in built.removed) == ["images", "posts"]
    assert "posts/two.html" in built.written  # it linked to the deleted post


def test_views_change_nothing_and_ids_are_permanent(store: Store, grace: Actor, tmp_path: Path) -> None:
    slug = publish_post(store, grace, "One")
    build(store, grace, tmp_path / "site", Settings())
    before = feed_ids(tmp_path / "site")
    posts.view(store, ANONYMOUS, slug)
    assert build(store, grace, tmp_path / "site", Settings()).written == []

    posts.change(store, grace, slug, title="Another")
    moved = Settings.model_validate({"blog": {"url": "https://elsewhere.example", "title": "New"}})
    assert "feed.xml" in build(store, grace, tmp_path / "site", moved).written
    assert feed_ids(tmp_path / "site") == before
    assert len(set(before)) == 2
    assert all(feed_id.startswith("urn:uuid:") for feed_id in before)


def test_publication_counts_as_an_update_in_the_feed(store: Store, grace: Actor, tmp_path: Path) -> None:
    """To a reader, publication is the latest significant change (RFC 4287, section 4.2.15)."""
    publish_post(store, grace, "One")
    with store.write() as db:
        db.execute(update(Post).values(updated_at=datetime(2020, 1, 1, tzinfo=UTC)))
    build(store, grace, tmp_path / "site", Settings())
    entry = ET.parse(tmp_path / "site/feed.xml").find(f"{ATOM}entry")
    assert entry is not None
    assert entry.findtext(f"{ATOM}updated") == entry.findtext(f"{ATOM}published")


def test_unchanged_posts_are_not_written_again(store: Store, grace: Actor, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    usual = {"author_id": grace.user_id, "content": "# Head\n\nText", "views": 0, "revision": 1, "created_at": now}
    rows = [
        usual | {"slug": f"p-{n}", "title": f"P {n}", "updated_at": now, "published_at": now - timedelta(hours=n)}
        for n in range(1000)
    ]
    with store.write() as db:
        db.execute(insert(Post), rows)
    first = build(store, grace, tmp_path / "site", Settings())
    assert (first.posts, len(first.written)) == (1000, 1000 + 110 + 4)
    again = build(store, grace, tmp_path / "site", Settings())
    assert (again.written, again.removed, again.unchanged) == ([], [], len(first.written))


@pytest.mark.parametrize("role", [Role.USER, Role.MANAGER, Role.EDITOR, Role.ADMIN, None])
def test_only_writers_may_build(store: Store, tmp_path: Path, role: Role | None) -> None:
    actor = ANONYMOUS if role is None else create_user(store, "somebody", role)
    if role in (Role.EDITOR, Role.ADMIN):
        assert build(store, actor, tmp_path / "site", Settings()).posts == 0
        return
    with pytest.raises(NotLoggedIn if role is None else Denied):
        build(store, actor, tmp_path / "site", Settings())
    assert not (tmp_path / "site").exists()


def test_missing_image_leaves_the_site_unchanged(store: Store, grace: Actor, tmp_path: Path) -> None:
    slug = publish_post(store, grace, "One", image=picture())
    build(store, grace, tmp_path / "site", Settings())
    (file,) = (tmp_path / "site/images").iterdir()
    lose_image(store, file.name)
    with pytest.raises(StoreFailed, match="image of post 1") as failed:
        build(store, grace, tmp_path / "site", Settings())
    assert slug in (failed.value.hint or "")
    assert file.exists()


# The command


def test_command_reports_what_it_wrote(store: Store, grace: Actor, home_of: Callable[[Actor], Home]) -> None:
    home = home_of(grace)
    publish_post(store, grace, "One")

    done = home.call("blog", "build", "public", "--base-url", "https://x.example/blog/", "--json")
    assert (done.status, done.err) == (0, "")
    assert done.json == {
        "folder": "public",
        "posts": 1,
        "written": ["style.css", "icon.svg", "posts/one.html", "index.html", "feed.xml", "sitemap.xml"],
        "removed": [],
        "unchanged": 0,
    }
    assert "<loc>https://x.example/blog/posts/one.html</loc>" in (home.folder / "public/sitemap.xml").read_text()

    again = home.call("blog", "build", "public")
    assert again.out.splitlines() == ["folder\tpublic", "posts\t1", "written\t3", "removed\t1", "unchanged\t2"]
    assert "--base-url" in again.err
    assert not (home.folder / "public/sitemap.xml").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["."], 6, "contains other files"),
        (["note.txt"], 2, "is not a folder"),
        (["public", "--base-url", "ftp://x.example"], 2, "use an http or https URL"),
        (["public", "--base-url", "https://x.example/?q=1"], 2, "use an http or https URL"),
        (["public", "--base-url", 'https://x.example/"><script>'], 2, "use an http or https URL"),
        ([], 2, "DIR"),
    ],
)
def test_invalid_arguments_are_refused(
    grace: Actor, home_of: Callable[[Actor], Home], arguments: list[str], status: int, message: str
) -> None:
    home = home_of(grace)
    (home.folder / "note.txt").write_text("mine")
    done = home.call("blog", "build", *arguments, "--json")
    assert done.status == status, done.err
    assert message in json.dumps(done.error), done.err
    assert [path.name for path in home.folder.iterdir() if path.name != ".cache"] == ["note.txt"]
