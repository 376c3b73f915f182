"""Which posts a digest has to tell of. Each function is a part of its caller's transaction."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, Row, Select, and_, exists, insert, literal, null, or_, select, text
from sqlalchemy.dialects.sqlite import insert as insert_or_change

from skychimp.models import UNFINISHED_SQL, Delivery, DeliveryState, DigestPost, Occurrence, Post

MOST_POSTS = 50  # in one letter; the next one goes on

_DP = DigestPost.__table__
_P = Post.__table__
_O = Occurrence.__table__
_D = Delivery.__table__

_UNFINISHED = text(UNFINISHED_SQL.replace("state", "occurrence.state"))
_GONE_OUT = (DeliveryState.SENT, DeliveryState.SENDING, DeliveryState.UNKNOWN)


def new_posts(db: Connection, mailing_id: int, since: datetime, now: datetime) -> Sequence[Row[tuple[object, ...]]]:
    """The published posts that no occurrence of the mailing has told of, the oldest first: as many as a letter holds.

    The mailing's first digest tells of those since `since`; what is older is left out of the later ones, too. An
    occurrence of which not one letter went out has told of nothing.
    """
    mine = _DP.c.mailing_id == mailing_id
    tellers = _tellers(mailing_id, now)
    told = exists().where(
        mine, _DP.c.post_id == _P.c.id, or_(_DP.c.occurrence_id.is_(None), _DP.c.occurrence_id.in_(tellers))
    )
    begun = exists().where(mine)
    chosen = select(_P).where(_P.c.published_at <= now, ~told, or_(_P.c.published_at > since, begun))
    return db.execute(chosen.order_by(_P.c.published_at, _P.c.id).limit(MOST_POSTS)).all()


def tell(db: Connection, mailing_id: int, occurrence_id: int, post_ids: Sequence[int], since: datetime) -> None:
    """Note that an occurrence tells of these posts; with the first one, which are too old for any."""
    old = select(literal(mailing_id), _P.c.id, null()).where(
        _P.c.published_at <= since, ~exists().where(_DP.c.mailing_id == mailing_id)
    )
    db.execute(insert(_DP).from_select(["mailing_id", "post_id", "occurrence_id"], old))
    rows = [{"mailing_id": mailing_id, "post_id": post_id, "occurrence_id": occurrence_id} for post_id in post_ids]
    if rows:
        again = insert_or_change(_DP).on_conflict_do_update(
            index_elements=["mailing_id", "post_id"], set_={"occurrence_id": occurrence_id}
        )
        db.execute(again, rows)


def _tellers(mailing_id: int, now: datetime) -> Select[tuple[int]]:
    """The mailing's occurrences that have sent something, or still may; each is looked at once, not for each post."""
    noted = select(_DP.c.occurrence_id).where(_DP.c.mailing_id == mailing_id)
    has_sent = exists().where(_D.c.occurrence_id == _O.c.id, _D.c.state.in_(_GONE_OUT))
    may_send = and_(_UNFINISHED, _O.c.deadline > now)
    return select(_O.c.id).where(_O.c.id.in_(noted), or_(may_send, has_sent))
