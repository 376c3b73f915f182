"""Build the blog as a static site in a folder (`skychimp blog build`)."""

import hashlib
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

from sqlalchemy import select

from skychimp import markdown
from skychimp.config.settings import Settings
from skychimp.errors import StoreFailed
from skychimp.models import tables
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.blog import images, posts
from skychimp.services.blog.posts import PostDetail
from skychimp.services.reporting import home
from skychimp.services.reporting.cache import Cached, refresh
from skychimp.shell import run_hint
from skychimp.site import folder, pages
from skychimp.site.folder import ReadContent
from skychimp.site.pages import Article, Figures, Picture, Site
from skychimp.store.database import Store
from skychimp.translation import tr


@dataclass(frozen=True)
class BuildResult:
    """The files that a build changed. Paths are relative to the folder."""

    folder: str
    posts: int
    written: list[str]
    removed: list[str]
    unchanged: int


def build(store: Store, actor: Actor, path: Path, settings: Settings, cached: Cached = refresh) -> BuildResult:
    """Write the published posts as a static site to a folder.

    Raises NotLoggedIn and Denied unless the actor may write posts, Conflict if the folder contains other files,
    StoreFailed if the file of an image is missing, InvalidValue if the path is not a folder, and SkychimpError.
    """
    posts.require_writer(actor)
    published = posts.published_posts(store, datetime.now(UTC))
    secret = _secret(store)
    public_home = home.home(store, ANONYMOUS, cached)
    site = Site(
        id=_permanent_id(secret, "the feed"),
        title=settings.blog.title,
        tagline=settings.blog.tagline,
        description=settings.blog.description,
        language=settings.blog.language,
        timezone=settings.mail.read_timezone(),
        url=settings.blog.url,
        figures=Figures(public_home.mailings, public_home.active_mailings, public_home.unique_clients),
        articles=[_article(store, post, secret, cached) for post in published],
    )
    pictures: dict[str, bytes | ReadContent] = {
        f"images/{post.image}": partial(images.read, store, post.image) for post in published if post.image
    }
    texts = {name: text.encode() for name, text in pages.render_site(site).items()}
    changes = folder.write_files(path, pictures | texts)
    return BuildResult(str(path), len(published), changes.written, changes.removed, changes.unchanged)


def _article(store: Store, post: PostDetail, secret: bytes, cached: Cached) -> Article:
    assert post.published_at is not None
    html = posts.render_html(post, cached)
    return Article(
        id=_permanent_id(secret, f"post {post.id} of {post.created_at.isoformat()}"),
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
        with Image.open(io.BytesIO(images.read(store, post.image))) as image:
            return Picture(post.image, *image.size)
    except OSError:
        hint = run_hint("blog", "update", post.slug, "--image", "FILE") + ", or use --no-image"
        raise StoreFailed(tr("cannot read the image of post {id}", id=post.id), hint) from None


def _secret(store: Store) -> bytes:
    with store.read() as db:
        return db.scalar(select(tables.store_info.c.secret)) or b""


def _permanent_id(secret: bytes, name: str) -> str:
    """Return an IRI that identifies a thing of this store and never changes (RFC 4287, section 4.2.6)."""
    return UUID(bytes=hashlib.blake2b(name.encode(), key=secret[:64], digest_size=16).digest(), version=4).urn
