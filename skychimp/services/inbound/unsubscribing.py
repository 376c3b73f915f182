"""Unsubscribe the recipient of an email by the token in its unsubscribe link.

Whoever has the token may do so, without a login. `find` and `unsubscribe` do the same for mail and for the web.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose
from skychimp.models import Delivery, Mailing, Occurrence, SuppressionSource
from skychimp.services.clients.suppressions import UNSUBSCRIBED
from skychimp.store import token_keys
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import Store
from skychimp.store.sql import id_list

_D = Delivery.__table__
_O = Occurrence.__table__
_M = Mailing.__table__


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


def find(store: Store, token: str) -> Recipient | None:
    """Return the recipient that an unsubscribe token is of, or None if the token is not valid. Changes nothing."""
    with store.read() as db:
        return find_recipient(db.connection(), Purpose.UNSUBSCRIBE, token, store.now())


def unsubscribe(store: Store, token: str, source: SuppressionSource, *, all_mail: bool = False) -> Recipient | None:
    """Unsubscribe the recipient that a token is of. Return who that is, or None if the token is not valid.

    It holds for the topic of the mailing if it has one and `all_mail` is false, otherwise for all mail of its owner. It
    holds as soon as this returns, and may be repeated. Raises StoreFailed.
    """
    recipient = find(store, token)
    if recipient is not None:
        with store.write() as db:
            suppress(db.connection(), recipient, UNSUBSCRIBED, source, store.now(), all_mail=all_mail)
    return recipient


def find_recipient(db: Connection, purpose: Purpose, token: str, now: datetime) -> Recipient | None:
    """Return the recipient that a token is of, or None if it is not valid for this purpose."""
    delivery_id = tokens.read(token_keys.read(db, now), purpose, token)
    return None if delivery_id is None else recipients_of(db, [delivery_id]).get(delivery_id)


def recipients_of(db: Connection, delivery_ids: Sequence[int]) -> Mapping[int, Recipient]:
    """Return the recipients of deliveries, by the deliveries' ids. One that does not exist is left out."""
    columns = (
        _D.c.id, _O.c.mailing_id, _M.c.owner_id, _M.c.topic, _D.c.client_id, _D.c.address, _D.c.address_key,
        _D.c.address_hash,
    )  # fmt: skip
    joined = select(*columns).join(_O, _O.c.id == _D.c.occurrence_id).join(_M, _M.c.id == _O.c.mailing_id)
    rows = db.execute(joined.where(_D.c.id.in_(id_list(delivery_ids))))
    return {row.id: _recipient(row) for row in rows}


def _recipient(row: Any) -> Recipient:
    recipient = Recipient(*row)
    return recipient if recipient.address_hash is None else replace(recipient, address=None)


def suppress(
    db: Connection,
    recipient: Recipient,
    reason: str,
    source: SuppressionSource,
    now: datetime,
    *,
    all_mail: bool = False,
) -> None:
    """Suppress a recipient for the topic of the mailing, or for all mail of its owner. Part of a transaction."""
    holds = Holds(recipient.owner_id, "" if all_mail else recipient.topic)
    if recipient.address is None:
        assert recipient.address_hash is not None
        suppressions.add_erased(db, recipient.address_hash, reason, holds, source, now)
    else:
        new = NewSuppression(recipient.address, recipient.address_key, reason)
        suppressions.add(db, [new], holds, source, now)
