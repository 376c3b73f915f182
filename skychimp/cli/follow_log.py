"""Follow the log of a mailing: show attempts as they are made."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from skychimp.cli.context import Context

if TYPE_CHECKING:
    from skychimp.services.reporting.delivery_log import AttemptInfo

POLL_INTERVAL_S = 1.0


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
