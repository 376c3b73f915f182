"""Count what comes back for the emails of an occurrence, and hold its mailing if that is too much.

Every function is part of its caller's transaction.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, or_, select, update

from skychimp.models import tables
from skychimp.return_rates import RateKind
from skychimp.store import holds
from skychimp.store.sql import id_list, insert_or, total

_M = tables.mailing
_N = tables.return_count
_O = tables.occurrence

_HELD = {RateKind.BOUNCES: _N.c.held_for_bounces, RateKind.COMPLAINTS: _N.c.held_for_complaints}


class Returned(NamedTuple):
    """How many emails of an occurrence were refused as the address is wrong, and how many came back, by the reason."""

    refused: int = 0
    bounced: int = 0
    soft_bounce: int = 0
    policy_bounce: int = 0
    complaint: int = 0
    held_for_bounces: bool = False

    @property
    def came_back(self) -> int:
        """How many came back, or were marked as spam. One that did so for two reasons counts twice."""
        return self.bounced + self.soft_bounce + self.policy_bounce + self.complaint


NOTHING_RETURNED = Returned()


def add(db: Connection, occurrence_id: int, numbers: Mapping[str, int]) -> None:
    """Add to an occurrence's counts, by the names of their columns."""
    row = insert_or(_N).values(occurrence_id=occurrence_id, **numbers)
    more = {name: _N.c[name] + row.excluded[name] for name in numbers}
    db.execute(row.on_conflict_do_update(index_elements=["occurrence_id"], set_=more))


def read(db: Connection, is_selected: ColumnElement[bool]) -> Mapping[int, Returned]:
    """Return the counts of occurrences with a condition, by their ids. Those without any are left out."""
    columns = (_N.c[name] for name in Returned._fields)
    query = select(_N.c.occurrence_id, *columns).join(_O, _O.c.id == _N.c.occurrence_id).where(is_selected)
    return {row[0]: Returned(*row[1:]) for row in db.execute(query)}


def read_one(db: Connection, occurrence_id: int) -> Returned:
    """Return the counts of one occurrence."""
    return read(db, _O.c.id == occurrence_id).get(occurrence_id, NOTHING_RETURNED)


def sum_by_mailing(db: Connection, mailing_ids: Sequence[int]) -> Mapping[int, Mapping[str, int]]:
    """Return the `bounces` and `complaints` of mailings by their ids. Those without any are left out."""
    bounces, complaints = total(_N.c.refused + _N.c.bounced), total(_N.c.complaint)
    query = select(_O.c.mailing_id, bounces, complaints).join(_N, _N.c.occurrence_id == _O.c.id)
    rows = db.execute(query.where(_O.c.mailing_id.in_(id_list(mailing_ids))).group_by(_O.c.mailing_id))
    return {mailing_id: {"bounces": bounced, "complaints": complained} for mailing_id, bounced, complained in rows}


def hold(db: Connection, occurrence_id: int, kind: RateKind, reason: str, now: datetime) -> int | None:
    """Hold an occurrence's mailing for a rate until a person enables it, and return its id.

    Return None if it was held for this rate before, so that it is not held again for what a person knows. While it is
    held for another reason, or its canary is to be judged, it is not held either.
    """
    goes_on = (_M.c.held_at.is_(None), _M.c.deleted_at.is_(None), _O.c.canary_until.is_(None))
    query = select(_M.c.id).join(_O, _O.c.mailing_id == _M.c.id).where(_O.c.id == occurrence_id, *goes_on)
    mailing_id: int | None = db.scalar(query)
    if mailing_id is None:
        return None
    is_new = update(_N).where(_N.c.occurrence_id == occurrence_id, _HELD[kind].is_(False))
    if db.execute(is_new.values({_HELD[kind]: True})).rowcount == 0:
        return None
    holds.hold_mailing(db, mailing_id, reason, None, now)
    return mailing_id


def set_held(db: Connection, occurrence_id: int) -> None:
    """Note that an occurrence's mailing was held for all that came back so far. It is not held for the same again."""
    held = {
        _N.c.held_for_bounces: or_(_N.c.held_for_bounces, _N.c.refused + _N.c.bounced > 0),
        _N.c.held_for_complaints: or_(_N.c.held_for_complaints, _N.c.complaint > 0),
    }
    db.execute(update(_N).where(_N.c.occurrence_id == occurrence_id).values(held))
