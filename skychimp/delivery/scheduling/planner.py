"""Find the mailings that are due and open their occurrences. Each function is part of its caller's transaction."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Row, Select, and_, func, select, true, update

from skychimp.delivery.composing import digest
from skychimp.delivery.scheduling import recurrence
from skychimp.delivery.scheduling.recurrence import DueTime, Plan, Schedule
from skychimp.errors import InvalidValue
from skychimp.fields import dump_names
from skychimp.models import CatchUp, EmailLanguage, Every, Format, MailingStatus, OccurrenceState, tables
from skychimp.store import holds
from skychimp.store.clients import fields
from skychimp.store.conditions import is_sendable
from skychimp.store.occurrences import digest_posts, opening, progress, sweeping
from skychimp.store.occurrences.layouts import add_layout, read_variants
from skychimp.store.occurrences.progress import NOTHING_READ, Progress, UnfinishedOccurrence

if TYPE_CHECKING:
    from skychimp.delivery.composing.digest import PostSummary
    from skychimp.models import Mailing

FIRST_DIGEST_PERIOD = {
    Every.ONCE: timedelta(days=31),
    Every.DAY: timedelta(days=1),
    Every.WEEK: timedelta(days=7),
    Every.MONTH: timedelta(days=31),
}
"""How long before its mailing's creation a first digest begins."""

_M = tables.mailing
_MSG = tables.message
_O = tables.occurrence


class DueMailing(NamedTuple):
    """A mailing with a due time that has passed, the message it sends, and the plan for its due times.

    `replaces` has the older occurrences of which nothing was sent yet: the one that is opened replaces them.
    """

    id: int
    owner_id: int
    message_id: int
    every: Every
    timezone: str
    status: MailingStatus
    created_at: datetime
    end_at: datetime | None
    canary: str
    canary_wait_s: int
    topic: str
    transactional: bool
    digest: bool
    subject: str
    body: str
    format: Format
    html: str | None
    attachments: str
    layout_kind: str | None
    layout_html: str | None
    preheader: str | None
    variant_by: str | None
    plan: Plan
    replaces: Sequence[int]


class Opened(NamedTuple):
    """How many occurrences were opened, and how many deliveries of older ones they replace."""

    occurrences: int = 0
    replaced: int = 0


def open_due(
    db: Connection,
    now: datetime,
    *,
    sender: str,
    return_path: str,
    mailing_id: int | None = None,
    blog_url: str | None = None,
    known: Progress = NOTHING_READ,
    extras: Callable[["DueMailing"], str] = lambda mailing: "{}",
    language: EmailLanguage = EmailLanguage.EN,
) -> "Opened":
    """Open the occurrences that are due, and record those that were missed.

    Calling it again at the same time opens nothing. A digest without a new post is recorded as skipped. A mailing
    whose schedule cannot be read, or whose message cannot be put into its layout, is disabled. Nothing is opened while
    a restored store is on hold. What `read_progress` has read shortly before (`known`) is not read again. `extras`
    returns what else is in a mailing's emails. `language` is that of the words which layouts add.
    """
    if holds.is_held(db):
        return Opened()

    def disable(mailing_id: int, error: Exception) -> None:
        holds.disable_mailing(db, mailing_id, f"the schedule cannot be read: {error}", now)

    opened = replaced = 0
    for mailing in due_mailings(db, now, mailing_id, disable, known=known):
        common = _common_values(mailing, now) | {"sender": sender, "return_path": return_path}
        for missed in mailing.plan.missed:
            opening.create_occurrence(db, common | _times(missed) | _unsent_values(OccurrenceState.MISSED, now))
        for due in mailing.plan.open:
            canary_until = now + timedelta(seconds=mailing.canary_wait_s) if mailing.canary else None
            values = common | _times(due) | {"state": OccurrenceState.OPENING, "canary_until": canary_until}
            values["extras"] = extras(mailing)
            try:
                with db.begin_nested():
                    is_opened, number = _open_occurrence(db, mailing, values, blog_url, language)
            except InvalidValue as error:  # the message was checked, but maybe by an older version
                holds.disable_mailing(db, mailing.id, f"the message cannot be composed: {error.message}", now)
                break
            opened, replaced = opened + is_opened, replaced + number
        else:
            _update_progress(db, mailing, mailing.plan)
    return Opened(opened, replaced)


def read_progress(
    db: Connection, now: datetime, mailing_id: int | None = None, before: Progress = NOTHING_READ
) -> Progress:
    """Return how far the unfinished occurrences of due mailings are, for `open_due`. `before` is what was read last.

    It may read all their deliveries, so that it should not keep others from writing.
    """
    due = db.execute(_due_rows(now, mailing_id, include_disabled=False)).all()
    return progress.read_progress(db, [row.id for row in due if row.catch_up != CatchUp.ALL], before)


