"""Import clients from the rows of a file, in batches."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from sqlalchemy import Connection

from skychimp import addresses
from skychimp.addresses import USUAL, Rules
from skychimp.errors import Conflict, InvalidValue
from skychimp.fields import Field, FieldValue, dump_fields, parse_value, text_of_json
from skychimp.models import ConsentSource, SuppressionSource
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.clients import suppressions
from skychimp.services.clients.clients import validate_client
from skychimp.services.clients.consents import GivenConsent, checked_consent, parse_file_time
from skychimp.services.clients.files import opt_outs
from skychimp.services.clients.files.opt_outs import OptOut
from skychimp.store.clients import client_import, consents
from skychimp.store.clients import fields as store_fields
from skychimp.store.clients import suppressions as store_suppressions
from skychimp.store.clients.client_import import NewClient
from skychimp.store.clients.consents import NewConsent
from skychimp.store.clients.suppressions import NewSuppression
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.text import MAX_TAGS, count_of, folded
from skychimp.translation import tr

IMPORT_BATCH = 10_000
SUPPRESSION_BATCH = 1_000
"""How many addresses are suppressed in one transaction: a sender waits for it."""


class FileConsent(NamedTuple):
    """The cells of a row about a consent, not validated yet. `unnamed` is the wording if neither says one."""

    at: str
    wording: str
    proof: str
    unnamed: str


class ImportedRow(NamedTuple):
    """A client as it was read from a file, not validated yet. `line` is the line at which it begins."""

    line: int
    email: str
    name: str
    comment: str
    tags: Sequence[str]
    fields: Mapping[str, object] = {}
    """The values of fields as the file has them, by their names there."""
    consent: FileConsent | None = None


class InvalidRow(NamedTuple):
    """A row that cannot be imported."""

    line: int
    reason: str


class OptedOutRow(NamedTuple):
    """A row whose contact has opted out of another tool's emails. The address is not validated yet."""

    line: int
    email: str
    opt_out: OptOut


FileRow = ImportedRow | OptedOutRow | InvalidRow


@dataclass
class ImportResult:
    """How many rows were imported and how many were not.

    `opted_out` rows became suppressions and no clients. `suppressed` counts them and the clients of the file who get
    no mail because they were suppressed before. `reasons` are the reasons of both.
    """

    created: int = 0
    updated: int = 0
    skipped: int = 0
    opted_out: int = 0
    bad: int = 0
    suppressed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def imported(self) -> int:
        """How many rows were valid."""
        return self.created + self.updated + self.skipped + self.opted_out

    def count_suppressed(self, reasons: Mapping[str, int]) -> None:
        """Count suppressed addresses by their reasons."""
        for reason, number in reasons.items():
            self.suppressed += number
            self.reasons[reason] = self.reasons.get(reason, 0) + number


class _Batch(NamedTuple):
    """What the valid rows of a batch add: clients, and suppressions of who has opted out, by their address keys.

    `consents` are those of the clients. A client can have several.
    """

    clients: dict[str, NewClient]
    opted_out: dict[str, NewSuppression]
    consents: list[NewConsent]


class _Target(NamedTuple):
    """What all rows become: the rules of their addresses, their tags, and the fields by their names in the file.

    `consent` is that of rows without one, `now` the time of the import.
    """

    rules: Rules
    tagging: "_Tagging"
    fields: Mapping[str, Field]
    removes_empty: bool
    """Whether an empty value removes the one that a client has."""
    consent: GivenConsent | None
    now: datetime


class _Tagging(NamedTuple):
    """The tags that each client gets, and the address keys of those known clients who have no room for them."""

    tags: Sequence[str]
    full: Collection[str]


