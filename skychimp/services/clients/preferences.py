"""Show and change what a person gets from a user, for whoever has an email with its token. See `unsubscribing`.

Who suppressed themselves here or by email can take that back here, and nothing else.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, exists, select

from skychimp.models import EVERYBODY, Delivery, Mailing, Occurrence, Suppression, SuppressionSource
from skychimp.services.clients.suppressions import UNSUBSCRIBED
from skychimp.services.clients.unsubscribing import Target
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.text import folded

_D = Delivery.__table__
_M = Mailing.__table__
_O = Occurrence.__table__
_S = Suppression.__table__

PAUSED = "paused"
"""The reason of a suppression by which a person has paused all mail of a user."""

PAUSE = timedelta(days=30)

OWN_SOURCES = (SuppressionSource.MAIL, SuppressionSource.WEB)
"""How suppressions come about that a person can take back."""

MOST_TOPICS = 100


class Preferences(NamedTuple):
    """What a person gets from a user.

    `topics` says of each topic of which the person has got an email whether they get more of it. `is_stopped` means
    that they get no email of any topic, until `paused_until` if it is not for good. They `can_resume` it if they have
    stopped it themselves.
    """

    topics: dict[str, bool]
    is_stopped: bool
    paused_until: datetime | None
    can_resume: bool


def read(db: Connection, target: Target) -> Preferences:
    """Return what the person gets from the user whose email it was."""
    rows = _suppressions(db, target)
    of_all = [row for row in rows if not row.topic]
    of_topics = {row.topic for row in rows if row.topic}
    topics = sorted({*_topics(db, target), *of_topics}, key=folded)[:MOST_TOPICS]
    return Preferences(
        topics={topic: topic not in of_topics for topic in topics},
        is_stopped=bool(of_all),
        paused_until=max((row.until for row in of_all), default=None) if all(row.until for row in of_all) else None,
        can_resume=bool(of_all) and all(_is_own(row, target) for row in of_all),
    )


def choose_topics(db: Connection, target: Target, wanted: Collection[str], now: datetime) -> None:
    """Suppress the person for those topics that they get and do not want, and take back those that they do want."""
    for topic, is_wanted in read(db, target).topics.items():
        holds = Holds(target.owner_id, topic)
        if topic not in wanted and is_wanted:
            _suppress(db, target, holds, UNSUBSCRIBED, now)
        elif topic in wanted and not is_wanted:
            suppressions.remove(db, target.address_key, holds, only_sources=OWN_SOURCES)


def stop(db: Connection, target: Target, now: datetime, *, topic_only: bool = False) -> None:
    """Suppress the person for all mail of the user, or only for the topic of the email if that has one."""
    _suppress(db, target, Holds(target.owner_id, target.topic if topic_only else ""), UNSUBSCRIBED, now)


def pause(db: Connection, target: Target, now: datetime) -> None:
    """Suppress the person for all mail of the user during PAUSE, unless it is stopped for good."""
    _suppress(db, target, Holds(target.owner_id), PAUSED, now, now + PAUSE)


def resume(db: Connection, target: Target) -> None:
    """Take back that the person has stopped or paused all mail of the user."""
    suppressions.remove(db, target.address_key, Holds(target.owner_id), only_sources=OWN_SOURCES)


def _suppress(
    db: Connection, target: Target, holds: Holds, reason: str, now: datetime, until: datetime | None = None
) -> None:
    new = NewSuppression(target.address, target.address_key, reason, until=until)
    suppressions.add(db, [new], holds, SuppressionSource.WEB, now)


def _suppressions(db: Connection, target: Target) -> list[Row[Any]]:
    """Return what suppresses the person for mail of the user."""
    is_theirs = suppressions.is_of_any(db, suppressions.keys_for(target.address_key))
    is_theirs &= _S.c.owner_id.in_([target.owner_id, EVERYBODY]) & suppressions.is_in_force()
    columns = (_S.c.owner_id, _S.c.topic, _S.c.address_key, _S.c.source, _S.c.until)
    return list(db.execute(select(*columns).where(is_theirs)))


def _is_own(row: Row[Any], target: Target) -> bool:
    return row.owner_id == target.owner_id and row.address_key == target.address_key and row.source in OWN_SOURCES


def _topics(db: Connection, target: Target) -> Collection[str]:
    """Return the topics of the user's mailings of which the person has, or will get, an email."""
    theirs = select(_D.c.id).where(_D.c.occurrence_id == _O.c.id, _D.c.address_key == target.address_key)
    of_person = exists(select(_O.c.id).where(_O.c.mailing_id == _M.c.id, theirs.correlate(_O).exists()).correlate(_M))
    of_user = select(_M.c.topic).where(_M.c.owner_id == target.owner_id, _M.c.topic != "", _M.c.deleted_at.is_(None))
    return list(db.scalars(of_user.where(of_person).distinct().limit(MOST_TOPICS)))
