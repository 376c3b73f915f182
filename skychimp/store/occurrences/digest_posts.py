"""Find the posts that a digest has to send, and record those it sends. Part of the caller's transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Select, and_, exists, insert, literal, null, or_, select

from skychimp.models import DeliveryState, tables
from skychimp.store.conditions import has_intent, is_before_end, is_unfinished
from skychimp.store.sql import insert_or

MOST_POSTS = 50
"""The most posts of one email. The next email continues with the rest."""

_DP = tables.digest_post
_P = tables.post
_O = tables.occurrence
_M = tables.mailing
_D = tables.delivery

_SENT_STATES = (DeliveryState.SENT, DeliveryState.OUTBOX, DeliveryState.UNKNOWN)
"""The stored states of a delivery whose email has arrived, or may have. One that has an intent may have, too.

So may one in the outbox: `run --from-outbox` sends it.
"""


class NewPost(NamedTuple):
    """A post for a digest."""

    id: int
    title: str
    content: str
    slug: str


def find_new_posts(db: Connection, mailing_id: int, since: datetime, now: datetime) -> list[NewPost]:
    """Return the published posts that no occurrence of the mailing has sent, the oldest first, at most MOST_POSTS.

    The mailing's first digest begins with the posts after `since`, and later ones leave out older posts too. An
    occurrence that has sent no email at all counts as not sent.
    """
    is_of_mailing = _DP.c.mailing_id == mailing_id
    is_recorded = or_(_DP.c.occurrence_id.is_(None), _DP.c.occurrence_id.in_(_sending_occurrences(mailing_id, now)))
    is_sent = exists().where(is_of_mailing, _DP.c.post_id == _P.c.id, is_recorded)
    has_begun = exists().where(is_of_mailing)
    query = select(_P.c.id, _P.c.title, _P.c.content, _P.c.slug).where(
        _P.c.published_at <= now, ~is_sent, or_(_P.c.published_at > since, has_begun)
    )
    return [NewPost._make(row) for row in db.execute(query.order_by(_P.c.published_at, _P.c.id).limit(MOST_POSTS))]


def record_posts(db: Connection, mailing_id: int, occurrence_id: int, post_ids: Sequence[int], since: datetime) -> None:
    """Record that an occurrence sends these posts. With the first one, also record the posts that are too old."""
    too_old = select(literal(mailing_id), _P.c.id, null()).where(
        _P.c.published_at <= since, ~exists().where(_DP.c.mailing_id == mailing_id)
    )
    db.execute(insert(_DP).from_select(["mailing_id", "post_id", "occurrence_id"], too_old))
    rows = [{"mailing_id": mailing_id, "post_id": post_id, "occurrence_id": occurrence_id} for post_id in post_ids]
    if rows:
        statement = insert_or(_DP).on_conflict_do_update(
            index_elements=["mailing_id", "post_id"], set_={"occurrence_id": occurrence_id}
        )
        db.execute(statement, rows)


def _sending_occurrences(mailing_id: int, now: datetime) -> Select[tuple[int]]:
    """Return a query for the mailing's occurrences that have sent something, or still may.

    It does not depend on the post, so that SQLite runs it once.
    """
    recorded = select(_DP.c.occurrence_id).where(_DP.c.mailing_id == mailing_id)
    has_sent = exists().where(_D.c.occurrence_id == _O.c.id, or_(_D.c.state.in_(_SENT_STATES), has_intent()))
    may_still_send = and_(is_unfinished(), is_before_end(now))
    occurrences = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id)
    return occurrences.where(_O.c.id.in_(recorded), or_(may_still_send, has_sent))
