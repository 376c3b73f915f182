"""Set who receives a mailing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, insert, select

from skychimp.errors import InvalidValue
from skychimp.models import tables
from skychimp.permissions import Actor
from skychimp.services.listing import is_valid_id, not_found
from skychimp.store.clients.audience import Choice
from skychimp.store.clients.tags import spell
from skychimp.store.session import Session
from skychimp.text import checked_tags
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.models import Mailing

_C = tables.client
_MC = tables.mailing_client
_MT = tables.mailing_tag
_MF = tables.mailing_filter


@dataclass(frozen=True)
class Audience:
    """The recipients that a user selected: all clients, or those by id, tag, segment and query together.

    All clients include those that are added later. Who has one of `except_tags`, is in one of `except_segments` or is
    chosen by the query `except_where` is left out.
    """

    all_clients: bool = False
    tags: Sequence[str] = ()
    client_ids: Sequence[int] = ()
    segments: Sequence[str] = ()
    where: str | None = None
    except_tags: Sequence[str] = ()
    except_segments: Sequence[str] = ()
    except_where: str | None = None

    @property
    def selects_some(self) -> bool:
        """Whether it selects some of all clients."""
        return bool(self.tags or self.client_ids or self.segments) or self.where is not None

    @property
    def selects(self) -> bool:
        """Whether it says who receives the mailing."""
        return self.all_clients or self.selects_some

    @property
    def excludes(self) -> bool:
        """Whether it says who is left out."""
        return bool(self.except_tags or self.except_segments) or self.except_where is not None


class _FilterInput(NamedTuple):
    """A filter as a user gave it. It has a tag, a segment's name or id, or a query."""

    leaves_out: bool
    tag: str | None = None
    segment: str | None = None
    query: str | None = None


def set_audience(
    db: Session, actor: Actor, mailing: "Mailing", audience: Audience, now: datetime, *, keeps_rest: bool = False
) -> None:
    """Replace a mailing's audience. With `keeps_rest`, replace only the part that is given: who receives it, or not.

    Raises InvalidValue if nobody is selected, some besides all, or a query is not valid; NotFound if a client or
    segment is not the actor's.
    """
    if audience.selects or not (keeps_rest and audience.excludes):
        _set_selection(db, actor, mailing, audience)
        _set_filters(db, actor, mailing, audience, now, leaves_out=False)
    if audience.excludes or not keeps_rest:
        _set_filters(db, actor, mailing, audience, now, leaves_out=True)


def remove_exclusions(db: Session, mailing: "Mailing") -> None:
    """Leave out nobody of a mailing's audience."""
    db.execute(delete(_MF).where(_MF.c.mailing_id == mailing.id, _MF.c.leaves_out))


def choice(db: Session, actor: Actor, audience: Audience, topic: str, timezone: str) -> Choice:
    """Return what was selected for a mailing that does not exist yet. Raises NotFound."""
    from skychimp.services.clients.segments import find_segment
    from skychimp.store.clients.filters import Filter

    filters = []
    for each in _filters(audience):
        segment = None if each.segment is None else find_segment(db, actor, each.segment)
        name, query = (None, each.query) if segment is None else (segment.name, segment.where)
        filters.append(Filter(each.leaves_out, each.tag, name, query))
    tags = checked_tags(audience.tags)
    return Choice(actor.user_id, topic, timezone, audience.all_clients, audience.client_ids, tags, filters)


def _set_selection(db: Session, actor: Actor, mailing: "Mailing", audience: Audience) -> None:
    _require_selection(audience)
    client_ids = sorted(set(audience.client_ids))
    _require_own_clients(db, actor, client_ids)
    mailing.all_clients = audience.all_clients
    db.execute(delete(_MC).where(_MC.c.mailing_id == mailing.id))
    db.execute(delete(_MT).where(_MT.c.mailing_id == mailing.id))
    if client_ids:
        db.execute(insert(_MC), [{"mailing_id": mailing.id, "client_id": client_id} for client_id in client_ids])
    if tags := checked_tags(audience.tags):
        spelled = spell(db.connection(), mailing.owner_id, tags)
        db.execute(insert(_MT), [{"mailing_id": mailing.id, "tag": spelled[tag]} for tag in tags])


def _set_filters(
    db: Session, actor: Actor, mailing: "Mailing", audience: Audience, now: datetime, *, leaves_out: bool
) -> None:
    db.execute(delete(_MF).where(_MF.c.mailing_id == mailing.id, _MF.c.leaves_out == leaves_out))
    for each in _filters(audience):
        if each.leaves_out == leaves_out:
            row = _filter_columns(db, actor, each, mailing.timezone, now)
            db.execute(insert(_MF).values(mailing_id=mailing.id, leaves_out=leaves_out, **row))


def _filter_columns(
    db: Session, actor: Actor, given: _FilterInput, timezone: str, now: datetime
) -> dict[str, str | int | None]:
    """Return the columns of a filter. Raises InvalidValue and NotFound."""
    if given.tag is not None:
        return {"tag": given.tag}
    from skychimp.services.clients.segments import checked_query, find_segment
    from skychimp.store.clients import filters
    from skychimp.store.clients.queries.conditions import Evaluation

    if given.segment is None:
        return {"expression": checked_query(db, actor, given.query or "", timezone, now)}
    segment = find_segment(db, actor, given.segment)
    evaluation = Evaluation(db.connection(), actor.user_id, timezone, now)
    filters.condition(evaluation, filters.Filter(given.leaves_out, None, segment.name, segment.where))
    return {"segment_id": segment.id}


def _filters(audience: Audience) -> Iterator[_FilterInput]:
    for segment in dict.fromkeys(audience.segments):
        yield _FilterInput(False, segment=segment)
    if audience.where is not None:
        yield _FilterInput(False, query=audience.where)
    for tag in checked_tags(audience.except_tags):
        yield _FilterInput(True, tag=tag)
    for segment in dict.fromkeys(audience.except_segments):
        yield _FilterInput(True, segment=segment)
    if audience.except_where is not None:
        yield _FilterInput(True, query=audience.except_where)


def _require_selection(audience: Audience) -> None:
    if audience.all_clients and audience.selects_some:
        raise InvalidValue(
            tr("--all-clients cannot be combined with --tag, --segment, --where or --client"),
            tr("use --all-clients alone, or with --except-tag, --except-segment or --except-where"),
        )
    if not audience.selects:
        raise InvalidValue(tr("no recipients selected"), tr("use --all-clients, --tag, --segment, --where or --client"))


def _require_own_clients(db: Session, actor: Actor, client_ids: Sequence[int]) -> None:
    own = select(_C.c.id).where(_C.c.owner_id == actor.user_id, _C.c.id.in_(filter(is_valid_id, client_ids)))
    missing = set(client_ids) - set(db.execute(own).scalars())
    if missing:
        raise not_found("client", min(missing))
