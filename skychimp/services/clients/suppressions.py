"""Add, list and remove suppressions: the addresses and domains that must not get mail."""

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Row, Select, func, select, update

from skychimp import addresses
from skychimp.addresses import Address
from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.listed import Listed
from skychimp.models import EVERYBODY, SuppressionSource, tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit, paging
from skychimp.services.listing import ListOptions, apply, require_found
from skychimp.shell import arguments, run_hint
from skychimp.store import queue
from skychimp.store.clients import audience, bad_addresses, topics
from skychimp.store.clients import suppressions as store_suppressions
from skychimp.store.clients.suppressions import BOUNCE, Holds, NewSuppression
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.store.sql import Nullable
from skychimp.text import checked_topic, count_of, folded, nfc, one_line, shortened
from skychimp.translation import Phrase, tr

UNSUBSCRIBED = "unsubscribed"
"""The reason of a suppression, if none is given."""
COMPLAINT = "complaint"

MAX_REASON_LENGTH = 200
MAX_NOTE_LENGTH = 1_000

CANCEL_BATCH = 5_000
"""How many waiting emails are cancelled in one transaction."""

_S = tables.suppression
_C = tables.client

_REASON, _NOTE = tr("reason"), tr("note")

SORTED_BY = {
    "id": _S.c.id,
    "address": Nullable(_S.c.address_key),
    "reason": func.lower(_S.c.reason),
    "topic": _S.c.topic,
    "at": _S.c.at,
}


@dataclass(frozen=True)
class SuppressionInfo:
    """A suppression. `address` is None once the person was forgotten, `topic` if it holds for all mail.

    `until` is when it ends, None if it holds for good.
    """

    address: str | None
    reason: str
    topic: str | None
    everywhere: bool
    source: SuppressionSource
    at: datetime
    note: str
    until: datetime | None = None


@dataclass(frozen=True)
class Added:
    """What `add` did: the suppressions as they are now, and how many waiting emails it cancelled.

    `unchanged` are those of them that existed before.
    """

    suppressions: list[SuppressionInfo]
    unchanged: list[SuppressionInfo]
    cancelled: int


def new_suppression(target: str, reason: str = UNSUBSCRIBED, note: str = "") -> NewSuppression:
    """Return the suppression of an email address, or of a domain such as `@example.org`. Raises InvalidValue."""
    address = parse_target(target)
    reason = one_line(nfc(reason), _REASON, MAX_REASON_LENGTH)
    if not reason:
        raise InvalidValue(
            tr("the reason is empty"),
            tr(
                "use {unsubscribed}, {complaint}, {bounce} or a text",
                unsubscribed=UNSUBSCRIBED,
                complaint=COMPLAINT,
                bounce=BOUNCE,
            ),
        )
    return NewSuppression(address.email, address.key, reason, one_line(nfc(note), _NOTE, MAX_NOTE_LENGTH))


def parse_target(text: str) -> Address:
    """Return an email address, or a domain such as `@example.org`, as it is shown and compared. Raises InvalidValue."""
    text = text.strip()
    if not text.startswith("@"):
        return addresses.parse(text, addresses.STORED)
    try:
        email, key = addresses.parse(f"x{text}", addresses.STORED)
    except InvalidValue:
        raise InvalidValue(
            tr("invalid domain {value}", value=shortened(text)), tr("write a domain as @example.org")
        ) from None
    return Address(email.removeprefix("x"), key.removeprefix("x"))


def add(
    store: Store,
    actor: Actor,
    new: Sequence[NewSuppression],
    *,
    topic: str | None = None,
    everywhere: bool = False,
    source: SuppressionSource = SuppressionSource.COMMAND,
) -> Added:
    """Suppress addresses and domains for the actor's mail, and cancel what waits for them.

    `topic` restricts that to mailings of this topic. `everywhere` extends it to the mail of all users, whatever its
    topic. A suppression that exists stays as it is, except that any other reason replaces BOUNCE. All are added in one
    transaction, so a caller with many passes some thousands at a time. Raises InvalidValue, and Denied.
    """
    given = _holds(actor, Action.CHANGE_CLIENTS, topic, everywhere)
    distinct: dict[str, NewSuppression] = {}
    for each in new:
        distinct.setdefault(each.key, each)
    domains = [key for key in distinct if key.startswith("@")]
    cancelled = _cancel_in_batches(store, domains, given) if domains else 0
    with store.write() as db:
        holds = _with_known_spelling(db, given)
        before = set(_find(db, distinct, holds))
        cancelled += store_suppressions.add(db.connection(), distinct.values(), holds, source, store.now())
        after = _find(db, distinct, holds)
        if everywhere or source == SuppressionSource.IMPORT:
            what = count_of(len(distinct), "address", "addresses")
            audit.record(db, actor, "suppress", "suppression", None, _detail(what, holds))
    return Added(after, [each for each in after if each in before], cancelled)


