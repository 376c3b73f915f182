"""Describe the blog's posts, and the posts that digests have sent."""

from datetime import datetime

from skychimp.models import tables
from skychimp.models.objects import Table


class Post(Table, table=True):
    """A blog post. It is published from `published_at` on, and a draft if that is None."""

    __table__ = tables.post
    id: int | None = None
    author_id: int
    slug: str
    title: str
    content: str
    image: str | None = None
    """The name of a file in the image folder: the hash of its content."""
    views: int = 0
    revision: int = 1
    """The number of changes to title, content and image."""
    created_at: datetime
    updated_at: datetime
    published_at: datetime | None = None


class DigestPost(Table, table=True):
    """A post that a digest mailing leaves out from now on.

    `occurrence_id` is the occurrence that contains it, or None for a post that was too old for the first digest.
    """

    __table__ = tables.digest_post
    mailing_id: int
    post_id: int
    occurrence_id: int | None = None
