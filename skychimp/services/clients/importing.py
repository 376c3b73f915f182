"""Import clients from the rows of a file, in batches."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from sqlalchemy import select
from sqlmodel import Session

from skychimp import addresses
from skychimp.errors import InvalidValue
from skychimp.models import Client
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.clients.clients import validate_client
from skychimp.store import client_import
from skychimp.store.client_import import NewClient
from skychimp.store.database import Store

_C = Client.__table__

IMPORT_BATCH = 10_000


class ImportedRow(NamedTuple):
    """A client as it was read from a file, not validated yet. `line` is the line at which it begins."""

    line: int
    email: str
    name: str
    comment: str
    tags: Sequence[str]


class InvalidRow(NamedTuple):
    """A row that cannot be imported."""

    line: int
    reason: str


class ExcludedRow(NamedTuple):
    """A row of another tool's export to which that tool no longer sends.

    `reason` is that tool's word for it, such as "unsubscribed". `is_client` tells whether the address is a client here.
    """

    line: int
    reason: str
    email: str
    is_client: bool = False


FileRow = ImportedRow | InvalidRow | ExcludedRow
RejectedRow = InvalidRow | ExcludedRow


@dataclass
class ImportResult:
    """How many rows were imported and how many were not."""

    created: int = 0
    updated: int = 0
    skipped: int = 0
    bad: int = 0
    left_out: int = 0


def import_rows(
    store: Store,
    actor: Actor,
    rows: Iterable[FileRow],
    *,
    update_columns: Sequence[str] = (),
    on_rejected: Callable[[RejectedRow], None],
    on_batch: Callable[[ImportResult], None] = lambda result: None,
) -> ImportResult:
    """Create a client from each row, and call `on_rejected` for each row that is not imported.

    Rows are committed in batches; `on_batch` gets the result so far. A row whose address is known, from the store or
    an earlier row, is skipped. With `update_columns` (email, name, comment, tags) it changes these columns instead.
    Each batch has an entry in the audit trail, so that an import that is killed has one, too.
    """
    authorize(actor, Action.CHANGE_CLIENTS)
    result = ImportResult()
    rows = iter(rows)
    while batch := list(islice(rows, IMPORT_BATCH)):
        for excluded in _excluded_rows(store, actor, batch):
            result.left_out += 1
            on_rejected(excluded)
        clients = _valid_clients(batch, result, on_rejected, last_wins=bool(update_columns))
        if clients:
            with store.write() as db:
                created = client_import.add_clients(db.connection(), actor.user_id, clients, update_columns)
                _record(db, actor, created, len(clients) - created, is_updated=bool(update_columns))
            result.created += created
            _count_known(result, len(clients) - created, is_updated=bool(update_columns))
        on_batch(result)
    return result


def _record(db: Session, actor: Actor, created: int, known: int, *, is_updated: bool) -> None:
    detail = f"{created:,} created, {known:,} {'updated' if is_updated else 'skipped'}"
    audit.record(db, actor, "import", "client", None, detail)


def _excluded_rows(store: Store, actor: Actor, batch: Sequence[FileRow]) -> Iterator[ExcludedRow]:
    """Yield the excluded rows of a batch with `is_client` set."""
    excluded = [(_address_key(row.email), row) for row in batch if isinstance(row, ExcludedRow)]
    if not excluded:
        return
    keys = [key for key, _ in excluded]
    with store.read() as db:
        known = select(_C.c.address_key).where(_C.c.owner_id == actor.user_id, _C.c.address_key.in_(keys))
        known_keys = set(db.scalars(known))
    yield from (row._replace(is_client=key in known_keys) for key, row in excluded)


def _address_key(email: str) -> str:
    with suppress(InvalidValue):
        return addresses.parse(email.strip()).key
    return email


def _valid_clients(
    batch: Sequence[FileRow], result: ImportResult, on_rejected: Callable[[RejectedRow], None], *, last_wins: bool
) -> Collection[NewClient]:
    """Return the clients of a batch, each address once, and count the rows that are not among them."""
    clients: dict[str, NewClient] = {}
    for row in batch:
        if isinstance(row, ExcludedRow):
            continue
        try:
            if isinstance(row, InvalidRow):
                raise InvalidValue(row.reason)
            _require_utf8(row)
            client = validate_client(row.email, row.name, row.comment, row.tags)
        except InvalidValue as error:
            result.bad += 1
            on_rejected(InvalidRow(row.line, error.message))
            continue
        if client.address_key in clients:
            _count_known(result, 1, is_updated=last_wins)
        if last_wins or client.address_key not in clients:
            clients[client.address_key] = client
    return clients.values()


def _require_utf8(row: ImportedRow) -> None:
    text = "".join((row.email, row.name, row.comment, *row.tags))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidValue("not valid UTF-8; save the file as UTF-8") from None


def _count_known(result: ImportResult, number: int, *, is_updated: bool) -> None:
    if is_updated:
        result.updated += number
    else:
        result.skipped += number
