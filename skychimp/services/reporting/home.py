"""Collect the home page: figures and posts for anyone, one's own figures and what needs attention for users."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, exists, func, select, true

from skychimp.models import tables
from skychimp.permissions import Action, Actor, Scope, scope_of
from skychimp.services.blog import posts
from skychimp.services.blog.posts import PostInfo
from skychimp.services.listing import in_scope
from skychimp.services.reporting import returns
from skychimp.services.reporting.cache import Cached, refresh
from skychimp.services.reporting.returns import RateReport
from skychimp.shell import command
from skychimp.store import holds, relay_pauses
from skychimp.store.clients import audience
from skychimp.store.conditions import awaits_decision, is_active
from skychimp.store.database import Store
from skychimp.store.sql import id_list, total
from skychimp.text import count_of
from skychimp.translation import tr

_M = tables.mailing
_MF = tables.mailing_filter
_C = tables.client
_D = tables.delivery
_O = tables.occurrence
_P = tables.post
_RUN = tables.run
_INFO = tables.store_info

SHOWN_POSTS = 3
SHOWN_DISABLED_MAILINGS = SHOWN_HELD_MAILINGS = 3
RECENT = timedelta(days=1)
"""How far back failed emails need attention."""


@dataclass(frozen=True)
class OwnFigures:
    """The actor's own figures. `unique_clients` are those in the audience of a mailing, `clients` are all.

    `rates` are the bounces and complaints of the due times of the last 30 days. They are left out if they would take
    too long to count.
    """

    mailings: int
    active_mailings: int
    unique_clients: int
    clients: int
    next_at: datetime | None
    rates: Sequence[RateReport] = ()


@dataclass(frozen=True)
class Concern:
    """Something that needs a person, and the command to run."""

    about: str
    words: str
    command: str


@dataclass(frozen=True)
class Home:
    """The home page. Its figures were counted at `as_of`, and have not changed since."""

    mailings: int
    active_mailings: int
    unique_clients: int
    posts: list[PostInfo]
    as_of: datetime
    yours: OwnFigures | None
    attention: list[Concern]


def home(store: Store, actor: Actor, cached: Cached = refresh, *, now: datetime | None = None) -> Home:
    """Return the home page for this actor. It needs no login."""
    now = now or store.now()
    with store.read() as transaction:
        db = transaction.connection()
        versions = _read_versions(db, now)
        figures = cached(f"home-0:{versions.audience}", lambda: _count_figures(db, now))
        publication_times = cached(f"posts:{versions.posts}", lambda: _read_publication_times(db))
        return Home(
            mailings=figures["mailings"],
            active_mailings=figures["active_mailings"],
            unique_clients=figures["unique_clients"],
            posts=_pick_posts(db, publication_times, now),
            as_of=datetime.fromisoformat(figures["as_of"]),
            yours=_own_figures(db, actor, now, versions, cached),
            attention=list(_concerns(db, actor, now)) if actor.role is not None else [],
        )


# Figures


class _Versions(NamedTuple):
    """Texts that change whenever the figures of mailings, clients and audiences change, and whenever posts do."""

    audience: str
    posts: str


def _read_versions(db: Connection, now: datetime) -> _Versions:
    """Return the current versions.

    Triggers renew the store's own versions. They leave out new clients, so the newest client's id and time are added,
    and mailings whose end passes, so the latest end that has passed is added. What queries choose depends on all that
    is known of clients, and on the time, so the minute is added if a mailing has one.
    """
    latest_end = select(func.max(_M.c.end_at)).where(_M.c.end_at <= now).scalar_subquery()
    info = db.execute(select(_INFO.c.audience_version, _INFO.c.posts_version, latest_end.label("latest_end"))).one()
    newest_client = db.execute(select(_C.c.id, _C.c.created_at).order_by(_C.c.id.desc()).limit(1)).one_or_none()
    has_queries = db.scalar(select(exists().where(_MF.c.id.is_not(None))))
    minute = (now.replace(second=0, microsecond=0),) if has_queries else ()
    parts = (info.audience_version, info.latest_end, *(newest_client or ()), *minute)
    return _Versions(" ".join(map(str, parts)), str(info.posts_version))


def _count_figures(db: Connection, now: datetime, owner_id: int | None = None) -> dict[str, Any]:
    """Return the figures of all mailings, or of one owner's, as JSON values."""
    is_counted = and_(_M.c.deleted_at.is_(None), true() if owner_id is None else _M.c.owner_id == owner_id)
    counts = select(func.count(), func.count().filter(is_active(now))).select_from(_M).where(is_counted)
    mailings, active_mailings = db.execute(counts).one()
    return {
        "mailings": mailings,
        "active_mailings": active_mailings,
        "unique_clients": audience.count_addresses(db, is_counted, now),
        "as_of": now.isoformat(),
    }