def _cancel_in_batches(store: Store, domains: Sequence[str], given: Holds) -> int:
    """Cancel what waits for domains, and return how much. It may be much, and nobody must wait long for the lock."""
    with store.write() as db:
        holds = _with_known_spelling(db, given)
    with store.read() as db:
        ids = array("q", db.scalars(store_suppressions.select_waiting(domains, holds)))
    cancelled = 0

    def cancel_next(db: Session) -> bool:
        nonlocal cancelled
        batch = ids[:CANCEL_BATCH].tolist()
        del ids[:CANCEL_BATCH]
        cancelled += queue.cancel_deliveries(db.connection(), batch)
        return not ids

    store.write_in_batches(cancel_next)
    return cancelled


def _with_known_spelling(db: Session, holds: Holds) -> Holds:
    return holds._replace(topic=topics.spell(db.connection(), holds.owner_id, holds.topic))


def find_covering(store: Store, actor: Actor, target: str) -> list[SuppressionInfo]:
    """Return all suppressions that keep the actor's mail from an address or domain, those of all mail first.

    They include those of its domain and of all users' mail. Raises InvalidValue, Denied.
    """
    authorize(actor, Action.SEE_CLIENTS)
    key = parse_target(target).key
    with store.read() as db:
        is_covering = store_suppressions.is_of_any(db.connection(), store_suppressions.keys_for(key))
        is_covering &= _S.c.owner_id.in_([actor.user_id, EVERYBODY]) & store_suppressions.is_in_force()
        return [
            _suppression_info(row) for row in db.execute(select(_S).where(is_covering).order_by(_S.c.topic, _S.c.id))
        ]


def find_covering_all(store: Store, actor: Actor, targets: Sequence[str]) -> list[SuppressionInfo]:
    """Return what keeps the actor's mail from any of these addresses and domains, each once.

    Raises NotFound that names all which are not suppressed, InvalidValue, Denied.
    """
    authorize(actor, Action.SEE_CLIENTS)
    found: dict[SuppressionInfo, None] = {}
    unknown: list[NotFound] = []
    for address in dict.fromkeys(parse_target(target).email for target in targets):
        covering = find_covering(store, actor, address)
        found |= dict.fromkeys(covering)
        if not covering:
            unknown.append(
                NotFound(tr("{address} is not suppressed", address=address), run_hint("suppressions", "list"))
            )
    require_found(unknown)
    return list(found)


def require_not_suppressed(store: Store, actor: Actor, email: str) -> None:
    """Raise Conflict if all mail of the actor is kept from an address, unless it is the actor's own."""
    of_all_mail = [each for each in find_covering(store, actor, email) if each.topic is None]
    if of_all_mail and parse_target(email).key != parse_target(actor.email).key:
        raise Conflict(
            tr("{email} is {state}", email=email, state=why(of_all_mail[0])),
            tr("use another address, such as your own"),
        )


def why(suppression: SuppressionInfo) -> str:
    """Return what a suppression means for an address, such as `suppressed since 2026-11-29: unsubscribed`."""
    return audience.why_suppressed(
        suppression.address or "",
        suppression.topic or "",
        suppression.at,
        suppression.reason,
        everywhere=suppression.everywhere,
    )


def list_suppressions(
    store: Store,
    actor: Actor,
    options: ListOptions,
    *,
    topic: str | None = None,
    everywhere: bool = False,
    reason: str | None = None,
) -> Listed[SuppressionInfo]:
    """Return the actor's suppressions, or with `everywhere` those for all users' mail.

    `topic` and `reason` select those that have them. Raises InvalidValue, Denied.
    """
    holds = _holds(actor, Action.SEE_CLIENTS, topic, everywhere)
    rows = select(_S)
    found = rows.where(_S.c.owner_id == holds.owner_id, store_suppressions.is_in_force())
    if reason is not None:
        found = found.where(_S.c.reason == nfc(reason).strip())
    if topic is not None:
        with store.read() as db:
            found = found.where(_S.c.topic == _spelled(db, holds).topic)
    found = apply(found, options, searched=(_S.c.address, _S.c.reason, _S.c.note), sorted_by=SORTED_BY)
    return paging.read_list(store, rows, found, options, partial(map, _suppression_info))


