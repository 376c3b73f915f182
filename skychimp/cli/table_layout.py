"""How wide each column of a table is, so that it fits the terminal and breaks no word where there is room; pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

NARROWEST_COLUMN = 10
GUTTER = 3
EDGES = 2


class Need(NamedTuple):
    """How wide a column's longest word and its longest cell are; where it is firm, words are the last to be broken."""

    word: int
    all: int
    firm: bool = False


def fit(needs: Mapping[str, Need], spare: Iterable[str], width: int) -> dict[str, int]:
    """How wide each column is on a screen of this width; those of `spare` go first where there is no room for all.

    A word is broken only where even the words don't fit, and then the longest.
    """
    needs = dict(needs)
    for name in spare:
        if _taken(need.all for need in needs.values()) > width:
            needs.pop(name, None)
    room = max(width - (len(needs) - 1) * GUTTER - EDGES, len(needs))
    least = _least(list(needs.values()), room)
    more = _levelled(
        [need.all - low if low == need.word else 0 for need, low in zip(needs.values(), least, strict=True)],
        room - sum(least),
    )
    return {name: low + extra for name, low, extra in zip(needs, least, more, strict=True)}


def _least(needs: Sequence[Need], room: int) -> list[int]:
    """A word's width for each, where there is room; else the words of those that are not firm are broken first."""
    rest = room - sum(need.word for need in needs if need.firm)
    if rest < sum(min(need.word, NARROWEST_COLUMN) for need in needs if not need.firm):
        return _levelled([need.word for need in needs], room)
    others = iter(_levelled([need.word for need in needs if not need.firm], rest))
    return [need.word if need.firm else next(others) for need in needs]


def _levelled(wanted: Sequence[int], room: int) -> list[int]:
    """What each gets where all have as much as they want, or as much as the others; together no more than `room`."""
    given = [0] * len(wanted)
    left = room
    for number, at in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        given[at] = min(wanted[at], left // (len(wanted) - number))
        left -= given[at]
    return given


def _taken(widths: Iterable[int]) -> int:
    widths = list(widths)
    return sum(widths) + (len(widths) - 1) * GUTTER + EDGES
