"""Keep the bounces and complaints that came back for deliveries. Part of the caller's transaction."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, func, or_, select

from skychimp.models import DeliveryState, ReturnedKind, tables
from skychimp.store.conditions import was_sent
from skychimp.store.ledger import storable
from skychimp.store.sql import insert_or

_R = tables.returned_mail
_D = tables.delivery
_O = tables.occurrence
_M = tables.mailing

_MOST_DELIVERIES = 100
_MOST_REPORTS = 1_000


class Returned(NamedTuple):
    """A bounce or complaint to record. `digest` is a hash of the report."""

    digest: str
    delivery_id: int
    address_hash: str
    kind: ReturnedKind
    at: datetime
    reply: str
    has_token: bool


def record(db: Connection, returned: Sequence[Returned]) -> None:
    """Record bounces and complaints. Those that were recorded before stay as they are."""
    rows = [each._asdict() | {"reply": storable(each.reply)} for each in returned]
    if rows:
        db.execute(insert_or(_R).on_conflict_do_nothing(index_elements=["digest"]), rows)


def find_recorded(db: Connection, digests: Collection[str]) -> set[str]:
    """Return those of some reports, by their digests, that were recorded before."""
    return set(db.scalars(select(_R.c.digest).where(_R.c.digest.in_(digests))))


def has_any_since(db: Connection, address_hash: str, since: datetime) -> bool:
    """Return whether anything came back for an address since a time."""
    is_later = (_R.c.address_hash == address_hash) & (_R.c.at >= since)
    return db.execute(select(_R.c.id).where(is_later).limit(1)).first() is not None


def count_days(db: Connection, address_hash: str, owner_id: int, since: datetime) -> int:
    """Return on how many days (UTC) since a time the mail of a user bounced from an address, policy apart."""
    bounces = (ReturnedKind.BOUNCED, ReturnedKind.SOFT_BOUNCE)
    query = select(_R.c.at).join(_D, _D.c.id == _R.c.delivery_id).join(_O, _O.c.id == _D.c.occurrence_id)
    query = query.join(_M, _M.c.id == _O.c.mailing_id).where(_M.c.owner_id == owner_id)
    query = query.where(_R.c.address_hash == address_hash, _R.c.at >= since, _R.c.kind.in_(bounces))
    return len({at.date() for at in db.scalars(query.order_by(_R.c.id.desc()).limit(_MOST_REPORTS))})


def count_by_kind(db: Connection, mailing_id: int) -> dict[str, int]:
    """Return for how many emails of a mailing something came back, by what that was."""
    query = select(_R.c.kind, func.count(_R.c.delivery_id.distinct())).join(_D, _D.c.id == _R.c.delivery_id)
    query = query.join(_O, _O.c.id == _D.c.occurrence_id).where(_O.c.mailing_id == mailing_id).group_by(_R.c.kind)
    return {kind.value: 0 for kind in ReturnedKind} | {
        ReturnedKind(kind).value: count for kind, count in db.execute(query)
    }


def recent_deliveries(db: Connection, address_key: str, now: datetime, within: timedelta) -> Sequence[int]:
    """Return the ids of the deliveries that were or may have been sent to an address, the newest first."""
    recent = select(_O.c.id).where(_O.c.opened_at >= now - within)
    is_sent = or_(_D.c.state.in_([DeliveryState.SENT, DeliveryState.UNKNOWN]), was_sent())
    query = select(_D.c.id).where(_D.c.occurrence_id.in_(recent), _D.c.address_key == address_key, is_sent)
    return db.scalars(query.order_by(_D.c.id.desc()).limit(_MOST_DELIVERIES)).all()
