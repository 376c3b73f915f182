"""Write, publish and read blog posts. Editors write them; once published, anyone may read them."""

import hashlib
import re
from dataclasses import dataclass, fields, replace
from datetime import datetime
from itertools import chain, count

from sqlalchemy import ColumnElement, Connection, Row, Select, delete, exists, false, insert, or_, select, true, update

from skychimp import markdown
from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.listed import Listed
from skychimp.models import tables
from skychimp.permissions import Action, Actor, authorize, scope_of
from skychimp.services import audit, paging
from skychimp.services.blog import images
from skychimp.services.blog.images import Image
from skychimp.services.listing import ListOptions, apply, in_scope
from skychimp.services.reporting.cache import Cached, refresh
from skychimp.shell import run_hint
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.store.sql import Nullable
from skychimp.text import one_line, shortened, some_lines
from skychimp.translation import tr

_P = tables.post
_U = tables.user

LONGEST_TITLE = 200
LONGEST_CONTENT = 1_000_000
LONGEST_SLUG = 50

SORTED_BY = {
    "id": _P.c.id,
    "published_at": Nullable(_P.c.published_at),
    "title": _P.c.title,
    "views": _P.c.views,
    "created_at": _P.c.created_at,
    "updated_at": _P.c.updated_at,
}

_ID = re.compile(r"[0-9]{1,18}")
_SLUG = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True)
class PostInfo:
    """A post without its content.

    `published_at` is None for a draft; a post whose `published_at` is in the future publishes itself. `image` is the
    name of a file (see images.image_path). `revision` counts the changes of title, content and image. `author` is the
    author's name, or "" without one: email addresses are not published.
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
    """A post with its content in Markdown."""

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
    """Create a draft, or a post that is published now or `at` a time in the past or future.

    Raises InvalidValue, StoreFailed, NotLoggedIn and Denied.
    """
    authorize(actor, Action.WRITE_POSTS)
    values = _checked(title, content) | {
        "author_id": actor.user_id,
        "image": image.name if image else None,
        "views": 0,
        "revision": 1,
    }
    with store.write() as db:
        now = _locked_now(store, db)
        if image is not None:
            images.save(store, image)
        values |= {"created_at": now, "updated_at": now, "published_at": (at or now) if publish else None}
        post = _get(db, _P.c.id == _insert_post(db, values))
        _record(db, actor, "create", post)
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
    expected_revision: int | None = None,
) -> PostDetail:
    """Change the given parts of a post. Its slug stays, so that links to it keep working.

    Raises NotFound, InvalidValue, StoreFailed, NotLoggedIn and Denied, and Conflict if the post no longer has the
    `expected_revision`.
    """
    writable = _writable(actor)
    with store.write() as db:
        old = _find(db, post, writable)
        if expected_revision not in (None, old.revision):
            raise Conflict(tr("somebody else has changed post {id}", id=old.id), run_hint("blog", "show", old.slug))
        values = _checked(old.title if title is None else title, old.content if content is None else content)
        values["image"] = image.name if image else None if no_image else old.image
        if image is not None:
            images.save(store, image)
        if values != {name: getattr(old, name) for name in values}:
            values |= {"revision": old.revision + 1, "updated_at": store.now()}
            db.execute(update(_P).where(_P.c.id == old.id).values(values))
            _record(db, actor, "update", old)
        changed = _get(db, _P.c.id == old.id)
    if changed.image != old.image:
        images.remove_unused(store)
    return changed


def publish(store: Store, actor: Actor, post: str, at: datetime | None = None) -> PostDetail:
    """Publish a post now, or `at` a time in the past or future. Without a time, leave a published post as it is.

    Raises NotFound, NotLoggedIn and Denied.
    """
    writable = _writable(actor)
    with store.write() as db:
        now = _locked_now(store, db)
        old = _find(db, post, writable)
        if at is None and old.published_at is not None and old.published_at <= now:
            return old
        return _set_published_at(db, actor, "publish", old, at or now)


def unpublish(store: Store, actor: Actor, post: str) -> PostDetail:
    """Turn a post into a draft again. Raises NotFound, NotLoggedIn and Denied."""
    writable = _writable(actor)
    with store.write() as db:
        return _set_published_at(db, actor, "unpublish", _find(db, post, writable), None)


def remove(store: Store, actor: Actor, post: str) -> PostDetail:
    """Delete a post, and its image unless another post uses it. Raises NotFound, NotLoggedIn and Denied."""
    writable = _writable(actor)
    with store.write() as db:
        removed = _find(db, post, writable)
        db.execute(delete(_P).where(_P.c.id == removed.id))
        _record(db, actor, "delete", removed)
    if removed.image is not None:
        images.remove_unused(store)
    return removed


def require_writer(actor: Actor) -> None:
    """Raise NotLoggedIn or Denied unless the actor may write posts."""
    authorize(actor, Action.WRITE_POSTS)


def find(store: Store, actor: Actor, post: str) -> PostDetail:
    """Return a post by id or slug for its editor, without counting a view. Raises NotFound, NotLoggedIn and Denied."""
    writable = _writable(actor)
    with store.read() as db:
        return _find(db, post, writable)


def view(store: Store, actor: Actor, post: str) -> PostDetail:
    """Return a post by id or slug for a reader, and count a view if it is published.

    Unpublished posts are shown only to those who may write posts. Raises NotFound.
    """
    is_published = _P.c.published_at <= store.now()
    scope = scope_of(actor, Action.WRITE_POSTS)
    is_writable = false() if scope is None else in_scope(scope, actor, _P.c.author_id)
    with store.write() as db:
        db.execute(update(_P).where(_is_named(post), is_published).values(views=_P.c.views + 1))
        return _find(db, post, or_(is_published, is_writable))


def list_posts(store: Store, actor: Actor, options: ListOptions, *, unpublished: bool = False) -> Listed[PostInfo]:
    """Return the published posts, or all posts if `unpublished`; the newest first unless `options` sort them.

    Raises InvalidValue, and NotLoggedIn or Denied for unpublished posts.
    """
    rows = _select_infos().where(_writable(actor) if unpublished else _P.c.published_at <= store.now())
    options = replace(options, sort=options.sort or "-published_at")
    found = apply(rows, options, searched=(_P.c.title, _P.c.content), sorted_by=SORTED_BY)
    return paging.read_list(store, rows, found, options, lambda page: (PostInfo(**row._mapping) for row in page))


def published_posts(store: Store, now: datetime, *, since: datetime | None = None) -> list[PostDetail]:
    """Return the posts published up to `now` and, if given, after `since`; the newest first."""
    query = _select_details().where(_P.c.published_at <= now, true() if since is None else _P.c.published_at > since)
    with store.read() as db:
        return [_detail(row) for row in db.execute(query.order_by(_P.c.published_at.desc(), _P.c.id.desc()))]


def posts_by_id(db: Connection, ids: list[int]) -> list[PostInfo]:
    """Return the posts with these ids in the order of the ids. Leave out those that do not exist."""
    posts = {row.id: PostInfo(**row._mapping) for row in db.execute(_select_infos().where(_P.c.id.in_(ids)))}
    return [posts[post_id] for post_id in ids if post_id in posts]


def render_html(post: PostDetail, cached: Cached = refresh) -> str:
    """Return a post's content as HTML, from the cache if the content has not changed."""
    digest = hashlib.blake2b(post.content.encode(), digest_size=16).hexdigest()
    return str(cached(f"html-{post.id}:{digest}", lambda: markdown.to_html(post.content)))


