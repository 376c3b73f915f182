"""The home page: mailings, clients, posts to read; and, for who is logged in, one's own and what needs attention."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, func, select, tuple_, union

from skychimp.models import (
    Client,
    ClientTag,
    Delivery,
    Mailing,
    MailingClient,
    MailingTag,
    Occurrence,
    Post,
    Run,
    StoreInfo,
)
from skychimp.permissions import Action, Actor, Scope, scope_of
from skychimp.services.blog import posts
from skychimp.services.blog.posts import PostInfo
from skychimp.services.mailings import mailings
from skychimp.services.reporting.cache import Cached, refresh
from skychimp.store import queue, relay_pauses
from skychimp.store.database import Store

_M = Mailing.__table__
_MC = MailingClient.__table__
_MT = MailingTag.__table__
_C = Client.__table__
_T = ClientTag.__table__
_D = Delivery.__table__
_O = Occurrence.__table__
_P = Post.__table__
_RUN = Run.__table__
_INFO = StoreInfo.__table__

POSTS = 3
RECENT = timedelta(days=1)


@dataclass(frozen=True)
class Yours:
    """The actor's own: `unique_clients` are those in the audiences of mailings, `clients` all there are."""

    mailings: int
    active_mailings: int
    unique_clients: int
    clients: int
    next_at: datetime | None


@dataclass(frozen=True)
class Concern:
    """What needs a person, and the command that helps."""

    about: str
    words: str
    command: str


@dataclass(frozen=True)
class Home:
    """`as_of` is when the figures were counted; they are as true now."""

    mailings: int
    active_mailings: int
    unique_clients: int
    posts: list[PostInfo]
    as_of: datetime
    yours: Yours | None
    attention: list[Concern]


def home(store: Store, actor: Actor, cached: Cached = refresh, *, now: datetime | None = None) -> Home:
    """The home page, for anyone, as it is at a time."""
    now = now or datetime.now(UTC)
    with store.read() as transaction:
        db = transaction.connection()
        version, posts_version = _versions(db, now)
        all_ = cached(f"home-0:{version}", lambda: _count(db, now))
        dated = cached(f"posts:{posts_version}", lambda: _dated(db))
        return Home(
            mailings=all_["mailings"],
            active_mailings=all_["active_mailings"],
            unique_clients=all_["unique_clients"],
            posts=_drawn(db, dated, now),
            as_of=datetime.fromisoformat(all_["as_of"]),
            yours=_yours(db, actor, now, version, cached),
            attention=_attention(db, actor, now),
        )


def _versions(db: Connection, now: datetime) -> tuple[str, str]:
    """What tells one state of mailings, audiences and clients from another; and what does so of posts.

    Triggers renew the store's own versions. A new client is told by its id and time, which no other ever had; the end
    of a mailing by the last end that has passed.
    """
    ended = select(func.max(_M.c.end_at)).where(_M.c.end_at <= now).scalar_subquery()
    newest = select(_C.c.id, _C.c.created_at).order_by(_C.c.id.desc()).limit(1)
    info = db.execute(select(_INFO.c.audience_version, _INFO.c.posts_version, ended)).one()
    client = db.execute(newest).one_or_none()
    parts = [info.audience_version, info[2], *(client or ())]
    return " ".join(map(str, parts)), str(info.posts_version)


def _count(db: Connection, now: datetime, owner_id: int | None = None) -> dict[str, Any]:
    """The figures over all mailings, or one owner's."""
    chosen = [_M.c.deleted_at.is_(None), *([] if owner_id is None else [_M.c.owner_id == owner_id])]
    active = func.count().filter(mailings.is_active(now))
    row = db.execute(select(func.count(), active).select_from(_M).where(*chosen)).one()
    return {
        "mailings": row[0],
        "active_mailings": row[1],
        "unique_clients": db.scalar(_unique_clients(chosen)),
        "as_of": now.isoformat(),
    }


def _unique_clients(chosen: list[ColumnElement[bool]]) -> Any:
    """How many addresses are in the audiences of the chosen mailings, each counted once."""
    named = select(_MC.c.client_id).join(_M, _M.c.id == _MC.c.mailing_id).where(*chosen)
    tags = select(_M.c.owner_id, _MT.c.tag).join(_M, _M.c.id == _MT.c.mailing_id).where(*chosen)
    owners = select(_M.c.owner_id).where(*chosen, _M.c.all_clients)
    addresses = union(
        select(_C.c.address_key).where(_C.c.owner_id.in_(owners)),
        select(_C.c.address_key).where(_C.c.id.in_(named)),
        select(_C.c.address_key)
        .join(_T, _T.c.client_id == _C.c.id)
        .where(_T.c.tag.in_(tags.with_only_columns(_MT.c.tag)), tuple_(_C.c.owner_id, _T.c.tag).in_(tags)),
    )
    return select(func.count()).select_from(addresses.subquery())


