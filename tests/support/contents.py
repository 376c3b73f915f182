"""Look at everything that a store contains: rows, files and images, whatever database it is in."""

from sqlalchemy import column, delete, select, table

from skychimp.models import metadata
from skychimp.services.blog import images
from skychimp.store.database import SQLITE, Store


def rows_with(store: Store, text: str) -> list[str]:
    """Return the rows of all tables that contain a text, in upper or lower case."""
    with store.read() as db:
        tables = {each.name: db.execute(select(each)).all() for each in metadata.sorted_tables}
    rows = [f"{name}: {tuple(row)!r}" for name, content in tables.items() for row in content]
    return [row for row in rows if text.lower() in row.lower()]


def contains(store: Store, text: str) -> bool:
    """Return whether a text is in a row or, if the store is a file, anywhere in its files."""
    return bool(rows_with(store, text)) or text.lower().encode() in bytes_of(store)


def bytes_of(store: Store) -> bytes:
    """Return the content of the store's files in lower case, nothing if it is on a server."""
    if store.dialect != SQLITE:
        return b""
    paths = store.path.parent.glob(f"{store.path.name}*")
    return b"".join(path.read_bytes() for path in paths if path.is_file()).lower()


_IMAGE = table("image", column("name"))


def image_names(store: Store) -> list[str]:
    """Return the names of the stored images, and of all else in the folder of a store in a file."""
    if store.dialect == SQLITE:
        folder = images.image_folder(store)
        return sorted(file.name for file in folder.iterdir()) if folder.exists() else []
    with store.read() as db:
        return sorted(db.execute(select(_IMAGE.c.name)).scalars())


def lose_image(store: Store, name: str) -> None:
    """Remove a stored image although a post uses it."""
    if store.dialect == SQLITE:
        images.image_path(store, name).unlink()
        return
    with store.write() as db:
        db.execute(delete(_IMAGE).where(_IMAGE.c.name == name))