def record_missed(db: Connection, now: datetime) -> int:
    """Record everything that is due as missed, also of disabled mailings, and return how many occurrences there were.

    This is for a restored store, whose due mailings may have been sent from the original.
    """
    number = 0
    for mailing in due_mailings(db, now, include_disabled=True):
        common = _common_values(mailing, now) | {"sender": "", "return_path": ""}
        for due in (*mailing.plan.missed, *mailing.plan.open):
            values = common | _times(due) | _unsent_values(OccurrenceState.MISSED, now)
            number += opening.create_occurrence(db, values) is not None
        _update_progress(db, mailing, mailing.plan._replace(open=[]))
    return number


def skip_opened_due_times(db: Connection) -> None:
    """Move each mailing's next due time after the last one that it opened.

    In a restored store they can be in the wrong order: the schedule comes from the backup, and the ledger may be newer.
    """
    last = func.max(_O.c.due_at)
    opened = select(_M, last.label("last")).join(_O, _O.c.mailing_id == _M.c.id).group_by(_M.c.id)
    for mailing in db.execute(opened.having(_M.c.next_at <= last)).all():
        with contextlib.suppress(OSError, ValueError, KeyError):  # an unknown time zone; `open_due` reports it
            following = next(recurrence.upcoming(schedule_of(mailing), mailing.last + timedelta(microseconds=1)), None)
            next_at = None if following is None else following.at
            db.execute(update(_M).where(_M.c.id == mailing.id).values(next_at=next_at))


def due_mailings(
    db: Connection,
    now: datetime,
    mailing_id: int | None = None,
    report_unreadable: Callable[[int, Exception], None] = lambda mailing_id, error: None,
    *,
    include_disabled: bool = False,
    known: Progress = NOTHING_READ,
) -> Iterator[DueMailing]:
    """Yield the mailings that have something due, in the order of their due times.

    `report_unreadable` is called with the id of a mailing whose schedule cannot be read, for example because its time
    zone is unknown on this machine. The other mailings are not affected. A mailing whose last occurrence is still being
    sent is left out until each client was tried. `include_disabled` also yields mailings that are disabled, held or
    whose owner is blocked, whatever is still being sent. `known` is what `read_progress` has read.
    """
    for row in db.execute(_due_rows(now, mailing_id, include_disabled)).all():
        try:
            plan = _plan(row, now)
        except Exception as error:
            report_unreadable(row.id, error)
            continue
        waits_for_others = not include_disabled and row.catch_up != CatchUp.ALL
        unfinished = progress.unfinished_occurrences(db, row.id, known) if waits_for_others else ()
        if not is_still_being_sent(unfinished):
            unsent = [each for each in unfinished if not each.has_begun]
            replaces = [each.id for each in unsent if plan.open and each.due_at < plan.open[-1].at]
            values = {name: getattr(row, name) for name in DueMailing._fields[:-2]}
            yield DueMailing(**values, plan=plan, replaces=replaces)


def is_still_being_sent(unfinished: Sequence[UnfinishedOccurrence]) -> bool:
    """Return whether the next occurrence must wait, as some clients have an email of the last one and others do not.

    Those who wait for another try hold up nothing, and nor does an occurrence of which nothing was sent.
    """
    return any(occurrence.has_begun and occurrence.has_untried for occurrence in unfinished)


def has_new_posts(db: Connection, mailing: DueMailing, now: datetime) -> bool:
    """Return whether a digest that opens now has a post to show. Those of an occurrence that it replaces are."""
    return bool(mailing.replaces) or bool(digest_posts.find_new_posts(db, mailing.id, _digest_start(db, mailing), now))


def schedule_of(mailing: "Mailing | Row[tuple[()]]") -> Schedule:
    """Return the schedule of a mailing's row."""
    start = datetime.fromisoformat(mailing.start_local)
    return Schedule(start, mailing.timezone, Every(mailing.every), mailing.end_at)


def local_due_time(due_at: datetime, timezone: str) -> datetime:
    """Return a due time as the email shows it: aware, in the mailing's time zone."""
    return due_at.astimezone(ZoneInfo(timezone))


