"""Keep showing what changes: the attempts of a mailing as they are made, and screens that are drawn again."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from skychimp.cli.context import Context
from skychimp.cli.output import new_console
from skychimp.durations import format_duration, parse_duration
from skychimp.errors import InvalidValue
from skychimp.translation import tr

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skychimp.services.reporting.delivery_log import AttemptInfo

POLL_INTERVAL_S = 1.0
WATCH_INTERVAL = "2s"
MAX_WATCH_INTERVAL_S = 3600

Watch = Annotated[bool, typer.Option("--watch", help="Keep the screen up to date, until Ctrl-C.")]
Interval = Annotated[
    str | None, typer.Option(help=f"With --watch, how often (default: {WATCH_INTERVAL}).", metavar="DURATION")
]


def watch_interval_s(context: Context, watch: bool, interval: str | None) -> float | None:
    """Return how often a screen is drawn again, None if it is drawn once. Raises InvalidValue."""
    if not watch:
        if interval is not None:
            raise InvalidValue(tr("--interval needs --watch"), tr("use them together"))
        return None
    if context.out.json:
        raise InvalidValue(
            tr("--watch and --json cannot be combined"), tr("run the command with --json again and again")
        )
    if not context.out.on_terminal:
        raise InvalidValue(tr("--watch needs a terminal"), tr("leave out --watch, or use --json in a loop"))
    seconds = parse_duration(interval or WATCH_INTERVAL).total_seconds()
    if not 1 <= seconds <= MAX_WATCH_INTERVAL_S:
        raise InvalidValue(
            tr("--interval must be from 1s to 1h"),
            tr("use {watch_interval}, for example", watch_interval=WATCH_INTERVAL),
        )
    return seconds


def watch_screen(draw: "Callable[[], tuple[RenderableType, bool]]", interval_s: float) -> None:
    """Draw a screen again and again, until Ctrl-C or until `draw` says that it is the last one.

    It has the terminal for itself meanwhile, as a pager has. The last screen is left on the terminal.
    """
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = new_console(stderr=False)
    screen, is_last = draw()
    try:
        if is_last:
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not is_last:
                shown_at = f"{datetime.now().astimezone():%H:%M:%S}"
                footer = f"\n{shown_at}, again every {format_duration(timedelta(seconds=interval_s))}; Ctrl-C to end"
                live.update(Group(screen, Text(footer, "dim")), refresh=True)
                time.sleep(interval_s)
                screen, is_last = draw()
    finally:
        console.print(screen)


def follow_log(
    context: Context,
    read: "Callable[[int | None], Iterator[AttemptInfo]]",
    show: "Callable[[Iterator[AttemptInfo]], None]",
) -> NoReturn:
    """Show all attempts and then new ones, until Ctrl-C.

    `read` yields the attempts after the one with the given id, all of them for None. `show` gets each batch.
    """
    from skychimp.store import ledger

    last_id: int | None = None

    def new_attempts() -> "Iterator[AttemptInfo]":
        nonlocal last_id
        # Continue after the newest attempt of all mailings: a filter may let nothing through for a long time.
        newest_id = ledger.newest_attempt_id(context.store)
        yield from (attempt for attempt in read(last_id) if (attempt.id or 0) <= newest_id)
        last_id = newest_id

    while True:
        show(new_attempts())
        time.sleep(POLL_INTERVAL_S)
