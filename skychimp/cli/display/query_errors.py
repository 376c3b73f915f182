"""Show where a query is wrong: its line, and below it a caret at the place."""

import unicodedata

from skychimp.cli.display.values import escape

_CONTEXT = 50
"""How many characters of a long line are shown on each side of the place."""


def pointed_lines(query: str, position: int) -> tuple[str, ...]:
    """Return the line of a query that a position is in, escaped, and a line with a caret below it.

    An empty query has no place to point at, and no line.
    """
    if not query.strip():
        return ()
    start = query.rfind("\n", 0, position) + 1
    end = query.find("\n", position)
    end = len(query) if end < 0 else end
    first, last = max(start, position - _CONTEXT), min(end, position + _CONTEXT)
    before = ("…" if first > start else "") + escape(query[first:position])
    after = escape(query[position:last]) + ("…" if last < end else "")
    return f"  {before}{after}", f"  {' ' * sum(map(_width, before))}^"


def _width(character: str) -> int:
    """Return how many columns of a terminal a character takes (Unicode Standard Annex 11)."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