def _due_rows(now: datetime, mailing_id: int | None, include_disabled: bool) -> Select[Any]:
    with_message = select(
        _M,
        _MSG.c.subject,
        _MSG.c.body,
        _MSG.c.format,
        _MSG.c.html,
        _MSG.c.attachments,
        _MSG.c.digest,
        _MSG.c.variant_by,
    ).join(_MSG, _MSG.c.id == _M.c.message_id)
    return (
        add_layout(with_message)
        .where(_M.c.next_at <= now, _M.c.deleted_at.is_(None), true() if include_disabled else is_sendable())
        .where(_M.c.id == mailing_id if mailing_id is not None else true())
        .order_by(_M.c.next_at, _M.c.id)
    )


def _plan(row: Row[Any], now: datetime) -> Plan:
    return recurrence.make_plan(
        schedule_of(row),
        next_at=row.next_at,
        since=row.created_at,
        now=now,
        catch_up=CatchUp(row.catch_up),
        grace=None if row.grace is None else timedelta(seconds=row.grace),
    )


def _common_values(mailing: DueMailing, now: datetime) -> dict[str, Any]:
    """Return the columns that all new occurrences of a mailing have in common, without its sender."""
    return {
        "mailing_id": mailing.id,
        "opened_at": now,
        "cursor": 0,
        "format": mailing.format,
        "timezone": mailing.timezone,
    }


def _times(due: DueTime) -> dict[str, Any]:
    return {"due_local": due.local.isoformat(), "due_at": due.at}


def _unsent_values(state: OccurrenceState, now: datetime) -> dict[str, Any]:
    """Return the columns of an occurrence that ends without sending anything: missed or skipped."""
    return {"state": state, "finished_at": now, "canary_until": None, "subject": "", "body": ""}


def _open_occurrence(
    db: Connection, mailing: DueMailing, values: dict[str, Any], blog_url: str | None, language: EmailLanguage
) -> Opened:
    """Open an occurrence, unless it exists already, or is a digest without a new post."""
    if mailing.digest:
        return _open_digest(db, mailing, values, blog_url, language)
    if opening.create_occurrence(db, values | _content_values(db, mailing, language)) is None:
        return Opened()
    return Opened(1, sweeping.replace_unsent(db, mailing.replaces, values["opened_at"]))


def _open_digest(
    db: Connection, mailing: DueMailing, values: dict[str, Any], blog_url: str | None, language: EmailLanguage
) -> Opened:
    """Open a digest's occurrence, or record it as skipped because there is no new post."""
    now = values["opened_at"]
    replaced = sweeping.replace_unsent(db, mailing.replaces, now)
    since = _digest_start(db, mailing)
    posts = digest_posts.find_new_posts(db, mailing.id, since, now)
    if posts:
        summaries = [digest.summarize_post(post.title, post.content, post.slug, blog_url) for post in posts]
        values = values | _content_values(db, mailing, language, summaries)
    else:
        values = values | _unsent_values(OccurrenceState.SKIPPED, now)
    occurrence_id = opening.create_occurrence(db, values)
    if occurrence_id is not None:
        digest_posts.record_posts(db, mailing.id, occurrence_id, [post.id for post in posts], since)
    return Opened(occurrence_id is not None and bool(posts), replaced)


def _content_values(
    db: Connection, mailing: DueMailing, language: EmailLanguage, posts: "Sequence[PostSummary] | None" = None
) -> dict[str, Any]:
    """Return the columns of an occurrence's content in its layout, with the custom fields that it uses."""
    from skychimp.delivery.composing import variants  # commands that compose nothing start faster

    rows = read_variants(db, mailing.message_id, mailing.variant_by)
    content = variants.finish_rows(mailing, rows, mailing.variant_by or "", language, posts)
    values = content.columns()
    if names := content.used_fields:
        values["fields"] = dump_names(fields.names_of(db, mailing.owner_id, names))
    return values


def _digest_start(db: Connection, mailing: DueMailing) -> datetime:
    """Return the time from which posts belong to the mailing's first digest.

    An occurrence that the mailing sent before it became a digest counts too.
    """
    unsent = (OccurrenceState.MISSED, OccurrenceState.SKIPPED)
    sent = and_(_O.c.mailing_id == mailing.id, _O.c.state.not_in(unsent))
    earliest = mailing.created_at - FIRST_DIGEST_PERIOD[mailing.every]
    return max(earliest, db.scalar(select(func.max(_O.c.opened_at)).where(sent)) or earliest)


def _update_progress(db: Connection, mailing: DueMailing, plan: Plan) -> None:
    status = mailing.status
    if plan.open:
        status = MailingStatus.RUNNING
    elif plan.next_at is None and status == MailingStatus.CREATED:
        status = MailingStatus.COMPLETED
    db.execute(update(_M).where(_M.c.id == mailing.id).values(next_at=plan.next_at, status=status))
