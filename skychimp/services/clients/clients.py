"""Create, change, delete and list clients, the recipients of a user's mailings."""

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, literal, select, true, update
from sqlalchemy.exc import IntegrityError

from skychimp import addresses
from skychimp.addresses import USUAL, Address, Rules
from skychimp.errors import Conflict, InvalidValue
from skychimp.fields import (
    Field,
    FieldValue,
    TypeFinder,
    checked_name,
    dump_fields,
    find_field,
    format_value,
    parse_fields,
    parse_value,
    type_of_text,
    unknown_field,
)
from skychimp.listed import Listed
from skychimp.models import ConsentSource, FieldType, tables
from skychimp.permissions import Action, Actor, Scope, authorize
from skychimp.services import audit, paging
from skychimp.services.clients import consents
from skychimp.services.clients.consents import GivenConsent
from skychimp.services.listing import ListOptions, apply, in_scope, matches_id_or_email, not_found
from skychimp.shell import arguments, run_hint
from skychimp.store import queue
from skychimp.store.clients import bad_addresses, suppressions
from skychimp.store.clients import consents as store_consents
from skychimp.store.clients import fields as store_fields
from skychimp.store.clients import tags as store_tags
from skychimp.store.clients.client_import import NewClient
from skychimp.store.clients.consents import RecordedConsent
from skychimp.store.clients.suppressions import Holds
from skychimp.store.conditions import is_unfinished
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.store.sql import id_list
from skychimp.text import (
    MAX_COMMENT_LENGTH,
    MAX_NAME_LENGTH,
    checked_tags,
    count_of,
    folded,
    one_line,
    shortened,
    some_lines,
)
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from skychimp.services.clients.selection import Selection

_C = tables.client
_T = tables.client_tag
_D = tables.delivery
_O = tables.occurrence
_M = tables.mailing

CHANGE_BATCH = 200
"""How many of many clients are changed in one transaction."""

SORTED_BY = {"id": _C.c.id, "email": _C.c.address_key, "name": func.lower(_C.c.name), "created_at": _C.c.created_at}


@dataclass(frozen=True)
class ClientInfo:
    """A client as its owner sees it. `bad_at` is set once a server has said that the address does not exist."""

    id: int
    email: str
    name: str
    comment: str
    tags: list[str]
    fields: dict[str, FieldValue]
    """The values of the custom fields, by name. A date is a string such as "2026-12-01"."""
    created_at: datetime
    bad_at: datetime | None
    bad_reason: str | None
    suppressed: str | None
    """Why nothing is sent to the address, of no topic."""
    consent_at: datetime | None
    """When the client agreed to get mail, by the newest consent that is recorded."""


class ExportedClient(NamedTuple):
    """What an export has of a client, and an import reads. `consent` is the newest one."""

    email: str
    name: str
    comment: str
    tags: list[str]
    fields: Mapping[str, FieldValue]
    consent: GivenConsent | None = None


class ExportedField(NamedTuple):
    """A field that an exported client has. `is_evident` says whether an import finds the type by the values."""

    field: Field
    is_evident: bool


class Export(NamedTuple):
    """Clients for a file, which are read one by one, the fields that they have, and whether any has a consent."""

    fields: Sequence[ExportedField]
    has_consents: bool
    clients: Iterator[ExportedClient]


class Change(NamedTuple):
    """A client before and after it was changed."""

    old: ClientInfo
    new: ClientInfo


class TagChange(NamedTuple):
    """The tags that a client got and lost."""

    added: tuple[str, ...]
    removed: tuple[str, ...]


class SelectedChange(NamedTuple):
    """How many clients were selected for a change, and the ids of those that have other tags now, by the difference."""

    selected: int
    changed: dict[TagChange, list[int]]


@dataclass(frozen=True)
class TagCount:
    """A tag, and how many clients have it."""

    tag: str
    clients: int


