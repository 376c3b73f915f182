"""Create, change, delete, disable and list mailings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, exists, select, update

from skychimp.delivery.scheduling import planner, recurrence, time_input
from skychimp.delivery.scheduling.recurrence import DueTime
from skychimp.errors import Conflict, Denied, InvalidValue
from skychimp.listed import Listed
from skychimp.models import CatchUp, Every, MailingStatus, tables
from skychimp.permissions import Action, Actor, Scope, authorize
from skychimp.services import audit, paging
from skychimp.services.listing import ListOptions, apply, find_all, is_valid_id, not_found
from skychimp.services.mailings import queries
from skychimp.services.mailings.audience_input import Audience, audience_of, choice, remove_exclusions, set_audience
from skychimp.services.mailings.canary_input import NO_CANARY, CanaryInput, set_canary
from skychimp.services.mailings.missing_values import require_values
from skychimp.services.mailings.queries import (
    SEARCHED,
    SORTED_BY,
    MailingInfo,
    add_progress,
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
    opened_times,
    parse_schedule,
    reschedule,
    schedule_columns,
)
from skychimp.store import holds, relay_pauses
from skychimp.store.clients import audience as store_audience
from skychimp.store.clients import topics
from skychimp.store.clients.audience import AudienceCount
from skychimp.store.database import Store
from skychimp.store.occurrences import sweeping
from skychimp.store.session import Session
from skychimp.text import checked_topic, folded, nfc, one_line, shortened
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.models import Mailing

_M = tables.mailing
_MSG = tables.message
_O = tables.occurrence

_NO_MAILING = -1
"""The id of a mailing that is not kept. PostgreSQL would not use one of its own again."""

MAX_REASON_LENGTH = 1_000
MAX_MAILING_NAME_LENGTH = 100


@dataclass(frozen=True)
class _NewMailing:
    message_id: int
    schedule: ScheduleInput
    audience: Audience
    catch_up: CatchUpPolicy
    topic: str | None
    disabled: str = ""
    name: str = ""
    canary: CanaryInput = NO_CANARY
    transactional: bool = False


def create(
    store: Store,
    actor: Actor,
    *,
    message_id: int,
    schedule: ScheduleInput,
    audience: Audience,
    catch_up: CatchUpPolicy = DEFAULT_CATCH_UP,
    topic: str | None = None,
    name: str = "",
    canary: CanaryInput = NO_CANARY,
    transactional: bool = False,
    disabled: str = "",
    require_consent: bool = False,
) -> MailingInfo:
    """Create a mailing. It is due at once if its start has passed and its end has not.

    `topic` is what its clients can unsubscribe from, `canary` says who gets it first. The emails of a `transactional`
    one have no headers of bulk mail. `disabled` is a reason to create it disabled. `require_consent` is the setting of
    that name: who gets no email needs no fields. Raises NotFound, InvalidValue, and Conflict if the actor has another
    mailing with this name.
    """
    new = _NewMailing(message_id, schedule, audience, catch_up, topic, disabled, name, canary, transactional)
    with store.write() as db:
        created = _insert(db, store.now(), actor, new, require_consent=require_consent)
        return get_mailing(db, actor, created.id or 0)


def count_recipients_of_new(
    store: Store,
    actor: Actor,
    *,
    message_id: int,
    schedule: ScheduleInput,
    audience: Audience,
    catch_up: CatchUpPolicy = DEFAULT_CATCH_UP,
    topic: str | None = None,
    name: str = "",
    require_consent: bool = False,
    canary: CanaryInput = NO_CANARY,
    transactional: bool = False,
) -> AudienceCount | None:
    """Count the clients to which `create` would send at once, None if the mailing would not be due yet.

    Nothing is created. Raises what `create` does.
    """
    new = _NewMailing(message_id, schedule, audience, catch_up, topic, "", name, canary, transactional)
    now = store.now()
    with store.write() as db:
        mailing = _insert(db, now, actor, new, require_consent=require_consent, mailing_id=_NO_MAILING)
        is_due = mailing.next_at is not None and mailing.next_at <= now
        own_topic = mailing.topic
        db.rollback()
    if not is_due:
        return None
    with store.read() as session:  # not above: counting takes long, and others wait for the lock
        chosen = choice(session, actor, audience, own_topic, schedule.timezone)
        selection = store_audience.new_selection(session.connection(), chosen, now, require_consent=require_consent)
        return store_audience.count(session.connection(), selection)


def duplicate(
    store: Store,
    actor: Actor,
    mailing_id: int,
    *,
    start: str | None = None,
    end: str | None = None,
    require_consent: bool = False,
) -> MailingInfo:
    """Create a disabled copy of a mailing, so that its owner can change it before it sends.

    Raises NotFound, InvalidValue.
    """
    original = find(store, actor, mailing_id, action=Action.CHANGE_MAILINGS)
    with store.read() as db:
        start = start or get_own_mailing(db, actor, mailing_id).start_local
    end = end or (original.end_at.isoformat() if original.end_at else None)
    return create(
        store,
        actor,
        message_id=original.message_id,
        schedule=ScheduleInput(start, end, original.every, original.timezone),
        audience=audience_of(original),
        catch_up=CatchUpPolicy(original.catch_up, original.grace),
        topic=original.topic,
        canary=CanaryInput(original.canary, original.canary_wait),
        transactional=original.transactional,
        disabled=f"copy of mailing {mailing_id}",
        require_consent=require_consent,
    )


def show(store: Store, actor: Actor, mailing_id: int, *, action: Action = Action.SEE_MAILINGS) -> MailingInfo:
    """Return one mailing with its progress. Raises NotFound if it does not exist or the actor may not do this to it."""
    with store.read() as db:
        mailing = add_progress(db, [get_mailing(db, actor, mailing_id, action)])[0]
    record_view(store, actor, mailing)
    return mailing


def find(store: Store, actor: Actor, mailing_id: int, *, action: Action = Action.SEE_MAILINGS) -> MailingInfo:
    """Return one mailing as `show` does, without its progress, which may take long to count. Raises NotFound."""
    with store.read() as db:
        mailing = get_mailing(db, actor, mailing_id, action)
    record_view(store, actor, mailing)
    return mailing


def find_several(
    store: Store, actor: Actor, names: Iterable[str], *, action: Action = Action.SEE_MAILINGS
) -> list[MailingInfo]:
    """Return the mailings with these ids or names, each once, as `find` does. Raises NotFound."""
    authorize(actor, action)
    with store.read() as db:
        found = find_all(names, lambda name: get_mailing(db, actor, queries.find_id(db, actor, name), action))
    if action == Action.SEE_MAILINGS:  # the audit trail has what is done to them otherwise
        for mailing in found:
            record_view(store, actor, mailing)
    return found


def find_id(store: Store, actor: Actor, name: str) -> int:
    """Return the id of a mailing that the actor may see, by its name or id. Raises NotFound.

    An id is returned unchecked.
    """
    authorize(actor, Action.SEE_MAILINGS)
    with store.read() as db:
        return queries.find_id(db, actor, name)


def list_mailings(store: Store, actor: Actor, options: ListOptions) -> Listed[MailingInfo]:
    """Return the mailings that the actor may see. Raises InvalidValue."""
    rows = visible_mailings(actor)
    found = apply(rows, options, searched=SEARCHED, sorted_by=SORTED_BY)
    audit.record_list(store, actor, Action.SEE_MAILINGS, "mailing")

    def read(page: Sequence[Row[Any]]) -> Sequence[MailingInfo]:
        with store.read() as db:
            return add_progress(db, read_mailings(db, page))

    return paging.read_list(store, rows, found, options, read)


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
    topic: str | None = None,
    no_topic: bool = False,
    canary: CanaryInput = NO_CANARY,
    transactional: bool | None = None,
    audience: Audience | None = None,
    no_except: bool = False,
    name: str | None = None,
    require_consent: bool = False,
) -> MailingInfo:
    """Change the values that are given. `no_end` removes the end, `no_topic` the topic, an empty `name` the name.

    `audience` replaces who receives the mailing or who is left out, whichever it says. `no_except` leaves out nobody.

    A changed schedule or canary applies from now on. A new topic cancels what waits for the clients who have
    unsubscribed from it. Raises NotFound, InvalidValue.
    """
    authorize(actor, Action.CHANGE_MAILINGS)
    now = store.now()
    new_topic = None if topic is None else checked_topic(topic)
    with store.write() as db:
        mailing = get_own_mailing(db, actor, mailing_id)
        if message_id is not None:
            _require_own_message(db, actor, message_id)
            mailing.message_id = message_id
        if catch_up is not None:
            mailing.catch_up = catch_up
        if grace is not None:
            mailing.grace = _whole_seconds(grace)
        if no_end or any(value is not None for value in (start, end, every, timezone)):
            old_end = mailing.end_at.isoformat() if mailing.end_at else None
            new_end = None if no_end else old_end if end is None else end
            new_start = mailing.start_local if start is None else start
            schedule = ScheduleInput(new_start, new_end, every or mailing.every, timezone or mailing.timezone)
            reschedule(db, mailing, schedule, now)
        if no_except:
            remove_exclusions(db, mailing)
        set_canary(mailing, canary)
        if transactional is not None:
            mailing.transactional = transactional
        if audience is not None:
            set_audience(db, actor, mailing, audience, now, keeps_rest=True)
        if name is not None:
            mailing.name = _checked_name(db, actor, name, mailing_id)
        if no_topic:
            mailing.topic = ""
        elif new_topic is not None:
            mailing.topic = topics.spell(db.connection(), actor.user_id, new_topic)
            db.flush()
            topics.cancel_suppressed(db.connection(), actor.user_id, mailing.topic)
        if message_id is not None or audience is not None or no_except:
            db.flush()
            require_values(db, mailing, now, require_consent=require_consent)
    sweeping.sweep_in_batches(store, now)  # an end in the past expires what is still queued
    with store.read() as db:
        changed = get_mailing(db, actor, mailing_id)
    return _with_progress(store, changed)


def remove(store: Store, actor: Actor, mailing_id: int) -> MailingInfo:
    """Delete a mailing and return it. Queued deliveries are cancelled; the log is kept. Raises NotFound."""
    authorize(actor, Action.CHANGE_MAILINGS)
    now = store.now()
    with store.read() as db:
        deleted = get_mailing(db, actor, mailing_id)
    deleted = _with_progress(store, deleted)
    with store.write() as db:
        mailing = get_own_mailing(db, actor, mailing_id)
        mailing.deleted_at, mailing.message_id, mailing.next_at = now, None, None
        audit.record(db, actor, "delete", "mailing", mailing_id)
    sweeping.sweep_in_batches(store, now)
    return deleted


def disable(store: Store, actor: Actor, mailing_id: int, reason: str = "") -> MailingInfo:
    """Stop sending a mailing until it is enabled. Raises NotFound, Denied, InvalidValue.

    A manager's decision replaces that of the owner or the system, and only a manager can undo it.
    """
    scope = authorize(actor, Action.DISABLE_MAILINGS)
    reason = one_line(reason, tr("reason"), MAX_REASON_LENGTH) or "no reason given"
    now = store.now()
    with store.write() as db:
        mailing = get_mailing(db, actor, mailing_id, Action.DISABLE_MAILINGS)
        if mailing.disabled and scope == Scope.ALL:
            values = {"disabled_by_id": actor.user_id, "disabled_reason": reason}  # since then nothing is sent
            db.execute(update(_M).where(_M.c.id == mailing_id).values(values))
        holds.disable_mailing(db.connection(), mailing_id, reason, now, actor.user_id)
        if mailing.owner != actor.email:
            audit.record(db, actor, "disable", "mailing", mailing_id, reason)
        disabled = get_mailing(db, actor, mailing_id)
    return _with_progress(store, disabled)


def enable(store: Store, actor: Actor, mailing_id: int) -> MailingInfo:
    """Let a disabled or held mailing send again. Each mail server that is paused is probed by the next run.

    Raises NotFound, and Denied if a manager or admin has disabled it and the actor is neither.
    """
    from skychimp.models import Mailing

    scope = authorize(actor, Action.DISABLE_MAILINGS)
    now = store.now()
    with store.write() as db:
        owner = get_mailing(db, actor, mailing_id, Action.DISABLE_MAILINGS).owner
        mailing = db.get_one(Mailing, mailing_id)
        if scope == Scope.OWN and mailing.disabled_by_id not in (None, actor.user_id):
            raise Denied(
                tr("mailing {mailing_id} was disabled by a manager", mailing_id=mailing_id),
                tr("ask a manager or an administrator to enable it"),
            )
        stopped_at = min(filter(None, (mailing.disabled_at, mailing.held_at)), default=now)
        holds.add_time_held_up(db.connection(), _O.c.mailing_id == mailing_id, stopped_at, now)
        relay_pauses.probe_now(db.connection(), now)
        mailing.disabled_at = mailing.disabled_by_id = mailing.disabled_reason = None
        mailing.held_at = mailing.held_reason = mailing.held_settings = None
        if owner != actor.email:
            audit.record(db, actor, "enable", "mailing", mailing_id)
        db.flush()
        enabled = get_mailing(db, actor, mailing_id)
    return _with_progress(store, enabled)


def preview(
    store: Store, actor: Actor, mailing_id: int, *, since: str | None = None, number: int = 5
) -> tuple[MailingInfo, list[DueTime]]:
    """Return a mailing and its next due times, from now or from a typed time on. Raises NotFound, InvalidValue."""
    now = store.now()
    with store.read() as db:
        mailing = get_mailing(db, actor, mailing_id)
        schedule = planner.schedule_of(db.execute(select(_M).where(_M.c.id == mailing_id)).one())
        opened = opened_times(db, mailing_id)
    record_view(store, actor, mailing)
    start = now if since is None else time_input.parse_when(since, mailing.timezone, now)
    due_times = recurrence.upcoming(schedule, start)
    coming = (due for due in due_times if due.at < now or due.local.isoformat() not in opened)
    return mailing, list(islice(coming, number))


def record_view(store: Store, actor: Actor, mailing: MailingInfo) -> None:
    """Record in the audit trail that the actor sees a mailing, if it is another user's."""
    if mailing.owner != actor.email:
        audit.record_view(store, actor, "mailing", mailing.id)


