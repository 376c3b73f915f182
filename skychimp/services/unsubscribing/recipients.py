"""Find the recipient of an email by the token in its unsubscribe link, and suppress that recipient.

Whoever has the token may do so, without a login, and can do no more with it than this. It is the same for mail and for
the web.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, String, bindparam, select

from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose
from skychimp.models import SuppressionSource, tables
from skychimp.services.clients.suppressions import UNSUBSCRIBED
from skychimp.store import token_keys
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import Store
from skychimp.store.sql import ids_in

_D = tables.delivery
_O = tables.occurrence
_M = tables.mailing


@dataclass(frozen=True)
class Recipient:
    """The recipient of an email, by its delivery: what a token stands for.

    `topic` is the mailing's, "" if it has none. `address`, `address_key` and `client_id` are those that the email was
    sent to. Once the person was forgotten only `address_hash` is known, and `address` is None.
    """

    delivery_id: int
    mailing_id: int
    owner_id: int
    topic: str
    client_id: int
    address: str | None
    address_key: str
    address_hash: str | None


def find(db: Connection, keys: Mapping[int, bytes], token: str) -> Recipient | None:
    """Return the recipient that an unsubscribe token is of, or None if the token is not valid. Changes nothing."""
    delivery_id = tokens.read(keys, Purpose.UNSUBSCRIBE, token)
    return None if delivery_id is None else recipients_of(db, [delivery_id]).get(delivery_id)


def recipients_of(db: Connection, delivery_ids: Sequence[int]) -> Mapping[int, Recipient]:
    """Return the recipients of deliveries, by the deliveries' ids. One that does not exist is left out."""
    rows = db.execute(_recipients(), {"ids": json.dumps(list(delivery_ids))})
    return {row.id: _recipient(row) for row in rows}


@cache
def _recipients() -> Select[Any]:
    columns = (
        _D.c.id, _O.c.mailing_id, _M.c.owner_id, _M.c.topic, _D.c.client_id, _D.c.address, _D.c.address_key,
        _D.c.address_hash,
    )  # fmt: skip
    joined = select(*columns).join(_O, _O.c.id == _D.c.occurrence_id).join(_M, _M.c.id == _O.c.mailing_id)
    return joined.where(_D.c.id.in_(select(ids_in(bindparam("ids", type_=String)).c.value)))


def _recipient(row: Any) -> Recipient:
    recipient = Recipient(*row)
    return recipient if recipient.address_hash is None else replace(recipient, address=None)


def unsubscribe(store: Store, token: str, source: SuppressionSource, *, all_mail: bool = False) -> Recipient | None:
    """Unsubscribe the recipient that a token is of. Return who that is, or None if the token is not valid.

    It holds for the topic of the mailing if it has one and `all_mail` is false, otherwise for all mail of its owner. It
    holds as soon as this returns, and may be repeated. Raises StoreFailed.
    """
    now = store.now()
    with store.read() as transaction:
        db = transaction.connection()
        recipient = find(db, token_keys.read(db, now), token)
    if recipient is not None:
        with store.write() as transaction:
            topic = "" if all_mail else recipient.topic
            suppress(transaction.connection(), recipient, topic, UNSUBSCRIBED, source, now)
    return recipient


def suppress(
    db: Connection,
    recipient: Recipient,
    topic: str,
    reason: str,
    source: SuppressionSource,
    now: datetime,
    until: datetime | None = None,
) -> None:
    """Suppress a recipient for a topic, "" for all mail, of the mailing's owner. Part of a transaction."""
    holds = Holds(recipient.owner_id, topic)
    if recipient.address is None:
        suppressions.add_erased(db, hash_of(db, recipient), reason, holds, source, now, until)
    else:
        new = NewSuppression(recipient.address, recipient.address_key, reason, until=until)
        suppressions.add(db, [new], holds, source, now)


def suppress_many(
    db: Connection,
    recipients: Sequence[tuple[Recipient, str]],
    reason: str,
    source: SuppressionSource,
    now: datetime,
) -> None:
    """Suppress recipients as `suppress` does, each for a topic of its own. Part of a transaction."""
    by_holds: dict[Holds, list[NewSuppression]] = {}
    for recipient, topic in recipients:
        if recipient.address is None:
            suppress(db, recipient, topic, reason, source, now)
        else:
            new = NewSuppression(recipient.address, recipient.address_key, reason)
            by_holds.setdefault(Holds(recipient.owner_id, topic), []).append(new)
    for holds, some in by_holds.items():
        suppressions.add(db, some, holds, source, now)


def hash_of(db: Connection, recipient: Recipient) -> str:
    """Return the hash of a recipient's address, which a forgotten person has too."""
    return recipient.address_hash or suppressions.hash_of(db, recipient.address_key)
