"""Decide which clients are in a mailing's audience, and why a client is not: the only place with this rule.

A client is in the audience of a mailing of its owner

- if the mailing is sent to all clients,
- if the mailing names the client,
- if the client has one of the mailing's tags (of which a user has one spelling, see store.clients.tags), or
- if one of the mailing's segments or its query chooses the client,

unless the mailing excludes the client by a tag, a segment or a query.

A client with a bad or suppressed address is in the audience, and gets no email (`can_receive`). Neither does one
without a recorded consent, if the setting `delivery.require_consent` says so. It is a parameter here.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    FromClause,
    Select,
    SelectBase,
    and_,
    case,
    exists,
    false,
    func,
    literal,
    null,
    or_,
    select,
    true,
    tuple_,
    union,
    union_all,
)

from skychimp.models import (
    EVERYBODY,
    tables,
)
from skychimp.store.clients import consents, suppressions, tags
from skychimp.store.sql import ids_in
from skychimp.translation import Phrase

if TYPE_CHECKING:
    from skychimp.store.clients.filters import Filter

_C = tables.client
_T = tables.client_tag
_M = tables.mailing
_MC = tables.mailing_client
_MT = tables.mailing_tag
_MF = tables.mailing_filter
_F = tables.suppression.alias("found")


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
    """A client that a mailing chooses. `excluded` says why it is left out all the same, None if it is not.

    `bad_at` is None if the address is good, `suppression` if it is not suppressed. `lacks_consent` is true if a consent
    is required and none is recorded.
    """

    client_id: int
    email: str
    bad_at: datetime | None
    bad_reason: str | None
    suppression: Found | None
    excluded: str | None
    lacks_consent: bool


_MOST_IN_UNION = 100
"""How many queries one union has. SQLite has a limit of 500."""

_FOUND = [_F.c[name] for name in Found._fields]


class AudienceCount(NamedTuple):
    """How many clients in an audience get an email now, and how many do not, by the reason.

    Those who are excluded are not in it, but would be without an `--except` option. `problem` says why nothing could be
    counted.
    """

    recipients: int = 0
    suppressed: int = 0
    bad: int = 0
    no_consent: int = 0
    excluded: int = 0
    problem: Phrase | None = None


class _Sources(NamedTuple):
    """Queries for what mailings choose clients by: all clients of an owner, named clients, and tags.

    The columns are the owner's id, and the client's id or the tag. `tags` has all spellings.
    """

    owners: Select[Any]
    names: Select[Any]
    tags: SelectBase


class Selection(NamedTuple):
    """Who a mailing chooses, and who of them it excludes: conditions on the owner's clients, each with its reason."""

    owner_id: int
    topic: str
    all_clients: bool
    sources: _Sources
    require_consent: bool = False
    included: Sequence[ColumnElement[bool]] = ()
    excluded: Sequence[tuple[str, ColumnElement[bool]]] = ()


class Choice(NamedTuple):
    """What a user chose for a mailing that does not exist yet."""

    owner_id: int
    topic: str
    timezone: str
    all_clients: bool
    client_ids: Sequence[int]
    tags: Sequence[str]
    filters: Sequence["Filter"]


def selection(db: Connection, mailing_id: int, now: datetime, *, require_consent: bool = False) -> Selection:
    """Return who a mailing chooses. Raises InvalidFilter if one of its saved queries cannot be evaluated any more.

    Times in queries such as `-30d` are relative to `now`.
    """
    from skychimp.store.clients import filters

    columns = (_M.c.owner_id, _M.c.topic, _M.c.all_clients, _M.c.timezone)
    owner_id, topic, all_clients, timezone = db.execute(select(*columns).where(_M.c.id == mailing_id)).one()
    chosen = Selection(owner_id, topic, all_clients, _stored(_M.c.id == mailing_id), require_consent)
    return _add_filters(db, chosen, filters.read_filters(db, mailing_id), timezone, now)


def new_selection(db: Connection, choice: Choice, now: datetime, *, require_consent: bool = False) -> Selection:
    """Return who a mailing chooses that does not exist yet. Raises InvalidFilter."""
    owner = literal(choice.owner_id).label("owner_id")
    spellings = [spelling for tag in choice.tags for spelling in tags.spellings(db, tag)]
    pairs = [select(owner, literal(tag).label("tag")) for tag in spellings]
    sources = _Sources(
        select(owner).where(literal(choice.all_clients)),
        select(owner, ids_in(json.dumps(list(choice.client_ids))).c.value.label("client_id")),
        union_all(*pairs) if pairs else select(owner, literal("").label("tag")).where(false()),
    )
    chosen = Selection(choice.owner_id, choice.topic, choice.all_clients, sources, require_consent)
    return _add_filters(db, chosen, choice.filters, choice.timezone, now)


