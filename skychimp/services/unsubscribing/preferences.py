"""Show and change what a person gets from a user, for whoever has an email with its token. See `recipients`.

Who suppressed themselves here or by email can take that back here, and nothing else.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, exists, select

from skychimp.models import EVERYBODY, SuppressionSource, tables
from skychimp.services.clients.suppressions import UNSUBSCRIBED
from skychimp.services.unsubscribing import recipients
from skychimp.services.unsubscribing.recipients import Recipient
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds
from skychimp.text import folded

_D = tables.delivery
_M = tables.mailing
_O = tables.occurrence
_S = tables.suppression

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


def read(db: Connection, recipient: Recipient) -> Preferences:
    """Return what the person gets from the user whose email it was."""
    rows = _suppressions(db, recipient)
    of_all = [row for row in rows if not row.topic]
    of_topics = {row.topic for row in rows if row.topic}
    topics = sorted({*_topics(db, recipient), *of_topics}, key=folded)[:MOST_TOPICS]
    own_hash = recipients.hash_of(db, recipient)
    return Preferences(
        topics={topic: topic not in of_topics for topic in topics},
        is_stopped=bool(of_all),
        paused_until=max((row.until for row in of_all), default=None) if all(row.until for row in of_all) else None,
        can_resume=bool(of_all) and all(_is_own(row, recipient, own_hash) for row in of_all),
    )


def choose_topics(db: Connection, recipient: Recipient, wanted: Collection[str], now: datetime) -> None:
    """Suppress the person for those topics that they get and do not want, and take back those that they do want."""
    for topic, is_wanted in read(db, recipient).topics.items():
        if topic not in wanted and is_wanted:
            recipients.suppress(db, recipient, topic, UNSUBSCRIBED, SuppressionSource.WEB, now)
        elif topic in wanted and not is_wanted:
            _take_back(db, recipient, topic)


def stop(db: Connection, recipient: Recipient, now: datetime, *, topic_only: bool = False) -> None:
    """Suppress the person for all mail of the user, or only for the topic of the email if that has one."""
    topic = recipient.topic if topic_only else ""
    recipients.suppress(db, recipient, topic, UNSUBSCRIBED, SuppressionSource.WEB, now)


def pause(db: Connection, recipient: Recipient, now: datetime) -> None:
    """Suppress the person for all mail of the user during PAUSE, unless it is stopped for good."""
    recipients.suppress(db, recipient, "", PAUSED, SuppressionSource.WEB, now, now + PAUSE)


def resume(db: Connection, recipient: Recipient) -> None:
    """Take back that the person has stopped or paused all mail of the user."""
    _take_back(db, recipient, "")


def _take_back(db: Connection, recipient: Recipient, topic: str) -> None:
    holds = Holds(recipient.owner_id, topic)
    suppressions.remove_by_hash(db, recipients.hash_of(db, recipient), holds, OWN_SOURCES)


def _suppressions(db: Connection, recipient: Recipient) -> list[Row[Any]]:
    """Return what suppresses the person for mail of the user. Of a forgotten person the domain is not known."""
    if recipient.address_hash is None:
        is_theirs = suppressions.is_of_any(db, suppressions.keys_for(recipient.address_key))
    else:
        is_theirs = _S.c.address_hash == recipient.address_hash
    is_theirs &= _S.c.owner_id.in_([recipient.owner_id, EVERYBODY]) & suppressions.is_in_force()
    columns = (_S.c.owner_id, _S.c.topic, _S.c.address_hash, _S.c.source, _S.c.until)
    return list(db.execute(select(*columns).where(is_theirs)))


def _is_own(row: Row[Any], recipient: Recipient, own_hash: str) -> bool:
    return row.owner_id == recipient.owner_id and row.address_hash == own_hash and row.source in OWN_SOURCES


def _topics(db: Connection, recipient: Recipient) -> Collection[str]:
    """Return the topics of the user's mailings of which the person has, or will get, an email.

    Of a forgotten person it is only that of the email itself, as nothing else is known.
    """
    if recipient.address is None:
        return [recipient.topic] if recipient.topic else []
    theirs = select(_D.c.id).where(_D.c.occurrence_id == _O.c.id, _D.c.address_key == recipient.address_key)
    of_person = exists(select(_O.c.id).where(_O.c.mailing_id == _M.c.id, theirs.correlate(_O).exists()).correlate(_M))
    of_user = select(_M.c.topic).where(_M.c.owner_id == recipient.owner_id, _M.c.topic != "", _M.c.deleted_at.is_(None))
    return list(db.scalars(of_user.where(of_person).distinct().limit(MOST_TOPICS)))
