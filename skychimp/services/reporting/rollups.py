"""Add up attempts and deliveries, and store the sums, so that a report need not read the whole ledger.

Sending stores no sums: it must not wait for them. Attempts are never changed, so `count_new_attempts` only counts those
since the last time. It runs before each report and in the daemon's housekeeping. The deliveries of a finished
occurrence are counted once, those of an open one each time.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from skychimp.delivery.sending import replies
from skychimp.models import (
    DeliveryState,
    Outcome,
    tables,
)
from skychimp.store import ledger
from skychimp.store.conditions import current_attempts, current_state, is_unknown
from skychimp.store.database import POSTGRESQL, SQLITE, Store
from skychimp.store.sql import insert_or, text_position

_A = tables.attempt
_D = tables.delivery
_O = tables.occurrence
_REPLY = tables.reply_kind
_ATTEMPT_SUMS = tables.attempt_rollup
_DELIVERY_SUMS = tables.delivery_rollup
_INFO = tables.store_info

SLOT_S = 5
"""Seconds in a slot, the unit of time in which attempts are added up."""

BATCH = 10_000
IDS_AT_ONCE = 100_000
"""How many ids of deliveries are read at once, so that progress can be shown."""
MAX_REPLY_KINDS = 5_000
"""A server whose replies are all different must not fill the store: further kinds are stored without their text."""

MAX_DOMAINS = 250
"""The largest domains of an occurrence; the others are counted together."""


class OutcomeCount(NamedTuple):
    """The number of deliveries of one domain that are in one state after a number of attempts."""

    domain: str
    state: DeliveryState
    attempts: int
    deliveries: int


class _FinishedAt(NamedTuple):
    """An occurrence, when it finished, and for which such time its sums are stored."""

    id: int
    finished_at: datetime | None
    results_of: datetime | None


_AttemptKey = tuple[int, int, str, str, int, str, str]
"""Occurrence, slot, outcome, phase, code, enhanced code, text of the reply."""


def count_new_attempts(store: Store, progress: Callable[[int], object] = lambda counted: None) -> None:
    """Add up the attempts that are not counted yet, in short transactions.

    `progress` is called with the number counted so far.
    """
    for counted in count_in_batches(store):
        progress(counted)


def count_in_batches(store: Store) -> Iterator[int]:
    """Add up the attempts that are not counted yet. Yield the number counted so far after each short transaction."""
    counted, until = 0, ledger.newest_attempt_id(store)
    while True:
        with store.read() as transaction:
            db = transaction.connection()
            counted_to = db.scalar(select(_INFO.c.counted_to))
            last_id, attempts = _count_attempts(db, counted_to or 0, until)
        if not attempts:
            return
        with store.write() as transaction:
            _add_attempts(transaction.connection(), counted_to, last_id, attempts)
        counted += sum(attempts.values())
        yield counted


def uncounted_attempts(store: Store) -> int:
    """Return roughly how many attempts are not counted yet."""
    with store.read() as transaction:
        db = transaction.connection()
        newest = db.scalar(select(func.max(_A.c.id))) or 0
        return newest - (db.scalar(select(_INFO.c.counted_to)) or 0)


def total_outcomes(db: Connection) -> dict[Outcome, int]:
    """Return the number of all attempts by outcome. It reads each attempt that is not counted yet."""
    counted = select(_REPLY.c.outcome, func.sum(_ATTEMPT_SUMS.c.attempts)).join(
        _ATTEMPT_SUMS, _ATTEMPT_SUMS.c.cause_id == _REPLY.c.id
    )
    counted_to = func.coalesce(select(_INFO.c.counted_to).scalar_subquery(), 0)
    uncounted = select(_A.c.outcome, func.count()).where(_A.c.id > counted_to)
    totals = dict.fromkeys(Outcome, 0)
    for query in (counted.group_by(_REPLY.c.outcome), uncounted.group_by(_A.c.outcome)):
        for outcome, number in db.execute(query):
            totals[outcome] += int(number)
    return totals


def delivery_outcomes(
    store: Store, occurrence_ids: Sequence[int], progress: Callable[[int], object] = lambda counted: None
) -> Mapping[int, Sequence[OutcomeCount]]:
    """Return the deliveries of each of these occurrences, added up. Store the sums of the finished ones.

    `progress` is called now and then with the number of deliveries counted so far, without those of stored sums.
    """
    columns = (_O.c.id, _O.c.finished_at, _O.c.results_of)
    with store.read() as transaction:
        db = transaction.connection()
        rows = db.execute(select(*columns).where(_O.c.id.in_(occurrence_ids)))
        occurrences = [_FinishedAt(*row) for row in rows]
        stored = [row.id for row in occurrences if row.finished_at and row.results_of == row.finished_at]
        outcomes = _stored_outcomes(db, stored)
    counted = 0
    for occurrence in occurrences:
        if occurrence.id not in outcomes:
            report = partial(lambda before, number: progress(before + number), counted)
            outcomes[occurrence.id] = _count_outcomes(store, occurrence, report)
            counted += sum(outcome.deliveries for outcome in outcomes[occurrence.id])
    return outcomes


def slot_start(slot: int) -> datetime:
    """Return the time at which a slot begins."""
    return datetime.fromtimestamp(slot * SLOT_S, UTC)


def slot_of(at: datetime) -> int:
    """Return the slot that contains a time."""
    return int(at.timestamp()) // SLOT_S


# Attempts

# Plain SQL through the driver: building SQLAlchemy's rows and times would double the time.
_SECONDS = {
    SQLITE: "CAST(strftime('%s', finished_at) AS INTEGER)",
    POSTGRESQL: "CAST(floor(extract(epoch FROM finished_at)) AS bigint)",
}
_PARAMETER = {SQLITE: "?", POSTGRESQL: "%s"}
_NEXT_ATTEMPTS = {
    dialect: f"""
    SELECT attempt.id, occurrence_id, {_SECONDS[dialect]} / {SLOT_S}, outcome, phase,
        coalesce(code, 0), enhanced, reply, CASE WHEN outcome IN ('sent', 'outbox') THEN '' ELSE address_key END
    FROM attempt JOIN delivery ON delivery.id = delivery_id
    WHERE attempt.id > {_PARAMETER[dialect]} AND attempt.id <= {_PARAMETER[dialect]}
    ORDER BY attempt.id LIMIT {BATCH}"""  # noqa: S608
    for dialect in (SQLITE, POSTGRESQL)
}


def _count_attempts(db: Connection, after: int, until: int) -> tuple[int, Counter[_AttemptKey]]:
    """Count the next batch of attempts after an id, until another one. Return the batch's last id and the counts."""
    counts: Counter[_AttemptKey] = Counter()
    driver: Any = db.connection.dbapi_connection
    last_id, pattern = after, replies.pattern
    for last_id, *key, reply, address in driver.execute(_NEXT_ATTEMPTS[db.dialect.name], (after, until)):  # noqa: B007
        counts[*key, pattern(reply, address)] += 1
    return last_id, counts


