"""The blog: posts that anyone may read once they are published, and that editors write."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, Row, Select, delete, false, select, true, update
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Session

from skychimp import markdown
from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.models import Post, User
from skychimp.permissions import TABLE, Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.blog import images
from skychimp.services.blog.images import Image
from skychimp.services.listing import ListOptions, apply
from skychimp.services.reporting.cache import Cached, refresh
from skychimp.store.database import Store
from skychimp.text import one_line, some_lines

_P = Post.__table__
_U = User.__table__

LONGEST_TITLE = 200
LONGEST_CONTENT = 1_000_000
LONGEST_SLUG = 50

SORTED_BY = {
    "id": _P.c.id,
    "published_at": _P.c.published_at,
    "title": _P.c.title,
    "views": _P.c.views,
    "created_at": _P.c.created_at,
    "updated_at": _P.c.updated_at,
}

_ID = re.compile(r"[0-9]{1,18}")
_SLUG = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True)
class PostInfo:
    """`published_at` None is a draft, one to come a post that publishes itself; `image` names a file (image_path).

    `revision` counts the changes of title, content and image. `author` is the author's name, "" where there is none:
    an address is nobody's business.
    """

    id: int
    slug: str
    title: str
    image: str | None
    views: int
    created_at: datetime
    updated_at: datetime
    published_at: datetime | None
    revision: int
    author: str


@dataclass(frozen=True)
class PostDetail(PostInfo):
    content: str


def create(
    store: Store,
    actor: Actor,
    *,
    title: str,
    content: str,
    image: Image | None = None,
    publish: bool = False,
    at: datetime | None = None,
) -> PostDetail:
    """Make a post: a draft, or one to `publish`, now or `at` another time, past or to come.

    Raises InvalidValue, StoreFailed.
    """
    authorize(actor, Action.WRITE_POSTS)
    values = _checked(title, content) | {
        "author_id": actor.user_id,
        "image": image.name if image else None,
        "views": 0,
        "revision": 1,
    }
    with store.write() as db:
        now = _now(db)
        if image is not None:
            images.keep(store, image)
        values |= {"created_at": now, "updated_at": now, "published_at": (at or now) if publish else None}
        post = _get(db, _P.c.id == _insert(db, values))
        if publish:
            _record(db, actor, "publish", post)
        return post


def change(
    store: Store,
    actor: Actor,
    post: str,
    *,
    title: str | None = None,
    content: str | None = None,
    image: Image | None = None,
    no_image: bool = False,
    of_revision: int | None = None,
) -> PostDetail:
    """Change what is given; the slug stays, so that links do. Raises NotFound, InvalidValue, StoreFailed.

    Raises Conflict where `of_revision` is given and somebody has changed the post since.
    """
    authorize(actor, Action.WRITE_POSTS)
    with store.write() as db:
        old = _find(db, post)
        if of_revision not in (None, old.revision):
            raise Conflict(f"somebody has changed post {old.id} meanwhile", "look at it, then change it again")
        values = _checked(old.title if title is None else title, old.content if content is None else content)
        values["image"] = image.name if image else None if no_image else old.image
        if image is not None:
            images.keep(store, image)
        if values != {name: getattr(old, name) for name in values}:
            news = {"revision": old.revision + 1, "updated_at": datetime.now(UTC)}
            db.execute(update(_P).where(_P.c.id == old.id).values(values | news))
        changed = _get(db, _P.c.id == old.id)
    if changed.image != old.image:
        images.sweep(store)
    return changed


def publish(store: Store, actor: Actor, post: str, at: datetime | None = None) -> PostDetail:
    """Publish a post at a time, past or to come, or now; one that is published stays as it is then. Raises NotFound."""
    authorize(actor, Action.WRITE_POSTS)
    with store.write() as db:
        now = _now(db)
        old = _find(db, post)
        if at is None and old.published_at is not None and old.published_at <= now:
            return old
        db.execute(update(_P).where(_P.c.id == old.id).values(published_at=at or now))
        _record(db, actor, "publish", old)
        return _get(db, _P.c.id == old.id)


def unpublish(store: Store, actor: Actor, post: str) -> PostDetail:
    """Make a post a draft again. Raises NotFound."""
    authorize(actor, Action.WRITE_POSTS)
    with store.write() as db:
        old = _find(db, post)
        db.execute(update(_P).where(_P.c.id == old.id).values(published_at=None))
        _record(db, actor, "unpublish", old)
        return _get(db, _P.c.id == old.id)


def remove(store: Store, actor: Actor, post: str) -> PostDetail:
    """Delete a post, and its image unless another post has it, too. Raises NotFound."""
    authorize(actor, Action.WRITE_POSTS)
    with store.write() as db:
        gone = _find(db, post)
        db.execute(delete(_P).where(_P.c.id == gone.id))
        _record(db, actor, "delete", gone)
    if gone.image is not None:
        images.sweep(store)
    return gone


def require_writer(actor: Actor) -> None:
    """Raise Denied unless the actor may write posts."""
    authorize(actor, Action.WRITE_POSTS)


def find(store: Store, actor: Actor, post: str) -> PostDetail:
    """A post, by id or slug, for who writes it: nothing is counted. Raises NotFound."""
    authorize(actor, Action.WRITE_POSTS)
    with store.read() as db:
        return _find(db, post)


def view(store: Store, actor: Actor, post: str) -> PostDetail:
    """A post, by id or slug, for who reads it: if it is published, that counts as a view. Raises NotFound.

    Who may write posts sees the others, too.
    """
    published = _P.c.published_at <= datetime.now(UTC)
    with store.write() as db:
        db.execute(update(_P).where(_named(post), published).values(views=_P.c.views + 1))
        return _find(db, post, None if actor.role in TABLE[Action.WRITE_POSTS] else published)


def list_posts(store: Store, actor: Actor, page: ListOptions, *, unpublished: bool = False) -> Iterator[PostInfo]:
    """The published posts, or all of them, the newest first, as they are read. Raises Denied, InvalidValue."""
    if unpublished:
        authorize(actor, Action.WRITE_POSTS)
    query = _infos().where(true() if unpublished else _P.c.published_at <= datetime.now(UTC))
    page = replace(page, sort=page.sort or "-published_at")
    query = apply(query, page, searched=(_P.c.title, _P.c.content), sorted_by=SORTED_BY)
    with store.read() as db:
        for row in db.execute(query.execution_options(yield_per=100)):
            yield PostInfo(**row._mapping)


def published(store: Store, now: datetime, *, since: datetime | None = None) -> list[PostDetail]:
    """The posts that are published by `now`, and after `since` if given; the newest first."""
    query = _posts().where(_P.c.published_at <= now, true() if since is None else _P.c.published_at > since)
    with store.read() as db:
        return [_detail(row) for row in db.execute(query.order_by(_P.c.published_at.desc(), _P.c.id.desc()))]


def infos(db: Connection, ids: list[int]) -> list[PostInfo]:
    """The posts with these ids, as far as there are any, in their order."""
    found = {row.id: PostInfo(**row._mapping) for row in db.execute(_infos().where(_P.c.id.in_(ids)))}
    return [found[post_id] for post_id in ids if post_id in found]


def image_path(store: Store, name: str) -> Path:
    """Where a post's image lies: a PNG, JPEG or WebP file, as its suffix says. Raises StoreFailed."""
    return images.path(store, name)


