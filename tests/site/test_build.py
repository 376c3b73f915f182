"""`blog build`: from the store to the folder."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from conftest import enrol
from PIL import Image
from sqlalchemy import insert, update
from support.command import Home

from skychimp.config.settings import Settings
from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import Denied, NotLoggedIn, StoreFailed
from skychimp.models import Every, Format, Post, Role
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.blog import images, posts
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.mailings import Audience, When
from skychimp.services.messages import messages
from skychimp.site.build import build
from skychimp.store.database import Store

ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture
def grace(store: Store) -> Actor:
    """An editor."""
    return enrol(store, "grace", Role.EDITOR)


def post(store: Store, editor: Actor, title: str, *, at: datetime | None = None, **more: Any) -> str:
    """A published post; its slug."""
    made = posts.create(store, editor, title=title, content=f"About *{title}*.", publish=True, at=at, **more)
    return made.slug


def picture() -> images.Image:
    raw = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(raw, "PNG")
    return images.made_anew(raw.getvalue())


def ids(place: Path) -> list[str]:
    return [each.text or "" for each in ET.parse(place / "feed.xml").iter(f"{ATOM}id")]


def test_the_site_is_what_anyone_may_see(store: Store, grace: Actor, ada: Actor, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with_picture = post(store, grace, "One", image=picture())
    post(store, grace, "Two", at=now - timedelta(days=1))
    post(store, grace, "Coming", at=now + timedelta(days=1))
    posts.create(store, grace, title="Draft", content="Draft")
    clients.create(store, ada, email="bob@example.org")
    message = messages.create(store, ada, MessageContent("Hello", "Hello", Format.TEXT))
    when = When("now", None, Every.DAY, "UTC")
    mailings.create(store, ada, message_id=message.id, when=when, audience=Audience(all_clients=True))

    built = build(store, grace, tmp_path / "site", Settings())

    home = (tmp_path / "site/index.html").read_text()
    assert "<dt>Mailings in all</dt><dd>1</dd>" in home
    assert "<dt>Unique clients</dt><dd>1</dd>" in home
    assert [path.name for path in sorted((tmp_path / "site/posts").iterdir())] == ["one.html", "two.html"]
    page = (tmp_path / f"site/posts/{with_picture}.html").read_text()
    assert "<p>About <em>One</em>.</p>" in page
    (copy,) = (tmp_path / "site/images").iterdir()
    assert copy.read_bytes() == posts.image_path(store, copy.name).read_bytes()
    assert f'<img src="../images/{copy.name}" width="60" height="40"' in page
    assert (built.posts, built.removed, built.unchanged) == (2, [], 0)
    assert "Draft" not in home
    assert "Coming" not in home
    assert "@" not in home + page  # nobody's address


def test_what_goes_from_the_blog_goes_from_the_site(store: Store, grace: Actor, tmp_path: Path) -> None:
    slug = post(store, grace, "One", image=picture())
    post(store, grace, "Two")
    build(store, grace, tmp_path / "site", Settings())
    posts.remove(store, grace, slug)

    built = build(store, grace, tmp_path / "site", Settings())

    assert sorted(path.partition("/")[0] for path in built.removed) == ["images", "posts"]
    assert "posts/two.html" in built.written  # it had a link to the other


def test_a_view_changes_nothing_and_the_ids_last(store: Store, grace: Actor, tmp_path: Path) -> None:
    slug = post(store, grace, "One")
    build(store, grace, tmp_path / "site", Settings())
    before = ids(tmp_path / "site")
    posts.view(store, ANONYMOUS, slug)
    assert build(store, grace, tmp_path / "site", Settings()).written == []

    posts.change(store, grace, slug, title="Another")
    moved = Settings.model_validate({"blog": {"url": "https://elsewhere.example", "title": "New"}})
    assert "feed.xml" in build(store, grace, tmp_path / "site", moved).written
    assert ids(tmp_path / "site") == before
    assert len(set(before)) == 2
    assert all(each.startswith("urn:uuid:") for each in before)


def test_what_was_written_long_before_it_was_published(store: Store, grace: Actor, tmp_path: Path) -> None:
    """RFC 4287, 4.2.15: to a reader, publishing is the latest change."""
    post(store, grace, "One")
    with store.write() as db:
        db.execute(update(Post).values(updated_at=datetime(2020, 1, 1, tzinfo=UTC)))
    build(store, grace, tmp_path / "site", Settings())
    entry = ET.parse(tmp_path / "site/feed.xml").find(f"{ATOM}entry")
    assert entry is not None
    assert entry.findtext(f"{ATOM}updated") == entry.findtext(f"{ATOM}published")


def test_a_thousand_posts_are_written_once(store: Store, grace: Actor, tmp_path: Path) -> None:
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
def test_who_writes_posts_may_build(store: Store, tmp_path: Path, role: Role | None) -> None:
    actor = ANONYMOUS if role is None else enrol(store, "somebody", role)
    if role in (Role.EDITOR, Role.ADMIN):
        assert build(store, actor, tmp_path / "site", Settings()).posts == 0
        return
    with pytest.raises(NotLoggedIn if role is None else Denied):
        build(store, actor, tmp_path / "site", Settings())
    assert not (tmp_path / "site").exists()


def test_a_lost_image_leaves_the_site_as_it_was(store: Store, grace: Actor, tmp_path: Path) -> None:
    slug = post(store, grace, "One", image=picture())
    build(store, grace, tmp_path / "site", Settings())
    (file,) = (tmp_path / "site/images").iterdir()
    posts.image_path(store, file.name).unlink()
    with pytest.raises(StoreFailed, match="image of post 1") as failed:
        build(store, grace, tmp_path / "site", Settings())
    assert slug in (failed.value.hint or "")
    assert file.exists()


# The command


def test_the_command_says_what_it_wrote(store: Store, grace: Actor, home_of: Callable[[Actor], Home]) -> None:
    home = home_of(grace)
    post(store, grace, "One")

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
    ("arguments", "status", "words"),
    [
        (["."], 6, "not ours"),
        (["note.txt"], 2, "is no folder"),
        (["public", "--base-url", "ftp://x.example"], 2, "http://"),
        (["public", "--base-url", "https://x.example/?q=1"], 2, "http://"),
        (["public", "--base-url", 'https://x.example/"><script>'], 2, "http://"),
        ([], 2, "DIR"),
    ],
)
def test_what_it_refuses(
    grace: Actor, home_of: Callable[[Actor], Home], arguments: list[str], status: int, words: str
) -> None:
    home = home_of(grace)
    (home.folder / "note.txt").write_text("mine")
    done = home.call("blog", "build", *arguments, "--json")
    assert done.status == status, done.err
    assert words in json.dumps(done.error), done.err
    assert [path.name for path in home.folder.iterdir() if path.name != ".cache"] == ["note.txt"]
