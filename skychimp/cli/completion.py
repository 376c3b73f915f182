"""What the shell offers for an id, an address or a tag: what is in the store, and only what this person may see.

It reads the store by SQL of its own, since the person waits for it at each Tab: SQLModel alone would take longer than
all of it may. An error is no offer, and is never shown.
"""

import contextlib
import hashlib
import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import typer

from skychimp.errors import SkychimpError

MOST = 50
PATIENCE = 0.1  # s
_LAST = "\U0010ffff"


class _Kind(NamedTuple):
    """A kind of object: the query for its id and a text about it; and, where it goes by a word, that for the word."""

    by_id: str
    by_word: str = ""


_CLIENT = _Kind(
    "SELECT id, email FROM client WHERE owner_id = :me",
    "SELECT email, name FROM client WHERE owner_id = :me AND address_key >= :first AND address_key < :last",
)
KINDS = {
    "client": _CLIENT,
    "message": _Kind("SELECT id, subject FROM message WHERE (owner_id = :me OR :overseer)"),
    "mailing": _Kind(
        "SELECT mailing.id, subject FROM mailing JOIN message ON message.id = message_id"
        " WHERE deleted_at IS NULL AND (mailing.owner_id = :me OR :overseer)"
    ),
    "deliveries": _Kind(
        "SELECT delivery.id, address FROM delivery JOIN occurrence ON occurrence.id = occurrence_id"
        " JOIN mailing ON mailing.id = mailing_id"
        " WHERE delivery.state = 'unknown' AND (owner_id = :me OR :admin)"
    ),
    "user": _Kind(
        "SELECT id, email FROM user WHERE (:admin OR :overseer AND role IN ('user', 'editor'))",
        "SELECT email, role FROM user WHERE (:admin OR :overseer AND role IN ('user', 'editor'))"
        " AND address_key >= :first AND address_key < :last",
    ),
    "post": _Kind(
        "SELECT id, title FROM post WHERE (published_at <= :now OR :editor)",
        "SELECT slug, title FROM post WHERE (published_at <= :now OR :editor) AND slug >= :first AND slug < :last",
    ),
    "tag": _Kind(
        "",
        # From one tag to the next by the index: DISTINCT would read every row.
        "WITH RECURSIVE known (tag) AS (SELECT min(tag) FROM client_tag WHERE tag >= :word UNION ALL"
        " SELECT (SELECT min(tag) FROM client_tag AS other WHERE other.tag > known.tag) FROM known"
        " WHERE tag IS NOT NULL)"
        " SELECT tag, '' FROM known WHERE tag < :word || :beyond AND EXISTS (SELECT 1 FROM client_tag"
        " JOIN client ON client.id = client_id WHERE client_tag.tag = known.tag AND owner_id = :me)",
    ),
}
"""By a parameter's name."""


def offer(app: typer.Typer) -> None:
    """Let each parameter of these commands that is named like a kind offer what there is of that kind."""
    for command in app.registered_commands:
        assert command.callback is not None
        for name, parameter in inspect.signature(command.callback).parameters.items():
            for about in getattr(parameter.annotation, "__metadata__", ()):
                is_address = name == "email" and isinstance(about, typer.models.ArgumentInfo)
                kind = _CLIENT if is_address else KINDS.get(name)
                if kind is not None and about.autocompletion is None:
                    about.autocompletion = _offers(kind, by_word=about.metavar != "ID")


def join_words(environ: Mapping[str, str]) -> dict[str, str]:
    """What bash says of the words, made whole: it breaks them at each `@` and `=`, and replaces only from there on.

    What is before the `@` in the word at hand is in `_SKYCHIMP_BEFORE`.
    """
    words, at = environ["COMP_WORDS"].split("\n"), int(environ["COMP_CWORD"])
    *earlier, last = [*words, *[""] * (at + 1 - len(words))][: at + 1]
    whole: list[str] = []
    for word in earlier:
        if whole and (word == "@" or whole[-1].endswith("@")):
            whole[-1] += word
        elif word != "=":
            whole.append(word)
    before = ""
    if whole and (last == "@" or whole[-1].endswith("@")):
        before, last = whole.pop().removesuffix("@"), "@" + last.removeprefix("@")
    return {"COMP_WORDS": "\n".join([*whole, last]), "COMP_CWORD": str(len(whole)), "_SKYCHIMP_BEFORE": before}


