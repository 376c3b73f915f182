"""Forecast what the next run would do: which clients get an email, which do not, and why. Changes nothing."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, select, true

from skychimp.delivery.attachments.folder import AttachmentsFolder
from skychimp.delivery.composing.compose import Recipient
from skychimp.delivery.scheduling import planner
from skychimp.delivery.scheduling.planner import DueMailing
from skychimp.errors import InvalidValue
from skychimp.models import DeliveryState, OccurrenceState, tables
from skychimp.services import paging
from skychimp.services.mailings.missing_files import FileCheck, make_check, read_recipients, recipient_of
from skychimp.store.clients import audience
from skychimp.store.conditions import current_state, is_sendable, is_unfinished, why_stopped
from skychimp.store.database import Store
from skychimp.store.occurrences import canary, opening
from skychimp.translation import Phrase, tr, verbatim

_D = tables.delivery
_O = tables.occurrence
_M = tables.mailing
_U = tables.user


REPLACED = tr("replaced: nothing of it was sent, and the mailing is due again")
WAITS_FOR_CANARY = tr("waits for the canary")
BEYOND_LIMIT = tr("more than --limit")

_DETAILS = re.compile(r"( with @| for topic | everywhere | since |: ).*", re.DOTALL)
_KINDS: Mapping[str, Phrase] = {
    WAITS_FOR_CANARY: tr("waiting for the canary"),
    BEYOND_LIMIT: tr("beyond --limit"),
    audience.NO_CONSENT: tr("without a recorded consent"),
    "the mailing is disabled": tr("because the mailing is disabled"),
    "the mailing's owner is blocked": tr("because the mailing's owner is blocked"),
    "the mailing is held": tr("because the mailing is held"),
    "the mailing would be held": tr("because the mailing would be held"),
    "the mailing has ended": tr("because the mailing has ended"),
    "replaced": tr("replaced"),
    "missed": tr("missed"),
    "skipped": tr("skipped"),
    "excluded": tr("excluded"),
    "suppressed": tr("suppressed"),
    "bad address": tr("bad address"),
    "would fail": tr("would fail"),
    "already sent": tr("already sent"),
    "written to the outbox": tr("written to the outbox"),
}
"""Reasons without their details, and how they are worded after a number of clients. States are not among them."""


@dataclass(frozen=True)
class Forecast:
    """What the next run would do about one client in one occurrence.

    `left_out` is the reason for sending nothing now, or None. `email` is "" in a row about a whole occurrence.
    """

    mailing_id: int
    due_at: datetime
    email: str
    left_out: str | None


def forecast(
    store: Store,
    now: datetime,
    mailing_id: int | None = None,
    *,
    require_consent: bool = False,
    canary_failure_rate: float = 0.0,
    folder: AttachmentsFolder | None = None,
) -> Iterator[Forecast]:
    """Yield a row for each client of the mailings that have something due, of all mailings or of one.

    A mailing that is stopped, and an occurrence that is missed or skipped, is a single row. `require_consent` and
    `canary_failure_rate` are the settings. `folder` has the files that only one client gets. Without it, they are not
    looked for.
    """
    look = _Look(store, now, require_consent, folder)
    with store.read() as transaction:
        db = transaction.connection()
        stopped = list(_stopped_mailings(db, now, mailing_id))
        due = list(planner.due_mailings(db, now, mailing_id))
        unfinished = _unfinished_occurrences(db, mailing_id)
        canaries = canary.count_results(db, now)
    yield from stopped
    for mailing in due:
        yield from _new_occurrences(look, mailing)
    replaced = {occurrence_id for mailing in due for occurrence_id in mailing.replaces}
    for occurrence in unfinished:
        if occurrence.id in replaced:
            yield Forecast(occurrence.mailing_id, occurrence.due_at, "", REPLACED)
        elif occurrence.id in canaries:
            bad = canaries[occurrence.id].why_bad(canary_failure_rate)
            judged = occurrence._replace(canary_until=None, held_reason=bad or occurrence.held_reason)
            yield from _open_occurrence(look, judged)
        else:
            yield from _open_occurrence(look, occurrence)


def kind_of_reason(left_out: str) -> Phrase:
    """Return the kind of a reason as it follows a number of clients: `suppressed`, `because the mailing is held`."""
    kind = _DETAILS.sub("", left_out)
    return _KINDS.get(kind) or verbatim(kind)


def _stopped_mailings(db: Connection, now: datetime, mailing_id: int | None) -> Iterator[Forecast]:
    query = (
        select(_M.c.id, _M.c.next_at, _M.c.disabled_at, _M.c.disabled_reason, _M.c.held_reason, _U.c.blocked_at)
        .join(_U, _U.c.id == _M.c.owner_id)
        .where(_M.c.next_at <= now, _M.c.deleted_at.is_(None), ~is_sendable())
        .where(_M.c.id == mailing_id if mailing_id is not None else true())
    )
    for row in db.execute(query.order_by(_M.c.id)):
        reason = why_stopped(row.disabled_at, row.disabled_reason, row.held_reason, row.blocked_at)
        yield Forecast(row.id, row.next_at, "", reason)


def _new_occurrences(look: "_Look", mailing: DueMailing) -> Iterator[Forecast]:
    """Yield the rows of the occurrences that the next run would open, or record as missed or skipped."""
    with look.store.read() as db:
        has_content = not mailing.digest or planner.has_new_posts(db.connection(), mailing, look.now)
    for due in mailing.plan.open:
        if has_content:
            check = look.check(mailing.id, mailing.attachments, due.at, mailing.timezone)
            yield from _audience_rows(look, mailing.id, due.at, mailing.canary, check=check)
        else:
            yield Forecast(mailing.id, due.at, "", tr("skipped: there is no new post"))
        has_content = not mailing.digest  # the first occurrence of a digest contains all new posts
    for due in mailing.plan.missed:
        yield Forecast(mailing.id, due.at, "", tr("missed: too late to be sent"))


def _open_occurrence(look: "_Look", occurrence: "_Unfinished") -> Iterator[Forecast]:
    """Yield a row for each delivery of an occurrence, and for each client whose delivery is not created yet."""
    stopped = why_stopped(
        occurrence.disabled_at, occurrence.disabled_reason, occurrence.held_reason, occurrence.blocked_at
    )
    if stopped is None and occurrence.end_at is not None and occurrence.end_at <= look.now:
        stopped = tr("the mailing has ended")
    canary_size = occurrence.canary if occurrence.canary_until is not None else ""
    is_opening = occurrence.state == OccurrenceState.OPENING
    first = _sample(look, occurrence.mailing_id, canary_size, occurrence.due_at) if is_opening else None
    check = look.check(occurrence.mailing_id, occurrence.attachments, occurrence.due_at, occurrence.timezone)
    deliveries = select(_D, current_state().label("current"))
    found = deliveries.where(_D.c.occurrence_id == occurrence.id)
    for page in paging.read_pages(look.store, deliveries, found):
        for row in page:
            if row.next_try_at is not None and row.next_try_at == occurrence.canary_until:
                reason = stopped or (None if first and row.client_id in first else WAITS_FOR_CANARY)
            else:
                reason = stopped or _why_not_now(DeliveryState(row.current), row.next_try_at, look.now)
            if reason is None and check is not None:
                reason = check.folder_problem or _why_failing(check, recipient_of(row, row.address))
            yield Forecast(occurrence.mailing_id, occurrence.due_at, row.address, reason)
    if is_opening:
        yield from _audience_rows(
            look,
            occurrence.mailing_id,
            occurrence.due_at,
            canary_size,
            after=occurrence.cursor,
            stopped=stopped,
            check=check,
        )


def _audience_rows(
    look: "_Look",
    mailing_id: int,
    due_at: datetime,
    canary_size: str,
    *,
    after: int = 0,
    stopped: str | None = None,
    check: FileCheck | None = None,
) -> Iterator[Forecast]:
    """Yield a row for each client that a mailing chooses whose id is above `after`, read in batches.

    If its audience or the folder with its files cannot be read, that is a single row.
    """
    try:
        if check is not None and (problem := check.folder_problem) is not None:
            raise InvalidValue(problem)
        first = _sample(look, mailing_id, canary_size, due_at)
        members = _read_members(look, mailing_id, after)
    except InvalidValue as error:
        yield Forecast(mailing_id, due_at, "", tr("the mailing would be held: {reason}", reason=error.message))
        return
    while members:
        recipients = {} if check is None else _read_recipients(look, members)
        for member in members:
            left_out = audience.why_left_out(member) or stopped
            if left_out is None and first is not None and member.client_id not in first:
                left_out = WAITS_FOR_CANARY
            if left_out is None and check is not None and member.client_id in recipients:
                left_out = _why_failing(check, recipients[member.client_id])
            yield Forecast(mailing_id, due_at, member.email, left_out)
        members = _read_members(look, mailing_id, members[-1].client_id)


def _why_failing(check: FileCheck, recipient: Recipient) -> Phrase | None:
    problem = check.problem(recipient)
    return None if problem is None else tr("would fail: {reason}", reason=problem)


class _Look(NamedTuple):
    """Where, when and by which setting audiences are read."""

    store: Store
    now: datetime
    require_consent: bool
    folder: AttachmentsFolder | None

    def check(self, mailing_id: int, attachments: str, due_at: datetime, timezone: str) -> FileCheck | None:
        local = planner.local_due_time(due_at, timezone)
        return make_check(attachments, self.folder, mailing_id=mailing_id, due_at=local)

    def selection(self, db: Connection, mailing_id: int) -> audience.Selection:
        return audience.selection(db, mailing_id, self.now, require_consent=self.require_consent)


def _sample(look: _Look, mailing_id: int, canary_size: str, due_at: datetime) -> frozenset[int] | None:
    """Return the ids of the clients who get an occurrence first, None if all do."""
    if not canary_size:
        return None
    with look.store.read() as session:
        db = session.connection()
        return canary.sample(db, look.selection(db, mailing_id), canary_size, due_at)


def _read_members(look: _Look, mailing_id: int, after: int) -> Sequence[audience.Member]:
    with look.store.read() as session:
        db = session.connection()
        return audience.members(db, look.selection(db, mailing_id), after=after, limit=opening.OPENING_BATCH)


def _read_recipients(look: _Look, members: Sequence[audience.Member]) -> Mapping[int, Recipient]:
    with look.store.read() as session:
        return read_recipients(session.connection(), [member.client_id for member in members])


class _Unfinished(NamedTuple):
    """An unfinished occurrence, with what may stop it."""

    id: int
    mailing_id: int
    due_at: datetime
    end_at: datetime | None
    state: OccurrenceState
    cursor: int
    canary_until: datetime | None
    canary: str
    disabled_at: datetime | None
    disabled_reason: str | None
    held_reason: str | None
    blocked_at: datetime | None
    attachments: str
    timezone: str


def _unfinished_occurrences(db: Connection, mailing_id: int | None) -> list[_Unfinished]:
    query = (
        select(
            _O.c.id, _O.c.mailing_id, _O.c.due_at, _M.c.end_at, _O.c.state, _O.c.cursor, _O.c.canary_until, _M.c.canary,
            _M.c.disabled_at, _M.c.disabled_reason, _M.c.held_reason, _U.c.blocked_at, _O.c.attachments,
            _O.c.timezone,
        )
        .join(_M, _M.c.id == _O.c.mailing_id)
        .join(_U, _U.c.id == _M.c.owner_id)
        .where(is_unfinished())
        .where(_O.c.mailing_id == mailing_id if mailing_id is not None else true())
    )  # fmt: skip
    return [_Unfinished._make(row) for row in db.execute(query.order_by(_O.c.due_at, _O.c.id))]


def _why_not_now(state: DeliveryState, next_try_at: datetime | None, now: datetime) -> Phrase | None:
    """Return why nothing is sent for a delivery now, or None if it is sent."""
    if state == DeliveryState.UNKNOWN and next_try_at is None:
        return tr("unknown: waiting for a person's decision")
    if state in (DeliveryState.QUEUED, DeliveryState.DEFERRED, DeliveryState.UNKNOWN) and next_try_at is not None:
        if next_try_at <= now:
            return None
        return tr("{state}: next try at {time}", state=state, time=next_try_at.isoformat(timespec="seconds"))
    if state == DeliveryState.SENT:
        return tr("already sent")
    return tr("written to the outbox") if state == DeliveryState.OUTBOX else verbatim(state)
