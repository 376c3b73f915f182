"""Define the tables of the blog's posts, and of the posts that digests have sent."""

from datetime import datetime

from sqlalchemy import Column, ForeignKey
from sqlmodel import Field

from skychimp.models.base import Table


class Post(Table, table=True):
    """A blog post. It is published from `published_at` on, and a draft if that is None."""

    __tablename__ = "post"
    id: int | None = Field(default=None, primary_key=True)
    author_id: int = Field(foreign_key="user.id", index=True)
    slug: str = Field(unique=True)
    title: str
    content: str
    image: str | None = Field(default=None, index=True)
    """The name of a file in the image folder: the hash of its content."""
    views: int = 0
    revision: int = 1
    """The number of changes to title, content and image."""
    created_at: datetime
    updated_at: datetime
    published_at: datetime | None = Field(default=None, index=True)


class DigestPost(Table, table=True):
    """A post that a digest mailing leaves out from now on.

    `occurrence_id` is the occurrence that contains it, or None for a post that was too old for the first digest.
    """

    __tablename__ = "digest_post"
    mailing_id: int = Field(foreign_key="mailing.id", primary_key=True)
    post_id: int = Field(sa_column=Column(ForeignKey("post.id", ondelete="CASCADE"), primary_key=True, index=True))
    occurrence_id: int | None = Field(default=None, foreign_key="occurrence.id")
