"""Mailings: the setting of what is sent to whom and when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, delete, exists, insert, or_, select, update
from sqlmodel import Session

from skychimp.delivery.scheduling import planner, recurrence, time_input
from skychimp.delivery.scheduling.recurrence import Due, Schedule
from skychimp.errors import Denied, InvalidValue, NotFound
from skychimp.models import (
    CatchUp,
    Client,
    Every,
    Mailing,
    MailingClient,
    MailingStatus,
    MailingTag,
    Message,
    Occurrence,
    OccurrenceState,
    User,
)
from skychimp.permissions import Action, Actor, Scope, authorize
from skychimp.services import audit
from skychimp.services.listing import ListOptions, apply, is_id
from skychimp.store import queue
from skychimp.store.database import Store
from skychimp.text import checked_tags, one_line

_M = Mailing.__table__
_MSG = Message.__table__
_MC = MailingClient.__table__
_MT = MailingTag.__table__
_C = Client.__table__
_U = User.__table__
_O = Occurrence.__table__

LONGEST_REASON = 1_000

SORTED_BY = {
    "id": _M.c.id,
    "subject": _MSG.c.subject,
    "start_at": _M.c.start_at,
    "next_at": _M.c.next_at,
    "status": _M.c.status,
    "created_at": _M.c.created_at,
}


@dataclass(frozen=True)
class Audience:
    """Whom a mailing goes to: everybody, or the clients named together with those that have one of the tags."""

    all_clients: bool = False
    tags: Sequence[str] = ()
    client_ids: Sequence[int] = ()


@dataclass(frozen=True)
class When:
    """A schedule as a person wrote it; without an offset, times are local to `timezone`."""

    start: str
    end: str | None
    every: Every
    timezone: str


@dataclass(frozen=True)
class Lateness:
    """What is done about due times that nobody was there to send; without a `grace`, the period's own holds."""

    catch_up: CatchUp = CatchUp.LATEST
    grace: timedelta | None = None


@dataclass(frozen=True)
class MailingInfo:
    id: int
    message_id: int
    subject: str
    digest: bool
    skipped_at: datetime | None
    """The latest due time, of a digest that had no new post then."""
    owner: str
    owner_blocked: bool
    start_at: datetime
    end_at: datetime | None
    every: Every
    timezone: str
    catch_up: CatchUp
    grace: timedelta | None
    status: MailingStatus
    disabled: bool
    disabled_by: str | None
    disabled_reason: str | None
    next_at: datetime | None
    created_at: datetime
    all_clients: bool
    tags: list[str]
    client_ids: list[int]


def create(
    store: Store,
    actor: Actor,
    *,
    message_id: int,
    when: When,
    audience: Audience,
    lateness: Lateness = Lateness(),
    disabled: str = "",
) -> MailingInfo:
    """Make a mailing. One whose window is open is due at once, unless it is `disabled`, with a reason.

    Raises NotFound, InvalidValue.
    """
    authorize(actor, Action.CHANGE_MAILINGS)
    now = datetime.now(UTC)
    schedule = _schedule(when, now)
    next_at = _first_due(schedule, now)
    with store.write() as db:
        _require_message(db, actor, message_id)
        mailing = Mailing(
            owner_id=actor.user_id,
            message_id=message_id,
            every=when.every,
            timezone=when.timezone,
            created_at=now,
            next_at=next_at,
            status=MailingStatus.COMPLETED if next_at is None else MailingStatus.CREATED,
            catch_up=lateness.catch_up,
            grace=_seconds(lateness.grace),
            disabled_at=now if disabled else None,
            disabled_by_id=actor.user_id if disabled else None,
            disabled_reason=disabled or None,
            **_window(schedule),
        )
        db.add(mailing)
        db.flush()
        _set_audience(db, actor, mailing, audience)
        return _get(db, actor, mailing.id or 0)


def duplicate(
    store: Store, actor: Actor, mailing_id: int, *, start: str | None = None, end: str | None = None
) -> MailingInfo:
    """Make another mailing like this one; it is disabled, so that its owner can change it before it sends.

    Raises NotFound, InvalidValue.
    """
    like = show(store, actor, mailing_id, to=Action.CHANGE_MAILINGS)
    with store.read() as db:
        start = start or _own(db, actor, mailing_id).start_local
    end = end or (like.end_at.isoformat() if like.end_at else None)
    return create(
        store,
        actor,
        message_id=like.message_id,
        when=When(start, end, like.every, like.timezone),
        audience=Audience(like.all_clients, like.tags, like.client_ids),
        lateness=Lateness(like.catch_up, like.grace),
        disabled=f"a copy of mailing {mailing_id}",
    )


