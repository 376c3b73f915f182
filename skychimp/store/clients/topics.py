"""Keep one spelling of each of a user's topics. Part of the caller's transaction.

Topics are the same if they differ only in case or in how Unicode composes their characters. A user's mailings and
suppressions have each topic in the spelling that the user gave first, so that a query can compare them as they are
stored.
"""

from sqlalchemy import Connection, literal, or_, select

from skychimp.models import EVERYBODY, tables
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds
from skychimp.text import folded

_M = tables.mailing
_S = tables.suppression
_U = tables.user

BATCH = 1_000
"""How many addresses are in one query. A list of parameters has a limit."""


def spell(db: Connection, owner_id: int, topic: str) -> str:
    """Return the spelling in which a topic is to be stored for a user. Part of a transaction that writes.

    `topic` is as `text.checked_topic` returns it, "" for none.
    """
    if not topic:
        return ""
    # Nobody else can give the same topic another spelling meanwhile. On SQLite, nobody else writes anyway.
    db.execute(select(_U.c.id).where(_U.c.id == owner_id).with_for_update(key_share=True))
    return find_spelling(db, owner_id, topic)


def find_spelling(db: Connection, owner_id: int, topic: str) -> str:
    """Return the spelling in which a user's topic is stored, or the topic itself if the user has no such topic."""
    of_mailings = select(_M.c.topic).where(_M.c.owner_id == owner_id)
    used = of_mailings.union(select(_S.c.topic).where(_S.c.owner_id == owner_id))
    return next((known for known in db.scalars(used) if folded(known) == folded(topic)), topic)


def cancel_suppressed(db: Connection, owner_id: int, topic: str) -> None:
    """Cancel what waits for the addresses that are suppressed for a topic, after a mailing of the user got it."""
    is_theirs = or_(_S.c.owner_id == owner_id, _S.c.owner_id == literal(EVERYBODY))
    is_known = suppressions.is_in_force() & _S.c.address_key.is_not(None)
    keys = db.scalars(select(_S.c.address_key).where(is_theirs, _S.c.topic == topic, is_known))
    for batch in keys.partitions(BATCH):
        suppressions.cancel_waiting(db, batch, Holds(owner_id, topic))