def _add_filters(
    db: Connection, chosen: Selection, added: "Sequence[Filter]", timezone: str, now: datetime
) -> Selection:
    if not added:  # most mailings have none, and need no parser
        return chosen
    from skychimp.store.clients import filters
    from skychimp.store.clients.queries.conditions import Evaluation

    evaluation = Evaluation(db, chosen.owner_id, timezone, now)
    conditions = [(each, filters.condition(evaluation, each)) for each in added]
    return chosen._replace(
        included=[condition for each, condition in conditions if not each.leaves_out],
        excluded=[(each.reason, condition) for each, condition in conditions if each.leaves_out],
    )


def client_ids(chosen: Selection, *, after: int = 0, until: int | None = None) -> Select[Any] | CompoundSelect[Any]:
    """Return a query for the ids of the clients in an audience, in order: those in (`after`, `until`]."""

    def is_in_range(client_id: ColumnElement[int]) -> ColumnElement[bool]:
        return client_id > after if until is None else and_(client_id > after, client_id <= until)

    return _members(chosen, is_in_range).order_by("id")


def members(db: Connection, chosen: Selection, *, after: int, limit: int, only_left_out: bool = False) -> list[Member]:
    """Return the first `limit` clients that a mailing chooses whose ids are above `after`, in order.

    `only_left_out` returns those of them that get no email.
    """
    query = _chosen(chosen, lambda client_id: client_id > after).order_by("id")
    ids = (query if only_left_out else query.limit(limit)).subquery()
    found_id = suppressions.first_id(_C.c.address_key, _C.c.owner_id, literal(chosen.topic))
    excluded_by = _excluded_by(chosen)
    lacks_consent = _C.c.consent_at.is_(None) if chosen.require_consent else false()
    rows = (
        select(_C.c.id, _C.c.email, _C.c.bad_at, _C.c.bad_reason, excluded_by, lacks_consent, *_FOUND)
        .join(ids, ids.c.id == _C.c.id)
        .outerjoin(_F, _F.c.id == found_id)
        .where(or_(excluded_by.is_not(None), ~can_receive(chosen)) if only_left_out else true())
        .order_by(_C.c.id)
        .limit(limit)
    )
    reasons = [reason for reason, _ in chosen.excluded]
    return [_member(row, reasons) for row in db.execute(rows)]


def find_suppression(db: Connection, key: str, owner_id: int, topic: str) -> Found | None:
    """Return what keeps an address from the mailings of a user with a topic, or None if nothing does."""
    found_id = suppressions.first_id(literal(key), literal(owner_id), literal(topic))
    row = db.execute(select(*_FOUND).where(_F.c.id == found_id)).one_or_none()
    return None if row is None else _found(row)


def count_addresses(db: Connection, mailings: ColumnElement[bool], now: datetime) -> int:
    """Return how many addresses are in the audiences of the mailings with a condition. Each address counts once."""
    unfiltered = _stored(and_(mailings, ~_has_filter(_M.c.id)))
    addresses = [way.with_only_columns(_C.c.address_key) for way in _ways_in(unfiltered)]
    filtered = _filtered_mailings(db, mailings, now).values()
    addresses += [select(_C.c.address_key).where(_C.c.id.in_(_members(chosen))) for chosen in filtered]
    while len(addresses) > _MOST_IN_UNION:
        some, addresses = addresses[:_MOST_IN_UNION], addresses[_MOST_IN_UNION:]
        addresses.append(select(union(*some).subquery()))
    return db.scalar(select(func.count()).select_from(union(*addresses).subquery())) or 0