def _checked(title: str, content: str) -> dict[str, object]:
    title = one_line(title, "title", LONGEST_TITLE)
    if not title:
        raise InvalidValue(tr("the title is empty"), tr("use --title"))
    content = some_lines(content, "content", LONGEST_CONTENT)
    markdown.require_little_markup(content, "content")
    if not content.strip():
        raise InvalidValue(tr("the post has no content"), tr("use --body or --body-file"))
    return {"title": title, "content": content}


def _locked_now(store: Store, db: Session) -> datetime:
    """Return the time after the write lock is taken.

    A post that is published now can't be missed by a process that has just read all posts published until now.
    """
    db.connection()
    return store.now()


def _insert_post(db: Session, values: dict[str, object]) -> int:
    """Insert a post under the first free slug of its title, and return its id."""
    slug = _slug(str(values["title"]))
    db.connection()  # takes the write lock, so that nobody else can take the slug meanwhile
    slugs = chain([slug], (f"{slug}-{number}" for number in count(2)))
    free = next(each for each in slugs if not db.scalar(select(exists().where(_P.c.slug == each))))
    return int(db.execute(insert(_P).values(values | {"slug": free}).returning(_P.c.id)).scalar_one())


def _slug(title: str) -> str:
    """Return the title as part of a URL; never only digits, which would be an id."""
    from slugify import slugify

    slug = slugify(title, max_length=LONGEST_SLUG, word_boundary=True)
    return f"post-{slug}".rstrip("-") if not slug or slug.isdigit() else slug


def _set_published_at(db: Session, actor: Actor, action: str, post: PostDetail, at: datetime | None) -> PostDetail:
    db.execute(update(_P).where(_P.c.id == post.id).values(published_at=at))
    _record(db, actor, action, post)
    return _get(db, _P.c.id == post.id)


def _record(db: Session, actor: Actor, action: str, post: PostDetail) -> None:
    audit.record(db, actor, action, "post", post.id, post.title)


def _select_details() -> Select[tuple[object, ...]]:
    return _with_author(select(_P))


def _select_infos() -> Select[tuple[object, ...]]:
    names = {field.name for field in fields(PostInfo)}
    return _with_author(select(*(column for column in _P.c if column.name in names)))


def _with_author(query: Select[tuple[object, ...]]) -> Select[tuple[object, ...]]:
    return query.add_columns(_U.c.name.label("author")).join(_U, _U.c.id == _P.c.author_id)


def _is_named(post: str) -> ColumnElement[bool]:
    """Return the condition that a row is the post with this id or slug."""
    if _ID.fullmatch(post):
        return _P.c.id == int(post)
    return _P.c.slug == post if _SLUG.fullmatch(post) else false()


def _writable(actor: Actor) -> ColumnElement[bool]:
    """Return the condition of the posts that the actor may write. Raises NotLoggedIn and Denied."""
    return in_scope(authorize(actor, Action.WRITE_POSTS), actor, _P.c.author_id)


def _find(db: Session, post: str, is_visible: ColumnElement[bool]) -> PostDetail:
    row = db.execute(_select_details().where(_is_named(post), is_visible)).one_or_none()
    if row is None:
        is_plain = _ID.fullmatch(post) or _SLUG.fullmatch(post)
        raise NotFound(
            tr("post {post} not found", post=post if is_plain else shortened(post)), run_hint("blog", "list")
        )
    return _detail(row)


def _get(db: Session, condition: ColumnElement[bool]) -> PostDetail:
    return _detail(db.execute(_select_details().where(condition)).one())


def _detail(row: Row[tuple[object, ...]]) -> PostDetail:
    return PostDetail(**{field.name: getattr(row, field.name) for field in fields(PostDetail)})
