"""Clients: whom a user's mailings go to."""

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from sqlalchemy import Row, Select, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from skychimp import addresses
from skychimp.access import Actor, reach
from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.models import UNFINISHED_SQL, Client, ClientTag, Mailing, Occurrence
from skychimp.services.listing import Page, narrow
from skychimp.store import queue
from skychimp.store.engine import Store

_C = Client.__table__
_T = ClientTag.__table__
_O = Occurrence.__table__
_M = Mailing.__table__

IMPORT_BATCH = 5_000
LONGEST_NAME = 1_000
LONGEST_COMMENT = 10_000
LONGEST_TAG = 100

SORTED_BY = {"id": _C.c.id, "email": _C.c.address_key, "name": _C.c.name, "created_at": _C.c.created_at}


@dataclass(frozen=True)
class ClientInfo:
    id: int
    email: str
    name: str
    comment: str
    tags: list[str]
    created_at: datetime
    bad_at: datetime | None
    bad_reason: str | None


class ClientRow(NamedTuple):
    """One client as it comes from a file, still unchecked; `line` is where it stood."""

    line: int
    email: str
    name: str
    comment: str
    tags: Sequence[str]


@dataclass
class ImportResult:
    created: int = 0
    updated: int = 0
    skipped: int = 0
    bad: int = 0


def create(
    store: Store, actor: Actor, *, email: str, name: str = "", comment: str = "", tags: Sequence[str] = ()
) -> ClientInfo:
    """Add a client. Raises InvalidValue for a bad address, name or tag, Conflict where there is that address already."""
    reach(actor, "change clients")
    values = _checked(email, name, comment)
    tags = checked_tags(tags)
    with store.write() as session:
        try:
            values |= {"owner_id": actor.user_id, "created_at": datetime.now(UTC)}
            inserted = session.execute(insert(_C).values(values)).inserted_primary_key  # type: ignore[attr-defined]
        except IntegrityError:
            raise Conflict(
                f"there is already a client {values['email']}", "change it: skychimp clients update"
            ) from None
        _set_tags(session, inserted[0], tags)
        return _get(session, actor, inserted[0])


def show(store: Store, actor: Actor, client: str) -> ClientInfo:
    """One client, by id or e-mail. Raises NotFound."""
    reach(actor, "see clients")
    with store.read() as session:
        return _get(session, actor, client)


def list_clients(store: Store, actor: Actor, page: Page, tag: str | None = None) -> Iterator[ClientInfo]:
    """The actor's clients, as they are read."""
    reach(actor, "see clients")
    query = narrow(_own(actor), page, searched=(_C.c.email, _C.c.name, _C.c.comment), sorted_by=SORTED_BY)
    if tag is not None:
        query = query.where(_C.c.id.in_(select(_T.c.client_id).where(_T.c.tag == tag)))
    with store.read() as session:
        yield from map(_info, session.execute(query.execution_options(yield_per=1000)))


def change(
    store: Store,
    actor: Actor,
    client: str,
    *,
    email: str | None = None,
    name: str | None = None,
    comment: str | None = None,
    tags: Sequence[str] | None = None,
    clear_bad: bool = False,
) -> ClientInfo:
    """Change what is given; another address, or `clear_bad`, makes it good again. Raises NotFound, Conflict, InvalidValue."""
    reach(actor, "change clients")
    with store.write() as session:
        old = _get(session, actor, client)
        values = _checked(
            email if email is not None else old.email,
            name if name is not None else old.name,
            comment if comment is not None else old.comment,
        )
        if clear_bad or values["email"] != old.email:
            values |= {"bad_at": None, "bad_reason": None}
        try:
            session.execute(update(_C).where(_C.c.id == old.id).values(values))
        except IntegrityError:
            raise Conflict(f"there is already a client {values['email']}") from None
        if tags is not None:
            session.execute(delete(_T).where(_T.c.client_id == old.id))
            _set_tags(session, old.id, checked_tags(tags))
        return _get(session, actor, old.id)


def remove(store: Store, actor: Actor, client: str) -> ClientInfo:
    """Delete a client; what still waits for it is cancelled, what was sent stays in the ledger. Raises NotFound."""
    reach(actor, "change clients")
    with store.write() as session:
        gone = _get(session, actor, client)
        key = addresses.parse(gone.email).key
        unfinished = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(_M.c.owner_id == actor.user_id)
        waiting = unfinished.where(text(UNFINISHED_SQL.replace("state", "occurrence.state")))
        queue.cancel(session.connection(), waiting, key)
        session.execute(delete(_C).where(_C.c.id == gone.id))
    return gone


