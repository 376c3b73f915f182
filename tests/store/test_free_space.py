"""Deleted rows are found in free pages and in the gaps of used ones, and rows that are still there are not."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from skychimp.store import free_space, sqlite

NUMBER = 800


def make_file(folder: Path, secure_delete: str) -> tuple[Path, Any]:
    file = folder / "people.db"
    db = sqlite.driver().connect(file, isolation_level=None)
    db.execute(f"PRAGMA secure_delete = {secure_delete}")
    db.execute("CREATE TABLE person (id INTEGER PRIMARY KEY, email TEXT UNIQUE)")
    db.executemany("INSERT INTO person VALUES (?, ?)", ((n, f"p{n * 7919 % NUMBER:05}@x") for n in range(NUMBER)))
    return file, db


@pytest.mark.parametrize("secure_delete", ["OFF", "ON"])
@pytest.mark.parametrize("first", [1, 0], ids=["some rows", "all rows, and so their pages"])
def test_deleted_row_is_found_unless_it_was_overwritten(tmp_path: Path, secure_delete: str, first: int) -> None:
    file, db = make_file(tmp_path, secure_delete)
    with closing(db):
        db.execute("DELETE FROM person WHERE id % 2 >= ?", (first,))
    deleted = [f"p{n * 7919 % NUMBER:05}@x".encode() for n in range(1, NUMBER, 2)]
    found = [text for text in deleted if free_space.contains(file, [text])]
    if secure_delete == "OFF":
        assert len(found) > len(deleted) / 2
    else:
        assert len(found) < len(deleted) / 100  # SQLite leaves a few in pages that it had to split


def test_row_that_is_still_there_is_not_found(tmp_path: Path) -> None:
    file, db = make_file(tmp_path, "ON")
    db.execute("VACUUM")
    db.close()
    assert b"p00007@x" in file.read_bytes()
    assert not free_space.contains(file, [f"p{n:05}@x".encode() for n in range(NUMBER)])
