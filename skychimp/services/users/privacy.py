"""Erase the records of a person, and export the data of a user."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import and_, delete, exists, func, or_, select

from skychimp import addresses
from skychimp.errors import Conflict, NotFound, StoreFailed
from skychimp.models import (
    DeliveryState,
    Role,
    tables,
)
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit, paging
from skychimp.services.clients import clients, fields, segments
from skychimp.services.clients import suppressions as client_suppressions
from skychimp.services.listing import ListOptions, in_scope
from skychimp.services.mailings import mailings
from skychimp.services.messages import attachments, layouts, messages
from skychimp.services.users import users
from skychimp.shell import run_hint
from skychimp.store import ledger, queue
from skychimp.store.clients import consents, suppressions
from skychimp.store.conditions import current_state
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.store.sql import id_list
from skychimp.translation import tr

_A = tables.attempt
_C = tables.client
_CONSENT = tables.consent
_D = tables.delivery
_M = tables.mailing
_O = tables.occurrence
_P = tables.post
_S = tables.suppression


@dataclass(frozen=True)
class RecordCounts:
    """How many records of a person the store has, or had. `cancelled` counts the emails that will not be sent now."""

    clients: int
    deliveries: int
    attempts: int = 0
    cancelled: int = 0


def count_records(store: Store, actor: Actor, email: str, *, everywhere: bool = False) -> RecordCounts:
    """Count the records that `forget` would erase.

    Raises InvalidValue for an invalid address, NotFound if there are no records, and Denied.
    """
    with store.read() as db:
        records = _find_records(db, actor, email, everywhere)
    return RecordCounts(len(records.client_ids), len(records.states))


def forget(store: Store, actor: Actor, email: str, *, everywhere: bool = False) -> RecordCounts:
    """Erase a person from the actor's clients and log, or from all users'. The emails sent are still counted.

    Waiting emails to that person are cancelled. Consents stay as proof by the address's hash, and allow no more mail.
    What is erased is overwritten. If the free space of the file still has
    older copies of it, the store is compacted. Raises InvalidValue for an invalid address, NotFound if there are no
    records, Conflict if an email to the person is being sent, Denied, and StoreFailed if the records were erased but
    there are copies that cannot be removed now.
    """
    with store.read() as db:  # it may read the whole log, so not while it keeps others from writing
        found = _find_records(db, actor, email, everywhere)
    with store.write() as db:
        records = _find_records(db, actor, email, everywhere, known=found)
        if DeliveryState.SENDING in records.states.values():
            raise Conflict(tr("an email to {email} is being sent right now", email=email), tr("try again in a moment"))
        ids = list(records.states)
        owner_id = None if everywhere else actor.user_id
        texts = _erased_texts(db, records, owner_id)
        cancelled = queue.cancel_deliveries(db.connection(), ids)
        attempts = ledger.erase_recipients(db.connection(), ids)
        db.execute(delete(_C).where(_C.c.id.in_(records.client_ids)))
        suppressions.erase(db.connection(), records.key, owner_id)
        consents.forget(db.connection(), records.key, owner_id, store.now())
        erased = RecordCounts(len(records.client_ids), len(ids), attempts, cancelled)
        audit.record(db, actor, "forget", "client", None, f"clients: {erased.clients}, deliveries: {erased.deliveries}")
    _remove_remains(store, email, texts)
    return erased


def _remove_remains(store: Store, email: str, texts: Collection[str]) -> None:
    """Compact the store if its free space has copies of erased records. Raises StoreFailed."""
    try:
        if store.has_remains(texts):
            store.vacuum()
    except (Conflict, StoreFailed) as error:
        raise StoreFailed(
            tr(
                "the records of {email} were erased, but copies of them may be left in unused parts of the store:"
                " {message}",
                email=email,
                message=error.message,
            ),
            tr("stop the daemon, then {hint}", hint=run_hint("store", "vacuum")),
        ) from error


def export(store: Store, actor: Actor) -> Iterator[tuple[str, Any]]:
    """Yield the parts of the actor's own data, by name.

    Each part but the account is an iterator, which must be read before the next part. Raises NotLoggedIn.
    """
    authorize(actor, Action.SEE_OWN_ACCOUNT)
    audit.record_if_possible(store, actor, "export", "user", actor.user_id)
    owner = replace(actor, role=Role.USER)  # other roles see other users' data, or do not see their own
    everything = ListOptions()
    yield "account", users.show_own(store, actor)
    yield "fields", iter(fields.list_fields(store, owner))
    yield "clients", clients.list_clients(store, owner, everything)
    yield "consents", _consents(store, owner)
    yield "suppressions", client_suppressions.list_suppressions(store, owner, everything)
    yield "segments", segments.list_segments(store, owner, everything)
    yield "layouts", layouts.list_layouts(store, owner, everything)
    yield "messages", messages.list_messages(store, owner, everything)
    yield "files", attachments.export(store, owner.user_id)
    yield "mailings", mailings.list_mailings(store, owner, everything)
    yield "attempts", _attempts(store, owner)
    yield "posts", _posts(store, owner)


@dataclass(frozen=True)
class _Records:
    """The ids of a person's clients, and the state of each of the person's deliveries by its id.

    `key` is the address, as addresses are compared. `until` is the id of the last delivery when they were looked for.
    """

    key: str
    client_ids: list[int]
    states: dict[int, DeliveryState]
    until: int


def _find_records(db: Session, actor: Actor, email: str, everywhere: bool, known: _Records | None = None) -> _Records:
    """Find a person's clients and deliveries: those to the address, and those to the clients' former addresses.

    With `known`, only deliveries that were added since are looked for, and those known are read again.
    """
    scope = authorize(actor, Action.FORGET_EVERYWHERE if everywhere else Action.CHANGE_CLIENTS)
    key = addresses.parse(email.strip(), addresses.STORED).key
    own_clients = select(_C.c.id).where(_C.c.address_key == key, in_scope(scope, actor, _C.c.owner_id))
    client_ids = list(db.scalars(own_clients))
    to_address = (
        select(_D.c.id)
        .join(_O, _O.c.id == _D.c.occurrence_id)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(_D.c.address_key == key, in_scope(scope, actor, _M.c.owner_id))
    )
    is_theirs = or_(_D.c.id.in_(to_address), _D.c.client_id.in_(client_ids))
    if known is not None and set(client_ids) <= set(known.client_ids):
        is_theirs = or_(_D.c.id.in_(id_list(list(known.states))), and_(_D.c.id > known.until, is_theirs))
    deliveries = select(_D.c.id, current_state().label("state")).where(is_theirs)
    states = {row.id: DeliveryState(row.state) for row in db.execute(deliveries)}
    until = db.scalar(select(func.max(_D.c.id))) or 0
    owner_id = None if everywhere else actor.user_id
    has_consent = consents.proofs(db.connection(), key, owner_id).exists()
    is_suppressed = exists().where(_S.c.address_key == key, in_scope(scope, actor, _S.c.owner_id))
    if not client_ids and not states and not db.scalar(select(or_(is_suppressed, has_consent))):
        raise NotFound(tr("no record of {email}", email=email), tr('run "skychimp clients list"'))
    return _Records(key, client_ids, states, until)


def _erased_texts(db: Session, records: _Records, owner_id: int | None) -> set[str]:
    """Return the addresses in the records, as they are stored, and the proofs of consents."""
    of_clients = select(_C.c.email, _C.c.address_key).where(_C.c.id.in_(records.client_ids))
    of_deliveries = select(_D.c.address, _D.c.address_key).where(_D.c.id.in_(id_list(list(records.states))))
    of_suppressions = select(_S.c.address, _S.c.address_key).where(_S.c.address_key == records.key)
    rows = [*db.execute(of_clients), *db.execute(of_deliveries), *db.execute(of_suppressions)]
    addresses_ = {text for row in rows for text in row if text != ledger.ERASED}
    return addresses_ | set(filter(None, db.scalars(consents.proofs(db.connection(), records.key, owner_id))))


def _consents(store: Store, owner: Actor) -> Iterator[dict[str, Any]]:
    """Yield all consents. One of a client who was deleted or forgotten has no address."""
    emails: dict[str, str] = {}
    clients_ = select(_C.c.id, _C.c.address_key, _C.c.email)
    with_consent = clients_.where(_C.c.owner_id == owner.user_id, _C.c.consent_at.is_not(None))
    for page in paging.read_pages(store, clients_, with_consent.order_by(_C.c.id)):
        with store.read() as db:
            hashes = suppressions.address_hashes(db.connection(), [row.address_key for row in page])
        emails |= {hashes[row.address_key]: row.email for row in page}
    rows = select(_CONSENT)
    own = rows.where(_CONSENT.c.owner_id == owner.user_id).order_by(_CONSENT.c.id)
    for page in paging.read_pages(store, rows, own):
        for row in page:
            consent = {name: getattr(row, name) for name in consents.RecordedConsent._fields}
            yield {"email": None if row.forgotten_at else emails.get(row.address_hash)} | consent


def _attempts(store: Store, owner: Actor) -> Iterator[dict[str, Any]]:
    columns = (
        _A.c.id, _O.c.mailing_id, _O.c.due_at, _D.c.address.label("email"), _A.c.number.label("attempt"),
        _A.c.finished_at.label("at"), _A.c.outcome.label("status"), _A.c.reply, _A.c.relay,
    )  # fmt: skip
    own_attempts = (
        select(_A.c.id)
        .join(_D, _D.c.id == _A.c.delivery_id)
        .join(_O, _O.c.id == _D.c.occurrence_id)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(_M.c.owner_id == owner.user_id)
    )
    rows = select(*columns).join(_D, _D.c.id == _A.c.delivery_id).join(_O, _O.c.id == _D.c.occurrence_id)
    for page in paging.read_pages(store, rows, rows.where(_A.c.id.in_(own_attempts)).order_by(_A.c.id)):
        for row in page:
            attempt = dict(row._mapping)
            del attempt["id"]
            yield attempt


def _posts(store: Store, author: Actor) -> Iterator[dict[str, Any]]:
    rows = select(_P).where(_P.c.author_id == author.user_id)
    for page in paging.read_pages(store, rows, rows.order_by(_P.c.id), size=paging.SMALL_PAGE):
        for row in page:
            yield dict(row._mapping)