def show(store: Store, actor: Actor, mailing_id: int, *, to: Action = Action.SEE_MAILINGS) -> MailingInfo:
    """One mailing, if the actor may do that to it. Raises NotFound."""
    with store.read() as db:
        return _get(db, actor, mailing_id, to)


def list_mailings(store: Store, actor: Actor, page: ListOptions) -> Iterator[MailingInfo]:
    """The mailings that the actor may see, as they are read."""
    query = apply(_visible(actor), page, searched=(_MSG.c.subject,), sorted_by=SORTED_BY)
    with store.read() as db:
        rows = iter(db.execute(query.execution_options(yield_per=500)))
        while some := list(islice(rows, 500)):
            yield from _infos(db, some)


def change(
    store: Store,
    actor: Actor,
    mailing_id: int,
    *,
    message_id: int | None = None,
    start: str | None = None,
    end: str | None = None,
    no_end: bool = False,
    every: Every | None = None,
    timezone: str | None = None,
    catch_up: CatchUp | None = None,
    grace: timedelta | None = None,
    audience: Audience | None = None,
) -> MailingInfo:
    """Change what is given. A changed schedule counts for times from now on; what has never gone out begins anew.

    Raises NotFound, InvalidValue.
    """
    authorize(actor, Action.CHANGE_MAILINGS)
    now = datetime.now(UTC)
    with store.write() as db:
        mailing = _own(db, actor, mailing_id)
        if message_id is not None:
            _require_message(db, actor, message_id)
            mailing.message_id = message_id
        if no_end or any(value is not None for value in (start, end, every, timezone)):
            old_end = mailing.end_at.isoformat() if mailing.end_at else None
            new_end = None if no_end else old_end if end is None else end
            new_start = mailing.start_local if start is None else start
            when = When(new_start, new_end, every or mailing.every, timezone or mailing.timezone)
            _reschedule(db, mailing, when, now)
        if catch_up is not None:
            mailing.catch_up = catch_up
        if grace is not None:
            mailing.grace = _seconds(grace)
        if audience is not None:
            _set_audience(db, actor, mailing, audience)
        db.flush()
        return _get(db, actor, mailing_id)


def remove(store: Store, actor: Actor, mailing_id: int) -> MailingInfo:
    """Delete a mailing; what waits is cancelled, what was sent stays in the ledger. Raises NotFound."""
    authorize(actor, Action.CHANGE_MAILINGS)
    now = datetime.now(UTC)
    with store.write() as db:
        mailing = _own(db, actor, mailing_id)
        gone = _get(db, actor, mailing_id)
        mailing.deleted_at, mailing.message_id, mailing.next_at = now, None, None
        db.flush()
        queue.sweep(db.connection(), now)
        audit.record(db, actor, "delete", "mailing", mailing_id)
    return gone


def disable(store: Store, actor: Actor, mailing_id: int, reason: str = "") -> MailingInfo:
    """Stop a mailing: nothing new of it is sent until it is enabled. Raises NotFound, Denied, InvalidValue.

    A manager's word stands over the owner's, or the system's, that was there before: only managers take it back.
    """
    allowed = authorize(actor, Action.DISABLE_MAILINGS)
    reason = one_line(reason, "reason", LONGEST_REASON) or "by hand"
    now = datetime.now(UTC)
    with store.write() as db:
        mailing = _get(db, actor, mailing_id)
        if mailing.disabled and allowed == Scope.ALL:
            by_me = {"disabled_at": now, "disabled_by_id": actor.user_id, "disabled_reason": reason}
            db.execute(update(_M).where(_M.c.id == mailing_id).values(by_me))
        queue.disable(db.connection(), mailing_id, reason, now, actor.user_id)
        if mailing.owner != actor.email:
            audit.record(db, actor, "disable", "mailing", mailing_id, reason)
        return _get(db, actor, mailing_id)


def enable(store: Store, actor: Actor, mailing_id: int) -> MailingInfo:
    """Let a mailing go on. Raises NotFound, and Denied where a manager or admin stopped it and the actor is neither."""
    allowed = authorize(actor, Action.DISABLE_MAILINGS)
    with store.write() as db:
        owner = _get(db, actor, mailing_id).owner
        mailing = db.get_one(Mailing, mailing_id)
        if allowed == Scope.OWN and mailing.disabled_by_id not in (None, actor.user_id):
            raise Denied(
                f"mailing {mailing_id} was disabled by a manager", "ask a manager or an administrator to enable it"
            )
        mailing.disabled_at = mailing.disabled_by_id = mailing.disabled_reason = None
        if owner != actor.email:
            audit.record(db, actor, "enable", "mailing", mailing_id)
        db.flush()
        return _get(db, actor, mailing_id)


