"""`blog build`: the published posts and the home page's figures, as a folder of files."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from sqlalchemy import select

from skychimp import markdown
from skychimp.config.settings import Settings
from skychimp.errors import StoreFailed
from skychimp.models import StoreInfo
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.blog import posts
from skychimp.services.blog.posts import PostDetail
from skychimp.services.reporting import home
from skychimp.services.reporting.cache import Cached, refresh
from skychimp.site import folder, pages
from skychimp.site.pages import Article, Figures, Picture, Site
from skychimp.store.database import Store


@dataclass(frozen=True)
class Built:
    """What a build did; paths are relative to the folder."""

    folder: str
    posts: int
    written: list[str]
    removed: list[str]
    unchanged: int


def build(store: Store, actor: Actor, where: Path, settings: Settings, cached: Cached = refresh) -> Built:
    """Make the folder hold the blog as anyone sees it now, for who may write posts.

    Raises Conflict where the folder is somebody else's, StoreFailed without an image's file, InvalidValue,
    SkychimpError.
    """
    posts.require_writer(actor)
    published = posts.published(store, datetime.now(UTC))
    secret = _secret(store)
    seen = home.home(store, ANONYMOUS, cached)
    site = Site(
        id=_lasting_id(secret, "the feed"),
        title=settings.blog.title,
        tagline=settings.blog.tagline,
        description=settings.blog.description,
        language=settings.blog.language,
        timezone=settings.mail.timezone,
        url=settings.blog.url,
        figures=Figures(seen.mailings, seen.active_mailings, seen.unique_clients),
        articles=[_article(store, post, secret, cached) for post in published],
    )
    pictures: dict[str, bytes | Path] = {
        f"images/{post.image}": posts.image_path(store, post.image) for post in published if post.image
    }
    made = folder.write(where, pictures | {path: text.encode() for path, text in pages.render(site).items()})
    return Built(str(where), len(published), made.written, made.removed, made.unchanged)


def _article(store: Store, post: PostDetail, secret: bytes, cached: Cached) -> Article:
    assert post.published_at is not None
    html = posts.html(post, cached)
    return Article(
        id=_lasting_id(secret, f"post {post.id} of {post.created_at.isoformat()}"),
        slug=post.slug,
        title=post.title,
        author=post.author,
        html=html,
        excerpt=markdown.excerpt(post.content),
        picture=_picture(store, post),
        published_at=post.published_at,
        updated_at=max(post.updated_at, post.published_at),
    )


def _picture(store: Store, post: PostDetail) -> Picture | None:
    from PIL import Image

    if post.image is None:
        return None
    try:
        with Image.open(posts.image_path(store, post.image)) as image:
            return Picture(post.image, *image.size)
    except OSError:
        hint = f"give it anew: skychimp blog update {post.slug} --image FILE, or --no-image"
        raise StoreFailed(f"the image of post {post.id} can't be read", hint) from None


def _secret(store: Store) -> bytes:
    with store.read() as db:
        return db.scalar(select(StoreInfo.__table__.c.secret)) or b""


def _lasting_id(secret: bytes, name: str) -> str:
    """An IRI of its own for a thing of this store, that stays whatever is changed (RFC 4287, 4.2.6)."""
    return UUID(bytes=hashlib.blake2b(name.encode(), key=secret[:64], digest_size=16).digest(), version=4).urn