def html(post: PostDetail, cached: Cached = refresh) -> str:
    """A post's HTML, from the cache as long as its content is the same."""
    digest = hashlib.blake2b(post.content.encode(), digest_size=16).hexdigest()
    return str(cached(f"html-{post.id}:{digest}", lambda: markdown.to_html(post.content)))


def _checked(title: str, content: str) -> dict[str, object]:
    title = one_line(title, "title", LONGEST_TITLE)
    if not title:
        raise InvalidValue("the title is empty")
    content = some_lines(content, "content", LONGEST_CONTENT)
    if not content.strip():
        raise InvalidValue("the post says nothing", "give --body TEXT or --body-file FILE")
    return {"title": title, "content": content}


def _now(db: Session) -> datetime:
    """The time once nobody else writes: no post of now is missed by who has looked for those published until now."""
    db.connection()
    return datetime.now(UTC)


def _insert(db: Session, values: dict[str, object]) -> int:
    """Make the post's row, under the first slug of its title that is free; its id."""
    slug = _slug(str(values["title"]))
    for number in count(2):
        row = insert(_P).values(values | {"slug": slug}).on_conflict_do_nothing(index_elements=["slug"])
        made = db.scalar(row.returning(_P.c.id))
        if made is not None:
            break
        slug = f"{_slug(str(values['title']))}-{number}"
    return int(made)


def _slug(title: str) -> str:
    """The title in a URL; never digits alone, which would be an id."""
    from slugify import slugify

    slug = slugify(title, max_length=LONGEST_SLUG, word_boundary=True)
    return f"post-{slug}".rstrip("-") if not slug or slug.isdigit() else slug


def _record(db: Session, actor: Actor, action: str, post: PostDetail) -> None:
    audit.record(db, actor, action, "post", post.id, post.title)


def _posts() -> Select[tuple[object, ...]]:
    return _with_author(select(_P))


def _infos() -> Select[tuple[object, ...]]:
    names = {field.name for field in fields(PostInfo)}
    return _with_author(select(*(column for column in _P.c if column.name in names)))


def _with_author(query: Select[tuple[object, ...]]) -> Select[tuple[object, ...]]:
    return query.add_columns(_U.c.name.label("author")).join(_U, _U.c.id == _P.c.author_id)


def _named(post: str) -> ColumnElement[bool]:
    if _ID.fullmatch(post):
        return _P.c.id == int(post)
    return _P.c.slug == post if _SLUG.fullmatch(post) else false()


def _find(db: Session, post: str, seen: ColumnElement[bool] | None = None) -> PostDetail:
    row = db.execute(_posts().where(_named(post), true() if seen is None else seen)).one_or_none()
    if row is None:
        raise NotFound(f"there is no post {post!r}", "see them: skychimp blog list")
    return _detail(row)


def _get(db: Session, chosen: ColumnElement[bool]) -> PostDetail:
    return _detail(db.execute(_posts().where(chosen)).one())


def _detail(row: Row[tuple[object, ...]]) -> PostDetail:
    return PostDetail(**{field.name: getattr(row, field.name) for field in fields(PostDetail)})
