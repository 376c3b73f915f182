"""Keep the addresses and domains that must not get mail. Part of the caller's transaction.

A suppression holds for one user's mail, or for everybody's (EVERYBODY), and for one topic or all. Whoever adds one
cancels in the same transaction what waits for the address, so that no intent to it is committed after that. Nothing is
created or queued again for a suppressed address.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from skychimp.models import (
    EVERYBODY,
    DeliveryState,
    SuppressionSource,
    tables,
)
from skychimp.store.conditions import awaits_a_try, is_unfinished
from skychimp.store.sql import insert_or, text_position

_S = tables.suppression
_C = tables.client
_D = tables.delivery
_M = tables.mailing
_O = tables.occurrence

_AT_ONCE = 1_000
"""How many addresses are looked for in one statement."""

_SELECT_SECRET = select(tables.store_info.c.secret)
_ADDRESS = ("address", "address_key")
_REPLACED = ("reason", "source", "at", "note", "until")

BOUNCE = "bounce"
"""The reason of an address that does not exist. A person can make its client good again, which ends the suppression."""


class NewSuppression(NamedTuple):
    """A suppression to add. `address` is as a person writes it, `key` as addresses are compared.

    `at` is the time at which the person opted out, if that is known and was before now. `until` is when it ends, None
    if it holds for good.
    """

    address: str
    key: str
    reason: str
    note: str = ""
    at: datetime | None = None
    until: datetime | None = None


class Holds(NamedTuple):
    """What suppressions hold for: the mail of a user or of EVERYBODY, and one topic ("" for all)."""

    owner_id: int
    topic: str = ""


def is_in_force() -> ColumnElement[bool]:
    """Return the condition of a suppression that has not ended."""
    # SQLite has both as texts that sort by time, and each is in UTC.
    return or_(_S.c.until.is_(None), _S.c.until > func.current_timestamp())


def is_suppressed(
    key: ColumnElement[str], owner_id: ColumnElement[int], topic: ColumnElement[str]
) -> ColumnElement[bool]:
    """Return the condition that an address must not get a mailing of this owner with this topic."""
    return exists().where(*_conditions(key, owner_id, topic)).correlate_except(_S)


def reason(key: ColumnElement[str], owner_id: ColumnElement[int], topic: ColumnElement[str]) -> ColumnElement[Any]:
    """Return the expression for why an address must not get such a mailing. It is NULL if it may."""
    return _first(_S.c.reason, _conditions(key, owner_id, topic))


def first_id(key: ColumnElement[str], owner_id: ColumnElement[int], topic: ColumnElement[str]) -> ColumnElement[Any]:
    """Return the expression for the id of the suppression that `reason` is of."""
    return _first(_S.c.id, _conditions(key, owner_id, topic))


def count_reasons(db: Connection, owner_id: int, keys: Collection[str]) -> Mapping[str, int]:
    """Return how many of a user's clients with these addresses must not get any mail, by the reasons."""
    counts: Counter[str] = Counter()
    if not db.scalar(select(exists().where(_S.c.owner_id.in_([owner_id, EVERYBODY])))):
        return counts
    why = reason(_C.c.address_key, _C.c.owner_id, literal("")).label("why")
    remaining = iter(keys)
    while some := list(islice(remaining, _AT_ONCE)):
        of_clients = select(why).where(_C.c.owner_id == owner_id, _C.c.address_key.in_(some))
        counts.update(each for each in db.scalars(of_clients) if each is not None)
    return counts


def keys_for(key: str) -> tuple[str, str]:
    """Return the keys of the suppressions that an address can have: its own, and that of its domain."""
    return key, key[key.index("@") :]


def add(
    db: Connection,
    suppressions: Collection[NewSuppression],
    holds: Holds,
    source: SuppressionSource,
    now: datetime,
) -> int:
    """Add suppressions of addresses, and cancel what waits for them. Return how many emails that are.

    Those that exist stay as they are, except that any other reason replaces BOUNCE, and that one for good replaces one
    that ends. One that ends replaces only another one that ends.
    """
    if not suppressions:
        return 0
    secret = _secret(db)
    rows = [
        {
            "owner_id": holds.owner_id,
            "topic": holds.topic,
            "address_hash": address_hash(secret, each.key),
            "address": each.address,
            "address_key": each.key,
            "reason": each.reason,
            "source": source,
            "at": min(each.at or now, now),
            "note": each.note,
            "until": each.until,
        }
        for each in suppressions
    ]
    db.execute(_insert_or_replace(is_erased=False), rows)
    return cancel_waiting(db, [each.key for each in suppressions], holds)