def export(
    store: Store, actor: Actor, *, topic: str | None = None, everywhere: bool = False
) -> Iterator[SuppressionInfo]:
    """Yield suppressions for a file, after recording that in the audit trail. Raises InvalidValue, Denied.

    Those of forgotten persons are not among them, as their addresses are not known. Nor are those that end.
    """
    holds = _holds(actor, Action.SEE_CLIENTS, topic, everywhere)
    audit.record_if_possible(store, actor, "export", "suppression", None, _detail("", holds))
    listed = list_suppressions(store, actor, ListOptions(), topic=topic, everywhere=everywhere)
    yield from (each for each in listed if each.address is not None and each.until is None)


def require_all(
    store: Store, actor: Actor, targets: Sequence[str], *, topic: str | None = None, everywhere: bool = False
) -> None:
    """Raise what `remove` would raise."""
    holds = _holds(actor, Action.CHANGE_CLIENTS, topic, everywhere)
    with store.read() as db:
        holds = _spelled(db, holds)
        for target in targets:
            _get(db, parse_target(target), holds)


def remove(
    store: Store, actor: Actor, targets: Sequence[str], *, topic: str | None = None, everywhere: bool = False
) -> list[SuppressionInfo]:
    """Remove the suppressions of addresses and domains, all or none.

    A client whose address did not exist is good again. Raises InvalidValue, Denied, and NotFound if one of them is not
    suppressed, or only by others.
    """
    holds = _holds(actor, Action.CHANGE_CLIENTS, topic, everywhere)
    distinct = {address.key: address for address in map(parse_target, targets)}.values()
    now = store.now()
    with store.write() as db:
        holds = _spelled(db, holds)
        rows = [_get(db, address, holds) for address in distinct]
        for address, row in zip(distinct, rows, strict=True):
            store_suppressions.remove(db.connection(), address.key, holds)
            if row.reason == BOUNCE:
                is_theirs = (_C.c.address_key == address.key) & (_C.c.owner_id == holds.owner_id)
                db.execute(update(_C).where(is_theirs).values(bad_addresses.make_good(now)))
            audit.record(db, actor, "delete", "suppression", row.id, _detail("", holds))
    return [_suppression_info(row) for row in rows]


def require_allowed(actor: Actor, *, topic: str | None, everywhere: bool) -> None:
    """Raise Denied or InvalidValue as `add` would, whatever is added."""
    _holds(actor, Action.CHANGE_CLIENTS, topic, everywhere)


def _holds(actor: Actor, action: Action, topic: str | None, everywhere: bool) -> Holds:
    authorize(actor, Action.SUPPRESS_EVERYWHERE if everywhere else action)
    if everywhere and topic is not None:
        raise InvalidValue(tr("a suppression for all users cannot have a topic"), tr("use --topic or --everywhere"))
    return Holds(EVERYBODY if everywhere else actor.user_id, "" if topic is None else checked_topic(topic))


def _spelled(db: Session, holds: Holds) -> Holds:
    """Return what suppressions hold for, with the topic as they spell it."""
    if not holds.topic:
        return holds
    used = db.scalars(select(_S.c.topic).where(_S.c.owner_id == holds.owner_id).distinct())
    return holds._replace(topic=next((each for each in used if folded(each) == folded(holds.topic)), holds.topic))


def _select(db: Session, keys: Collection[str], holds: Holds) -> Select[Any]:
    is_of_any = store_suppressions.is_of_any(db.connection(), keys) & store_suppressions.is_in_force()
    return select(_S).where(is_of_any, _S.c.owner_id == holds.owner_id, _S.c.topic == holds.topic).order_by(_S.c.id)


def _find(db: Session, keys: Collection[str], holds: Holds) -> list[SuppressionInfo]:
    return [_suppression_info(row) for row in db.execute(_select(db, keys, holds))]


def _get(db: Session, address: Address, holds: Holds) -> Row[Any]:
    row = db.execute(_select(db, [address.key], holds)).one_or_none()
    if row is None:
        raise NotFound(
            _not_suppressed(address.email, holds), run_hint("suppressions", "show", *arguments(address.email))
        )
    return row


def _not_suppressed(email: str, holds: Holds) -> Phrase:
    if holds.owner_id == EVERYBODY:
        return tr("{email} is not suppressed for all users' mail", email=email)
    if holds.topic:
        return tr("{email} is not suppressed for topic {topic}", email=email, topic=holds.topic)
    return tr("{email} is not suppressed", email=email)


def _suppression_info(row: Row[Any]) -> SuppressionInfo:
    return SuppressionInfo(
        row.address, row.reason, row.topic or None, row.owner_id == EVERYBODY, row.source, row.at, row.note, row.until
    )


def _detail(what: str, holds: Holds) -> str:
    """Return the detail of an entry of the audit trail."""
    return ", ".join(filter(None, (what, "everywhere" if holds.owner_id == EVERYBODY else "")))
