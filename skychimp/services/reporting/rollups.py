"""Figures: what the log and the deliveries add up to, kept, so that a look back need not read them all again.

A run keeps no figures: sending must not wait for them. The log is only ever added to, so that `add_up` counts what has
come since the last time, on whoever looks back first, or on the daemon's housekeeping. What a finished occurrence's
deliveries came to is counted once, too; while it is open, each time.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, delete, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as insert_or_add

from skychimp.delivery.sending import replies
from skychimp.models import (
    UNKNOWN_SQL,
    Attempt,
    AttemptRollup,
    Delivery,
    DeliveryRollup,
    DeliveryState,
    Occurrence,
    ReplyKind,
    StoreInfo,
)
from skychimp.store.database import Store

_A = Attempt.__table__
_D = Delivery.__table__
_O = Occurrence.__table__
_CAUSE = ReplyKind.__table__
_P = AttemptRollup.__table__
_R = DeliveryRollup.__table__
_INFO = StoreInfo.__table__

SLOT = 5
"""Seconds in a slot of time."""

BATCH = 50_000
MOST_CAUSES = 5_000
"""A server that says something new each time must not fill the store: further causes are kept without their words."""

MOST_DOMAINS = 250
"""The largest ones of an occurrence; the others are counted together."""


class Outcomes(NamedTuple):
    """How many deliveries of one domain are in one state after so many attempts."""

    domain: str
    state: DeliveryState
    attempts: int
    deliveries: int


_Key = tuple[int, int, str, str, int, str, str]
"""Occurrence, slot, outcome, phase, code, enhanced code, words."""


def add_up(store: Store, tell: Callable[[int], object] = lambda counted: None) -> None:
    """Count the attempts that nobody has counted yet, in short transactions; `tell` hears of how many, so far."""
    counted = 0
    while True:
        with store.read() as transaction:
            db = transaction.connection()
            seen = db.scalar(select(_INFO.c.counted_to))
            until, attempts = _counted(db, seen or 0)
        if not attempts:
            return
        with store.write() as transaction:
            _keep(transaction.connection(), seen, until, attempts)
        counted += sum(attempts.values())
        tell(counted)


def left(store: Store) -> int:
    """About how many attempts are not counted yet."""
    with store.read() as transaction:
        db = transaction.connection()
        newest = db.scalar(select(func.max(_A.c.id))) or 0
        return newest - (db.scalar(select(_INFO.c.counted_to)) or 0)


def results(store: Store, occurrence_ids: Sequence[int]) -> Mapping[int, Sequence[Outcomes]]:
    """What the deliveries of these occurrences came to; those of a finished one are kept for the next time."""
    columns = (_O.c.id, _O.c.finished_at, _O.c.results_of)
    with store.read() as transaction:
        db = transaction.connection()
        found = db.execute(select(*columns).where(_O.c.id.in_(occurrence_ids))).all()
        results = _kept(db, [row.id for row in found if row.finished_at and row.results_of == row.finished_at])
    for occurrence in found:
        if occurrence.id not in results:
            results[occurrence.id] = _count(store, occurrence)
    return results


# Attempts

# In SQLite's own words, by the driver: SQLAlchemy's rows and times would take as long again.
_ATTEMPTS = f"""
    SELECT attempt.id, occurrence_id, CAST(strftime('%s', finished_at) AS INTEGER) / {SLOT}, outcome, phase,
        coalesce(code, 0), enhanced, reply, CASE outcome WHEN 'sent' THEN '' ELSE address_key END
    FROM attempt JOIN delivery ON delivery.id = delivery_id
    WHERE attempt.id > ? ORDER BY attempt.id LIMIT {BATCH}"""  # noqa: S608


def _counted(db: Connection, after: int) -> tuple[int, Counter[_Key]]:
    """The next batch of attempts after one, counted; and the last of them."""
    counts: Counter[_Key] = Counter()
    driver: Any = db.connection.dbapi_connection
    until, pattern = after, replies.pattern
    for until, *key, reply, address in driver.execute(_ATTEMPTS, (after,)):  # noqa: B007
        counts[*key, pattern(reply, address)] += 1
    return until, counts


def _keep(db: Connection, seen: int | None, until: int, attempts: Counter[_Key]) -> None:
    """Add a batch to what is kept, unless somebody else has counted it meanwhile."""
    mine = update(_INFO).where(_INFO.c.counted_to.is_not_distinct_from(seen)).values(counted_to=until)
    if db.execute(mine).rowcount == 0:
        return
    known = {tuple(row)[1:]: row.id for row in db.execute(select(_CAUSE))}
    paces: Counter[tuple[int, int, int]] = Counter()
    for (occurrence_id, slot, *cause), number in attempts.items():
        paces[occurrence_id, slot, _cause_id(db, known, cause)] += number
    names = ("occurrence_id", "slot", "cause_id", "attempts")
    rows = [dict(zip(names, (*key, number), strict=True)) for key, number in paces.items()]
    added = insert_or_add(_P)
    counted = {"attempts": _P.c.attempts + added.excluded.attempts}
    db.execute(added.on_conflict_do_update(index_elements=names[:3], set_=counted), rows)


def _cause_id(db: Connection, known: dict[Any, int], cause: Sequence[object]) -> int:
    names = ("outcome", "phase", "code", "enhanced", "words")
    values = tuple(cause)
    if values not in known and len(known) >= MOST_CAUSES:
        values = (*values[:-1], "")
    if values not in known:
        row = dict(zip(names, values, strict=True))
        known[values] = db.execute(insert(_CAUSE).values(row).returning(_CAUSE.c.id)).scalar_one()
    return known[values]


# Deliveries

# By their ids, which lie together: along the index of addresses each row would be somewhere else.
_DELIVERIES = """
    SELECT CASE instr(address_key, '@') WHEN 0 THEN '' ELSE substr(address_key, instr(address_key, '@') + 1) END,
        state, attempts FROM delivery
    WHERE id BETWEEN ? AND ? AND +occurrence_id = ?"""


def _kept(db: Connection, ids: Sequence[int]) -> dict[int, Sequence[Outcomes]]:
    """What is kept and still holds: in a finished occurrence nothing changes but what is unknown."""
    found: dict[int, list[Outcomes]] = {occurrence_id: [] for occurrence_id in ids}
    for occurrence_id, domain, state, attempts, deliveries in db.execute(select(_R).where(_R.c.occurrence_id.in_(ids))):
        found[occurrence_id].append(Outcomes(domain, DeliveryState(state), attempts, deliveries))
    unknown = _unknown(db, ids)
    return {one: results for one, results in found.items() if _unknown_of(results) == unknown.get(one, 0)}


def _unknown(db: Connection, ids: Sequence[int]) -> dict[int, int]:
    query = select(_D.c.occurrence_id, func.count()).where(_D.c.occurrence_id.in_(ids), text(UNKNOWN_SQL))
    return dict(db.execute(query.group_by(_D.c.occurrence_id)).all())


def _unknown_of(results: Sequence[Outcomes]) -> int:
    return sum(one.deliveries for one in results if one.state == DeliveryState.UNKNOWN)


def _count(store: Store, occurrence: Row[Any, Any, Any]) -> Sequence[Outcomes]:
    """Count an occurrence's deliveries, and keep it where it is finished and nobody has changed it meanwhile."""
    with store.read() as transaction:
        counted = list(_largest(_deliveries(transaction.connection(), occurrence.id)))
    if occurrence.finished_at is None:
        return counted
    with store.write() as transaction:
        db = transaction.connection()
        unchanged = _unknown(db, [occurrence.id]).get(occurrence.id, 0) == _unknown_of(counted)
        mine = and_(_O.c.id == occurrence.id, _O.c.finished_at == occurrence.finished_at)
        if unchanged and db.execute(update(_O).where(mine).values(results_of=occurrence.finished_at)).rowcount:
            db.execute(delete(_R).where(_R.c.occurrence_id == occurrence.id))
            rows = [{"occurrence_id": occurrence.id, **one._asdict()} for one in counted]
            if rows:
                db.execute(insert(_R), rows)
    return counted


