"""Show the progress of long work: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from skychimp.text import NO_TEXT
from skychimp.translation import Phrase, joined, tr, translated

if TYPE_CHECKING:
    from rich.console import Console

LINE_INTERVAL_S = 10


class ProgressReporter(Protocol):
    """A function that is called with how much is done, a few words about it, and how much it will be if known."""

    def __call__(self, done: int, description: str, total: int | None = None) -> None: ...


def ignore_progress(done: int, description: str, total: int | None = None) -> None:
    """Show nothing."""


def progress_lines(write_line: Callable[[Phrase], None], title: str, expected: int | None) -> ProgressReporter:
    """Return a reporter that writes a line every ten seconds."""
    pace = Pace()
    last = pace.started

    def report(done: int, description: str, total: int | None = expected) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_INTERVAL_S:
            last = time.monotonic()
            amount = tr("{done} of {total}", done=done, total=total) if total else done
            line = tr("{title}: {amount} {description}", title=title, amount=amount, description=description)
            write_line(joined("", (line, pace.describe(done, total))))

    return report


def progress_bar(
    console: "Console", title: str, expected: int | None, delay_s: float = 0
) -> Iterator[ProgressReporter]:
    """Yield a reporter that moves a bar. It appears after a delay, and disappears when the generator is resumed."""
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[status]}", markup=False),
    )
    pace = Pace()
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(translated(title), total=expected, status="")
    if not delay_s:
        bar.start()

    def report(done: int, description: str, total: int | None = expected) -> None:
        if pace.seconds >= delay_s:
            bar.start()  # only the first time
        status = f"{done}/{total or '?'} {translated(description)}{translated(pace.describe(done, total))}"
        bar.update(task, completed=done, total=total, status=status)

    try:
        yield report
    finally:
        bar.stop()


class Pace:
    """Measures how fast work goes. Rich's own measure starts again whenever the total changes."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def describe(self, done: int, total: int | None) -> Phrase:
        """Return the time left, if the total is known, and the rate: `, 0:01:30 left, 12/s`."""
        if not done:
            return NO_TEXT
        rate = done / max(self.seconds, 0.001)
        if not total:
            return tr(", {rate:,}/s", rate=round(rate))
        left = timedelta(seconds=round(max(total - done, 0) / rate))
        return tr(", {time} left, {rate:,}/s", time=left, rate=round(rate))