@dataclass(frozen=True)
class _Values:
    """What to change of a client. None leaves a value as it is."""

    email: str | None = None
    name: str | None = None
    comment: str | None = None
    tags: Sequence[str] | None = None
    add_tags: Sequence[str] = ()
    remove_tags: Sequence[str] = ()
    fields: Mapping[str, str] | None = None
    good: bool = False
    rules: Rules = USUAL
    consent: GivenConsent | None = None


def create(
    store: Store,
    actor: Actor,
    *,
    email: str,
    name: str = "",
    comment: str = "",
    tags: Sequence[str] = (),
    fields: Mapping[str, str] | None = None,
    rules: Rules = USUAL,
    consent: GivenConsent | None = None,
) -> ClientInfo:
    """Create a client. `fields` has the texts of custom fields by their names.

    A field that the actor's clients do not have yet gets the type that the text looks like. A consent that was recorded
    of the address before counts again. Raises InvalidValue, and Conflict if the actor has a client with this address.
    """
    scope = authorize(actor, Action.CHANGE_CLIENTS)
    client = validate_client(email, name, comment, tags, rules)
    with store.write() as db:
        values = {name: value for name, value in _parse_given(db, actor, fields).items() if value is not None}
        row = {**_columns(client), "owner_id": actor.user_id, "created_at": store.now(), "fields": dump_fields(values)}
        try:
            client_id = db.execute(insert(_C).values(row).returning(_C.c.id)).scalar_one()
        except IntegrityError:
            raise _already_exists(client.email, _update_hint(client)) from None
        _add_tags(db, client_id, _spelled(db, actor, client.tags))
        suppressions.recall(db.connection(), {client.address_key: client.email})
        _record_consent(db, actor, client.address_key, consent, store.now())
        return _get(db, actor, scope, str(client_id))


def show(store: Store, actor: Actor, client: str) -> ClientInfo:
    """Return one client by its id or email address. Raises NotFound."""
    scope = authorize(actor, Action.SEE_CLIENTS)
    with store.read() as db:
        return _get(db, actor, scope, client)


def list_clients(
    store: Store,
    actor: Actor,
    options: ListOptions,
    tag: str | None = None,
    *,
    selection: "Selection | None" = None,
    only_bad: bool = False,
    only_suppressed: bool = False,
) -> Listed[ClientInfo]:
    """Return the actor's clients. Raises InvalidValue, and NotFound for an unknown segment.

    `tag` selects those that have it, `selection` those of a query or segment, `only_bad` those with a bad address,
    `only_suppressed` those who get no mail of any topic.
    """
    rows = select(*_COLUMNS)
    found = rows.where(_is_listed(store, actor, tag, selection), _C.c.bad_at.is_not(None) if only_bad else true())
    if only_suppressed:
        found = found.where(suppressions.is_suppressed(_C.c.address_key, _C.c.owner_id, literal("")))
    found = apply(found, options, searched=(_C.c.email, _C.c.name, _C.c.comment), sorted_by=SORTED_BY)
    return paging.read_list(store, rows, found, options, partial(map, _client_info))


def export(store: Store, actor: Actor, tag: str | None = None, selection: "Selection | None" = None) -> Export:
    """Return the actor's clients for a file, after recording that in the audit trail.

    Raises InvalidValue, and NotFound for an unknown segment.
    """
    detail = count_of(count(store, actor, tag, selection), "client")
    audit.record_if_possible(store, actor, "export", "client", None, detail)
    is_listed = _is_listed(store, actor, tag, selection)
    with store.read() as db:
        has_consents = bool(db.scalar(select(exists().where(is_listed, _C.c.consent_at.is_not(None)))))
    return Export(_exported_fields(store, actor, is_listed), has_consents, _exported_clients(store, actor, is_listed))