def _offers(kind: _Kind, *, by_word: bool) -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    def offers(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        before = os.environ.get("_SKYCHIMP_BEFORE", "")
        found = _find(ctx.find_root().params, kind, before + incomplete, by_word=by_word)
        return [(value.removeprefix(before), about) for value, about in found if _is_safe(value)]

    return offers


def _find(options: Mapping[str, Any], kind: _Kind, typed: str, *, by_word: bool) -> list[tuple[str, str]]:
    """What begins like what was typed, with a few words about each; nothing where anything is wrong."""
    from skychimp.cli import saved_session
    from skychimp.config import sources

    flags = {"store.url": options["store"]} if options.get("store") else {}
    config_file = Path(options["config"]) if options.get("config") else None
    with contextlib.suppress(SkychimpError, OSError, ValueError, _driver().Error):
        url = sources.store_url(flags, config_file=config_file)
        token = os.environ.get("SKYCHIMP_TOKEN") or saved_session.read(url)
        with contextlib.closing(_open(url)) as connection:
            given = _actor(connection, token or "") | _words(typed)
            return [(str(value), _plain(about)) for value, about in _rows(connection, kind, typed, given, by_word)]
    return []


def _words(typed: str) -> dict[str, str]:
    key = typed.lower()
    return {"word": typed, "first": key, "last": key + _LAST, "beyond": _LAST, "now": _now()}


def _rows(connection: Any, kind: _Kind, typed: str, given: Mapping[str, Any], by_word: bool) -> Iterator[Any]:
    if kind.by_id and (typed.isdecimal() or not (by_word and kind.by_word)):
        chosen, table = _beginning_with(typed), kind.by_id.split()[1].rstrip(",")
        ranges = " OR ".join(f"{table} BETWEEN {low} AND {high}" for low, high in chosen)
        if ranges:
            yield from connection.execute(f"{kind.by_id} AND ({ranges}) ORDER BY 1 DESC LIMIT {MOST}", given)
    if kind.by_word and by_word:
        yield from connection.execute(f"{kind.by_word} LIMIT {MOST}", given)


def _beginning_with(digits: str) -> list[tuple[int, int]]:
    """The ranges of the ids that begin with these digits."""
    if not digits:
        return [(1, 10**18)]
    if not digits.isascii() or not digits.isdecimal() or digits.startswith("0"):
        return []
    return [(int(digits) * 10**more, (int(digits) + 1) * 10**more - 1) for more in range(19 - len(digits))]


def _open(url: str) -> Any:
    """A connection that changes nothing, and that gives up soon."""
    path = quote(unquote(url.removeprefix("sqlite:///")))
    connection = _driver().connect(f"file:{path}?mode=ro", uri=True, timeout=PATIENCE)
    until = time.monotonic() + PATIENCE
    connection.set_progress_handler(lambda: time.monotonic() > until, 1000)
    return connection


def _actor(connection: Any, token: str) -> dict[str, Any]:
    """Who a token stands for, as `services.accounts.actor` has it, and what is not only that person's own."""
    me, role = connection.execute(
        "SELECT user.id, role FROM login JOIN user ON user.id = user_id WHERE token_hash = ? AND expires_at > ?"
        " AND blocked_at IS NULL AND verified_at IS NOT NULL",
        (hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest(), _now()),
    ).fetchone() or (0, "")
    admin = role == "admin"
    return {"me": me, "overseer": admin or role == "manager", "editor": admin or role == "editor", "admin": admin}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _driver() -> Any:
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        from sqlite3 import dbapi2
    return dbapi2


def _is_safe(value: str) -> bool:
    """Whether a shell takes it as one plain word: what came from outside must not run when it is completed."""
    return all(character.isalnum() or character in "@.+-_%" for character in value) and value[:1] not in ("-", "+")


def _plain(about: object) -> str:
    """A few words without anything that a shell may run, or that moves a cursor: Typer quotes some of it only."""
    words = "".join(each if each.isalnum() or each in " @.,-_" else " " for each in str(about))
    return " ".join(words.split())[:60]
