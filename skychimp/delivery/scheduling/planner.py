"""What is due: opens occurrences, and says beforehand which it would open. Each function is part of a transaction."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Row, and_, func, select, true, update

from skychimp.delivery.composing import digest
from skychimp.delivery.scheduling import recurrence
from skychimp.delivery.scheduling.recurrence import Due, Plan, Schedule
from skychimp.models import CatchUp, Every, Mailing, MailingStatus, Message, Occurrence, OccurrenceState, User
from skychimp.store import digest_posts, queue

LOOKS_BACK = {
    Every.ONCE: timedelta(days=31),
    Every.DAY: timedelta(days=1),
    Every.WEEK: timedelta(days=7),
    Every.MONTH: timedelta(days=31),
}
"""Where a mailing's first digest begins: so long before the mailing was made, if it has sent nothing since."""

_M = Mailing.__table__
_MSG = Message.__table__
_O = Occurrence.__table__
_U = User.__table__


def open_due(
    db: Connection,
    now: datetime,
    *,
    sender: str,
    return_path: str,
    give_up_after: timedelta,
    mailing_id: int | None = None,
    blog_url: str | None = None,
) -> int:
    """Open what is due and record what was missed; how many occurrences were opened. Twice is the same as once.

    A digest without a new post is recorded as skipped. Nothing is opened in a restored store that waits for a person.
    """
    if queue.is_held(db):
        return 0

    def disable(mailing: Row[tuple[()]], error: Exception) -> None:
        queue.disable(db, mailing.id, f"its schedule can't be read: {error}", now)

    opened = 0
    for mailing, plan in due(db, now, mailing_id, disable):
        letter = {"sender": sender, "return_path": return_path, "timezone": mailing.timezone}
        base = {"mailing_id": mailing.id, "opened_at": now, "cursor": 0, "format": mailing.format, **letter}
        for missed in plan.missed:
            row = base | _times(missed) | _nothing_sent(OccurrenceState.MISSED, missed, now)
            queue.open_occurrence(db, row)
        for chosen in plan.open:
            deadline = min(filter(None, (now + give_up_after, plan.next_at, mailing.end_at)))
            row = base | _times(chosen) | {"state": OccurrenceState.OPENING, "deadline": deadline}
            row |= {"subject": mailing.subject, "body": mailing.body, "html": mailing.html}
            if mailing.digest:
                opened += _open_digest(db, mailing, row, chosen, blog_url)
            else:
                opened += queue.open_occurrence(db, row) is not None
        db.execute(update(_M).where(_M.c.id == mailing.id).values(_progress(mailing.status, plan)))
    return opened


def record_missed(db: Connection, now: datetime) -> int:
    """Record all that is due as missed, of stopped mailings too: it may have been sent from elsewhere; how many."""
    passed = 0
    for mailing, plan in due(db, now, stopped_too=True):
        base = {"mailing_id": mailing.id, "opened_at": now, "format": mailing.format, "timezone": mailing.timezone}
        base |= {"cursor": 0, "sender": "", "return_path": ""}
        for one in (*plan.missed, *plan.open):
            row = base | _times(one) | _nothing_sent(OccurrenceState.MISSED, one, now)
            passed += queue.open_occurrence(db, row) is not None
        progress = _progress(mailing.status, plan._replace(open=[]))
        db.execute(update(_M).where(_M.c.id == mailing.id).values(progress))
    return passed


def go_on_after_the_last(db: Connection) -> None:
    """Let no mailing be due before what it has opened last: its schedule was another one then."""
    last = func.max(_O.c.due_at)
    behind = select(_M, last.label("last")).join(_O, _O.c.mailing_id == _M.c.id).group_by(_M.c.id)
    for mailing in db.execute(behind.having(_M.c.next_at <= last)).all():
        with contextlib.suppress(OSError, ValueError, KeyError):  # its zone is unknown here: `due` says so
            coming = next(recurrence.upcoming(schedule(mailing), mailing.last + timedelta(microseconds=1)), None)
            later = update(_M).where(_M.c.id == mailing.id)
            db.execute(later.values(next_at=None if coming is None else coming.at))


