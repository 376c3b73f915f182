"""Keep when and how clients agreed to get mail: the only place with this rule. Part of the caller's transaction.

A consent belongs to an address of one user, by its keyed hash, so that it outlives the client. Consents are only added.
The newest one counts: the client has its time (`Client.consent_at`). When a person is forgotten, the consents stay as
proof of the mail that was sent, and no consent that was given before allows any more.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    exists,
    func,
    insert,
    select,
    true,
    update,
)

from skychimp.models import ConsentSource, tables
from skychimp.store.clients.suppressions import address_hashes

_C = tables.client
_CONSENT = tables.consent

_AT_ONCE = 1_000
"""How many addresses are looked for in one statement."""


class NewConsent(NamedTuple):
    """A consent to record. `key` is the address as addresses are compared."""

    key: str
    at: datetime
    wording: str
    proof: str = ""


class RecordedConsent(NamedTuple):
    """A consent as it is kept. `forgotten_at` is None unless the person was forgotten."""

    at: datetime
    wording: str
    source: ConsentSource
    proof: str
    recorded_at: datetime
    forgotten_at: datetime | None


_RECORDED = [_CONSENT.c[name] for name in RecordedConsent._fields]


def can_get_mail(*, require_consent: bool) -> ColumnElement[bool]:
    """Return the condition of a client who has a recorded consent, or of any client if none is required."""
    return _C.c.consent_at.is_not(None) if require_consent else true()


def record(
    db: Connection, owner_id: int, consents: Collection[NewConsent], source: ConsentSource, now: datetime
) -> None:
    """Add consents to the history of their addresses, and give them to the clients with these addresses.

    One that is recorded already is not added again. One from before the person was forgotten is kept as proof, and
    allows no mail.
    """
    hashes = address_hashes(db, {consent.key for consent in consents})
    known, forgotten_at = set(), dict[str, datetime]()
    for row in _find(db, owner_id, hashes.values()):
        known.add((row.address_hash, row.at, row.wording, row.source, row.proof))
        if row.forgotten_at is not None:
            forgotten_at[row.address_hash] = max(row.forgotten_at, forgotten_at.get(row.address_hash, row.forgotten_at))
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for consent in consents:
        address_hash = hashes[consent.key]
        until = forgotten_at.get(address_hash)
        is_forgotten = until is not None and consent.at <= until
        identity = (address_hash, consent.at, consent.wording, source, "" if is_forgotten else consent.proof)
        if identity not in known:
            row = dict(zip(("address_hash", "at", "wording", "source", "proof"), identity, strict=True))
            common = {"owner_id": owner_id, "recorded_at": now, "forgotten_at": until if is_forgotten else None}
            rows.setdefault(identity, row | common)
    if rows:
        db.execute(insert(_CONSENT), list(rows.values()))
    recall(db, owner_id, hashes)


def recall(db: Connection, owner_id: int, keys: Collection[str]) -> None:
    """Give the clients with these addresses the newest consent that is recorded of the address, if there is one."""
    if not db.scalar(select(exists().where(_CONSENT.c.owner_id == owner_id))):
        return
    newest = newest_of(db, owner_id, keys)
    if newest:
        is_theirs = (_C.c.owner_id == owner_id) & (_C.c.address_key == bindparam("key"))
        given = update(_C).where(is_theirs).values(consent_at=bindparam("given_at"))
        db.execute(given, [{"key": key, "given_at": consent.at} for key, consent in newest.items()])


def newest_of(db: Connection, owner_id: int, keys: Collection[str]) -> Mapping[str, RecordedConsent]:
    """Return the newest consent of each of these addresses that has one and was not forgotten, by address."""
    hashes = address_hashes(db, keys)
    by_hash = {
        row.address_hash: RecordedConsent(*row[:-1])
        for row in _find(db, owner_id, hashes.values())  # the newest one is the last
        if row.forgotten_at is None
    }
    return {key: by_hash[address_hash] for key, address_hash in hashes.items() if address_hash in by_hash}


def history(db: Connection, owner_id: int, keys: Collection[str]) -> Iterator[tuple[str, RecordedConsent]]:
    """Yield all consents of these addresses, the oldest first, with the address."""
    keys_by_hash = {address_hash: key for key, address_hash in address_hashes(db, keys).items()}
    for row in _find(db, owner_id, keys_by_hash):
        yield keys_by_hash[row.address_hash], RecordedConsent(*row[:-1])


def forget(db: Connection, key: str, owner_id: int | None, now: datetime) -> int:
    """Let the consents of an address allow no more mail, of one user or of all, and return how many did.

    When, to what and how the person agreed stays. The proof does not, because it may name the person. For consents that
    were forgotten before, the new time counts.
    """
    number = db.scalar(select(func.count()).select_from(proofs(db, key, owner_id).subquery())) or 0
    db.execute(update(_CONSENT).where(_of_person(db, key, owner_id)).values(forgotten_at=now, proof=""))
    return number


def proofs(db: Connection, key: str, owner_id: int | None) -> Select[tuple[str]]:
    """Return the query for the proofs that `forget` erases. It has one row for each consent."""
    return select(_CONSENT.c.proof).where(_of_person(db, key, owner_id), _CONSENT.c.forgotten_at.is_(None))


def _of_person(db: Connection, key: str, owner_id: int | None) -> ColumnElement[bool]:
    """Return the condition of the consents of an address, of one user or of all."""
    (address_hash,) = address_hashes(db, [key]).values()
    is_owner = true() if owner_id is None else _CONSENT.c.owner_id == owner_id
    return (_CONSENT.c.address_hash == address_hash) & is_owner


def _find(db: Connection, owner_id: int, hashes: Iterable[str]) -> Iterator[Any]:
    """Yield the consents of a user with these hashes of addresses, the oldest first."""
    remaining = iter(hashes)
    while some := list(islice(remaining, _AT_ONCE)):
        is_theirs = (_CONSENT.c.owner_id == owner_id) & _CONSENT.c.address_hash.in_(some)
        yield from db.execute(
            select(*_RECORDED, _CONSENT.c.address_hash).where(is_theirs).order_by(_CONSENT.c.at, _CONSENT.c.id)
        )
