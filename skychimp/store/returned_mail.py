"""Keep the bounces and complaints that came back for deliveries. Part of the caller's transaction."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, and_, delete, func, or_, select

from skychimp.models import DeliveryState, ReturnedKind, tables
from skychimp.store.conditions import was_sent
from skychimp.store.ledger import storable
from skychimp.store.occurrences import return_counts
from skychimp.store.sql import id_list, insert_or

_C = tables.client
_R = tables.returned_mail
_D = tables.delivery
_O = tables.occurrence
_M = tables.mailing

MOST_OF_DELIVERY = 20
"""How many reports about one delivery are kept, as whoever has its token can send any number."""

_MOST_DELIVERIES = 100
_MOST_REPORTS = 1_000
"""About one address."""


class Returned(NamedTuple):
    """A bounce or complaint to record. `digest` is a hash of the report."""

    digest: str
    delivery_id: int
    address_hash: str
    kind: ReturnedKind
    at: datetime
    reply: str
    has_token: bool


def record(db: Connection, returned: Sequence[Returned]) -> Sequence[int]:
    """Record bounces and complaints, and count those with a token. Those recorded before stay as they are.

    Return the ids of the occurrences that have more of them now.
    """
    if not returned:
        return ()
    more = _count_new(db, returned)
    rows = [each._asdict() | {"reply": storable(each.reply)} for each in _without_excess(db, returned)]
    if rows:
        db.execute(insert_or(_R).on_conflict_do_nothing(index_elements=["digest"]), rows)
    for occurrence_id, numbers in sorted(more.items()):
        return_counts.add(db, occurrence_id, numbers)
    return sorted(more)


def _count_new(db: Connection, returned: Sequence[Returned]) -> Mapping[int, Mapping[str, int]]:
    """Return the numbers by occurrence and kind. The same kind counts once for a delivery, whatever number of reports.

    Without a token anybody may have written a report, so it does not count.
    """
    new = {(each.delivery_id, each.kind) for each in returned if each.has_token}
    ids = id_list([delivery_id for delivery_id, _ in new])
    known = select(_R.c.delivery_id, _R.c.kind).where(_R.c.delivery_id.in_(ids), _R.c.has_token)
    new -= {(delivery_id, ReturnedKind(kind)) for delivery_id, kind in db.execute(known)}
    occurrences = {
        row.id: row.occurrence_id for row in db.execute(select(_D.c.id, _D.c.occurrence_id).where(_D.c.id.in_(ids)))
    }
    numbers: dict[int, Counter[str]] = {}
    for delivery_id, kind in new:
        numbers.setdefault(occurrences[delivery_id], Counter())[kind.value] += 1
    return numbers


def _without_excess(db: Connection, returned: Sequence[Returned]) -> list[Returned]:
    """Return the reports without those of deliveries that have MOST_OF_DELIVERY already. They tell nothing new."""
    ids = id_list([each.delivery_id for each in returned])
    counts = select(_R.c.delivery_id, func.count()).where(_R.c.delivery_id.in_(ids)).group_by(_R.c.delivery_id)
    known: Counter[int] = Counter(dict(db.execute(counts).all()))
    kept = []
    for each in returned:
        known[each.delivery_id] += 1
        if known[each.delivery_id] <= MOST_OF_DELIVERY:
            kept.append(each)
    return kept


def delete_old(db: Connection, before: datetime, logged_before: datetime | None, batch: int = 5_000) -> bool:
    """Delete up to `batch` reports, the oldest first. Return True while there may be more.

    A report with a token belongs to the log of its email, and is deleted if it came before `logged_before`, never if
    that is None. One without a token only serves the score of its address, and is deleted if it came before `before`.
    The counts of occurrences stay.
    """
    is_old = and_(_R.c.at < before, ~_R.c.has_token)
    if logged_before is not None:
        is_old = or_(is_old, _R.c.at < min(before, logged_before))
    ids = db.scalars(select(_R.c.id).where(is_old).order_by(_R.c.id).limit(batch)).all()
    db.execute(delete(_R).where(_R.c.id.in_(id_list(ids))))
    return len(ids) == batch


def find_recorded(db: Connection, digests: Collection[str]) -> set[str]:
    """Return those of some reports, by their digests, that were recorded before."""
    return set(db.scalars(select(_R.c.digest).where(_R.c.digest.in_(digests))))


def has_any_since(db: Connection, address_hash: str, since: datetime) -> bool:
    """Return whether anything came back for an address since a time."""
    is_later = (_R.c.address_hash == address_hash) & (_R.c.at >= since)
    return db.execute(select(_R.c.id).where(is_later).limit(1)).first() is not None


def count_days(db: Connection, address_hashes: Collection[str], since: datetime) -> Mapping[tuple[str, int], int]:
    """Return on how many days (UTC) since a time the mail to addresses bounced, policy apart.

    Only those count that came after a person has said that the client is good. The keys are the hash of an address and
    the id of the user whose mail it was.
    """
    bounces = (ReturnedKind.BOUNCED, ReturnedKind.SOFT_BOUNCE)
    newest = func.row_number().over(partition_by=_R.c.address_hash, order_by=_R.c.id.desc()).label("newest")
    of_addresses = _R.c.address_hash.in_(address_hashes) & (_R.c.at >= since) & _R.c.kind.in_(bounces)
    reports = select(_R.c.address_hash, _R.c.delivery_id, _R.c.at, newest).where(of_addresses).subquery()
    query = select(reports.c.address_hash, _M.c.owner_id, reports.c.at).join(_D, _D.c.id == reports.c.delivery_id)
    query = query.join(_O, _O.c.id == _D.c.occurrence_id).join(_M, _M.c.id == _O.c.mailing_id)
    query = query.outerjoin(_C, _C.c.id == _D.c.client_id)
    is_later = reports.c.at > func.coalesce(_C.c.good_at, since - timedelta.resolution)
    rows = db.execute(query.where(reports.c.newest <= _MOST_REPORTS, is_later))
    days = {(hashed, owner_id, at.date()) for hashed, owner_id, at in rows}
    return Counter((hashed, owner_id) for hashed, owner_id, _ in days)


def recent_deliveries(db: Connection, address_key: str, now: datetime, within: timedelta) -> Sequence[int]:
    """Return the ids of the deliveries that were or may have been sent to an address, the newest first."""
    recent = select(_O.c.id).where(_O.c.opened_at >= now - within)
    is_sent = or_(_D.c.state.in_([DeliveryState.SENT, DeliveryState.UNKNOWN]), was_sent())
    query = select(_D.c.id).where(_D.c.occurrence_id.in_(recent), _D.c.address_key == address_key, is_sent)
    return db.scalars(query.order_by(_D.c.id.desc()).limit(_MOST_DELIVERIES)).all()
