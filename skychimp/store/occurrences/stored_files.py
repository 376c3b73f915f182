"""Keep the content of attachments and inline pictures, each once. Part of the caller's transaction."""

import hashlib
from collections.abc import Collection, Mapping

from sqlalchemy import Connection, delete, exists, or_, select

from skychimp.models import tables
from skychimp.store.sql import insert_or

_F = tables.stored_file
_USERS = (
    tables.message.c.attachments,
    tables.message_variant.c.attachments,
    tables.occurrence.c.attachments,
    tables.occurrence.c.variants,
    tables.content.c.attachments,
    tables.content.c.variants,
)
"""The columns with lists of files."""


def add(db: Connection, contents: Mapping[str, bytes]) -> None:
    """Add files by their hashes, unless they are there already."""
    for sha256, content in contents.items():
        db.execute(insert_or(_F).values(sha256=sha256, content=content).on_conflict_do_nothing())


def read(db: Connection, hashes: Collection[str]) -> dict[str, bytes]:
    """Return the files with these hashes. One that is missing or damaged is left out."""
    if not hashes:
        return {}
    found = db.execute(select(_F.c.sha256, _F.c.content).where(_F.c.sha256.in_(hashes)))
    return {sha256: content for sha256, content in found if hashlib.sha256(content).hexdigest() == sha256}


def remove_unused(db: Connection, hashes: Collection[str]) -> None:
    """Remove those of these files that no message, no variant and no occurrence has.

    The transaction must have the store's lock, so that nobody begins to use one meanwhile.
    """
    for sha256 in hashes:
        uses = (exists().where(column.contains(sha256)) for column in _USERS)
        if not db.scalar(select(or_(*uses))):
            db.execute(delete(_F).where(_F.c.sha256 == sha256))