def preview(
    store: Store, actor: Actor, mailing_id: int, *, since: str | None = None, number: int = 5
) -> tuple[MailingInfo, list[Due]]:
    """The coming due times of a mailing, from now or from a given time on. Raises NotFound, InvalidValue."""
    now = datetime.now(UTC)
    with store.read() as db:
        info = _get(db, actor, mailing_id)
        schedule = planner.schedule(db.get_one(Mailing, mailing_id))
    start = now if since is None else time_input.parse_when(since, info.timezone, now)
    return info, list(islice(recurrence.upcoming(schedule, start), number))


def is_active(now: datetime) -> ColumnElement[bool]:
    """The condition of a mailing that goes on: created or running, enabled, and not past its end."""
    return and_(
        _M.c.deleted_at.is_(None),
        _M.c.disabled_at.is_(None),
        _M.c.status.in_([MailingStatus.CREATED, MailingStatus.RUNNING]),
        or_(_M.c.end_at.is_(None), _M.c.end_at > now),
    )


def require(store: Store, mailing_id: int) -> None:
    """For who runs the service: raises NotFound unless there is such a mailing, anybody's."""
    there = select(exists().where(_M.c.id == mailing_id, _M.c.deleted_at.is_(None)))
    with store.read() as db:
        if not is_id(mailing_id) or not db.scalar(there):
            raise _missing(mailing_id)


def _seconds(grace: timedelta | None) -> int | None:
    return None if grace is None else round(grace.total_seconds())


def _schedule(when: When, now: datetime) -> Schedule:
    start = time_input.parse_local(when.start, when.timezone, now)
    end = None if when.end is None else time_input.parse_when(when.end, when.timezone, now)
    schedule = Schedule(start, when.timezone, when.every, end)
    if end is not None and end <= recurrence.to_utc(start, when.timezone):
        raise InvalidValue("the end is not after the start", "give a later --end, or none")
    return schedule


def _first_due(schedule: Schedule, now: datetime) -> datetime | None:
    """The due time to begin with: the latest one that is past while the window is open, else the next to come."""
    if schedule.end is None or now < schedule.end:
        latest = recurrence.latest(schedule, now)
        if latest is not None:
            return latest.at
    return _next_due(schedule, now)


def _next_due(schedule: Schedule, now: datetime) -> datetime | None:
    coming = next(recurrence.upcoming(schedule, now), None)
    return coming.at if coming else None


def _next_after_change(schedule: Schedule, waiting: datetime | None, now: datetime) -> datetime | None:
    """The due time to go on with: one that is due already and still waits for a run, if the schedule keeps it."""
    this_second = now.replace(microsecond=0)  # a start that is "now" still counts
    if waiting is not None and waiting < this_second and _next_due(schedule, waiting) == waiting:
        return waiting
    return _next_due(schedule, this_second)


def _window(schedule: Schedule) -> dict[str, Any]:
    start_at = recurrence.to_utc(schedule.start, schedule.timezone)
    return {"start_local": schedule.start.isoformat(), "start_at": start_at, "end_at": schedule.end}


def _reschedule(db: Session, mailing: Mailing, when: When, now: datetime) -> None:
    schedule = _schedule(when, now)
    opened = db.scalar(select(exists().where(_O.c.mailing_id == mailing.id)))
    mailing.next_at = _next_after_change(schedule, mailing.next_at, now) if opened else _first_due(schedule, now)
    for name, value in _window(schedule).items():
        setattr(mailing, name, value)
    mailing.every, mailing.timezone = when.every, when.timezone
    if mailing.next_at is not None and mailing.status == MailingStatus.COMPLETED:
        mailing.status = MailingStatus.RUNNING if opened else MailingStatus.CREATED
    elif mailing.next_at is None and mailing.status == MailingStatus.CREATED:
        mailing.status = MailingStatus.COMPLETED
    db.flush()
    queue.sweep(db.connection(), now)


def _set_audience(db: Session, actor: Actor, mailing: Mailing, audience: Audience) -> None:
    if audience.all_clients and (audience.tags or audience.client_ids):
        raise InvalidValue("all clients are all: no tag or client can be named too", "give --all-clients alone")
    if not (audience.all_clients or audience.tags or audience.client_ids):
        raise InvalidValue("say who gets it", "give --all-clients, or --tag and --client as often as needed")
    ids = sorted(set(audience.client_ids))
    own = select(_C.c.id).where(_C.c.owner_id == actor.user_id, _C.c.id.in_(filter(is_id, ids)))
    missing = set(ids) - set(db.execute(own).scalars())
    if missing:
        raise NotFound(f"there is no client {min(missing)}", "see them: skychimp clients list")
    mailing.all_clients = audience.all_clients
    db.execute(delete(_MC).where(_MC.c.mailing_id == mailing.id))
    db.execute(delete(_MT).where(_MT.c.mailing_id == mailing.id))
    if ids:
        db.execute(insert(_MC), [{"mailing_id": mailing.id, "client_id": client_id} for client_id in ids])
    if tags := checked_tags(audience.tags):
        db.execute(insert(_MT), [{"mailing_id": mailing.id, "tag": tag} for tag in tags])


