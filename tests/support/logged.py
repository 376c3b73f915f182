"""Collect the events that are logged, whatever other tests have done to the logger."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def logged_events() -> Iterator[list[dict[str, Any]]]:
    """Return a list that gets the fields of each event that is logged in the block."""
    events: list[dict[str, Any]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            events.append(vars(record) | {"event": record.getMessage()})

    collector, logger = Collector(), logging.getLogger("skychimp")
    logger.addHandler(collector)
    try:
        yield events
    finally:
        logger.removeHandler(collector)
