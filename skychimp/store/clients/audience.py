"""Decide which clients are in a mailing's audience, and why a client is not: the only place with this rule.

A client is in the audience of a mailing of its owner

- if the mailing is sent to all clients,
- if the mailing names the client, or
- if the client has one of the mailing's tags (of which a user has one spelling, see store.clients.tags).

A client with a bad or suppressed address is in the audience, and gets no email (`can_receive`). Neither does one
without a recorded consent, if the setting `delivery.require_consent` says so. It is a parameter here.
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
    case,
    false,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
    union,
)

from skychimp.models import EVERYBODY, Client, ClientTag, Mailing, MailingClient, MailingTag, Suppression
from skychimp.store.clients import consents, suppressions
from skychimp.store.sql import id_list

_C = Client.__table__
_T = ClientTag.__table__
_M = Mailing.__table__
_MC = MailingClient.__table__
_MT = MailingTag.__table__
_F = Suppression.__table__.alias("found")


class Found(NamedTuple):
    """The suppression that keeps an address from a mailing. `address` is the address, or its domain as `@DOMAIN`."""

    address: str
    owner_id: int
    topic: str
    reason: str
    at: datetime
    note: str


NO_CONSENT = "no consent is recorded"
"""Why a client gets no email if a consent is required."""


class Member(NamedTuple):
    """A client in an audience. `bad_at` is None if the address is good, `suppression` if it is not suppressed.

    `lacks_consent` is true if a consent is required and none is recorded.
    """

    client_id: int
    email: str
    bad_at: datetime | None
    bad_reason: str | None
    suppression: Found | None
    lacks_consent: bool


_FOUND = [_F.c[name] for name in Found._fields]


class AudienceCount(NamedTuple):
    """How many clients in an audience get an email now, and how many do not, by the reason."""

    recipients: int = 0
    suppressed: int = 0
    bad: int = 0
    no_consent: int = 0


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


def members(
    db: Connection,
    mailing_id: int,
    *,
    all_clients: bool,
    after: int,
    limit: int,
    only_left_out: bool = False,
    require_consent: bool = False,
) -> list[Member]:
    """Return the first `limit` clients in a mailing's audience whose ids are above `after`, in order.

    `only_left_out` returns those of them that get no email.
    """
    query = client_ids(mailing_id, all_clients=all_clients, after=after)
    ids = (query if only_left_out else query.limit(limit)).subquery()
    found_id = suppressions.first_id(_C.c.address_key, _C.c.owner_id, _topic(mailing_id))
    lacks_consent = _C.c.consent_at.is_(None) if require_consent else false()
    rows = (
        select(_C.c.id, _C.c.email, _C.c.bad_at, _C.c.bad_reason, lacks_consent.label("lacks_consent"), *_FOUND)
        .join(ids, ids.c.id == _C.c.id)
        .outerjoin(_F, _F.c.id == found_id)
        .where(~can_receive(mailing_id, require_consent=require_consent) if only_left_out else true())
        .order_by(_C.c.id)
        .limit(limit)
    )
    return [Member(row[0], row[1], row[2], row[3], _found(row[5:]), bool(row[4])) for row in db.execute(rows)]


def find_suppression(db: Connection, key: str, owner_id: int, topic: str) -> Found | None:
    """Return what keeps an address from the mailings of a user with a topic, or None if nothing does."""
    found_id = suppressions.first_id(literal(key), literal(owner_id), literal(topic))
    row = db.execute(select(*_FOUND).where(_F.c.id == found_id)).one_or_none()
    return None if row is None else _found(row)


def count_addresses(db: Connection, mailings: ColumnElement[bool]) -> int:
    """Return how many addresses are in the audiences of the mailings with a condition. Each address counts once."""
    addresses = union(*(way.with_only_columns(_C.c.address_key) for way in _ways_in(mailings)))
    return db.scalar(select(func.count()).select_from(addresses.subquery())) or 0


def count(db: Connection, mailing_id: int, *, all_clients: bool, require_consent: bool = False) -> AudienceCount:
    """Count the clients in a mailing's audience by whether they get an email, as `why_left_out` says."""
    ids = client_ids(mailing_id, all_clients=all_clients).order_by(None)
    return _count(db, ids, _topic(mailing_id), require_consent=require_consent)


