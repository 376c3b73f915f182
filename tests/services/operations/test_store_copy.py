"""Test that a store can be copied to another database, whole or not at all."""

import io
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
import pytest
from conftest import create_user
from sqlalchemy import select
from support.contents import image_names
from support.queue_steps import claim, create_client, delete_client, open_mailing, record_intents, send
from support.sending import make_settings

from skychimp.delivery.sending.runner import send_due
from skychimp.errors import Conflict, Denied, StoreFailed, StoreHeld
from skychimp.models import Outcome, Role, metadata
from skychimp.permissions import OPERATOR, Actor
from skychimp.services.blog import images, posts
from skychimp.services.clients import suppressions
from skychimp.services.operations import backups, store_copy
from skychimp.services.operations.unknown_deliveries import Resolution
from skychimp.services.users import privacy
from skychimp.store import holds
from skychimp.store.copies import copying
from skychimp.store.database import Store
from skychimp.store.schema import open_store

if TYPE_CHECKING:
    from support.postgres import Server


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.postgres)])
def new_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of a place for a store."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    if request.param == "file":
        yield f"sqlite:///{tmp_path / 'copy.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    name = f"copy_{secrets.token_hex(6)}"
    server.create_database(name)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def full_store(store: Store) -> Store:
    """Return a store with rows in most tables, each text hard to copy."""
    ada, editor = create_user(store, "ada"), create_user(store, "editor", Role.EDITOR)
    create_client(
        store, ada, "zoë", tags=["vip", 'a "tag", \\N'], comment="two\nlines\tand a \\ backslash", bad_at=None
    )
    open_mailing(store, ada, "one", "two", "three", "four")
    claimed = claim(store, limit=3)
    send(store, 1, Outcome.SENT, claimed[0], reply="250 \u202e наоборот \\x00")
    send(store, 1, Outcome.DEFERRED, claimed[1])
    record_intents(store, 1, claimed[2])
    picture = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), "red").save(picture, "PNG")
    posts.create(store, editor, title="Hello", content="World", image=images.reencode(picture.getvalue()))
    newest = create_client(store, ada, "newest")
    delete_client(store, newest)
    new = [suppressions.new_suppression(name, note="по телефону") for name in ("gone@example.org", "@example.net")]
    suppressions.add(store, ada, new, topic="news")
    privacy.forget(store, ada, "gone@example.org")
    return store


def contents(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of a store but what a copy changes: the hold, and the entry in the audit trail."""
    with store.read() as db:
        tables = {
            table.name: sorted(map(tuple, db.execute(select(table))), key=repr) for table in metadata.sorted_tables
        }
    del tables["store_info"], tables["audit"]
    return tables


def test_copy_has_the_same_rows_and_images(full_store: Store, new_url: str) -> None:
    result = store_copy.copy_store(full_store, OPERATOR, new_url, None)
    with closing(open_store(new_url)) as copy:
        assert contents(copy) == contents(full_store)
        assert image_names(copy) == image_names(full_store) != []
    assert (result.clients, result.deliveries, result.attempts, result.images) == (5, 5, 2, 1)
    assert result.missing_images == []


@pytest.mark.postgres
def test_copy_from_a_server_to_a_file_and_back_is_the_same(
    full_store: Store, tmp_path: Path, postgres_server: "Server"
) -> None:
    path, name = f"sqlite:///{tmp_path / 'copy.db'}", f"back_{secrets.token_hex(6)}"
    postgres_server.create_database(name)
    store_copy.copy_store(full_store, OPERATOR, path, None)
    with closing(open_store(path)) as copy:
        store_copy.copy_store(copy, OPERATOR, postgres_server.url(name), None)
    with closing(open_store(postgres_server.url(name))) as back:
        assert contents(back) == contents(full_store)
        assert image_names(back) == image_names(full_store)


def test_ids_go_on_after_the_newest_ever(full_store: Store, new_url: str) -> None:
    """The client with the highest id was deleted. Its id is not used again: old deliveries may name it."""
    store_copy.copy_store(full_store, OPERATOR, new_url, None)
    ada = Actor(1, "ada@skychimp.test", Role.USER)
    with closing(open_store(new_url)) as copy:
        assert create_client(copy, ada, "next") == create_client(full_store, ada, "next")


def test_copy_sends_nothing_until_it_is_released(full_store: Store, new_url: str) -> None:
    store_copy.copy_store(full_store, OPERATOR, new_url, None)
    with closing(open_store(new_url)) as copy:
        with pytest.raises(StoreHeld, match="on hold as it is a copy"):
            send_due(copy, make_settings(25))
        assert backups.resume(copy, OPERATOR, Resolution.RESEND).to_send == 4
        with copy.read() as db:
            assert holds.why_held(db.connection()) is None


def test_existing_store_is_not_replaced(full_store: Store, new_url: str) -> None:
    store_copy.copy_store(full_store, OPERATOR, new_url, None)
    with pytest.raises(Conflict):
        store_copy.copy_store(full_store, OPERATOR, new_url, None)


def test_user_cannot_copy_the_store(full_store: Store, new_url: str) -> None:
    with pytest.raises(Denied):
        store_copy.copy_store(full_store, Actor(1, "ada@skychimp.test", Role.USER), new_url, None)


@pytest.mark.parametrize(
    "break_copy",
    [
        lambda rows: rows[:-1],
        lambda rows: [(*rows[0][:-1], "other"), *rows[1:]],
    ],
    ids=["a row is lost", "a value is changed"],
)
def test_copy_that_differs_is_no_store(
    full_store: Store, new_url: str, break_copy: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of it, so that the next try finds an empty place."""
    insert = copying._insert

    def insert_wrongly(db: object, table: object, rows: object) -> None:
        is_broken = getattr(table, "name", "") == "client_tag"
        insert(db, table, break_copy(rows) if is_broken else rows)  # type: ignore[arg-type]

    monkeypatch.setattr(copying, "_insert", insert_wrongly)
    with pytest.raises(StoreFailed, match="client_tag differs"):
        store_copy.copy_store(full_store, OPERATOR, new_url, None)
    monkeypatch.undo()
    store_copy.copy_store(full_store, OPERATOR, new_url, None)
