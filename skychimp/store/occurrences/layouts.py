"""Read the layouts of messages with the messages. Every function is part of its caller's transaction."""

from typing import Any

from sqlalchemy import Select

from skychimp.models import tables

_L = tables.layout
_ML = tables.message_layout
_MSG = tables.message


def add_layout(query: Select[Any], *, with_html: bool = True) -> Select[Any]:
    """Add to a query over messages the columns `layout_kind`, `layout_name`, `preheader` and, if asked, `layout_html`.

    They are NULL where a message has no layout, or the layout is not the user's own.
    """
    columns = [_ML.c.kind.label("layout_kind"), _L.c.name.label("layout_name"), _ML.c.preheader]
    if with_html:
        columns.append(_L.c.html.label("layout_html"))
    joined = query.outerjoin(_ML, _ML.c.message_id == _MSG.c.id).outerjoin(_L, _L.c.id == _ML.c.layout_id)
    return joined.add_columns(*columns)