def require_mailing(store: Store, name: str) -> int:
    """Return the id of a mailing of any owner, by its name or id. Raises NotFound."""
    with store.read() as db:
        mailing_id = queries.find_id_of_any(db, name)
        query = select(exists().where(_M.c.id == mailing_id, _M.c.deleted_at.is_(None)))
        if not is_valid_id(mailing_id) or not db.scalar(query):
            raise not_found("mailing", name)
    return mailing_id


def with_progress(store: Store, found: Sequence[MailingInfo]) -> list[MailingInfo]:
    """Return mailings with their progress. Counting it may take long."""
    with store.read() as db:
        return add_progress(db, found)


def _with_progress(store: Store, mailing: MailingInfo) -> MailingInfo:
    return with_progress(store, [mailing])[0]


def _insert(
    db: Session,
    now: datetime,
    actor: Actor,
    new: _NewMailing,
    *,
    require_consent: bool,
    mailing_id: int | None = None,
) -> "Mailing":
    from skychimp.models import Mailing

    authorize(actor, Action.CHANGE_MAILINGS)
    parsed = parse_schedule(new.schedule, now)
    next_at = first_due(parsed, now)
    topic = "" if new.topic is None else checked_topic(new.topic)
    _require_own_message(db, actor, new.message_id)
    mailing = Mailing(
        id=mailing_id,
        owner_id=actor.user_id,
        message_id=new.message_id,
        name=_checked_name(db, actor, new.name),
        every=new.schedule.every,
        timezone=new.schedule.timezone,
        created_at=now,
        next_at=next_at,
        status=MailingStatus.COMPLETED if next_at is None else MailingStatus.CREATED,
        catch_up=new.catch_up.catch_up,
        grace=_whole_seconds(new.catch_up.grace),
        topic=topics.spell(db.connection(), actor.user_id, topic),
        transactional=new.transactional,
        disabled_at=now if new.disabled else None,
        disabled_by_id=actor.user_id if new.disabled else None,
        disabled_reason=new.disabled or None,
        **schedule_columns(parsed),
    )
    set_canary(mailing, new.canary)
    db.add(mailing)
    db.flush()
    set_audience(db, actor, mailing, new.audience, now)
    require_values(db, mailing, now, require_consent=require_consent)
    return mailing


def _checked_name(db: Session, actor: Actor, name: str, mailing_id: int = 0) -> str:
    """Return a name that a mailing can have. Raises InvalidValue, and Conflict if another one of the actor's has it."""
    name = one_line(nfc(name), tr("name"), MAX_MAILING_NAME_LENGTH)
    if name.isdecimal():
        raise InvalidValue(tr("invalid name {name}", name=shortened(name)), tr("use a name that is not a number"))
    named = select(_M.c.id, _M.c.name).where(_M.c.owner_id == actor.user_id, _M.c.deleted_at.is_(None), _M.c.name != "")
    for other_id, other in db.execute(named):
        if other_id != mailing_id and folded(other) == folded(name):
            raise Conflict(
                tr("mailing {other_id} already has the name {name}", other_id=other_id, name=shortened(name)),
                tr("use another name"),
            )
    return name


def _require_own_message(db: Session, actor: Actor, message_id: int) -> None:
    owner_id = db.scalar(select(_MSG.c.owner_id).where(_MSG.c.id == message_id)) if is_valid_id(message_id) else None
    if owner_id != actor.user_id:
        raise not_found("message", message_id)


def _whole_seconds(grace: timedelta | None) -> int | None:
    return None if grace is None else round(grace.total_seconds())
