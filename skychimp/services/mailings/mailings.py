"""Create, change, delete, disable and list mailings."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import islice

from sqlalchemy import exists, select, update
from sqlmodel import Session

from skychimp.delivery.scheduling import planner, recurrence, time_input
from skychimp.delivery.scheduling.recurrence import DueTime
from skychimp.errors import Denied
from skychimp.models import CatchUp, Every, Mailing, MailingStatus, Message
from skychimp.permissions import Action, Actor, Scope, authorize
from skychimp.services import audit
from skychimp.services.listing import ListOptions, apply, is_valid_id, not_found
from skychimp.services.mailings.audience_input import Audience, set_audience
from skychimp.services.mailings.queries import (
    SEARCHED,
    SORTED_BY,
    MailingInfo,
    get_mailing,
    get_own_mailing,
    read_mailings,
    visible_mailings,
)
from skychimp.services.mailings.schedules import (
    DEFAULT_CATCH_UP,
    CatchUpPolicy,
    ScheduleInput,
    first_due,
    parse_schedule,
    reschedule,
    schedule_columns,
)
from skychimp.store import queue
from skychimp.store.database import Store
from skychimp.text import one_line

_M = Mailing.__table__
_MSG = Message.__table__

MAX_REASON_LENGTH = 1_000
LIST_BATCH = 500


def create(
    store: Store,
    actor: Actor,
    *,
    message_id: int,
    schedule: ScheduleInput,
    audience: Audience,
    catch_up: CatchUpPolicy = DEFAULT_CATCH_UP,
    disabled: str = "",
) -> MailingInfo:
    """Create a mailing. It is due at once if its start has passed and its end has not.

    `disabled` is a reason to create it disabled. Raises NotFound, InvalidValue.
    """
    authorize(actor, Action.CHANGE_MAILINGS)
    now = store.now()
    parsed = parse_schedule(schedule, now)
    next_at = first_due(parsed, now)
    with store.write() as db:
        _require_own_message(db, actor, message_id)
        mailing = Mailing(
            owner_id=actor.user_id,
            message_id=message_id,
            every=schedule.every,
            timezone=schedule.timezone,
            created_at=now,
            next_at=next_at,
            status=MailingStatus.COMPLETED if next_at is None else MailingStatus.CREATED,
            catch_up=catch_up.catch_up,
            grace=_whole_seconds(catch_up.grace),
            disabled_at=now if disabled else None,
            disabled_by_id=actor.user_id if disabled else None,
            disabled_reason=disabled or None,
            **schedule_columns(parsed),
        )
        db.add(mailing)
        db.flush()
        set_audience(db, actor, mailing, audience)
        return get_mailing(db, actor, mailing.id or 0)


def duplicate(
    store: Store, actor: Actor, mailing_id: int, *, start: str | None = None, end: str | None = None
) -> MailingInfo:
    """Create a disabled copy of a mailing, so that its owner can change it before it sends.

    Raises NotFound, InvalidValue.
    """
    original = show(store, actor, mailing_id, action=Action.CHANGE_MAILINGS)
    with store.read() as db:
        start = start or get_own_mailing(db, actor, mailing_id).start_local
    end = end or (original.end_at.isoformat() if original.end_at else None)
    return create(
        store,
        actor,
        message_id=original.message_id,
        schedule=ScheduleInput(start, end, original.every, original.timezone),
        audience=Audience(original.all_clients, original.tags, original.client_ids),
        catch_up=CatchUpPolicy(original.catch_up, original.grace),
        disabled=f"copy of mailing {mailing_id}",
    )


def show(store: Store, actor: Actor, mailing_id: int, *, action: Action = Action.SEE_MAILINGS) -> MailingInfo:
    """Return one mailing. Raises NotFound if it does not exist or the actor may not do this to it."""
    with store.read() as db:
        mailing = get_mailing(db, actor, mailing_id, action)
    record_view(store, actor, mailing)
    return mailing


def list_mailings(store: Store, actor: Actor, options: ListOptions) -> Iterator[MailingInfo]:
    """Yield the mailings that the actor may see, while they are read. Raises InvalidValue."""
    query = apply(visible_mailings(actor), options, searched=SEARCHED, sorted_by=SORTED_BY)
    audit.record_list(store, actor, Action.SEE_MAILINGS, "mailing")
    with store.read() as db:
        rows = iter(db.execute(query.execution_options(yield_per=LIST_BATCH)))
        while batch := list(islice(rows, LIST_BATCH)):
            yield from read_mailings(db, batch)


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
    """Change the values that are given. `no_end` removes the end.

    A changed schedule applies from now on. Raises NotFound, InvalidValue.
    """
    authorize(actor, Action.CHANGE_MAILINGS)
    now = store.now()
    with store.write() as db:
        mailing = get_own_mailing(db, actor, mailing_id)
        if message_id is not None:
            _require_own_message(db, actor, message_id)
            mailing.message_id = message_id
        if no_end or any(value is not None for value in (start, end, every, timezone)):
            old_end = mailing.end_at.isoformat() if mailing.end_at else None
            new_end = None if no_end else old_end if end is None else end
            new_start = mailing.start_local if start is None else start
            schedule = ScheduleInput(new_start, new_end, every or mailing.every, timezone or mailing.timezone)
            reschedule(db, mailing, schedule, now)
        if catch_up is not None:
            mailing.catch_up = catch_up
        if grace is not None:
            mailing.grace = _whole_seconds(grace)
        if audience is not None:
            set_audience(db, actor, mailing, audience)
        db.flush()
        return get_mailing(db, actor, mailing_id)


def remove(store: Store, actor: Actor, mailing_id: int) -> MailingInfo:
    """Delete a mailing and return it. Queued deliveries are cancelled; the log is kept. Raises NotFound."""
    authorize(actor, Action.CHANGE_MAILINGS)
    now = store.now()
    with store.write() as db:
        mailing = get_own_mailing(db, actor, mailing_id)
        deleted = get_mailing(db, actor, mailing_id)
        mailing.deleted_at, mailing.message_id, mailing.next_at = now, None, None
        db.flush()
        queue.sweep(db.connection(), now)
        audit.record(db, actor, "delete", "mailing", mailing_id)
    return deleted


def disable(store: Store, actor: Actor, mailing_id: int, reason: str = "") -> MailingInfo:
    """Stop sending a mailing until it is enabled. Raises NotFound, Denied, InvalidValue.

    A manager's decision replaces that of the owner or the system, and only a manager can undo it.
    """
    scope = authorize(actor, Action.DISABLE_MAILINGS)
    reason = one_line(reason, "reason", MAX_REASON_LENGTH) or "no reason given"
    now = store.now()
    with store.write() as db:
        mailing = get_mailing(db, actor, mailing_id, Action.DISABLE_MAILINGS)
        if mailing.disabled and scope == Scope.ALL:
            values = {"disabled_at": now, "disabled_by_id": actor.user_id, "disabled_reason": reason}
            db.execute(update(_M).where(_M.c.id == mailing_id).values(values))
        queue.disable_mailing(db.connection(), mailing_id, reason, now, actor.user_id)
        if mailing.owner != actor.email:
            audit.record(db, actor, "disable", "mailing", mailing_id, reason)
        return get_mailing(db, actor, mailing_id)


def enable(store: Store, actor: Actor, mailing_id: int) -> MailingInfo:
    """Let a disabled mailing send again.

    Raises NotFound, and Denied if a manager or admin has disabled it and the actor is neither.
    """
    scope = authorize(actor, Action.DISABLE_MAILINGS)
    with store.write() as db:
        owner = get_mailing(db, actor, mailing_id, Action.DISABLE_MAILINGS).owner
        mailing = db.get_one(Mailing, mailing_id)
        if scope == Scope.OWN and mailing.disabled_by_id not in (None, actor.user_id):
            raise Denied(
                f"mailing {mailing_id} was disabled by a manager", "ask a manager or an administrator to enable it"
            )
        mailing.disabled_at = mailing.disabled_by_id = mailing.disabled_reason = None
        if owner != actor.email:
            audit.record(db, actor, "enable", "mailing", mailing_id)
        db.flush()
        return get_mailing(db, actor, mailing_id)


def preview(
    store: Store, actor: Actor, mailing_id: int, *, since: str | None = None, number: int = 5
) -> tuple[MailingInfo, list[DueTime]]:
    """Return a mailing and its next due times, from now or from a typed time on. Raises NotFound, InvalidValue."""
    now = store.now()
    with store.read() as db:
        mailing = get_mailing(db, actor, mailing_id)
        schedule = planner.schedule_of(db.get_one(Mailing, mailing_id))
    record_view(store, actor, mailing)
    start = now if since is None else time_input.parse_when(since, mailing.timezone, now)
    return mailing, list(islice(recurrence.upcoming(schedule, start), number))


def record_view(store: Store, actor: Actor, mailing: MailingInfo) -> None:
    """Record in the audit trail that the actor sees a mailing, if it is another user's."""
    if mailing.owner != actor.email:
        audit.record_view(store, actor, "mailing", mailing.id)


def require_mailing(store: Store, mailing_id: int) -> None:
    """Raise NotFound unless a mailing of any owner has this id."""
    query = select(exists().where(_M.c.id == mailing_id, _M.c.deleted_at.is_(None)))
    with store.read() as db:
        if not is_valid_id(mailing_id) or not db.scalar(query):
            raise not_found("mailing", mailing_id)


def _require_own_message(db: Session, actor: Actor, message_id: int) -> None:
    owner_id = db.scalar(select(_MSG.c.owner_id).where(_MSG.c.id == message_id)) if is_valid_id(message_id) else None
    if owner_id != actor.user_id:
        raise not_found("message", message_id)


def _whole_seconds(grace: timedelta | None) -> int | None:
    return None if grace is None else round(grace.total_seconds())