def count(db: Connection, chosen: Selection) -> AudienceCount:
    """Count the clients in an audience by whether they get an email, as `why_left_out` says."""
    ids = _chosen(chosen).subquery()
    excluded_by, topic = _excluded_by(chosen), literal(chosen.topic)
    clients = select(func.count()).join_from(_C, ids, ids.c.id == _C.c.id)
    excluded = (db.scalar(clients.where(excluded_by.is_not(None))) or 0) if chosen.excluded else 0
    bounce = case((_C.c.bad_at.is_not(None), literal(suppressions.BOUNCE)))
    reason = func.coalesce(suppressions.reason(_C.c.address_key, _C.c.owner_id, topic), bounce)
    # Only for those who are left out: finding the reason takes longer than finding that there is one.
    left_out = select(reason.label("reason")).join_from(_C, ids, ids.c.id == _C.c.id).where(~can_receive(chosen))
    if chosen.excluded:
        left_out = left_out.where(excluded_by.is_(None))
    is_bad = left_out.subquery().c.reason == suppressions.BOUNCE  # NULL if it is neither bad nor suppressed
    counts = select(is_bad, func.count()).group_by(is_bad)
    numbers: dict[bool | None, int] = {key: number for key, number in db.execute(counts)}  # noqa: C416
    suppressed, bad, no_consent = (numbers.get(key, 0) for key in (False, True, None))
    total = db.scalar(select(func.count()).select_from(ids)) or 0
    recipients = total - excluded - suppressed - bad - no_consent
    return AudienceCount(recipients, suppressed, bad, no_consent, excluded)


def mailings_with(db: Connection, ids: Sequence[int], now: datetime) -> set[int]:
    """Return the ids of the mailings with one of these clients in their audience, deleted mailings included."""
    candidate = _M.alias("candidate")
    owners = select(_C.c.owner_id).where(_C.c.id.in_(ids))
    ways = _ways_in(_stored(_M.c.id == candidate.c.id, candidate), lambda client_id: client_id.in_(ids))
    is_included = or_(*(way.correlate(candidate).exists() for way in ways))
    unfiltered = and_(candidate.c.owner_id.in_(owners), ~_has_filter(candidate.c.id))
    found = set(db.scalars(select(candidate.c.id).where(unfiltered, is_included)))
    for mailing_id, chosen in _filtered_mailings(db, _M.c.owner_id.in_(owners), now).items():
        if db.scalar(select(_members(chosen, lambda client_id: client_id.in_(ids)).exists())):
            found.add(mailing_id)
    return found


def why_outside(db: Connection, mailing_id: int, ids: Sequence[int], now: datetime) -> str:
    """Return the reason why none of these clients is in this mailing's audience."""
    from skychimp.store.clients.filters import InvalidFilter

    try:
        chosen = selection(db, mailing_id, now)
    except InvalidFilter as error:
        return error.message
    if chosen.excluded:
        is_chosen = _C.c.id.in_(_chosen(chosen, lambda client_id: client_id.in_(ids)))
        number = db.scalar(select(_excluded_by(chosen)).where(is_chosen))
        if number is not None:
            return f"excluded: {chosen.excluded[number][0]}"
    if chosen.included:
        return "the client is not among those that the mailing chooses"
    wanted = ", ".join(db.scalars(select(_MT.c.tag).where(_MT.c.mailing_id == mailing_id).order_by(_MT.c.tag)))
    has_none = f"the client has none of the mailing's tags: {wanted}"
    return has_none if wanted else "the mailing does not include the client"


def can_receive(chosen: Selection) -> ColumnElement[bool]:
    """Return the condition of a client in an audience who gets an email: the address is good, and not suppressed.

    If a consent is required, one is recorded.
    """
    return _can_receive(literal(chosen.topic), require_consent=chosen.require_consent)


def can_receive_again(mailing_id: int, *, require_consent: bool) -> ColumnElement[bool]:
    """Return the condition of a client who can get a mailing of the owner, whether in its audience or not."""
    return _can_receive(_topic(mailing_id), require_consent=require_consent)


def _can_receive(topic: ColumnElement[str], *, require_consent: bool) -> ColumnElement[bool]:
    is_suppressed = suppressions.is_suppressed(_C.c.address_key, _C.c.owner_id, topic)
    return and_(has_good_address(), consents.can_get_mail(require_consent=require_consent), ~is_suppressed)


def has_good_address() -> ColumnElement[bool]:
    """Return the condition of a client whose address is good."""
    return _C.c.bad_at.is_(None)


def why_left_out(member: Member) -> str | None:
    """Return why a client that a mailing chooses gets no email, or None if it does."""
    if member.excluded is not None:
        return f"excluded: {member.excluded}"
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


def _member(row: Sequence[Any], reasons: Sequence[str]) -> Member:
    client_id, email, bad_at, bad_reason, excluded_by, lacks_consent, *found = row
    excluded = None if excluded_by is None else reasons[excluded_by]
    return Member(client_id, email, bad_at, bad_reason, _found(found), excluded, bool(lacks_consent))


def _found(row: Sequence[Any]) -> Found | None:
    return None if row[0] is None else Found._make(row)


def _topic(mailing_id: int) -> ColumnElement[str]:
    return select(_M.c.topic).where(_M.c.id == mailing_id).scalar_subquery()