def add_erased(
    db: Connection,
    hashed: str,
    reason: str,
    holds: Holds,
    source: SuppressionSource,
    now: datetime,
    until: datetime | None = None,
) -> None:
    """Add the suppression of a forgotten address by its hash. It replaces what `add` would replace.

    If a client has the address again, the suppression is of that client, and what waits for it is cancelled. To find
    such a client, all of the user's are read.
    """
    row = {
        **holds._asdict(),
        "address_hash": hashed,
        "reason": reason,
        "source": source,
        "at": now,
        "note": "",
        "until": until,
    }
    if not db.execute(_insert_or_replace(is_erased=True), row).rowcount:
        return
    secret = _secret(db)
    clients = db.execute(select(_C.c.address_key, _C.c.email).where(_C.c.owner_id == holds.owner_id))
    known = {key: email for key, email in clients if address_hash(secret, key) == hashed}
    if known:
        recall(db, known)
        cancel_waiting(db, list(known), holds)


@cache
def _insert_or_replace(*, is_erased: bool) -> Executable:
    inserted = insert_or(_S)
    new = inserted.excluded
    is_replaceable = and_(_S.c.reason == BOUNCE, new.reason != BOUNCE)
    if not is_erased:
        is_replaceable = or_(is_replaceable, _S.c.address_key.is_(None))
    return inserted.on_conflict_do_update(
        index_elements=["address_hash", "owner_id", "topic"],
        set_={name: new[name] for name in (_REPLACED if is_erased else (*_ADDRESS, *_REPLACED))},
        where=or_(_S.c.until.is_not(None), and_(is_replaceable, new.until.is_(None))),
    )


def cancel_waiting(db: Connection, keys: Collection[str], holds: Holds) -> int:
    """Cancel what waits for these addresses and domains. Return how many emails that are."""
    cancelled = update(_D).where(_D.c.id.in_(select_waiting(keys, holds)))
    return db.execute(cancelled.values(state=DeliveryState.CANCELLED, next_try_at=None)).rowcount


def select_waiting(keys: Collection[str], holds: Holds) -> Select[tuple[int]]:
    """Return the query for the ids of the deliveries that wait for these addresses and domains.

    For a domain it reads all that waits.
    """
    domains = [key for key in keys if key.startswith("@")]
    is_theirs: ColumnElement[bool] = _D.c.address_key.in_(keys)
    if domains:
        is_theirs = or_(is_theirs, _domain(_D.c.address_key).in_(domains))
    return select(_D.c.id).where(_D.c.occurrence_id.in_(_unfinished(holds)), is_theirs, awaits_a_try())


def remove(db: Connection, key: str, holds: Holds, only_reason: str | None = None) -> bool:
    """Remove the suppression of an address or domain. Return whether there was one (with this reason)."""
    is_removed = is_of_any(db, [key]) & (_S.c.owner_id == holds.owner_id) & (_S.c.topic == holds.topic)
    if only_reason is not None:
        is_removed &= _S.c.reason == only_reason
    return db.execute(delete(_S).where(is_removed)).rowcount > 0


def remove_by_hash(db: Connection, hashed: str, holds: Holds, sources: Collection[SuppressionSource]) -> None:
    """Remove the suppression of an address, which may be erased, if it has one of these sources."""
    is_removed = (_S.c.address_hash == hashed) & (_S.c.owner_id == holds.owner_id) & (_S.c.topic == holds.topic)
    db.execute(delete(_S).where(is_removed, _S.c.source.in_(sources)))


def is_of_any(db: Connection, keys: Collection[str]) -> ColumnElement[bool]:
    """Return the condition of the suppressions of these addresses and domains, also of erased and ended ones."""
    secret = _secret(db)
    return _S.c.address_hash.in_([address_hash(secret, key) for key in keys])


