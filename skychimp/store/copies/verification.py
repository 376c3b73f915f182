"""Verify that a file is an intact store that contains only what Skychimp creates.

A file from elsewhere is not trusted. A trigger in it would run at the next login, and a view or an index could run
functions when it is read. So its schema is compared with ours before any other statement is executed on it.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Boolean, Integer, LargeBinary, Table
from sqlalchemy.sql.schema import Column

from skychimp.errors import StoreNotReady
from skychimp.models import metadata
from skychimp.models.base import UtcDateTime
from skychimp.store import schema, sqlite, sqlite_errors
from skychimp.store.migrations import revisions
from skychimp.store.sqlite import translate_db_errors
from skychimp.text import count_of, shortened
from skychimp.translation import Phrase, joined, tr, verbatim

CREATE_IMAGES = "CREATE TABLE image (name TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID"
"""The table of images, which a backup has in addition to the tables of a store."""

_OTHER_BACKUP = tr("use another backup")
_IS_INVALID_SEQUENCE = "typeof(name) != 'text' OR typeof(seq) != 'integer' OR seq NOT BETWEEN 0 AND 1 << 62"
_IS_INVALID_IMAGE = "typeof(name) != 'text' OR name GLOB '*[^0-9a-z.]*' OR typeof(content) != 'blob'"

_NAMED = 5
"""How many differences an error names."""


class InvalidValues(NamedTuple):
    """A column with values that Skychimp never writes, such as a time that is none."""

    table: str
    column: str
    number: int
    ids: list[int]


def require_no_damage(path: Path) -> None:
    """Raise StoreNotReady if SQLite finds damage in a store that is not in use, or a row refers to a missing one."""
    schema.require_store(path)
    problem = next(find_damage(path), None)
    if problem is not None:
        raise StoreNotReady(tr("{path} is damaged: {problem}", path=path, problem=problem), _OTHER_BACKUP)


def require_valid_values(path: Path) -> None:
    """Raise StoreNotReady if a store of the newest revision has values that Skychimp never writes."""
    for invalid in find_invalid_values(path):
        message = tr(
            "{path} is damaged: invalid {column} in {rows} of {table}",
            path=path,
            column=invalid.column,
            rows=count_of(invalid.number, "row"),
            table=invalid.table,
        )
        raise StoreNotReady(message, _OTHER_BACKUP)


def require_our_schema(path: Path, hint: Phrase = _OTHER_BACKUP) -> None:
    """Raise StoreNotReady if the file has another schema than a store of its revision, or is of a newer one."""
    differences = find_differences(path)
    if differences:
        named = joined(", ", differences[:_NAMED])
        if len(differences) > _NAMED:
            named = tr("{differences} and {more} more", differences=named, more=len(differences) - _NAMED)
        raise StoreNotReady(tr("{path} is not a valid store: {differences}", path=path, differences=named), hint)


def find_differences(path: Path) -> list[Phrase]:
    """Return how the schema of a store differs from ours, such as `unknown trigger "x"`; [] if it does not.

    Raises StoreNotReady if the file is damaged, or was made by a newer Skychimp.
    """
    with contextlib.closing(open_untrusted(path)) as store, _as_damage(path):
        store.execute("BEGIN")  # what is checked and the revision belong to the same moment
        found = _read_schema(store.execute)
        if _REVISION_TABLE not in found.items():
            return [tr("unknown revision")]
        rows = store.execute("SELECT version_num FROM alembic_version").fetchmany(2)
    if len(rows) != 1:
        return [tr("unknown revision")]
    revision = str(rows[0][0])
    if revision not in revisions.known_revisions():
        raise revisions.newer_store(str(path), revision)
    return list(_differences(found, _expected_schema(revision)))


def open_untrusted(path: Path) -> Any:
    """Return a connection of the driver for reading a file that may come from anybody."""
    with translate_db_errors(path):
        connection = sqlite.connect_file(path)
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON"):
            connection.execute(f"PRAGMA {pragma}")
    with contextlib.suppress(AttributeError):  # before Python 3.12, and in pysqlite3
        connection.setconfig(sqlite.driver().SQLITE_DBCONFIG_DEFENSIVE, True)
    return connection


# Damage


def find_damage(path: Path) -> Iterator[Phrase]:
    """Yield what SQLite finds wrong with a store: broken pages and indexes, and rows that refer to missing rows."""
    with contextlib.closing(open_untrusted(path)) as store, _as_damage(path):
        yield from _damage(store)


def find_invalid_values(path: Path) -> Iterator[InvalidValues]:
    """Yield the columns of a store of the newest revision that have values which Skychimp never writes.

    SQLite itself checks neither the types of values nor that a text is UTF-8.
    """
    with contextlib.closing(open_untrusted(path)) as store, _as_damage(path):
        for table in metadata.sorted_tables:
            for column in table.columns:
                yield from _wrong_types(store, column)
            yield from _undecodable_texts(store, table)
        yield from _invalid_rows(store, "sqlite_sequence", "seq", _IS_INVALID_SEQUENCE)
        if store.execute("SELECT 1 FROM sqlite_master WHERE name = 'image'").fetchone():
            yield from _invalid_rows(store, "image", "name", _IS_INVALID_IMAGE)


def _wrong_types(store: Any, column: Column[Any]) -> Iterator[InvalidValues]:
    table, condition = column.table, _is_invalid(column)
    for invalid in _invalid_rows(store, table.name, column.name, condition):
        some = f'SELECT id FROM "{table.name}" WHERE {condition} LIMIT 5'  # noqa: S608
        yield invalid._replace(ids=[row[0] for row in store.execute(some)] if "id" in table.columns else [])


def _invalid_rows(store: Any, table: str, column: str, condition: str) -> Iterator[InvalidValues]:
    number = store.execute(f'SELECT count(*) FROM "{table}" WHERE {condition}').fetchone()[0]  # noqa: S608
    if number:
        yield InvalidValues(table, column, number, [])


def _undecodable_texts(store: Any, table: Table) -> Iterator[InvalidValues]:
    """Yield the columns of a table that have a text which is not UTF-8. The driver decodes every text."""
    names = [column.name for column in table.columns if _is_text(column)]
    if not names or _can_decode(store, table, names):
        return
    for name in names:
        if not _can_decode(store, table, [name]):
            yield InvalidValues(table.name, name, 1, [])


def _can_decode(store: Any, table: Table, names: Iterable[str]) -> bool:
    columns = ", ".join(f'"{name}"' for name in names)
    try:
        for _ in store.execute(f'SELECT {columns} FROM "{table.name}"'):  # noqa: S608
            pass
    except (sqlite.driver().OperationalError, UnicodeDecodeError) as error:
        if sqlite_errors.result_code(error) not in (0, sqlite_errors.ERROR):
            raise
        return False
    return True


def _damage(store: Any) -> Iterator[Phrase]:
    try:
        found = [str(row[0]) for row in store.execute("PRAGMA integrity_check(20)")]
        problems = [verbatim(line) for text in found for line in text.splitlines() if not line.startswith("***")]
    except sqlite.driver().Error as error:  # too damaged even for the check
        if sqlite_errors.is_busy(error):
            raise
        problems = [sqlite_errors.reason(error)]
    if problems != ["ok"]:
        yield from problems
        return
    for table, row, parent, _ in store.execute("PRAGMA foreign_key_check"):
        yield tr("row {row} of {table} refers to a missing {other_table}", row=row, table=table, other_table=parent)


def _is_invalid(column: Column[Any]) -> str:
    """Return the condition that a value is not of the column's type. Values of enums have a CHECK constraint."""
    name = f'"{column.name}"'
    if isinstance(column.type, UtcDateTime):
        # SQLite reads 31 February as 3 March, and Python refuses it.
        is_time = f"strftime('%Y-%m-%d %H:%M:%S', {name}) IS substr({name}, 1, 19)"
        has_fraction = f"length({name}) <= 26 AND substr({name}, 20) NOT GLOB '*[^.0-9]*'"
        is_valid = f"date({name}) IS {name} OR ({is_time} AND {has_fraction})"
        return f"{name} IS NOT NULL AND NOT (typeof({name}) = 'text' AND ({is_valid}))"
    kinds = {Integer: "integer", Boolean: "integer", LargeBinary: "blob"}
    kind = next((kind for sql_type, kind in kinds.items() if isinstance(column.type, sql_type)), "text")
    return f"typeof({name}) NOT IN ('{kind}', 'null')"


