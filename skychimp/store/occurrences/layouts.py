"""Read the layouts of messages with the messages. Every function is part of its caller's transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from skychimp.models import tables

_L = tables.layout
_ML = tables.message_layout
_MSG = tables.message
_V = tables.message_variant


def add_layout(query: Select[Any], *, with_html: bool = True) -> Select[Any]:
    """Add to a query over messages the columns `layout_kind`, `layout_name`, `preheader` and, if asked, `layout_html`.

    They are NULL where a message has no layout, or the layout is not the user's own.
    """
    columns = [_ML.c.kind.label("layout_kind"), _L.c.name.label("layout_name"), _ML.c.preheader]
    if with_html:
        columns.append(_L.c.html.label("layout_html"))
    joined = query.outerjoin(_ML, _ML.c.message_id == _MSG.c.id).outerjoin(_L, _L.c.id == _ML.c.layout_id)
    return joined.add_columns(*columns)


def variants() -> Select[Any]:
    """Return a query for the variants of messages, with the columns `layout_name` and `layout_html`."""
    named = select(_V, _L.c.name.label("layout_name"), _L.c.html.label("layout_html"))
    return named.outerjoin(_L, _L.c.id == _V.c.layout_id).order_by(_V.c.key)


def read_variants(db: Connection, message_id: int | None, variant_by: str | None) -> Sequence[Row[Any]]:
    """Return the variants of a message in the order of their keys, none if no field chooses them."""
    return () if variant_by is None else db.execute(variants().where(_V.c.message_id == message_id)).all()