def _require_message(db: Session, actor: Actor, message_id: int) -> None:
    owner = db.scalar(select(_MSG.c.owner_id).where(_MSG.c.id == message_id)) if is_id(message_id) else None
    if owner != actor.user_id:
        raise NotFound(f"there is no message {message_id}", "see them: skychimp messages list")


def _own(db: Session, actor: Actor, mailing_id: int) -> Mailing:
    mailing = db.get(Mailing, mailing_id) if is_id(mailing_id) else None
    if mailing is None or mailing.owner_id != actor.user_id or mailing.deleted_at is not None:
        raise _missing(mailing_id)
    return mailing


def _visible(actor: Actor, action: Action = Action.SEE_MAILINGS) -> Select[tuple[object, ...]]:
    disabler = _U.alias()
    query = (
        select(
            _M,
            _MSG.c.subject,
            _MSG.c.digest,
            _U.c.email.label("owner"),
            _U.c.blocked_at,
            disabler.c.email.label("disabled_by"),
        )
        .join(_MSG, _MSG.c.id == _M.c.message_id)
        .join(_U, _U.c.id == _M.c.owner_id)
        .outerjoin(disabler, disabler.c.id == _M.c.disabled_by_id)
        .where(_M.c.deleted_at.is_(None))
    )
    if authorize(actor, action) == Scope.OWN:
        query = query.where(_M.c.owner_id == actor.user_id)
    return query


def _get(db: Session, actor: Actor, mailing_id: int, action: Action = Action.SEE_MAILINGS) -> MailingInfo:
    query = _visible(actor, action).where(_M.c.id == mailing_id)
    row = db.execute(query).one_or_none() if is_id(mailing_id) else None
    if row is None:
        raise _missing(mailing_id)
    return _infos(db, [row])[0]


def _missing(mailing_id: int) -> NotFound:
    return NotFound(f"there is no mailing {mailing_id}", "see them: skychimp mailings list")


def _infos(db: Session, rows: Sequence[Row[tuple[object, ...]]]) -> list[MailingInfo]:
    ids = [row.id for row in rows]
    tags: dict[int, list[str]] = {}
    for mailing_id, tag in db.execute(select(_MT).where(_MT.c.mailing_id.in_(ids)).order_by(_MT.c.tag)):
        tags.setdefault(mailing_id, []).append(tag)
    clients: dict[int, list[int]] = {}
    for mailing_id, client_id in db.execute(select(_MC).where(_MC.c.mailing_id.in_(ids)).order_by(_MC.c.client_id)):
        clients.setdefault(mailing_id, []).append(client_id)
    skipped = _skipped(db, [row.id for row in rows if row.digest])
    return [_info(row, tags.get(row.id, []), clients.get(row.id, []), skipped.get(row.id)) for row in rows]


def _skipped(db: Session, mailing_ids: Sequence[int]) -> dict[int, datetime]:
    """The latest due time of each mailing whose latest occurrence was skipped."""
    if not mailing_ids:
        return {}
    later = _O.alias()
    is_latest = ~exists().where(later.c.mailing_id == _O.c.mailing_id, later.c.due_local > _O.c.due_local)
    is_skipped = and_(_O.c.mailing_id.in_(mailing_ids), _O.c.state == OccurrenceState.SKIPPED)
    found = db.execute(select(_O.c.mailing_id, _O.c.due_at).where(is_skipped, is_latest))
    return {row.mailing_id: row.due_at for row in found}


def _info(
    row: Row[tuple[object, ...]], tags: list[str], client_ids: list[int], skipped_at: datetime | None
) -> MailingInfo:
    by = row.disabled_by or "the system"
    return MailingInfo(
        id=row.id,
        message_id=row.message_id,
        subject=row.subject,
        digest=row.digest,
        skipped_at=skipped_at,
        owner=row.owner,
        owner_blocked=row.blocked_at is not None,
        start_at=row.start_at,
        end_at=row.end_at,
        every=Every(row.every),
        timezone=row.timezone,
        catch_up=CatchUp(row.catch_up),
        grace=None if row.grace is None else timedelta(seconds=row.grace),
        status=MailingStatus(row.status),
        disabled=row.disabled_at is not None,
        disabled_by=by if row.disabled_at is not None else None,
        disabled_reason=row.disabled_reason,
        next_at=row.next_at,
        created_at=row.created_at,
        all_clients=row.all_clients,
        tags=tags,
        client_ids=client_ids,
    )