def _add_attempts(db: Connection, counted_to: int | None, last_id: int, attempts: Counter[_AttemptKey]) -> None:
    """Add the counts of a batch to the stored sums, unless another process has counted it meanwhile."""
    claim = update(_INFO).where(_INFO.c.counted_to.is_not_distinct_from(counted_to)).values(counted_to=last_id)
    if db.execute(claim).rowcount == 0:
        return
    known = {tuple(row)[1:]: row.id for row in db.execute(select(_REPLY))}
    sums: Counter[tuple[int, int, int]] = Counter()
    for (occurrence_id, slot, *reply_kind), number in attempts.items():
        sums[occurrence_id, slot, _reply_kind_id(db, known, reply_kind)] += number
    names = ("occurrence_id", "slot", "cause_id", "attempts")
    rows = [dict(zip(names, (*key, number), strict=True)) for key, number in sums.items()]
    added = insert_or(_ATTEMPT_SUMS)
    increased = {"attempts": _ATTEMPT_SUMS.c.attempts + added.excluded.attempts}
    db.execute(added.on_conflict_do_update(index_elements=names[:3], set_=increased), rows)


def _reply_kind_id(db: Connection, known: dict[Any, int], reply_kind: Sequence[object]) -> int:
    """Return the id of a kind of reply. Insert it if it is new."""
    names = ("outcome", "phase", "code", "enhanced", "words")
    values = tuple(reply_kind)
    if values not in known and len(known) >= MAX_REPLY_KINDS:
        values = (*values[:-1], "")
    if values not in known:
        row = dict(zip(names, values, strict=True))
        known[values] = db.execute(insert(_REPLY).values(row).returning(_REPLY.c.id)).scalar_one()
    return known[values]


# Deliveries

# Rows are read by their ids, which are next to each other: by the index of addresses each would be somewhere else.
# Plain SQL through the driver, as above.


@cache
def _deliveries(dialect: Dialect) -> str:
    """Return the SQL for the domain, state and number of attempts of each delivery in an occurrence.

    Its parameters are the first and the last id, and the occurrence's id.
    """
    parameter: ColumnElement[int] = literal_column("?")
    query = _outcome_of_each().where(
        _D.c.id.between(parameter, parameter), literal_column("+occurrence_id") == parameter
    )
    return str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def _outcome_of_each() -> Select[tuple[str, str, int]]:
    at, key = text_position(_D.c.address_key, "@"), _D.c.address_key
    domain = case((at == 0, ""), else_=func.substr(key, at + 1))
    return select(domain.label("domain"), current_state().label("state"), current_attempts().label("attempts"))


