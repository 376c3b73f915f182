"""Lists are read in pages: nothing is missing or repeated, whatever changes, and no transaction is open in between."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest
from conftest import create_user
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from skychimp.models import Client
from skychimp.permissions import Actor
from skychimp.services.listing import ListOptions, apply
from skychimp.services.paging import read_pages
from skychimp.store.database import Store
from skychimp.store.schema import create_store
from skychimp.store.sqlite import connect_file

_C = Client.__table__
SIZE = 3
SORTS = {"id": lambda row: row, "name": lambda row: (row[1], row[0]), "-name": lambda row: (-ord(row[1]), row[0])}
Row = tuple[int, str]


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with closing(create_store(f"sqlite:///{tmp_path_factory.mktemp('paging')}/skychimp.db")) as store:
        create_user(store, "ada")
        yield store


def fill(store: Store, names: Sequence[str]) -> list[Row]:
    with store.write() as db:
        db.execute(delete(_C))
    return [add(store, name) for name in names]


def add(store: Store, name: str) -> Row:
    with store.write() as db:
        client_id = db.scalar(select(_C.c.id).order_by(_C.c.id.desc()).limit(1)) or 0
        email = f"{client_id + 1}@example.org"
        values = {"owner_id": 1, "email": email, "address_key": email, "name": name, "comment": ""}
        return db.execute(insert(_C).values(values | {"created_at": store.now()}).returning(_C.c.id)).scalar_one(), name


def rename(store: Store, client_id: int, name: str) -> None:
    with store.write() as db:
        db.execute(update(_C).where(_C.c.id == client_id).values(name=name))


def remove(store: Store, client_id: int) -> None:
    with store.write() as db:
        db.execute(delete(_C).where(_C.c.id == client_id))


def pages(store: Store, options: ListOptions) -> Iterator[list[Row]]:
    rows = select(_C.c.id, _C.c.name)
    found = apply(rows, options, searched=(_C.c.name,), sorted_by={"id": _C.c.id, "name": _C.c.name})
    for page in read_pages(store, rows, found, limit=options.limit, size=SIZE):
        yield [(row.id, row.name) for row in page]


NAMES = st.sampled_from("abc")


@pytest.mark.sqlite
@given(
    names=st.lists(NAMES, max_size=12),
    sort=st.sampled_from(list(SORTS)),
    limit=st.none() | st.integers(0, 14),
    offset=st.integers(0, 14),
)
def test_pages_have_the_rows_of_the_list_in_order(
    shared_store: Store, names: list[str], sort: str, limit: int | None, offset: int
) -> None:
    rows = sorted(fill(shared_store, names), key=SORTS[sort])

    read = list(pages(shared_store, ListOptions(limit, offset, sort=sort)))

    assert [row for page in read for row in page] == rows[offset:][:limit]
    assert all(len(page) <= SIZE for page in read)


@pytest.mark.sqlite
@given(names=st.lists(NAMES, min_size=1, max_size=12), sort=st.sampled_from(list(SORTS)), data=st.data())
def test_row_that_exists_all_the_time_is_shown_once_while_rows_change(
    shared_store: Store, names: list[str], sort: str, data: st.DataObject
) -> None:
    lasting = {client_id for client_id, _ in fill(shared_store, names)}
    shown: list[int] = []
    changes: dict[str, Callable[[int, str], object]] = {
        "add": lambda _, name: add(shared_store, name),
        "rename": lambda client_id, name: rename(shared_store, client_id, name),
        "remove": lambda client_id, _: remove(shared_store, client_id),
    }

    for page in pages(shared_store, ListOptions(sort=sort)):
        shown += [client_id for client_id, _ in page]
        for change in data.draw(st.lists(st.sampled_from(list(changes)), max_size=3)):
            if lasting:
                chosen = data.draw(st.sampled_from(sorted(lasting)))
                changes[change](chosen, data.draw(NAMES))
                lasting -= {chosen} if change == "remove" else set()

    assert len(shown) == len(set(shown))
    assert lasting <= set(shown)


def test_row_that_is_deleted_before_its_page_is_read_is_left_out(store: Store, ada: Actor) -> None:
    rows = fill(store, "abcdefgh")
    reading = pages(store, ListOptions())
    first, second = next(reading), next(reading)

    remove(store, rows[-1][0])

    assert first + second + [row for page in reading for row in page] == rows[:-1]


@pytest.mark.sqlite
def test_no_transaction_is_open_between_pages(shared_store: Store) -> None:
    fill(shared_store, "abcdefgh")
    with closing(connect_file(shared_store.path)) as other:
        for page in pages(shared_store, ListOptions(sort="name")):
            assert page
            add(shared_store, "z")
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