def _dated(db: Connection) -> list[tuple[int, float]]:
    """Each post that is published or will be: its id, and the second."""
    dated = db.execute(select(_P.c.id, _P.c.published_at).where(_P.c.published_at.is_not(None)))
    return [(post_id, at.timestamp()) for post_id, at in dated]


def _drawn(db: Connection, dated: list[tuple[int, float]], now: datetime) -> list[PostInfo]:
    published = [post_id for post_id, at in dated if at <= now.timestamp()]
    drawn = random.sample(published, min(POSTS, len(published)))
    return posts.infos(db, drawn)


def _yours(db: Connection, actor: Actor, now: datetime, version: str, cached: Cached) -> Yours | None:
    if scope_of(actor, Action.CHANGE_MAILINGS) is None:
        return None
    mine = _M.c.owner_id == actor.user_id

    def count() -> dict[str, Any]:
        clients = select(func.count()).where(_C.c.owner_id == actor.user_id)
        return _count(db, now, actor.user_id) | {"clients": db.scalar(clients)}

    kept = cached(f"home-{actor.user_id}:{version}", count)
    return Yours(
        mailings=kept["mailings"],
        active_mailings=kept["active_mailings"],
        unique_clients=kept["unique_clients"],
        clients=kept["clients"],
        next_at=db.scalar(select(func.min(_M.c.next_at)).where(mine, mailings.is_active(now))),
    )


def _attention(db: Connection, actor: Actor, now: datetime) -> list[Concern]:
    """What needs a person who is logged in, and may do something about it or should know."""
    if actor.role is None:
        return []
    concerns = []
    if queue.is_held(db):
        words = "the store was restored, and sends nothing until somebody lets it go on"
        concerns.append(Concern("held", words, "skychimp resolve --restored"))
    if paused := relay_pauses.latest_paused(db):
        concerns.append(Concern("relay", f"the relay {paused.relay} is paused: {paused.reason}", "skychimp doctor"))
    return concerns + _of_mailings(db, actor, now)


def _of_mailings(db: Connection, actor: Actor, now: datetime) -> list[Concern]:
    concerns = []
    if unknown := _unknown(db, actor):
        words = f"{_letters(unknown)} whose end nobody knows: {'was it' if unknown == 1 else 'were they'} sent?"
        concerns.append(Concern("unknown", words, "skychimp resolve"))
    sees = scope_of(actor, Action.SEE_MAILINGS)
    if sees is not None:
        by_itself: list[ColumnElement[bool]] = [
            _M.c.disabled_at.is_not(None),
            _M.c.disabled_by_id.is_(None),
            _M.c.deleted_at.is_(None),
        ]
        if sees == Scope.OWN:
            by_itself.append(_M.c.owner_id == actor.user_id)
        stopped = select(_M.c.id, _M.c.disabled_reason).where(*by_itself).order_by(_M.c.disabled_at.desc())
        for row in db.execute(stopped.limit(3)):
            words = f"mailing {row.id} was disabled by the system: {row.disabled_reason}"
            concerns.append(Concern("disabled", words, f"skychimp report {row.id}"))
    if sees == Scope.ALL:
        failed = db.scalar(select(func.sum(_RUN.c.failed)).where(_RUN.c.heartbeat_at > now - RECENT))
        if failed:
            words = f"{_letters(failed)} failed since yesterday"
            concerns.append(Concern("failed", words, "skychimp mailings log ID --status failed"))
    return concerns


def _unknown(db: Connection, actor: Actor) -> int:
    """How many unknown deliveries wait for this person's word."""
    decides = scope_of(actor, Action.RESOLVE_DELIVERIES)
    if decides is None:
        return 0
    mine = exists().where(_O.c.id == _D.c.occurrence_id, _M.c.id == _O.c.mailing_id, _M.c.deleted_at.is_(None))
    if decides == Scope.OWN:
        mine = mine.where(_M.c.owner_id == actor.user_id)
    waiting = select(func.count()).select_from(_D).where(queue.unknown_ones(), _D.c.next_try_at.is_(None), mine)
    return db.scalar(waiting) or 0


def _letters(number: int) -> str:
    return "1 letter" if number == 1 else f"{number:,} letters"