def count(store: Store, actor: Actor, tag: str | None = None, selection: "Selection | None" = None) -> int:
    """Return how many clients the actor has. `tag` counts those that have it, `selection` those of a query or segment.

    Raises InvalidValue, and NotFound for an unknown segment.
    """
    counted = select(func.count(_C.c.id)).where(_is_listed(store, actor, tag, selection))
    with store.read() as db:
        return db.scalar(counted) or 0


def list_tags(store: Store, actor: Actor, options: ListOptions) -> list[TagCount]:
    """Return the tags of the actor's clients with the number of clients. Raises InvalidValue."""
    scope = authorize(actor, Action.SEE_CLIENTS)
    number = func.count()
    query = select(_T.c.tag, number).join(_C, _C.c.id == _T.c.client_id).where(in_scope(scope, actor, _C.c.owner_id))
    sorted_by = {"tag": _T.c.tag, "clients": number}
    query = apply(query.group_by(_T.c.tag), options, searched=(_T.c.tag,), sorted_by=sorted_by)
    with store.read() as db:
        counted = db.execute(query).all()
    return [TagCount(tag, clients) for tag, clients in counted]


def change(
    store: Store,
    actor: Actor,
    client: str,
    *,
    email: str | None = None,
    name: str | None = None,
    comment: str | None = None,
    tags: Sequence[str] | None = None,
    add_tags: Sequence[str] = (),
    remove_tags: Sequence[str] = (),
    fields: Mapping[str, str] | None = None,
    good: bool = False,
    rules: Rules = USUAL,
    consent: GivenConsent | None = None,
) -> ClientInfo:
    """Change the values that are given. `tags` replaces all tags. An empty text in `fields` removes the value.

    A consent is added to those recorded before. A new address, or `good`, clears the mark of a bad address, and what
    has soft-bounced before does not count any more. Emails that wait go to the new address, for which a consent of the
    old one does not count. Raises NotFound, Conflict, InvalidValue.
    """
    scope = authorize(actor, Action.CHANGE_CLIENTS)
    values = _Values(email, name, comment, tags, add_tags, remove_tags, fields, good, rules, consent)
    with store.write() as db:
        return _change(db, actor, scope, _get(db, actor, scope, client), values, store.now())


def change_several(
    store: Store,
    actor: Actor,
    names: Sequence[str],
    *,
    tags: Sequence[str] | None = None,
    add_tags: Sequence[str] = (),
    remove_tags: Sequence[str] = (),
    fields: Mapping[str, str] | None = None,
    good: bool = False,
    consent: GivenConsent | None = None,
) -> list[Change]:
    """Change all of these clients, named by ids or email addresses, or none. `tags` replaces all tags.

    An empty text in `fields` removes the value. Raises NotFound, InvalidValue.
    """
    scope = authorize(actor, Action.CHANGE_CLIENTS)
    values = _Values(tags=tags, add_tags=add_tags, remove_tags=remove_tags, fields=fields, good=good, consent=consent)
    with store.write() as db:
        found = {old.id: old for old in (_get(db, actor, scope, name) for name in names)}
        return [Change(old, _change(db, actor, scope, old, values, store.now())) for old in found.values()]


