"""The blog: posts that anyone may read once they are published, and that editors write."""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Row, Select, select, true

from skychimp.models import Post, User
from skychimp.services import images
from skychimp.store.engine import Store

_P = Post.__table__
_U = User.__table__

_SAFE_LINK = re.compile(r"(https?:|mailto:|(?![^/?#]*:))", re.IGNORECASE)


@dataclass(frozen=True)
class PostDetail:
    """`published_at` None is a draft, one to come a post that publishes itself; `image` names a file (image_path).

    `author` is the author's name, "" where there is none: an address is nobody's business.
    """

    id: int
    slug: str
    title: str
    content: str
    image: str | None
    views: int
    created_at: datetime
    updated_at: datetime
    published_at: datetime | None
    revision: int
    author: str


def published(store: Store, now: datetime, *, since: datetime | None = None) -> list[PostDetail]:
    """The posts that are published by `now`, and after `since` if given; the newest first."""
    query = _posts().where(_P.c.published_at <= now, true() if since is None else _P.c.published_at > since)
    with store.read() as session:
        return [_detail(row) for row in session.execute(query.order_by(_P.c.published_at.desc(), _P.c.id.desc()))]


def image_path(store: Store, name: str) -> Path:
    """Where a post's image lies: a PNG, JPEG or WebP file, as its suffix says. Raises StoreFailed."""
    return images.path(store, name)


def html_of(content: str) -> str:
    """A post's Markdown as HTML: raw HTML in it is shown, not obeyed; links go to http, https and mailto alone."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    markdown.validateLink = lambda url: _SAFE_LINK.match(url) is not None  # type: ignore[method-assign]
    return str(markdown.render(content))


def _posts() -> Select[tuple[object, ...]]:
    return select(_P, _U.c.name.label("author")).join(_U, _U.c.id == _P.c.author_id)


def _detail(row: Row[tuple[object, ...]]) -> PostDetail:
    return PostDetail(**{name: getattr(row, name) for name in PostDetail.__dataclass_fields__})
