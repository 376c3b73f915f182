"""Read incoming mail for the daemon, beside the sending: each source in a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

from skychimp.config.settings import Settings
from skychimp.errors import SkychimpError
from skychimp.services.inbound import maildir
from skychimp.services.inbound.processing import Summary
from skychimp.store.database import BATCH_PAUSE_S, Store

log = logging.getLogger("skychimp")

Reader = Callable[[threading.Event], None]

POLL_S = 0.5
"""How often to look for new mail in a Maildir. What it says takes effect within a second."""
_FIRST_RETRY_S, _LAST_RETRY_S = 5.0, 300.0


def readers(store: Store, settings: Settings) -> Sequence[Reader]:
    """Return a function for each source of incoming mail, which reads it until an event is set."""
    sources: list[Reader] = []
    if settings.inbound.maildir is not None:
        sources.append(partial(_keep_reading, partial(_poll_maildir, store, settings)))
    if settings.inbound.imap_url is not None:
        sources.append(partial(_keep_reading, partial(_watch_mailbox, store, settings)))
    return sources


def _keep_reading(read: Reader, stopping: threading.Event) -> None:
    """Read until the event is set. After an error, begin again after a while: sending must not end because of it."""
    delay_s = _FIRST_RETRY_S
    while not stopping.is_set():
        started = time.monotonic()
        try:
            read(stopping)
        except SkychimpError as error:
            log.warning(error.message, extra={"hint": error.hint})
        except Exception as error:
            log.error("incoming mail not read", extra={"reason": f"unexpected {type(error).__name__}: {error}"})
        if time.monotonic() > started + _LAST_RETRY_S:  # it has worked for a while
            delay_s = _FIRST_RETRY_S
        stopping.wait(delay_s)
        delay_s = min(2 * delay_s, _LAST_RETRY_S)


def _poll_maildir(store: Store, settings: Settings, stopping: threading.Event) -> None:
    folder, limits = settings.inbound.maildir, settings.delivery.limits
    assert folder is not None
    while not stopping.is_set():
        may_continue = lambda: not stopping.wait(BATCH_PAUSE_S)  # noqa: E731
        _report(maildir.process_new(store, settings.inbound, folder, may_continue, limits))
        stopping.wait(POLL_S)


def _watch_mailbox(store: Store, settings: Settings, stopping: threading.Event) -> None:
    from skychimp.services.inbound import mailbox

    limits = settings.delivery.limits
    mailbox.watch(store, settings.inbound, lambda: not stopping.is_set(), _report, limits)


def _report(summary: Summary) -> None:
    if summary != Summary():
        log.info("read incoming mail", extra=asdict(summary))