def _own_figures(db: Connection, actor: Actor, now: datetime, versions: _Versions, cached: Cached) -> OwnFigures | None:
    if scope_of(actor, Action.CHANGE_MAILINGS) is None:
        return None

    def count() -> dict[str, Any]:
        clients = select(func.count()).where(_C.c.owner_id == actor.user_id)
        return _count_figures(db, now, actor.user_id) | {"clients": db.scalar(clients)}

    figures = cached(f"home-{actor.user_id}:{versions.audience}", count)
    counts = returns.own_counts(db, actor.user_id, now)
    return OwnFigures(
        mailings=figures["mailings"],
        active_mailings=figures["active_mailings"],
        unique_clients=figures["unique_clients"],
        clients=figures["clients"],
        next_at=db.scalar(select(func.min(_M.c.next_at)).where(_M.c.owner_id == actor.user_id, is_active(now))),
        rates=[] if counts is None else returns.report_rates(counts),
    )


# Posts


def _read_publication_times(db: Connection) -> list[tuple[int, float]]:
    """Return the id of each post with a publication time, and that time in seconds since 1970, as JSON values."""
    rows = db.execute(select(_P.c.id, _P.c.published_at).where(_P.c.published_at.is_not(None)))
    return [(post_id, at.timestamp()) for post_id, at in rows]


def _pick_posts(db: Connection, publication_times: list[tuple[int, float]], now: datetime) -> list[PostInfo]:
    """Return random published posts."""
    published = [post_id for post_id, at in publication_times if at <= now.timestamp()]
    return posts.posts_by_id(db, random.sample(published, min(SHOWN_POSTS, len(published))))


# What needs attention


def _concerns(db: Connection, actor: Actor, now: datetime) -> Iterator[Concern]:
    """Yield what this user can do something about, or should know."""
    if reason := holds.why_held(db):
        words = tr("the store is on hold {reason}: nothing is sent until it is released", reason=reason)
        yield Concern("held", words, command("resolve", "--restored"))
    if pause := relay_pauses.latest_pause(db):
        yield Concern("relay", f"the mail server {pause.relay} is paused: {pause.reason}", command("doctor"))
    if unknown := _count_undecided(db, actor):
        yield Concern("unknown", f"{count_of(unknown, 'email')} with an unknown outcome", command("resolve"))
    yield from _disabled_mailings(db, actor)
    yield from _held_mailings(db, actor)
    if failed := _count_recent_failures(db, actor, now):
        log = command("mailings", "log", "ID", "--status", "failed")
        yield Concern("failed", f"{count_of(failed, 'email')} failed since yesterday", log)


def _count_undecided(db: Connection, actor: Actor) -> int:
    """Return how many unknown deliveries wait for this person's decision."""
    scope = scope_of(actor, Action.RESOLVE_DELIVERIES)
    if scope is None:
        return 0
    is_in_scope = exists().where(
        _O.c.id == _D.c.occurrence_id,
        _M.c.id == _O.c.mailing_id,
        _M.c.deleted_at.is_(None),
        in_scope(scope, actor, _M.c.owner_id),
    )
    return db.scalar(select(func.count()).select_from(_D).where(awaits_decision(), is_in_scope)) or 0


def _disabled_mailings(db: Connection, actor: Actor) -> Iterator[Concern]:
    """Yield the mailings that the system has disabled, the latest first."""
    scope = scope_of(actor, Action.SEE_MAILINGS)
    if scope is None:
        return
    is_disabled_by_system = and_(_M.c.disabled_at.is_not(None), _M.c.disabled_by_id.is_(None))
    query = select(_M.c.id, _M.c.disabled_reason).where(
        is_disabled_by_system, _M.c.deleted_at.is_(None), in_scope(scope, actor, _M.c.owner_id)
    )
    for row in db.execute(query.order_by(_M.c.disabled_at.desc()).limit(SHOWN_DISABLED_MAILINGS)):
        words = tr(
            "mailing {id} was disabled by the system: {disabled_reason}", id=row.id, disabled_reason=row.disabled_reason
        )
        yield Concern("disabled", words, command("report", row.id))


def _held_mailings(db: Connection, actor: Actor) -> Iterator[Concern]:
    """Yield the mailings that wait for a person, the oldest first."""
    scope = scope_of(actor, Action.SEE_MAILINGS)
    if scope is None:
        return
    held = {each.id: each.reason for each in holds.held_mailings(db)}
    seen = select(_M.c.id).where(_M.c.id.in_(id_list(list(held))), in_scope(scope, actor, _M.c.owner_id))
    for mailing_id in db.scalars(seen.order_by(_M.c.id).limit(SHOWN_HELD_MAILINGS)) if held else ():
        words = tr("mailing {mailing_id} is held: {held}", mailing_id=mailing_id, held=held[mailing_id])
        yield Concern("held_mailing", words, command("mailings", "show", mailing_id))


def _count_recent_failures(db: Connection, actor: Actor, now: datetime) -> int:
    """Return how many emails of all users failed lately, if this person may see all mailings."""
    if scope_of(actor, Action.SEE_MAILINGS) != Scope.ALL:
        return 0
    return db.scalar(select(total(_RUN.c.failed)).where(_RUN.c.heartbeat_at > now - RECENT)) or 0
