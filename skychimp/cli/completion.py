"""Suggest ids, addresses, slugs and tags to the shell: those in the store that the person who types may see.

A shell waits for this at each Tab, so nothing here may import SQLAlchemy or SQLModel: importing them takes longer than
a person wants to wait. The queries are SQL therefore. Who may see what is decided by `permissions`, and whether a
session is valid by `services.accounts.session_rule`, as for every command. An error is never shown: the shell would
print it into the line that is being typed.
"""

import contextlib
import inspect
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import typer

from skychimp.errors import SkychimpError
from skychimp.permissions import ANONYMOUS, MANAGED_ROLES, Action, Actor, Scope, scope_of
from skychimp.roles import Role
from skychimp.services.accounts import session_rule
from skychimp.text import NO_TEXT

MAX_SUGGESTIONS = 50
MAX_DESCRIPTION = 60
TIMEOUT_S = 0.1
"""How long to wait for a locked store, and for a query."""

_LAST_CHARACTER = "\U0010ffff"
_MAX_ID_DIGITS = 18


class Kind(NamedTuple):
    """A kind of object that a parameter names: by its id, or by a name such as an address, a slug or a tag.

    Each query returns the value to suggest and its description. In place of `{visible}` it gets the condition that the
    actor's scope for `action` allows.
    """

    action: Action
    """What lists the objects of this kind."""
    by_id: str = ""
    by_name: str = ""
    own: str = "owner_id = :user_id"
    """The condition for an actor who may see their own objects."""
    all: str = "true"
    """The condition for an actor who may see everybody's."""
    public: str | None = None
    """The condition for everybody else, None if they may see nothing."""
    has_optional_names: bool = False
    """Whether some objects have no name, so that ids are suggested beside the names."""


_CLIENT = Kind(
    Action.SEE_CLIENTS,
    "SELECT id, email FROM client WHERE {visible}",
    "SELECT email, name FROM client WHERE {visible} AND address_key >= :key AND address_key < :key_end",
)
KINDS = {
    "client": _CLIENT,
    "suppression": Kind(
        Action.SEE_CLIENTS,
        by_name="SELECT address, reason FROM suppression"
        " WHERE {visible} AND address_key >= :key AND address_key < :key_end",
    ),
    "message": Kind(Action.SEE_MESSAGES, "SELECT id, subject FROM message WHERE {visible}"),
    "layout": Kind(
        Action.SEE_MESSAGES,
        "SELECT id, name FROM layout WHERE {visible}",
        "SELECT name, '' FROM layout WHERE {visible} AND owner_id = :user_id AND key >= :key AND key < :key_end",
    ),
    "mailing": Kind(
        Action.SEE_MAILINGS,
        "SELECT mailing.id, subject FROM mailing JOIN message ON message.id = message_id"
        " WHERE deleted_at IS NULL AND {visible}",
        by_name="SELECT mailing.name, subject FROM mailing JOIN message ON message.id = message_id"
        " WHERE deleted_at IS NULL AND mailing.name > '' AND mailing.name >= :typed"
        " AND mailing.name < :typed || :last_character AND {visible}",
        own="mailing.owner_id = :user_id",
        has_optional_names=True,
    ),
    "segment": Kind(
        Action.SEE_CLIENTS,
        "SELECT id, name FROM segment WHERE {visible}",
        "SELECT name, expression FROM segment WHERE {visible} AND key >= :key AND key < :key_end",
    ),
    "deliveries": Kind(
        Action.RESOLVE_DELIVERIES,
        "SELECT delivery.id, address FROM delivery JOIN occurrence ON occurrence.id = occurrence_id"
        " JOIN mailing ON mailing.id = mailing_id"
        " WHERE delivery.state = 'unknown' AND deleted_at IS NULL AND {visible}",
    ),
    "user": Kind(
        Action.SEE_USERS,
        'SELECT id, email FROM "user" WHERE {visible}',
        'SELECT email, role FROM "user" WHERE {visible} AND address_key >= :key AND address_key < :key_end',
        all="role IN ({overseen_roles})",
    ),
    "post": Kind(
        Action.WRITE_POSTS,
        "SELECT id, title FROM post WHERE {visible}",
        "SELECT slug, title FROM post WHERE {visible} AND slug >= :key AND slug < :key_end",
        public="published_at <= :now",
    ),
    "field": Kind(
        Action.SEE_CLIENTS,
        by_name="SELECT name, type FROM client_field WHERE {visible} AND key >= :key AND key < :key_end",
    ),
    "tag": Kind(
        Action.SEE_CLIENTS,
        # Recursion finds each next tag by the index. DISTINCT would read every row.
        by_name="WITH RECURSIVE known (tag) AS (SELECT min(tag) FROM client_tag WHERE tag >= :typed UNION ALL"
        " SELECT (SELECT min(tag) FROM client_tag AS other WHERE other.tag > known.tag) FROM known"
        " WHERE tag IS NOT NULL)"
        " SELECT tag, '' FROM known WHERE tag < :typed || :last_character AND EXISTS (SELECT 1 FROM client_tag"
        " JOIN client ON client.id = client_id WHERE client_tag.tag = known.tag AND {visible})",
    ),
}
"""The kinds of objects by the name of the parameter that takes them."""
KINDS["variant_by"] = KINDS["field"]