def change_selected(
    store: Store,
    actor: Actor,
    selection: "Selection",
    *,
    tags: Sequence[str] | None = None,
    add_tags: Sequence[str] = (),
    remove_tags: Sequence[str] = (),
    fields: Mapping[str, str] | None = None,
    good: bool = False,
    consent: GivenConsent | None = None,
    on_batch: Callable[[int], None] = lambda number: None,
) -> SelectedChange:
    """Change all clients that are selected now, in batches. `tags` replaces all tags.

    An empty text in `fields` removes the value. If it is stopped meanwhile, some are changed; calling it again changes
    the others. `on_batch` is called with the number of clients that are done. Raises InvalidValue and NotFound.
    """
    scope = authorize(actor, Action.CHANGE_CLIENTS)
    values = _Values(tags=tags, add_tags=add_tags, remove_tags=remove_tags, fields=fields, good=good, consent=consent)
    now = store.now()
    is_listed = _is_listed(store, actor, None, selection)
    with store.read() as db:
        ids = array("q", db.scalars(select(_C.c.id).where(is_listed).order_by(_C.c.id)))
    undo: dict[TagChange, array[int]] = {}
    done = 0

    def change_next(db: Session) -> bool:
        nonlocal done
        rows = db.execute(select(*_COLUMNS).where(_C.c.id.in_(id_list(ids[done : done + CHANGE_BATCH].tolist()))))
        for old in sorted(map(_client_info, rows), key=lambda client: client.id):
            difference = tag_change(Change(old, _change(db, actor, scope, old, values, now)))
            if difference.added or difference.removed:
                undo.setdefault(difference, array("q")).append(old.id)
        done = min(done + CHANGE_BATCH, len(ids))
        on_batch(done)
        return done == len(ids)

    store.write_in_batches(change_next)
    return SelectedChange(len(ids), {difference: list(changed) for difference, changed in undo.items()})


def tag_change(change: Change) -> TagChange:
    """Return the tags that a client got and lost."""
    old, new = set(change.old.tags), set(change.new.tags)
    return TagChange(tuple(sorted(new - old)), tuple(sorted(old - new)))


def remove(store: Store, actor: Actor, client: str) -> ClientInfo:
    """Delete a client and return it. Queued deliveries are cancelled; the log is kept. Raises NotFound."""
    scope = authorize(actor, Action.CHANGE_CLIENTS)
    with store.write() as db:
        deleted = _get(db, actor, scope, client)
        unfinished = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(_M.c.owner_id == actor.user_id)
        waiting = unfinished.where(is_unfinished())
        queue.cancel_for_address(db.connection(), waiting, _key(deleted))
        db.execute(delete(_C).where(_C.c.id == deleted.id))
        audit.record(db, actor, "delete", "client", deleted.id)
    return deleted


def validate_client(email: str, name: str, comment: str, tags: Sequence[str] = (), rules: Rules = USUAL) -> NewClient:
    """Return a client that can be stored. Raises InvalidValue if one of the values is not valid."""
    email = email.strip()
    if not email:
        raise InvalidValue(tr("missing email address"))
    if len(email) > addresses.MAX_LENGTH:
        raise InvalidValue(tr("the email address {email} is too long", email=shortened(email)))
    address = _parse_address(email, rules)
    name = one_line(name, "name", MAX_NAME_LENGTH)
    comment = some_lines(comment, "comment", MAX_COMMENT_LENGTH) if comment else ""
    return NewClient(address.email, address.key, name, comment, checked_tags(tags) if tags else ())


def _change(db: Session, actor: Actor, scope: Scope, old: ClientInfo, values: _Values, now: datetime) -> ClientInfo:
    tags = _changed_tags(old.tags if values.tags is None else values.tags, values.add_tags, values.remove_tags)
    new = validate_client(
        values.email if values.email is not None else old.email,
        values.name if values.name is not None else old.name,
        values.comment if values.comment is not None else old.comment,
        tags,
        values.rules if values.email is not None else addresses.STORED,
    )
    columns = _columns(new)
    if values.fields:
        changed = old.fields | _parse_given(db, actor, values.fields)
        columns["fields"] = dump_fields({name: value for name, value in changed.items() if value is not None})
    if values.good or new.address_key != _key(old):
        columns |= bad_addresses.make_good(now)
    if new.address_key != _key(old):
        columns["consent_at"] = None
    if values.good:
        suppressions.remove(db.connection(), new.address_key, Holds(actor.user_id), suppressions.BOUNCE)
    try:
        db.execute(update(_C).where(_C.c.id == old.id).values(columns))
    except IntegrityError:
        raise _already_exists(new.email) from None
    if new.address_key != _key(old):
        suppressions.recall(db.connection(), {new.address_key: new.email})
        unfinished = select(_O.c.id).where(is_unfinished())
        is_at_old = and_(_D.c.occurrence_id.in_(unfinished), _D.c.address_key == _key(old))
        queue.use_new_addresses(db.connection(), and_(is_at_old, _D.c.client_id == old.id))
    if values.consent is not None or new.address_key != _key(old):
        _record_consent(db, actor, new.address_key, values.consent, now)
    if values.tags is not None or values.add_tags or values.remove_tags:
        new_tags = _spelled(db, actor, new.tags)  # while the client's own spellings are still there
        db.execute(delete(_T).where(_T.c.client_id == old.id))
        _add_tags(db, old.id, new_tags)
    return _get(db, actor, scope, str(old.id))


