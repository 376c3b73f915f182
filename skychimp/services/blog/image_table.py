"""Keep the images of posts in the database, for a store that several machines use. `images` has the rules."""

from sqlalchemy import Connection

from skychimp.store.postgres.server import PostgresStore


def save(store: PostgresStore, name: str, data: bytes) -> None:
    """Add an image, unless it is there already."""
    with store.translate_errors(), store.connect_autocommit() as db:
        add(db, name, data)


def add(db: Connection, name: str, data: bytes) -> None:
    """Do what `save` does, as part of the caller's transaction."""
    db.exec_driver_sql("INSERT INTO image (name, content) VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, data))


def read(store: PostgresStore, name: str) -> bytes | None:
    """Return an image, None if there is none with that name."""
    with store.translate_errors(), store.connect_autocommit() as db:
        content: bytes | None = db.exec_driver_sql("SELECT content FROM image WHERE name = %s", (name,)).scalar()
        return content


def remove_unused(db: Connection) -> None:
    """Remove the images that no post uses. Part of the caller's transaction."""
    db.exec_driver_sql("DELETE FROM image WHERE NOT EXISTS (SELECT FROM post WHERE post.image = image.name)")
