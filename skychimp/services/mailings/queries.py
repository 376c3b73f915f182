"""Read mailings with their message, owner and audience, as far as the actor may see them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Row, Select, and_, exists, select, true

from skychimp.models import (
    CatchUp,
    Every,
    MailingStatus,
    OccurrenceState,
    tables,
)
from skychimp.permissions import Action, Actor, authorize
from skychimp.services.listing import in_scope, is_valid_id, not_found
from skychimp.services.mailings.progress import read_progress
from skychimp.store.conditions import is_unfinished
from skychimp.store.occurrences import return_counts
from skychimp.store.session import Session
from skychimp.store.sql import Nullable
from skychimp.text import folded
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.models import Mailing

_M = tables.mailing
_MSG = tables.message
_MC = tables.mailing_client
_MT = tables.mailing_tag
_U = tables.user
_O = tables.occurrence
_MF = tables.mailing_filter
_S = tables.segment

_MAX_ID_DIGITS = 18

SEARCHED = (_MSG.c.subject, _M.c.name)
SORTED_BY = {
    "id": _M.c.id,
    "subject": _MSG.c.subject,
    "name": _M.c.name,
    "start_at": _M.c.start_at,
    "next_at": Nullable(_M.c.next_at),
    "status": _M.c.status,
    "created_at": _M.c.created_at,
}


@dataclass(frozen=True)
class MailingInfo:
    """A mailing as its owner sees it. Times are in UTC.

    `skipped_at` is the latest due time of a digest that had no new post at that time. `held` says why nothing is sent
    although the mailing is enabled, None if it is: the mail server has refused the sender or each email, the canary was
    bad, or too many emails bounced or got a complaint. `topic` is None if clients can only unsubscribe from all mail of
    the owner. `segments` and `except_segments` are names. `deliveries` is the number of emails of its last occurrence,
    and `done` of those that need no further try. Both are None before the first one, and without `add_progress`.
    `canary` says how many clients get each occurrence first, as a number or `1%`, and `canary_wait` how long the others
    wait, None if all get it at once. Others wait now, at least until `canary_until`, if that is not None. The emails of
    a `transactional` mailing have no headers of bulk mail.
    `bounces` and `complaints` count what `return_rates.ReturnCounts` says, of all due times.
    """

    id: int
    message_id: int
    subject: str
    digest: bool
    skipped_at: datetime | None
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
    held: str | None
    next_at: datetime | None
    created_at: datetime
    topic: str | None
    all_clients: bool
    tags: list[str]
    client_ids: list[int]
    name: str | None = None
    segments: list[str] = field(default_factory=list)
    where: str | None = None
    except_tags: list[str] = field(default_factory=list)
    except_segments: list[str] = field(default_factory=list)
    except_where: str | None = None
    canary: str | None = None
    canary_wait: timedelta | None = None
    canary_until: datetime | None = None
    transactional: bool = False
    bounces: int = 0
    complaints: int = 0
    deliveries: int | None = None
    done: int | None = None

    @property
    def progress(self) -> str:
        """How many emails of the last occurrence are done, and how many there are: `1,988/2,001`. "" if none is."""
        return "" if self.deliveries is None else f"{self.done:,}/{self.deliveries:,}"


def visible_mailings(actor: Actor, action: Action = Action.SEE_MAILINGS) -> Select[tuple[object, ...]]:
    """Return the query for the mailings that the actor may do this to. Its rows are for `read_mailings`.

    Raises NotLoggedIn and Denied.
    """
    disabler = _U.alias()
    return (
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
        .where(_M.c.deleted_at.is_(None), in_scope(authorize(actor, action), actor, _M.c.owner_id))
    )


def get_mailing(db: Session, actor: Actor, mailing_id: int, action: Action = Action.SEE_MAILINGS) -> MailingInfo:
    """Return one mailing. Raises NotFound if it does not exist or the actor may not do this to it."""
    query = visible_mailings(actor, action).where(_M.c.id == mailing_id)
    row = db.execute(query).one_or_none() if is_valid_id(mailing_id) else None
    if row is None:
        raise not_found("mailing", mailing_id)
    return read_mailings(db, [row])[0]


def get_own_mailing(db: Session, actor: Actor, mailing_id: int) -> "Mailing":
    """Return a mailing that the actor may change. Raises NotFound."""
    from skychimp.models import Mailing

    is_changeable = in_scope(authorize(actor, Action.CHANGE_MAILINGS), actor, _M.c.owner_id)
    query = select(Mailing).where(_M.c.id == mailing_id, _M.c.deleted_at.is_(None), is_changeable)
    mailing: Mailing | None = db.execute(query).scalar_one_or_none() if is_valid_id(mailing_id) else None
    if mailing is None:
        raise not_found("mailing", mailing_id)
    return mailing


def read_mailings(db: Session, rows: Sequence[Row[tuple[object, ...]]]) -> list[MailingInfo]:
    """Add the audiences to rows of `visible_mailings`, with one query for each table."""
    ids = [row.id for row in rows]
    tags: dict[int, list[str]] = {}
    for mailing_id, tag in db.execute(select(_MT).where(_MT.c.mailing_id.in_(ids)).order_by(_MT.c.tag)):
        tags.setdefault(mailing_id, []).append(tag)
    client_ids: dict[int, list[int]] = {}
    for mailing_id, client_id in db.execute(select(_MC).where(_MC.c.mailing_id.in_(ids)).order_by(_MC.c.client_id)):
        client_ids.setdefault(mailing_id, []).append(client_id)
    more = _read_filters(db, ids)
    skipped = _skipped_at(db, [row.id for row in rows if row.digest])
    waiting = _canary_until(db, ids)
    for mailing_id, numbers in return_counts.sum_by_mailing(db.connection(), ids).items():
        more.setdefault(mailing_id, {}).update(numbers)
    infos = [
        _mailing_info(row, tags.get(row.id, []), client_ids.get(row.id, []), skipped.get(row.id), waiting.get(row.id))
        for row in rows
    ]
    return [replace(info, **more[info.id]) if info.id in more else info for info in infos]


def find_id(db: Session, actor: Actor, name: str) -> int:
    """Return the id of a mailing that the actor may see, by its name or id. Raises NotFound.

    The actor's own mailing comes first, if several have this name. An id is returned unchecked.
    """
    if name.isascii() and name.isdecimal() and len(name) <= _MAX_ID_DIGITS:
        return int(name)
    is_visible = in_scope(authorize(actor, Action.SEE_MAILINGS), actor, _M.c.owner_id)
    return _find_named(db, name, is_visible, actor.user_id)


def find_id_of_any(db: Session, name: str) -> int:
    """Return the id of any user's mailing, by its name or id. Raises NotFound. An id is returned unchecked."""
    if name.isascii() and name.isdecimal() and len(name) <= _MAX_ID_DIGITS:
        return int(name)
    return _find_named(db, name, true())