def _parse_address(email: str, rules: Rules) -> Address:
    try:
        return addresses.parse(email, rules)
    except InvalidValue as error:
        if not rules.accept_unusual and addresses.is_unusual(email):
            raise InvalidValue(error.message, tr("pass --accept-unusual if the address exists")) from None
        raise


def _key(client: ClientInfo) -> str:
    return addresses.parse(client.email, addresses.STORED).key


def _columns(client: NewClient) -> dict[str, Any]:
    return {name: value for name, value in client._asdict().items() if name not in ("tags", "fields")}


def _parse_given(db: Session, actor: Actor, given: Mapping[str, str] | None) -> dict[str, FieldValue | None]:
    """Return the values of texts by the names of the fields, which are added if they are new. None is no value.

    Raises InvalidValue, also for an empty text of a field that there is not.
    """
    if not given:
        return {}
    names = {checked_name(name): text.strip() for name, text in given.items()}
    known = list(store_fields.known_fields(db.connection(), actor.user_id).values())
    for name, text in names.items():
        if not text and find_field(name, known) is None:
            raise unknown_field(name, known)
    fields = [Field(name, type_of_text(text)) for name, text in names.items()]
    registered = store_fields.register(db.connection(), actor.user_id, fields)
    if len(registered) < len(names):
        raise InvalidValue(tr("a field is given twice"), tr("name each field once"))
    texts = zip(registered, names.values(), strict=True)
    return {field.name: parse_value(text, field.type, field.name) for field, text in texts}


def _changed_tags(tags: Sequence[str], added: Sequence[str], removed: Sequence[str]) -> list[str]:
    removed_keys = set(map(folded, checked_tags(removed)))
    return [tag for tag in checked_tags([*tags, *added]) if folded(tag) not in removed_keys]


def _spelled(db: Session, actor: Actor, tags: Sequence[str]) -> list[str]:
    return list(store_tags.spell(db.connection(), actor.user_id, tags).values()) if tags else []


def _add_tags(db: Session, client_id: int, tags: Sequence[str]) -> None:
    if tags:
        db.execute(insert(_T), [{"client_id": client_id, "tag": tag} for tag in tags])


def _record_consent(db: Session, actor: Actor, key: str, consent: GivenConsent | None, now: datetime) -> None:
    """Record a consent of a client with this address. Without one, those that are recorded of the address count."""
    connection = db.connection()
    if consent is None:
        store_consents.recall(connection, actor.user_id, [key])
    else:
        store_consents.record(connection, actor.user_id, [consent.new(key, now)], ConsentSource.COMMAND, now)


def _already_exists(email: str, hint: Phrase = "") -> Conflict:
    return Conflict(
        tr("client {email} already exists", email=email), hint or run_hint("clients", "show", *arguments(email))
    )


def _update_hint(client: NewClient) -> str:
    """Return the hint to add tags to a client who exists, "" without tags."""
    options = [word for tag in client.tags for word in ("--add-tag", tag)]
    return run_hint("clients", "update", *options, *arguments(client.email)) if options else ""