def _is_text(column: Column[Any]) -> bool:
    return not isinstance(column.type, Integer | Boolean | LargeBinary | UtcDateTime)


@contextlib.contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """Raise StoreNotReady for everything that SQLite cannot read in a file, but not if it is locked."""
    try:
        yield
    except (sqlite.driver().Error, UnicodeDecodeError) as error:
        if sqlite_errors.is_busy(error):
            raise sqlite.store_error(path, verbatim(str(error)), sqlite_errors.result_code(error)) from error
        raise StoreNotReady(
            tr("{path} is damaged: {reason}", path=path, reason=sqlite_errors.reason(error)), _OTHER_BACKUP
        ) from error


# The schema

_Schema = Mapping[tuple[str, str, str], tuple[str, ...]]
"""Tables, indexes, triggers and views by kind, name, and the table that they belong to: the parts of their SQL."""

_READ_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL"
_SPACES = " \t\n\f\r"
_WORD = re.compile(rf"""[{_SPACES}]+|'(?:[^']|'')*'|"(?:[^"]|"")*"|\w+|.""", re.DOTALL | re.ASCII)
"""The words of SQL. In SQLite only ASCII has upper and lower case, and spaces."""

_PLAIN_NAME = re.compile(r'"[a-z_][a-z0-9_]*"')
_CONSTRAINT_WORDS = {"constraint", "primary", "unique", "check", "foreign"}
_VALUE_WORDS = {"null", "true", "false", "current_date", "current_time", "current_timestamp"}
"""Words that mean something else without quotes."""