def _stored(mailings: ColumnElement[bool], *outer: FromClause) -> _Sources:
    """Return what the mailings with a condition choose clients by, apart from filters.

    `outer` are tables of the enclosing query that `mailings` refers to.
    """

    def of_mailings(*columns: ColumnElement[Any]) -> Select[Any]:
        return select(*columns).select_from(_M).where(mailings).correlate(*outer)

    return _Sources(
        of_mailings(_M.c.owner_id).where(_M.c.all_clients),
        of_mailings(_M.c.owner_id, _MC.c.client_id).join(_MC, _MC.c.mailing_id == _M.c.id),
        of_mailings(_M.c.owner_id, _MT.c.tag).join(_MT, _MT.c.mailing_id == _M.c.id),
    )


def _ways_in(
    sources: _Sources, narrow: Callable[[ColumnElement[int]], ColumnElement[bool]] = lambda client_id: true()
) -> tuple[Select[Any], Select[Any], Select[Any]]:
    """Return a query for the clients of each source: all clients, named, tagged.

    `narrow` is called with a column of client ids, and returns a condition on it.

    Owners, names and tags are looked up first, each once, and the clients after that: joined with each of many
    mailings, the same clients would be read as often.
    """
    everyone = select(_C.c.id).where(_C.c.owner_id.in_(sources.owners), narrow(_C.c.id))

    pairs = sources.names.where(narrow(sources.names.selected_columns["client_id"])).distinct().subquery()
    named = select(_C.c.id).join(pairs, and_(pairs.c.client_id == _C.c.id, pairs.c.owner_id == _C.c.owner_id))

    wanted = sources.tags.subquery()
    tagged = (
        select(_C.c.id)
        .join_from(_T, _C, _C.c.id == _T.c.client_id)
        # The first condition follows from the second, and lets SQLite begin with the index of tags.
        .where(_T.c.tag.in_(select(wanted.c.tag)), tuple_(_C.c.owner_id, _T.c.tag).in_(select(wanted)))
        .where(narrow(_T.c.client_id))
    )
    return everyone, named, tagged


def _chosen(
    chosen: Selection, narrow: Callable[[ColumnElement[int]], ColumnElement[bool]] = lambda client_id: true()
) -> Select[Any] | CompoundSelect[Any]:
    """Return the query for the ids of the clients that a mailing chooses, also of those who are excluded."""
    everyone, named, tagged = _ways_in(chosen.sources, narrow)
    if chosen.all_clients:
        return everyone
    if not chosen.included:
        return union(named, tagged)
    is_own = and_(_C.c.owner_id == chosen.owner_id, narrow(_C.c.id))
    # Not a union of all three: its large part would have to be sorted.
    return select(_C.c.id).where(is_own, or_(*chosen.included, _C.c.id.in_(named), _C.c.id.in_(tagged)))


def _members(
    chosen: Selection, narrow: Callable[[ColumnElement[int]], ColumnElement[bool]] = lambda client_id: true()
) -> Select[Any] | CompoundSelect[Any]:
    """Return the query for the ids of the clients in an audience."""
    ids = _chosen(chosen, narrow)
    if not chosen.excluded:
        return ids
    if isinstance(ids, CompoundSelect):
        ids = select(_C.c.id).where(_C.c.id.in_(ids))
    return ids.where(_excluded_by(chosen).is_(None))


def _excluded_by(chosen: Selection) -> ColumnElement[Any]:
    """Return the expression for the number of the first exclusion that a client is left out by, NULL if none is."""
    numbered = [(condition, literal(number)) for number, (_, condition) in enumerate(chosen.excluded)]
    return case(*numbered) if numbered else null()


def _has_filter(mailing_id: ColumnElement[int]) -> ColumnElement[bool]:
    return exists().where(_MF.c.mailing_id == mailing_id).correlate_except(_MF)


def _filtered_mailings(db: Connection, mailings: ColumnElement[bool], now: datetime) -> dict[int, Selection]:
    """Return who those of the mailings choose that have filters. One with an invalid filter chooses nobody."""
    ids = db.scalars(select(_M.c.id).where(_M.c.id.in_(select(_MF.c.mailing_id)), mailings).order_by(_M.c.id)).all()
    selections: dict[int, Selection] = {}
    if not ids:
        return selections
    from skychimp.store.clients.filters import InvalidFilter

    for mailing_id in ids:
        with suppress(InvalidFilter):
            selections[mailing_id] = selection(db, mailing_id, now)
    return selections