def import_rows(
    store: Store,
    actor: Actor,
    rows: Iterable[ClientRow],
    *,
    update_known: bool = False,
    on_bad: Callable[[int, str], None],
    on_batch: Callable[[ImportResult], None] = lambda result: None,
) -> ImportResult:
    """Add many clients, a batch a transaction; an address known already is skipped, or updated.

    `on_bad` is told of each row that can't be used, with its line and the reason; the others go in.
    """
    reach(actor, "change clients")
    result = ImportResult()
    rows = iter(rows)
    while batch := list(islice(rows, IMPORT_BATCH)):
        good = _checked_rows(batch, result, on_bad)
        with store.write() as session:
            _import_batch(session, actor, good, result, update_known)
        on_batch(result)
    return result


def checked_tags(tags: Sequence[str]) -> list[str]:
    """Tags without duplicates, in order. Raises InvalidValue for one that is empty, long, or holds a comma."""
    for tag in tags:
        if not tag.strip() or len(tag) > LONGEST_TAG or "," in tag or ";" in tag or not _is_plain(tag):
            raise InvalidValue(f"{tag!r} can't be a tag", "a tag is one line without commas or semicolons")
    return sorted({tag.strip() for tag in tags})


def _checked(email: str, name: str, comment: str) -> dict[str, object]:
    address = addresses.parse(email.strip())
    name = name.strip()
    if not _is_plain(name) or len(name) > LONGEST_NAME:
        raise InvalidValue(f"{name!r} can't be a name", f"a name is one line of up to {LONGEST_NAME} characters")
    if not _is_plain(comment.translate(_LINE_ENDS)) or len(comment) > LONGEST_COMMENT:
        raise InvalidValue(
            "the comment holds control characters or is too long", f"at most {LONGEST_COMMENT} characters"
        )
    return {"email": address.email, "address_key": address.key, "name": name, "comment": comment}


_LINE_ENDS = dict.fromkeys(map(ord, "\t\r\n"), " ")
_NOT_PLAIN = {"Cc", "Cs", "Zl", "Zp"}


def _is_plain(value: str) -> bool:
    return value.isprintable() or not any(unicodedata.category(character) in _NOT_PLAIN for character in value)


def _checked_rows(
    batch: list[ClientRow], result: ImportResult, on_bad: Callable[[int, str], None]
) -> dict[str, tuple[dict[str, object], list[str]]]:
    good: dict[str, tuple[dict[str, object], list[str]]] = {}
    for row in batch:
        try:
            values, tags = _checked(row.email, row.name, row.comment), checked_tags(row.tags)
        except InvalidValue as error:
            result.bad += 1
            on_bad(row.line, error.message)
            continue
        key = str(values["address_key"])
        if key in good:
            result.skipped += 1
        good.setdefault(key, (values, tags))
    return good


def _import_batch(
    session: Session,
    actor: Actor,
    good: dict[str, tuple[dict[str, object], list[str]]],
    result: ImportResult,
    update_known: bool,
) -> None:
    now = datetime.now(UTC)
    mine = _C.c.owner_id == actor.user_id
    by_key = select(_C.c.address_key, _C.c.id).where(mine)
    known = dict(session.execute(by_key.where(_C.c.address_key.in_(good))).tuples().all())
    fresh = [
        {**values, "owner_id": actor.user_id, "created_at": now}
        for key, (values, _) in good.items()
        if key not in known
    ]
    if fresh:
        session.execute(insert(_C), fresh)
    tagged = [key for key, (_, tags) in good.items() if tags and key not in known]
    ids = dict(session.execute(by_key.where(_C.c.address_key.in_(tagged))).tuples().all()) if tagged else {}
    if update_known:
        for key, client_id in known.items():
            session.execute(update(_C).where(_C.c.id == client_id).values(good[key][0]))
        session.execute(delete(_T).where(_T.c.client_id.in_(known.values())))
        ids |= known
    if tags := [{"client_id": client_id, "tag": tag} for key, client_id in ids.items() for tag in good[key][1]]:
        session.execute(insert(_T), tags)
    result.created += len(fresh)
    if update_known:
        result.updated += len(known)
    else:
        result.skipped += len(known)


def _set_tags(session: Session, client_id: int, tags: Sequence[str]) -> None:
    if tags:
        session.execute(insert(_T), [{"client_id": client_id, "tag": tag} for tag in tags])


def _own(actor: Actor) -> Select[tuple[object, ...]]:
    return select(_C, queue.tags_of_client().label("tags")).where(_C.c.owner_id == actor.user_id)


def _get(session: Session, actor: Actor, client: str | int) -> ClientInfo:
    query = _own(actor)
    if isinstance(client, int) or (client.isascii() and client.isdigit()):
        query = query.where(_C.c.id == int(client))
    else:
        query = query.where(_C.c.address_key == addresses.parse(client).key)
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"there is no client {client}", "see them: skychimp clients list")
    return _info(row)


def _info(row: Row[tuple[object, ...]]) -> ClientInfo:
    return ClientInfo(
        row.id, row.email, row.name, row.comment, json.loads(row.tags), row.created_at, row.bad_at, row.bad_reason
    )