def import_rows(
    store: Store,
    actor: Actor,
    rows: Iterable[FileRow],
    *,
    update_columns: Sequence[str] = (),
    fields: Mapping[str, Field] = {},
    tags: Sequence[str] = (),
    rules: Rules = USUAL,
    consent: GivenConsent | None = None,
    on_rejected: Callable[[InvalidRow], None],
    on_batch: Callable[[ImportResult], None] = lambda result: None,
) -> ImportResult:
    """Create a client from each row, and call `on_rejected` for each row that is not imported.

    The address of a contact who has opted out is suppressed instead: no client is created, and what waits for one who
    exists is cancelled. A client whose address is suppressed is created, and gets no mail.

    Rows are committed in batches; `on_batch` gets the result so far. A row whose address is known, from the store or
    an earlier row, is skipped. With `update_columns` (email, name, comment, tags, fields) it changes these instead, and
    an empty value of a field removes the one that was there. `fields` are those of the file by their names in it: they
    are added to the actor's, whose types count. `tags` are added to those that are created or changed, and their
    consents are recorded: those of the rows, and `consent` for rows without one. Each batch has an entry in the audit
    trail, so that an import that is killed has one, too.

    Raises InvalidValue, which says how many clients are imported, if the rest of the rows cannot be read, and Conflict
    if a field gets another type meanwhile.
    """
    authorize(actor, Action.CHANGE_CLIENTS)
    result = ImportResult()
    tagging = _Tagging(tags, _find_full(store, actor, tags) if update_columns and "tags" not in update_columns else ())
    resolved = _resolve_fields(store, actor, fields)
    target = _Target(rules, tagging, resolved, "fields" in update_columns, consent, store.now())
    for rows_of_batch in _read_batches(rows, result):
        batch = _valid_rows(rows_of_batch, result, on_rejected, target, last_wins=bool(update_columns))
        opted_out = iter(batch.opted_out.values())
        while some := list(islice(opted_out, SUPPRESSION_BATCH)):
            suppressions.add(store, actor, some, source=SuppressionSource.IMPORT)
        if batch.clients:
            with store.write() as db:
                _register_fields(db, actor, target.fields)
                created = _add_clients(db, actor, batch, update_columns, result, store.now())
            result.created += created
            _count_known(result, len(batch.clients) - created, is_updated=bool(update_columns))
        on_batch(result)
    return result


def _add_clients(
    db: Session,
    actor: Actor,
    batch: _Batch,
    update_columns: Sequence[str],
    result: ImportResult,
    now: datetime,
) -> int:
    """Add clients with their consents, count the suppressed ones, and return the number of new clients."""
    connection, clients = db.connection(), batch.clients
    is_skipped = set() if update_columns else _known(connection, actor, batch.consents)
    created = client_import.add_clients(connection, actor.user_id, clients.values(), update_columns)
    store_suppressions.recall(connection, {key: client.email for key, client in clients.items()})
    agreed = [consent for consent in batch.consents if consent.key not in is_skipped]
    if agreed:
        consents.record(connection, actor.user_id, agreed, ConsentSource.IMPORT, now)
    consents.recall(connection, actor.user_id, clients.keys() - {consent.key for consent in agreed})
    result.count_suppressed(store_suppressions.count_reasons(connection, actor.user_id, clients))
    known = f"{len(clients) - created:,} {'updated' if update_columns else 'skipped'}"
    audit.record(db, actor, "import", "client", None, f"{created:,} created, {known}")
    return created


def _resolve_fields(store: Store, actor: Actor, fields: Mapping[str, Field]) -> Mapping[str, Field]:
    """Return the fields of a file, by their names in it, with the names and types that the actor's have already."""
    if not fields:
        return {}
    with store.read() as db:
        known = store_fields.known_fields(db.connection(), actor.user_id)
    return dict(zip(fields, store_fields.resolve(known, fields.values()), strict=True))


def _register_fields(db: Session, actor: Actor, fields: Mapping[str, Field]) -> None:
    """Add the fields that the actor does not have. Raises Conflict if one has another type since it was read."""
    if fields and store_fields.register(db.connection(), actor.user_id, fields.values()) != list(fields.values()):
        raise Conflict(tr("the type of a field was changed during the import"), tr("import the file again"))


def _known(db: Connection, actor: Actor, agreed: Sequence[NewConsent]) -> Collection[str]:
    """Return the address keys of the consents whose clients exist already."""
    return client_import.known_keys(db, actor.user_id, {consent.key for consent in agreed})


def _find_full(store: Store, actor: Actor, tags: Sequence[str]) -> Collection[str]:
    """Return the address keys of the clients who would have too many tags with these."""
    if not tags:  # then nobody would, and all clients' tags need not be counted
        return ()
    with store.read() as db:
        many = client_import.clients_with_many_tags(db.connection(), actor.user_id, MAX_TAGS - len(tags))
        return {key for key, known in many if len(set(map(folded, (*known, *tags)))) > MAX_TAGS}


