"""Let persons unsubscribe with the token of an email that they got. They need no login.

Whoever has the email has the token, and can do no more with it than this.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, select

from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose
from skychimp.models import Delivery, Mailing, Occurrence, SuppressionSource
from skychimp.services.clients.suppressions import UNSUBSCRIBED
from skychimp.store import token_keys
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import Store
from skychimp.store.ledger import ERASED

_D = Delivery.__table__
_M = Mailing.__table__
_O = Occurrence.__table__


class Target(NamedTuple):
    """The email that a token is of: its recipient, and whose mailing it was. `topic` is "" if that has none."""

    delivery_id: int
    owner_id: int
    topic: str
    address: str
    address_key: str
    mailing_id: int


def find(db: Connection, keys: Mapping[int, bytes], token: str) -> Target | None:
    """Return what a token of an unsubscribe link is of, or None if it is invalid or the person was forgotten."""
    delivery_id = tokens.read(keys, Purpose.UNSUBSCRIBE, token)
    if delivery_id is None:
        return None
    row = db.execute(_target_of(), {"delivery": delivery_id}).one_or_none()
    return None if row is None else Target._make(row)


@cache
def _target_of() -> Select[Any]:
    columns = (_D.c.id, _M.c.owner_id, _M.c.topic, _D.c.address, _D.c.address_key, _M.c.id)
    query = select(*columns).join_from(_D, _O, _O.c.id == _D.c.occurrence_id).join(_M, _M.c.id == _O.c.mailing_id)
    return query.where(_D.c.id == bindparam("delivery"), _D.c.address != ERASED)


def unsubscribe(store: Store, token: str, source: SuppressionSource, *, topic_only: bool) -> Target | None:
    """Suppress the recipient of a token for all mail of its user, or for its topic only. Return what it was of.

    An email whose mailing has no topic is always about all mail. None is returned if the token is invalid. Raises
    StoreFailed.
    """
    now = store.now()
    with store.write() as transaction:
        db = transaction.connection()
        target = find(db, token_keys.read(db, now), token)
        if target is not None:
            new = NewSuppression(target.address, target.address_key, UNSUBSCRIBED)
            suppressions.add(db, [new], Holds(target.owner_id, target.topic if topic_only else ""), source, now)
    return target