_PREFIX = re.compile("^(add|remove|except)_")
"""What the names of some parameters begin with, before the kind."""


def add_completion(app: typer.Typer) -> None:
    """Let each parameter of these commands that is named like a kind suggest objects of that kind."""
    for group in app.registered_groups:
        assert group.typer_instance is not None
        add_completion(group.typer_instance)
    for command in app.registered_commands:
        assert command.callback is not None
        for name, parameter in inspect.signature(command.callback).parameters.items():
            for info in getattr(parameter.annotation, "__metadata__", ()):
                is_address = name == "email" and isinstance(info, typer.models.ArgumentInfo)
                kind = _CLIENT if is_address else KINDS.get(_PREFIX.sub("", name))
                if kind is not None and info.autocompletion is None:
                    info.autocompletion = _completer(kind, by_name=info.metavar != "ID")


def join_words(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment's words of the command line as they were typed.

    Bash breaks words at each `@` and `=`, and replaces only what comes after the last break. So the part of the last
    word that stays in the line is returned as `_SKYCHIMP_BEFORE`.
    """
    words, current = environ["COMP_WORDS"].split("\n"), int(environ["COMP_CWORD"])
    *earlier, last = [*words, *[""] * (current + 1 - len(words))][: current + 1]
    joined: list[str] = []
    for word in earlier:
        if joined and (word == "@" or joined[-1].endswith("@")):
            joined[-1] += word
        elif word != "=":
            joined.append(word)
    before = ""
    if joined and (last == "@" or joined[-1].endswith("@")):
        before, last = joined.pop().removesuffix("@"), "@" + last.removeprefix("@")
    return {"COMP_WORDS": "\n".join([*joined, last]), "COMP_CWORD": str(len(joined)), "_SKYCHIMP_BEFORE": before}


def find_suggestions(options: Mapping[str, Any], kind: Kind, typed: str, *, by_name: bool) -> list[tuple[str, str]]:
    """Return the values that begin with what was typed, each with a description, and none if anything goes wrong.

    `options` are the global options. Values are ids, and also names if `by_name` is true.
    """
    from skychimp.cli import saved_session
    from skychimp.config import shared, sources

    flags = {"store.url": options["store"]} if options.get("store") else {}
    config_file = Path(options["config"]) if options.get("config") else None
    with contextlib.suppress(SkychimpError, OSError, ValueError, ImportError, _driver().Error, _ServerFailed):
        shared.check_options(config=config_file, store=options.get("store") or None)
        url, password_file = sources.load_store_place(flags, config_file=config_file)
        token = os.environ.get("SKYCHIMP_TOKEN") or saved_session.read(url)
        is_file = url.startswith("sqlite")
        with contextlib.closing(_open_file(url) if is_file else _connect_to_server(url, password_file)) as db:
            actor = _find_actor(db, token or "")
            return [(str(value), _describe(text)) for value, text in _query(db, actor, kind, typed, by_name)]
    return []


def _completer(kind: Kind, *, by_name: bool) -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        before = os.environ.get("_SKYCHIMP_BEFORE", "")
        suggestions = find_suggestions(ctx.find_root().params, kind, before + incomplete, by_name=by_name)
        return [(value.removeprefix(before), text) for value, text in suggestions if _is_safe(value)]

    return complete


def _query(db: Any, actor: Actor, kind: Kind, typed: str, by_name: bool) -> Iterator[tuple[Any, Any]]:
    visible = _visible(kind, actor)
    if visible is None:
        return
    parameters = _parameters(actor, typed)
    needs_ids = not (by_name and kind.by_name) or (kind.has_optional_names and not typed)
    if kind.by_id and (typed.isdecimal() or needs_ids):
        query, table = kind.by_id.format(visible=visible), kind.by_id.split()[1].rstrip(",")
        ranges = " OR ".join(f"{table} BETWEEN {first} AND {last}" for first, last in _id_ranges(typed))
        if ranges:
            yield from _execute(db, f"{query} AND ({ranges}) ORDER BY 1 DESC LIMIT {MAX_SUGGESTIONS}", parameters)
    if kind.by_name and by_name:
        yield from _execute(db, f"{kind.by_name.format(visible=visible)} LIMIT {MAX_SUGGESTIONS}", parameters)


def _visible(kind: Kind, actor: Actor) -> str | None:
    """Return the SQL condition of the objects that an actor may see, None if it is none of them."""
    scope = scope_of(actor, kind.action)
    if scope is None:
        return kind.public
    if scope == Scope.OWN:
        return kind.own
    assert actor.role is not None
    overseen_roles = ", ".join(f"'{role}'" for role in sorted(MANAGED_ROLES.get(actor.role, ())))
    return kind.all.format(overseen_roles=overseen_roles)


def _parameters(actor: Actor, typed: str) -> dict[str, Any]:
    key = typed.lower()
    return {
        "user_id": actor.user_id,
        "now": datetime.now(UTC),
        "typed": typed,
        "key": key,
        "key_end": key + _LAST_CHARACTER,
        "last_character": _LAST_CHARACTER,
    }


def _id_ranges(digits: str) -> list[tuple[int, int]]:
    """Return the ranges of the ids that begin with these digits, first and last id included."""
    if not digits:
        return [(1, 10**_MAX_ID_DIGITS)]
    if not digits.isascii() or not digits.isdecimal() or digits.startswith("0"):
        return []
    lengths = range(_MAX_ID_DIGITS + 1 - len(digits))
    return [(int(digits) * 10**more, (int(digits) + 1) * 10**more - 1) for more in lengths]


def _open_file(url: str) -> Any:
    """Open the store read-only, with a connection that gives up soon. Raises StoreNotReady if others can change it."""
    from skychimp.store.place import check_place

    path = unquote(url.removeprefix("sqlite:///"))
    check_place(Path(path))
    db = _driver().connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=TIMEOUT_S)
    deadline = time.monotonic() + TIMEOUT_S
    db.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
    return db


class _ServerFailed(Exception):
    """A server is away, or did not answer soon."""


def _connect_to_server(url: str, password_file: Path | None) -> Any:
    """Connect to a store on a server, for queries that give up soon. Raises ImportError and _ServerFailed."""
    import psycopg

    from skychimp.config import checked_files
    from skychimp.store.postgres.url import connect_arguments

    arguments = connect_arguments(url) | {"connect_timeout": 2, "options": f"-c statement_timeout={TIMEOUT_S}s"}
    if password_file is not None:
        arguments["password"] = checked_files.read_password(password_file, NO_TEXT)
    try:
        return psycopg.connect(url.replace("+psycopg", "", 1), **arguments, autocommit=True)
    except psycopg.Error as error:
        raise _ServerFailed from error


def _execute(db: Any, statement: str, parameters: Mapping[str, str | int | datetime | None]) -> Any:
    """Run a query with named parameters. Raises _ServerFailed, and SQLite's errors."""
    if isinstance(db, _driver().Connection):
        return db.execute(statement, {name: _as_stored(value) for name, value in parameters.items()})
    import psycopg

    try:
        return db.execute(_PARAMETER.sub(r"%(\1)s", statement), parameters)
    except psycopg.Error as error:
        raise _ServerFailed from error


_PARAMETER = re.compile(r":([a-z_]+)")


def _find_actor(db: Any, token: str) -> Actor:
    row = _execute(db, session_rule.FIND_USER, session_rule.parameters(token, datetime.now(UTC))).fetchone()
    return Actor(row[0], row[1], Role(row[2])) if row else ANONYMOUS


def _as_stored(value: object) -> object:
    """Return a time as SQLAlchemy stores it in SQLite, and anything else as it is."""
    return value.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value


def _driver() -> Any:
    """Return the SQLite module that the store uses."""
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        from sqlite3 import dbapi2
    return dbapi2


def _is_safe(value: str) -> bool:
    """Return whether a shell takes the value as one plain word. Stored values must not run when they are completed."""
    return all(character.isalnum() or character in "@.+-_%" for character in value) and value[:1] not in ("-", "+")


def _describe(text: object) -> str:
    """Return a short description without anything that a shell would run or a terminal would obey.

    Typer quotes only some of these characters.
    """
    cleaned = "".join(character if character.isalnum() or character in " @.,-_" else " " for character in str(text))
    return " ".join(cleaned.split())[:MAX_DESCRIPTION]
