"""Copy the store to another database: from a file to a server, or back."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from sqlalchemy import Connection, select

from skychimp.config.locations import hide_password
from skychimp.errors import StoreNotReady
from skychimp.models import tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.blog import images
from skychimp.services.blog.images import Image
from skychimp.services.operations import integrity
from skychimp.shell import run_hint
from skychimp.store import holds, schema
from skychimp.store.copies import copying
from skychimp.store.copies.copying import Progress
from skychimp.store.database import Store
from skychimp.store.sqlite import SqliteStore
from skychimp.translation import tr

COPIED = "copy the store"
"""The action in the audit trail."""

_P = tables.post


@dataclass(frozen=True)
class CopiedStore:
    """A copy of a store, which is on hold: what it contains, and the names of images that are missing."""

    store: str
    clients: int
    mailings: int
    deliveries: int
    attempts: int
    posts: int
    images: int
    missing_images: list[str]


def copy_store(
    store: Store, actor: Actor, url: str, password: str | None, progress: Progress = lambda done, total: None
) -> CopiedStore:
    """Copy a store to a new one, completely or not at all. The copy is on hold.

    Raises NotLoggedIn, Denied, StoreNotReady if the store is damaged or the new place is not suitable, Conflict if it
    has a store already, and StoreFailed.
    """
    authorize(actor, Action.BACK_UP_STORE)
    if isinstance(store, SqliteStore) and any(integrity.find_damage(store.path)):
        raise StoreNotReady(tr("the store is damaged"), run_hint("store", "check"))
    with store.write() as db:
        audit.record(db, actor, COPIED, "store_info", 1, hide_password(url))
    rows: dict[str, int] = {}
    missing: list[str] = []
    with store.read() as db:
        names = db.scalars(select(_P.c.image).where(_P.c.image.is_not(None)).distinct()).all()

        def fill(target: Connection) -> None:
            rows.update(copying.copy_rows(db.connection(), target, progress))
            holds.hold(target, holds.AFTER_COPY, store.now(), blind=True)
            images.save_new(url, target, _read_images(store, names, missing))

        copy = schema.create_store(url, password, fill)
    with closing(copy):
        return CopiedStore(
            copy.name,
            rows["client"],
            rows["mailing"],
            rows["delivery"],
            rows["attempt"],
            rows["post"],
            len(names) - len(missing),
            missing,
        )


def _read_images(store: Store, names: Sequence[str], missing: list[str]) -> Iterator[Image]:
    """Yield the images with these names, one at a time, and add the names of those that are missing to the list."""
    for name in names:
        data = images.find(store, name)
        if data is None:
            missing.append(name)
        else:
            yield Image(name, data)