def count_selected(
    db: Connection,
    owner_id: int,
    selected_ids: Sequence[int],
    tags: Sequence[str],
    topic: str,
    *,
    all_clients: bool,
    require_consent: bool = False,
) -> AudienceCount:
    """Count, as `count` does, for a mailing that does not exist yet.

    `tags` has all spellings of the tags.
    """
    own = select(_C.c.id).where(_C.c.owner_id == owner_id)
    tagged = own.join(_T, _T.c.client_id == _C.c.id).where(_T.c.tag.in_(tags))
    some = union(own.where(_C.c.id.in_(id_list(selected_ids))), tagged)
    return _count(db, own if all_clients else some, literal(topic), require_consent=require_consent)


def _count(
    db: Connection, query: Select[Any] | CompoundSelect[Any], topic: ColumnElement[str], *, require_consent: bool
) -> AudienceCount:
    ids = query.subquery()
    bounce = case((_C.c.bad_at.is_not(None), literal(suppressions.BOUNCE)))
    reason = func.coalesce(suppressions.reason(_C.c.address_key, _C.c.owner_id, topic), bounce)
    # Only for those who are left out: finding the reason takes longer than finding that there is one.
    is_left_out = ~_can_receive(topic, require_consent=require_consent)
    left_out = select(reason.label("reason")).join_from(_C, ids, ids.c.id == _C.c.id).where(is_left_out).subquery()
    is_bad = left_out.c.reason == suppressions.BOUNCE  # NULL if it is neither bad nor suppressed
    counts = select(is_bad, func.count()).group_by(is_bad)
    numbers: dict[bool | None, int] = {key: number for key, number in db.execute(counts)}  # noqa: C416
    suppressed, bad, no_consent = (numbers.get(key, 0) for key in (False, True, None))
    total = db.scalar(select(func.count()).select_from(ids)) or 0
    return AudienceCount(total - suppressed - bad - no_consent, suppressed, bad, no_consent)


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


def can_receive(mailing_id: int, *, require_consent: bool = False) -> ColumnElement[bool]:
    """Return the condition of a client who can get a mailing of the owner: the address is good, and not suppressed.

    If a consent is required, one is recorded.
    """
    return _can_receive(_topic(mailing_id), require_consent=require_consent)


def _can_receive(topic: ColumnElement[str], *, require_consent: bool) -> ColumnElement[bool]:
    is_suppressed = suppressions.is_suppressed(_C.c.address_key, _C.c.owner_id, topic)
    return and_(has_good_address(), consents.can_get_mail(require_consent=require_consent), ~is_suppressed)


def has_good_address() -> ColumnElement[bool]:
    """Return the condition of a client whose address is good."""
    return _C.c.bad_at.is_(None)


def why_left_out(member: Member) -> str | None:
    """Return why a client in an audience gets no email, or None if it does."""
    return why_not(member.bad_at, member.bad_reason, member.suppression, lacks_consent=member.lacks_consent)


def why_not(
    bad_at: datetime | None, bad_reason: str | None, suppression: Found | None, *, lacks_consent: bool = False
) -> str | None:
    """Return why a client with such an address gets no email, or None if it does.

    A suppression that only remembers a bad address says the same as the client's own mark.
    """
    if suppression is not None and suppression.reason != suppressions.BOUNCE:
        address, topic, at, reason = suppression.address, suppression.topic, suppression.at, suppression.reason
        return why_suppressed(address, topic, at, reason, everywhere=suppression.owner_id == EVERYBODY)
    if bad_at is not None:
        return _why_bad(bad_at, bad_reason)
    if suppression is not None:
        return _why_bad(suppression.at, suppression.note)
    return NO_CONSENT if lacks_consent else None


def _why_bad(bad_at: datetime, bad_reason: str | None) -> str:
    reply = f": {bad_reason}" if bad_reason else ""
    return f"bad address since {bad_at.isoformat(' ', 'seconds')}{reply}"


def why_suppressed(address: str, topic: str, at: datetime, reason: str, *, everywhere: bool) -> str:
    """Return what a suppression of an address or domain says: `suppressed for topic news since 2026-11-29: asked`."""
    words = (
        "suppressed",
        f"with {address}" if address.startswith("@") else "",
        f"for topic {topic}" if topic else "",
        "everywhere" if everywhere else "",
        f"since {at.astimezone():%Y-%m-%d}: {reason}",
    )
    return " ".join(filter(None, words))


def _found(row: Sequence[Any]) -> Found | None:
    return None if row[0] is None else Found._make(row)


def _topic(mailing_id: int) -> ColumnElement[str]:
    return select(_M.c.topic).where(_M.c.id == mailing_id).scalar_subquery()


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
