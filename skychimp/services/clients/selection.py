"""Choose some of a user's clients by a query, a segment or both, for lists, exports and changes of many."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, select

from skychimp.models import tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services.clients.segments import find_segment
from skychimp.store.clients import filters
from skychimp.store.clients.filters import Filter
from skychimp.store.clients.queries.conditions import Evaluation
from skychimp.store.database import Store

_C = tables.client


@dataclass(frozen=True)
class Selection:
    """The clients that a query chooses, or those in a segment, or, with both, those of them who are both.

    Times without an offset are in `timezone`.
    """

    where: str | None
    segment: str | None
    timezone: str


def is_selected(store: Store, actor: Actor, selection: Selection) -> ColumnElement[bool]:
    """Return the condition of a client of the actor's that is selected. Raises InvalidValue and NotFound."""
    authorize(actor, Action.SEE_CLIENTS)
    with store.read() as db:
        evaluation = Evaluation(db.connection(), actor.user_id, selection.timezone, store.now())
        conditions = [_C.c.owner_id == actor.user_id]
        if selection.where is not None:
            conditions.append(evaluation.condition(selection.where))
        if selection.segment is not None:
            segment = find_segment(db, actor, selection.segment)
            conditions.append(filters.condition(evaluation, Filter(False, None, segment.name, segment.where)))
    return and_(*conditions)


def find_query_of(store: Store, actor: Actor, ids: list[int], queries: list[str], timezone: str) -> str | None:
    """Return the first of these queries that chooses exactly the clients with these ids, None if none does."""
    authorize(actor, Action.SEE_CLIENTS)
    for query in queries:
        is_chosen = is_selected(store, actor, Selection(query, None, timezone))
        with store.read() as db:
            if list(db.scalars(select(_C.c.id).where(is_chosen).order_by(_C.c.id))) == ids:
                return query
    return None