def recall(db: Connection, addresses: Mapping[str, str]) -> None:
    """Know erased addresses again that clients have now. `addresses` are as persons write them, by their keys."""
    if not db.scalar(select(exists().where(_S.c.address_key.is_(None)))):
        return
    secret = _secret(db)
    keys = {address_hash(secret, key): key for key in addresses}
    hashes = iter(keys)
    erased: set[str] = set()
    while some := list(islice(hashes, _AT_ONCE)):  # a condition on the address would read all that are erased
        found = db.execute(select(_S.c.address_hash, _S.c.address_key).where(_S.c.address_hash.in_(some)))
        erased.update(row.address_hash for row in found if row.address_key is None)
    if erased:
        known = [{"hash": each, "address": addresses[keys[each]], "key": keys[each]} for each in erased]
        is_erased = (_S.c.address_hash == bindparam("hash")) & _S.c.address_key.is_(None)
        recalled = update(_S).values(address=bindparam("address"), address_key=bindparam("key"))
        db.execute(recalled.where(is_erased), known)


def recall_clients(db: Connection) -> None:
    """Know erased addresses again that any client has, in a store whose clients were restored."""
    erased = set(db.scalars(select(_S.c.address_hash).where(_S.c.address_key.is_(None))))
    if not erased:
        return
    secret = _secret(db)
    clients = db.execute(select(_C.c.address_key, _C.c.email))
    recall(db, {key: email for key, email in clients if address_hash(secret, key) in erased})


def erase(db: Connection, key: str, owner_id: int | None) -> int:
    """Erase an address from the suppressions of a user, or of all users, and return how many had it.

    They hold on by its hash. Those of EVERYBODY keep it while any user has a client with it.
    """
    is_kept = _S.c.owner_id == EVERYBODY
    is_kept &= exists().where(_C.c.address_key == key)
    is_theirs = _S.c.address_key == key
    if owner_id is not None:
        is_theirs &= _S.c.owner_id.in_([owner_id, EVERYBODY])
    erased = update(_S).where(is_theirs, ~is_kept).values(address=None, address_key=None, note="")
    return db.execute(erased).rowcount


def address_hashes(db: Connection, keys: Iterable[str]) -> Mapping[str, str]:
    """Return the keyed hashes of addresses and domains, by which they are found once they are erased."""
    secret = _secret(db)
    return {key: address_hash(secret, key) for key in keys}


def address_hash(secret: bytes, key: str) -> str:
    """Return the keyed hash of an address or domain (HMAC, RFC 2104): 128 bits in hexadecimal digits."""
    return hmac.new(secret, key.encode(), hashlib.sha256).hexdigest()[:32]


def _conditions(
    key: ColumnElement[str], owner_id: ColumnElement[int], topic: ColumnElement[str]
) -> Sequence[ColumnElement[bool]]:
    return (
        _S.c.address_key.in_([key, _domain(key)]),
        _S.c.owner_id.in_([literal(EVERYBODY), owner_id]),
        _S.c.topic.in_([literal(""), topic]),
        is_in_force(),
    )


def _first(column: ColumnElement[Any], conditions: Sequence[ColumnElement[bool]]) -> ColumnElement[Any]:
    # Any other reason says more than BOUNCE.
    first = select(column).where(*conditions).order_by(_S.c.reason == BOUNCE, _S.c.id).limit(1)
    return first.correlate_except(_S).scalar_subquery()


def _domain(key: ColumnElement[str]) -> ColumnElement[str]:
    """Return the expression for the domain of an address, as it is kept: `@example.org`."""
    return func.substr(key, text_position(key, "@"))


def _unfinished(holds: Holds) -> Select[tuple[int]]:
    """Return the query for the unfinished occurrences of the mailings for which suppressions hold."""
    query = select(_O.c.id).where(is_unfinished())
    if holds.owner_id != EVERYBODY:
        owner_id = select(_M.c.owner_id).where(_M.c.id == _O.c.mailing_id).scalar_subquery()
        query = query.where(owner_id == holds.owner_id)
    if holds.topic:
        topic = select(_M.c.topic).where(_M.c.id == _O.c.mailing_id).scalar_subquery()
        query = query.where(topic == holds.topic)
    return query


def hash_of(db: Connection, key: str) -> str:
    """Return the keyed hash of an address as this store has it."""
    return address_hash(_secret(db), key)


def _secret(db: Connection) -> bytes:
    return bytes(db.scalar(_SELECT_SECRET) or b"")
