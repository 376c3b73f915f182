"""Decide which clients are in a mailing's audience, and why a client is not: the only place with this rule.

A client is in the audience of a mailing of its owner

- if the mailing is sent to all clients,
- if the mailing names the client, or
- if the client has one of the mailing's tags.

A client with a bad address is in the audience, and gets no email (`can_receive`).
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    FromClause,
    Select,
    and_,
    func,
    or_,
    select,
    true,
    tuple_,
    union,
)

from skychimp.models import Client, ClientTag, Mailing, MailingClient, MailingTag

_C = Client.__table__
_T = ClientTag.__table__
_M = Mailing.__table__
_MC = MailingClient.__table__
_MT = MailingTag.__table__


class Member(NamedTuple):
    """A client in an audience. `bad_at` is None if the address is good."""

    client_id: int
    email: str
    bad_at: datetime | None
    bad_reason: str | None


def client_ids(
    mailing_id: int, *, all_clients: bool, after: int = 0, until: int | None = None
) -> Select[Any] | CompoundSelect[Any]:
    """Return a query for the ids of the clients in a mailing's audience, in order: those in (`after`, `until`].

    `all_clients` is the mailing's own column: it saves two of three lookups.
    """

    def is_in_range(client_id: ColumnElement[int]) -> ColumnElement[bool]:
        return client_id > after if until is None else and_(client_id > after, client_id <= until)

    everyone, named, tagged = _ways_in(_M.c.id == mailing_id, is_in_range)
    return everyone.order_by("id") if all_clients else union(named, tagged).order_by("id")


def members(db: Connection, mailing_id: int, *, all_clients: bool, after: int, limit: int) -> list[Member]:
    """Return the first `limit` clients in a mailing's audience whose ids are above `after`, in order."""
    ids = client_ids(mailing_id, all_clients=all_clients, after=after).limit(limit).subquery()
    rows = db.execute(
        select(_C.c.id, _C.c.email, _C.c.bad_at, _C.c.bad_reason).join(ids, ids.c.id == _C.c.id).order_by(_C.c.id)
    )
    return [Member._make(row) for row in rows]


def count_addresses(db: Connection, mailings: ColumnElement[bool]) -> int:
    """Return how many addresses are in the audiences of the mailings with a condition. Each address counts once."""
    addresses = union(*(way.with_only_columns(_C.c.address_key) for way in _ways_in(mailings)))
    return db.scalar(select(func.count()).select_from(addresses.subquery())) or 0


def mailings_with(db: Connection, ids: Sequence[int]) -> set[int]:
    """Return the ids of the mailings with one of these clients in their audience, deleted mailings included."""
    candidate = _M.alias("candidate")
    owners = select(_C.c.owner_id).where(_C.c.id.in_(ids))
    ways = _ways_in(_M.c.id == candidate.c.id, lambda client_id: client_id.in_(ids), candidate)
    is_included = or_(*(way.correlate(candidate).exists() for way in ways))
    return set(db.scalars(select(candidate.c.id).where(candidate.c.owner_id.in_(owners), is_included)))


def why_outside(db: Connection, mailing_id: int) -> str:
    """Return the reason for a client that is not in this mailing's audience. The mailing is not sent to all clients."""
    tags = ", ".join(db.scalars(select(_MT.c.tag).where(_MT.c.mailing_id == mailing_id).order_by(_MT.c.tag)))
    return f"the client has none of the mailing's tags: {tags}" if tags else "the mailing does not include the client"


def can_receive() -> ColumnElement[bool]:
    """Return the condition of a client whose address is good."""
    return _C.c.bad_at.is_(None)


def why_bad(bad_at: datetime, bad_reason: str | None) -> str:
    """Return the reason for a client with a bad address."""
    return f"bad address since {bad_at.isoformat(' ', 'seconds')}: {bad_reason}"


def _ways_in(
    mailings: ColumnElement[bool],
    narrow: Callable[[ColumnElement[int]], ColumnElement[bool]] = lambda client_id: true(),
    *outer: FromClause,
) -> tuple[Select[Any], Select[Any], Select[Any]]:
    """Return a query for each way into the audiences of the mailings with a condition: as all clients, named, tagged.

    `narrow` is called with a column of client ids, and returns a condition on it. `outer` are tables of the enclosing
    query that `mailings` refers to.

    Owners, names and tags are looked up first, each once, and the clients after that: joined with each of many
    mailings, the same clients would be read as often.
    """

    def of_mailings(*columns: ColumnElement[Any]) -> Select[Any]:
        return select(*columns).select_from(_M).where(mailings).correlate(*outer)

    owners = of_mailings(_M.c.owner_id).where(_M.c.all_clients)
    everyone = select(_C.c.id).where(_C.c.owner_id.in_(owners), narrow(_C.c.id))

    names = of_mailings(_M.c.owner_id, _MC.c.client_id).join(_MC, _MC.c.mailing_id == _M.c.id)
    pairs = names.where(narrow(_MC.c.client_id)).distinct().subquery()
    named = select(_C.c.id).join(pairs, and_(pairs.c.client_id == _C.c.id, pairs.c.owner_id == _C.c.owner_id))

    tags = of_mailings(_M.c.owner_id, _MT.c.tag).join(_MT, _MT.c.mailing_id == _M.c.id)
    tagged = (
        select(_C.c.id)
        .join_from(_T, _C, _C.c.id == _T.c.client_id)
        # The first condition follows from the second, and lets SQLite begin with the index of tags.
        .where(_T.c.tag.in_(tags.with_only_columns(_MT.c.tag)), tuple_(_C.c.owner_id, _T.c.tag).in_(tags))
        .where(narrow(_T.c.client_id))
    )
    return everyone, named, tagged
