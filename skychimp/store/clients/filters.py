"""Read the tags, segments and queries by which mailings choose clients, or leave them out."""

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, select

from skychimp.errors import InvalidQuery, InvalidValue
from skychimp.models import tables
from skychimp.shell import arguments, run_hint
from skychimp.store.clients.queries.conditions import Evaluation
from skychimp.translation import Phrase, tr

_MF = tables.mailing_filter
_S = tables.segment


class InvalidFilter(InvalidValue):
    """A saved query cannot be evaluated any more, for example because its field was removed."""


class Filter(NamedTuple):
    """Clients that a mailing is sent to, or leaves out: those with a tag, in a segment, or chosen by a query.

    `query` is also the segment's.
    """

    leaves_out: bool
    tag: str | None = None
    segment: str | None = None
    query: str | None = None

    @property
    def reason(self) -> Phrase:
        """Why it leaves out a client."""
        if self.tag is not None:
            return tr("has tag {tag}", tag=self.tag)
        return (
            tr("matches --except-where") if self.segment is None else tr("in segment {segment}", segment=self.segment)
        )


def read_filters(db: Connection, mailing_id: int) -> list[Filter]:
    """Return a mailing's filters in the order in which they were given."""
    query = (
        select(_MF.c.leaves_out, _MF.c.tag, _S.c.name, _MF.c.expression, _S.c.expression)
        .outerjoin_from(_MF, _S, _S.c.id == _MF.c.segment_id)
        .where(_MF.c.mailing_id == mailing_id)
        .order_by(_MF.c.id)
    )
    return [Filter(*row[:3], row[3] or row[4]) for row in db.execute(query)]


def condition(evaluation: Evaluation, filter_: Filter) -> ColumnElement[bool]:
    """Return the condition of the clients that a filter is about. Raises InvalidFilter."""
    if filter_.tag is not None:
        return evaluation.has_tag(filter_.tag)
    try:
        return evaluation.condition(filter_.query or "")
    except InvalidQuery as error:
        raise _invalid(filter_, error) from None


def _invalid(filter_: Filter, error: InvalidQuery) -> InvalidFilter:
    if filter_.segment is not None:
        message = tr(
            "the query of segment {segment} is no longer valid: {problem}",
            segment=filter_.segment,
            problem=error.problem,
        )
        return InvalidFilter(message, run_hint("segments", "update", *arguments(filter_.segment), "--where", "EXPR"))
    option = "--except-where" if filter_.leaves_out else "--where"
    hint = run_hint("mailings", "update", "ID", option, "EXPR")
    return InvalidFilter(f"the mailing's {option} is no longer valid: {error.problem}", hint)