def due(
    db: Connection,
    now: datetime,
    mailing_id: int | None = None,
    unreadable: Callable[[Row[tuple[()]], Exception], None] = lambda mailing, error: None,
    *,
    stopped_too: bool = False,
) -> Iterator[tuple[Row[tuple[()]], Plan]]:
    """Each mailing that has something due, with its message's words, and what is to be done about it.

    `unreadable` is told of one whose schedule can't be read (its zone may be unknown here); it delays no other.
    """
    goes_on = true() if stopped_too else and_(_M.c.disabled_at.is_(None), _U.c.blocked_at.is_(None))
    rows = db.execute(
        select(_M, _MSG.c.subject, _MSG.c.body, _MSG.c.format, _MSG.c.html, _MSG.c.digest)
        .join(_MSG, _MSG.c.id == _M.c.message_id)
        .join(_U, _U.c.id == _M.c.owner_id)
        .where(_M.c.next_at <= now, _M.c.deleted_at.is_(None), goes_on)
        .where(_M.c.id == mailing_id if mailing_id is not None else true())
        .order_by(_M.c.next_at, _M.c.id)
    ).all()
    for row in rows:
        try:
            plan = recurrence.plan(
                schedule(row),
                next_at=row.next_at,
                since=row.created_at,
                now=now,
                catch_up=CatchUp(row.catch_up),
                grace=None if row.grace is None else timedelta(seconds=row.grace),
            )
        except Exception as error:
            unreadable(row, error)
        else:
            yield row, plan


def new_posts(db: Connection, mailing: Row[tuple[()]], now: datetime) -> Sequence[Row[tuple[object, ...]]]:
    """The posts that a digest which opens now tells of."""
    return digest_posts.new_posts(db, mailing.id, _looks_back_to(db, mailing), now)


def schedule(mailing: Mailing | Row[tuple[()]]) -> Schedule:
    """The schedule that a mailing's row says."""
    start = datetime.fromisoformat(mailing.start_local)
    return Schedule(start, mailing.timezone, Every(mailing.every), mailing.end_at)


def due_in_zone(due_at: datetime, timezone: str) -> datetime:
    """A due time as the letter shows it: aware, in the mailing's zone."""
    return due_at.astimezone(ZoneInfo(timezone))


def _times(due: Due) -> dict[str, object]:
    return {"due_local": due.local.isoformat(), "due_at": due.at}


def _nothing_sent(state: OccurrenceState, due: Due, now: datetime) -> dict[str, object]:
    return {"state": state, "deadline": due.at, "finished_at": now, "subject": "", "body": ""}


def _open_digest(db: Connection, mailing: Row[tuple[()]], row: dict[str, Any], due: Due, blog_url: str | None) -> bool:
    """Open a digest's occurrence, or record that it is skipped; whether it was opened."""
    from skychimp.delivery.composing.compose import MessageContent

    now = row["opened_at"]
    since = _looks_back_to(db, mailing)
    posts = digest_posts.new_posts(db, mailing.id, since, now)
    if posts:
        words = MessageContent(mailing.subject, mailing.body, mailing.format, mailing.html)
        words = digest.with_posts(words, [digest.news(post.title, post.content, post.slug, blog_url) for post in posts])
        made = queue.open_occurrence(db, row | words._asdict())
    else:
        made = queue.open_occurrence(db, row | _nothing_sent(OccurrenceState.SKIPPED, due, now))
    if made is not None:
        digest_posts.tell(db, mailing.id, made, [post.id for post in posts], since)
    return made is not None and bool(posts)


def _looks_back_to(db: Connection, mailing: Row[tuple[()]]) -> datetime:
    """Where the first digest begins; what a mailing has sent before it became one counts, too."""
    nothing_sent = (OccurrenceState.MISSED, OccurrenceState.SKIPPED)
    mine = and_(_O.c.mailing_id == mailing.id, _O.c.state.not_in(nothing_sent))
    first: datetime = mailing.created_at - LOOKS_BACK[mailing.every]
    return max(first, db.scalar(select(func.max(_O.c.opened_at)).where(mine)) or first)


def _progress(status: MailingStatus, plan: Plan) -> dict[str, object]:
    if plan.open:
        status = MailingStatus.RUNNING
    elif plan.next_at is None and status == MailingStatus.CREATED:
        status = MailingStatus.COMPLETED
    return {"next_at": plan.next_at, "status": status}
