"""Posts, and which of them digests have told of."""

from datetime import datetime

from sqlalchemy import Column, ForeignKey
from sqlmodel import Field

from skychimp.models.base import Table


class Post(Table, table=True):
    """A blog article; published from `published_at` on, a draft without it."""

    __tablename__ = "post"
    id: int | None = Field(default=None, primary_key=True)
    author_id: int = Field(foreign_key="user.id", index=True)
    slug: str = Field(unique=True)
    title: str
    content: str
    image: str | None = Field(default=None, index=True)
    """The file's name in the folder of images: its content's hash."""
    views: int = 0
    revision: int = 1
    """Counts the changes of title, content and image."""
    created_at: datetime
    updated_at: datetime
    published_at: datetime | None = Field(default=None, index=True)


class DigestPost(Table, table=True):
    """A post that a digest need not tell of: that occurrence of the mailing told of it, or it is too old for any."""

    __tablename__ = "digest_post"
    mailing_id: int = Field(foreign_key="mailing.id", primary_key=True)
    post_id: int = Field(sa_column=Column(ForeignKey("post.id", ondelete="CASCADE"), primary_key=True, index=True))
    occurrence_id: int | None = Field(default=None, foreign_key="occurrence.id")