def _read_batches(rows: Iterable[FileRow], result: ImportResult) -> Iterator[Sequence[FileRow]]:
    rows = iter(rows)
    try:
        while batch := list(islice(rows, IMPORT_BATCH)):
            yield batch
    except (InvalidValue, OSError) as error:
        if not result.created + result.updated + result.opted_out:
            raise
        done = f"{count_of(result.created, 'client')} created and {result.updated:,} updated before"
        if result.opted_out:
            done = f"{done}, and {result.opted_out:,} suppressed"
        raise InvalidValue(f"{error}; {done}", tr("fix the rest of the file and import it again")) from None


def _valid_rows(
    rows: Sequence[FileRow],
    result: ImportResult,
    on_rejected: Callable[[InvalidRow], None],
    target: _Target,
    *,
    last_wins: bool,
) -> _Batch:
    """Return what the valid rows add, each address once, and count the rows that are not among them."""
    batch = _Batch({}, {}, [])
    for row in rows:
        try:
            if isinstance(row, InvalidRow):
                raise InvalidValue(row.reason)
            if isinstance(row, OptedOutRow):
                opted_out = _suppression(row)
                batch.opted_out.setdefault(opted_out.key, opted_out)
                result.opted_out += 1
                result.count_suppressed({opted_out.reason: 1})
                continue
            client = _client(row, target)
            consent = _consent(row.consent, target)
        except InvalidValue as error:
            result.bad += 1
            on_rejected(InvalidRow(row.line, "; ".join(filter(None, (error.message, error.hint)))))
            continue
        if client.address_key in batch.clients:
            _count_known(result, 1, is_updated=last_wins)
        if last_wins or client.address_key not in batch.clients:
            batch.clients[client.address_key] = client
            if consent is not None:
                batch.consents.append(consent.new(client.address_key, target.now))
    return batch


def _suppression(row: OptedOutRow) -> NewSuppression:
    """Return the suppression of who has opted out. Any address that can be a client's is taken."""
    _require_valid_text(row.email)
    email = row.email.strip()
    if not email:
        raise InvalidValue(tr("missing email address"))
    address = addresses.parse(email, addresses.STORED)
    return NewSuppression(address.email, address.key, row.opt_out.reason, at=row.opt_out.at)


def _client(row: ImportedRow, target: _Target) -> NewClient:
    _require_valid_text("".join((row.email, row.name, row.comment, *row.tags)))
    client = validate_client(row.email, row.name, row.comment, (*row.tags, *target.tagging.tags), target.rules)
    if client.address_key in target.tagging.full:
        raise InvalidValue(
            tr("the client would have more than {max_tags} tags", max_tags=MAX_TAGS), tr("remove some of them first")
        )
    return client._replace(fields=_stored_fields(row.fields, target)) if row.fields else client


def _stored_fields(values: Mapping[str, object], target: _Target) -> str:
    parsed: dict[str, FieldValue | None] = {}
    for name, (field_name, field_type) in target.fields.items():
        if name in values:
            text = text_of_json(values[name])
            if not text.isprintable():
                _require_valid_text(text)
            value = parse_value(text, field_type, field_name)
            if value is not None or target.removes_empty:
                parsed[field_name] = value
    return dump_fields(parsed)


def _consent(cells: FileConsent | None, target: _Target) -> GivenConsent | None:
    """Return the consent of a row: its own, or else that of all rows, or None if it has none or says no."""
    if cells is None:
        return target.consent
    _require_valid_text("".join(cells))
    if opt_outs.says_no(cells.wording):
        return None
    of_all = target.consent
    if not opt_outs.says_something(cells.at):
        return of_all
    wording = cells.wording.strip() or (cells.unnamed if of_all is None else of_all.wording)
    proof = cells.proof.strip() or ("" if of_all is None else of_all.proof)
    return checked_consent(wording, parse_file_time(cells.at), proof, target.now)


def _require_valid_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidValue(tr("characters that are not valid in the file's encoding; see --encoding")) from None


def _count_known(result: ImportResult, number: int, *, is_updated: bool) -> None:
    if is_updated:
        result.updated += number
    else:
        result.skipped += number