def _stored_outcomes(db: Connection, ids: Sequence[int]) -> dict[int, Sequence[OutcomeCount]]:
    """Return the stored sums that still hold: in a finished occurrence only unknown deliveries can change."""
    outcomes: dict[int, list[OutcomeCount]] = {occurrence_id: [] for occurrence_id in ids}
    stored = select(_DELIVERY_SUMS).where(_DELIVERY_SUMS.c.occurrence_id.in_(ids))
    for occurrence_id, domain, state, attempts, deliveries in db.execute(stored):
        outcomes[occurrence_id].append(OutcomeCount(domain, DeliveryState(state), attempts, deliveries))
    unknown = _count_unknown(db, ids)
    return {
        occurrence_id: counts
        for occurrence_id, counts in outcomes.items()
        if _unknown_among(counts) == unknown.get(occurrence_id, 0)
    }


def _count_unknown(db: Connection, ids: Sequence[int]) -> dict[int, int]:
    query = select(_D.c.occurrence_id, func.count()).where(_D.c.occurrence_id.in_(ids), is_unknown())
    return dict(db.execute(query.group_by(_D.c.occurrence_id)).all())


def _unknown_among(outcomes: Sequence[OutcomeCount]) -> int:
    return sum(outcome.deliveries for outcome in outcomes if outcome.state == DeliveryState.UNKNOWN)


def _count_outcomes(store: Store, occurrence: _FinishedAt, progress: Callable[[int], object]) -> Sequence[OutcomeCount]:
    """Count an occurrence's deliveries. Store the sums if it is finished and has not changed meanwhile."""
    with store.read() as transaction:
        counted = list(_largest_domains(_count_deliveries(transaction.connection(), occurrence.id, progress)))
    if occurrence.finished_at is None:
        return counted
    with store.write() as transaction:
        db = transaction.connection()
        is_unchanged = _count_unknown(db, [occurrence.id]).get(occurrence.id, 0) == _unknown_among(counted)
        same = and_(_O.c.id == occurrence.id, _O.c.finished_at == occurrence.finished_at)
        if is_unchanged and db.execute(update(_O).where(same).values(results_of=occurrence.finished_at)).rowcount:
            db.execute(delete(_DELIVERY_SUMS).where(_DELIVERY_SUMS.c.occurrence_id == occurrence.id))
            rows = [{"occurrence_id": occurrence.id, **outcome._asdict()} for outcome in counted]
            if rows:
                db.execute(insert(_DELIVERY_SUMS), rows)
    return counted


def _count_deliveries(
    db: Connection, occurrence_id: int, progress: Callable[[int], object]
) -> Counter[tuple[str, str, int]]:
    """Count an occurrence's deliveries by domain, state and number of attempts."""
    if db.dialect.name == POSTGRESQL:  # adds up there, as SQLite does more slowly than Python
        each = _outcome_of_each().where(_D.c.occurrence_id == occurrence_id).subquery()
        counted = select(each.c.domain, each.c.state, each.c.attempts, func.count()).group_by(*each.c)
        return Counter({(row[0], row[1], row[2]): row[3] for row in db.execute(counted)})
    bounds = select(func.min(_D.c.id), func.max(_D.c.id)).where(_D.c.occurrence_id == occurrence_id)
    first, last = db.execute(bounds).one()
    driver: Any = db.connection.dbapi_connection
    counts: Counter[tuple[str, str, int]] = Counter()
    for start in range(first or 0, (last or -1) + 1, IDS_AT_ONCE):
        counts.update(driver.execute(_deliveries(db.dialect), (start, start + IDS_AT_ONCE - 1, occurrence_id)))
        progress(counts.total())
    return counts


def _largest_domains(counts: Counter[tuple[str, str, int]]) -> Iterator[OutcomeCount]:
    """Yield the counts, with all but the largest domains taken together."""
    sizes: Counter[str] = Counter()
    for (domain, _, _), number in counts.items():
        sizes[domain] += number
    large = {domain for domain, _ in sizes.most_common(MAX_DOMAINS)}
    merged: Counter[tuple[str, str, int]] = Counter()
    for (domain, state, attempts), number in counts.items():
        merged[domain if domain in large else "", state, attempts] += number
    for (domain, state, attempts), number in merged.items():
        yield OutcomeCount(domain, DeliveryState(state), attempts, number)
