"""The rows of a list while they are read, and how many there are."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Row = TypeVar("Row")
Shown = TypeVar("Shown")


class Listed(Iterator[Row], Generic[Row]):
    """The rows that a list command shows, read one after the other.

    `count` returns how many there would be without a limit, None if that takes too long to find out. `is_part` says
    whether rows may have been left out.
    """

    def __init__(self, rows: Iterator[Row], count: Callable[[], int | None], *, is_part: bool) -> None:
        self._rows = rows
        self.count = count
        self.is_part = is_part

    def __next__(self) -> Row:
        return next(self._rows)

    def map(self, show: Callable[[Row], Shown]) -> "Listed[Shown]":
        """Return a list of what a function makes of each row."""
        return Listed(map(show, self._rows), self.count, is_part=self.is_part)