def _find_named(db: Session, name: str, is_visible: ColumnElement[bool], owner_id: int = 0) -> int:
    named = select(_M.c.id, _M.c.name, _M.c.owner_id).where(_M.c.name != "", _M.c.deleted_at.is_(None), is_visible)
    found = [row for row in db.execute(named.order_by(_M.c.id)) if folded(row.name) == folded(name.strip())]
    own = [row for row in found if row.owner_id == owner_id]
    if len(own or found) != 1:  # several users' mailings may have the same name
        raise not_found("mailing", name)
    return int((own or found)[0].id)


def add_progress(db: Session, mailings: Sequence[MailingInfo]) -> list[MailingInfo]:
    """Return mailings with their progress. Not part of a transaction that writes, as counting may take long."""
    progress = read_progress(db.connection(), [mailing.id for mailing in mailings])
    return [
        replace(mailing, **progress[mailing.id]._asdict()) if mailing.id in progress else mailing
        for mailing in mailings
    ]


def _read_filters(db: Session, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return the segments, queries and exclusions of mailings, as MailingInfo has them."""
    columns = (_MF.c.mailing_id, _MF.c.leaves_out, _MF.c.tag, _S.c.name, _MF.c.expression)
    query = select(*columns).outerjoin_from(_MF, _S, _S.c.id == _MF.c.segment_id)
    filters: dict[int, dict[str, Any]] = {}
    for mailing_id, leaves_out, tag, segment, expression in db.execute(
        query.where(_MF.c.mailing_id.in_(ids)).order_by(_MF.c.id)
    ):
        found, prefix = filters.setdefault(mailing_id, {}), "except_" if leaves_out else ""
        if expression is not None:
            found[f"{prefix}where"] = expression
        else:
            found.setdefault(f"{prefix}tags" if segment is None else f"{prefix}segments", []).append(segment or tag)
    return filters


def _skipped_at(db: Session, mailing_ids: Sequence[int]) -> dict[int, datetime]:
    """Return the latest due time of each mailing whose latest occurrence was skipped."""
    if not mailing_ids:
        return {}
    later = _O.alias()
    is_latest = ~exists().where(later.c.mailing_id == _O.c.mailing_id, later.c.due_local > _O.c.due_local)
    is_skipped = and_(_O.c.mailing_id.in_(mailing_ids), _O.c.state == OccurrenceState.SKIPPED)
    skipped = db.execute(select(_O.c.mailing_id, _O.c.due_at).where(is_skipped, is_latest))
    return {row.mailing_id: row.due_at for row in skipped}


def _canary_until(db: Session, mailing_ids: Sequence[int]) -> dict[int, datetime]:
    """Return until when clients of the mailings wait for a canary, at least."""
    waiting = select(_O.c.mailing_id, _O.c.canary_until).where(is_unfinished(), _O.c.canary_until.is_not(None))
    rows = db.execute(waiting.where(_O.c.mailing_id.in_(mailing_ids)).order_by(_O.c.due_at.desc()))
    return {row.mailing_id: row.canary_until for row in rows}


def _mailing_info(
    row: Row[tuple[object, ...]],
    tags: list[str],
    client_ids: list[int],
    skipped_at: datetime | None,
    canary_until: datetime | None,
) -> MailingInfo:
    is_disabled = row.disabled_at is not None
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
        disabled=is_disabled,
        disabled_by=(row.disabled_by or tr("the system")) if is_disabled else None,
        disabled_reason=row.disabled_reason,
        held=row.held_reason,
        next_at=row.next_at,
        created_at=row.created_at,
        topic=row.topic or None,
        all_clients=row.all_clients,
        tags=tags,
        client_ids=client_ids,
        name=row.name or None,
        canary=row.canary or None,
        canary_wait=timedelta(seconds=row.canary_wait_s) if row.canary else None,
        canary_until=canary_until,
        transactional=row.transactional,
    )