def _deliveries(db: Connection, occurrence_id: int) -> Counter[tuple[str, str, int]]:
    bounds = select(func.min(_D.c.id), func.max(_D.c.id)).where(_D.c.occurrence_id == occurrence_id)
    first, last = db.execute(bounds).one()
    driver: Any = db.connection.dbapi_connection
    return Counter(driver.execute(_DELIVERIES, (first, last, occurrence_id)))


def _largest(counts: Counter[tuple[str, str, int]]) -> Iterator[Outcomes]:
    """The counts with the smaller domains taken together."""
    sizes: Counter[str] = Counter()
    for (domain, _, _), number in counts.items():
        sizes[domain] += number
    large = {domain for domain, _ in sizes.most_common(MOST_DOMAINS)}
    together: Counter[tuple[str, str, int]] = Counter()
    for (domain, state, attempts), number in counts.items():
        together[domain if domain in large else "", state, attempts] += number
    for (domain, state, attempts), number in together.items():
        yield Outcomes(domain, DeliveryState(state), attempts, number)


def slot_time(slot: int) -> datetime:
    """When a slot begins."""
    return datetime.fromtimestamp(slot * SLOT, UTC)


def slot_of(at: datetime) -> int:
    """The slot that a time is in."""
    return int(at.timestamp()) // SLOT