def _read_schema(execute: Any) -> _Schema:
    """Read the schema. Of several objects with the same name, all definitions are kept, as SQLite may use any.

    SQLite would also run a definition that is a blob. It appears here as `b'...'`, which is never ours.
    """
    found: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for row in execute(_READ_SCHEMA):
        kind, name, table, sql = map(str, row)
        found[kind, name, table] = found.get((kind, name, table), ()) + _parts(kind, sql)
    return found


@cache
def _expected_schema(revision: str) -> _Schema:
    """Return the schema that the migrations create. A restore needs it twice, and making it takes most of the time."""
    engine = sqlite.make_engine(Path(":memory:"))
    try:
        with engine.connect() as db, db.begin():
            revisions.migrate(db, revision)
            return _read_schema(db.exec_driver_sql)
    finally:
        engine.dispose()


def _differences(found: _Schema, expected: _Schema) -> Iterator[Phrase]:
    for key in sorted(found.keys() - expected.keys()):
        if found[key] != _OPTIONAL.get(key):
            yield tr("unknown {object}", object=_describe(key))
    for key in sorted(expected.keys() - found.keys()):
        yield tr("missing {object}", object=_describe(key))
    for key in sorted(expected.keys() & found.keys()):
        if found[key] != expected[key]:
            yield tr("changed {object}", object=_describe(key))


def _describe(key: tuple[str, str, str]) -> str:
    kind, name, table = key
    on = f" on {shortened(table)}" if kind in ("trigger", "index") else ""
    return f"{kind} {shortened(name)}{on}"


def _parts(kind: str, sql: str) -> tuple[str, ...]:
    """Return the parts of a definition, without differences that have no meaning.

    These are spaces, the case of words, quotes that a name does not need, and the order of a table's constraints.
    """
    words = [_normalize(word) for word in _WORD.findall(sql) if word.strip(_SPACES)]
    if kind != "table":
        return (" ".join(words),)
    parts: list[list[str]] = [[]]
    depth = 0
    for word in words:
        depth += (word == "(") - (word == ")")
        if (word, depth) in ((",", 1), ("(", 1), (")", 0)):
            parts.append([])
        else:
            parts[-1].append(word)
    columns = [part for part in parts if not part or part[0] not in _CONSTRAINT_WORDS]
    constraints = [part for part in parts if part and part[0] in _CONSTRAINT_WORDS]
    return tuple(" ".join(part) for part in [*columns, *sorted(constraints)])


def _normalize(word: str) -> str:
    if _PLAIN_NAME.fullmatch(word) and word[1:-1] not in _VALUE_WORDS:
        return word[1:-1]
    return word if word[0] in "'\"" or not word.isascii() else word.lower()


def _table(sql: str) -> tuple[tuple[str, str, str], tuple[str, ...]]:
    name = sql.split("(")[0].split()[2]
    return ("table", name, name), _parts("table", sql)


_REVISION_TABLE = _table(
    "CREATE TABLE alembic_version ("
    "version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)
_OPTIONAL: _Schema = dict(
    _table(sql)
    for sql in (
        CREATE_IMAGES,
        "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
        "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
    )
)
"""Tables that a store may have: the images of a backup, and SQLite's statistics after somebody runs ANALYZE."""