_EXPORTED = (_C.c.id, _C.c.email, _C.c.name, _C.c.comment, store_tags.client_tags().label("tags"), _C.c.fields)
_SUPPRESSED = suppressions.reason(_C.c.address_key, _C.c.owner_id, literal("")).label("suppressed")
_COLUMNS = (*_EXPORTED, _C.c.created_at, _C.c.bad_at, _C.c.bad_reason, _SUPPRESSED, _C.c.consent_at)


def _is_listed(
    store: Store, actor: Actor, tag: str | None, selection: "Selection | None" = None
) -> ColumnElement[bool]:
    """Return the condition that a client is the actor's, has the tag if there is one, and is selected.

    Raises InvalidValue and NotFound.
    """
    is_own = in_scope(authorize(actor, Action.SEE_CLIENTS), actor, _C.c.owner_id)
    if selection is not None:
        from skychimp.services.clients.selection import is_selected

        is_own &= is_selected(store, actor, selection)
    if tag is None:
        return is_own
    tags = checked_tags([tag])
    with store.read() as db:
        spellings = store_tags.spellings(db.connection(), *tags)
    return is_own & _C.c.id.in_(select(_T.c.client_id).where(_T.c.tag.in_(spellings)))


def _get(db: Session, actor: Actor, scope: Scope, client: str) -> ClientInfo:
    is_own = in_scope(scope, actor, _C.c.owner_id)
    row = db.execute(select(*_COLUMNS).where(is_own, matches_id_or_email(_C, client))).one_or_none()
    if row is None:
        raise not_found("client", client)
    return _client_info(row)


def _client_info(row: Sequence[Any]) -> ClientInfo:
    client_id, email, name, comment, tags, fields, *others = row  # not by name: that is slow in a long list
    return ClientInfo(client_id, email, name, comment, _parse_tags(tags), parse_fields(fields), *others)


def _exported_client(row: Sequence[Any], consent: RecordedConsent | None) -> ExportedClient:
    _, email, name, comment, tags, fields, _ = row
    given = None if consent is None else GivenConsent(consent.wording, consent.at, consent.proof)
    return ExportedClient(email, name, comment, _parse_tags(tags), parse_fields(fields), given)


def _exported_clients(store: Store, actor: Actor, is_listed: ColumnElement[bool]) -> Iterator[ExportedClient]:
    rows = select(*_EXPORTED, _C.c.consent_at)
    for page in paging.read_pages(store, rows, rows.where(is_listed).order_by(_C.c.id)):
        agreed = [row.email for row in page if row.consent_at is not None]
        newest = consents.newest_of(store, actor, agreed) if agreed else {}
        for row in page:
            yield _exported_client(row, newest.get(row.email))


def _exported_fields(store: Store, actor: Actor, is_listed: ColumnElement[bool]) -> list[ExportedField]:
    """Return the fields of which one of the listed clients has a value. Reads clients until all is known of them."""
    with store.read() as db:
        known = {field.name: field for field in store_fields.known_fields(db.connection(), actor.user_id).values()}
    finders = {name: TypeFinder() for name in known}
    open_names = set(known)
    rows = select(_C.c.id, _C.c.fields)
    pages = paging.read_pages(store, rows, rows.where(is_listed, _C.c.fields != "{}").order_by(_C.c.id))
    for page in pages if known else ():
        for values in (parse_fields(row.fields) for row in page):
            for name in open_names & values.keys():
                finders[name].add_text(format_value(values[name]))
        # Values of any other type than text look like this type, so one is enough.
        open_names -= {name for name in open_names if finders[name].type in (known[name].type, FieldType.TEXT)}
        if not open_names:
            break
    used = ((field, finders[name].type) for name, field in known.items())
    return [ExportedField(field, found == field.type) for field, found in used if found is not None]


def _parse_tags(tags: str) -> list[str]:
    return list(_parse_once(tags))


@lru_cache
def _parse_once(tags: str) -> tuple[str, ...]:
    """Return the tags in a JSON list. Most clients of a long list have the same as others."""
    return tuple(json.loads(tags))
