"""Process the unseen mail of an IMAP mailbox. Nothing is deleted: what was processed is marked as seen."""

import imaplib
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from skychimp.config.settings import InboundSettings
from skychimp.delivery.inbound.mime_parts import MAX_SIZE
from skychimp.errors import ConfigError, RelayUnavailable
from skychimp.return_rates import DEFAULT_LIMITS, Limits
from skychimp.services.inbound import processing
from skychimp.services.inbound.processing import ReceivedMail, Summary
from skychimp.store.database import Store
from skychimp.translation import tr

if TYPE_CHECKING:
    from imap_tools import BaseMailBox

BATCH = 50
TIMEOUT_S = 60
IDLE_S = 9 * 60
"""How long to wait for new mail before IDLE begins again. RFC 2177 allows 29 minutes, and many routers less."""
CHECK_S = 1.0
"""How often to look whether to stop, while waiting."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def process_unseen(
    store: Store,
    settings: InboundSettings,
    may_continue: Callable[[], bool] = lambda: True,
    limits: Limits = DEFAULT_LIMITS,
) -> Summary:
    """Process the unseen mail of the mailbox of `inbound.imap_url`, and return how much of it was what.

    `limits` say for which rates a mailing is held. Raises ConfigError, RelayUnavailable if the server cannot be used,
    and StoreFailed.
    """
    with _connected(settings) as mailbox:
        return _process(store, settings, mailbox, may_continue, limits)


def watch(
    store: Store,
    settings: InboundSettings,
    may_continue: Callable[[], bool],
    report: Callable[[Summary], None],
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Process the mail of the mailbox as it comes in, until `may_continue` returns False or the connection is lost.

    Raises what `process_unseen` raises.
    """
    with _connected(settings) as mailbox:
        has_idle = "IDLE" in mailbox.client.capabilities
        while may_continue():
            report(_process(store, settings, mailbox, may_continue, limits))
            if has_idle:
                _wait_for_mail(mailbox, may_continue)
            else:
                _wait(may_continue)


def _wait_for_mail(mailbox: "BaseMailBox", may_continue: Callable[[], bool]) -> None:
    """Wait until the server says that something has changed (RFC 2177), or closes the connection."""
    until = time.monotonic() + IDLE_S
    with mailbox.idle as idle:
        while may_continue() and (started := time.monotonic()) < until:
            # poll() returns nothing, but at once, if the connection is closed. Leaving IDLE then raises an error.
            if idle.poll(timeout=CHECK_S) or time.monotonic() < started + CHECK_S / 2:
                break


def _wait(may_continue: Callable[[], bool]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while may_continue() and time.monotonic() < until:
        time.sleep(CHECK_S)


def _process(
    store: Store, settings: InboundSettings, mailbox: "BaseMailBox", may_continue: Callable[[], bool], limits: Limits
) -> Summary:
    total, uids = Summary(), mailbox.uids("UNSEEN")
    for first in range(0, len(uids), BATCH):
        fetched = list(_fetch(mailbox, uids[first : first + BATCH]))
        total += processing.process(store, settings, [mail for _, mail in fetched], limits).summary
        mailbox.flag([uid for uid, _ in fetched], "\\Seen", True)
        if not may_continue():
            break
    return total


def _fetch(mailbox: "BaseMailBox", uids: Sequence[str]) -> Iterator[tuple[str, ReceivedMail]]:
    """Yield emails, of each at most the size that is looked at."""
    for uid in uids:
        _, answer = mailbox.client.uid("fetch", uid, f"(BODY.PEEK[]<0.{MAX_SIZE}>)")
        data = next((part[1] for part in answer if isinstance(part, tuple)), None)
        if data is not None:  # somebody has deleted it meanwhile
            yield uid, ReceivedMail(data)


@contextmanager
def _connected(settings: InboundSettings) -> Iterator["BaseMailBox"]:
    """Log in to the mailbox, and log out at the end."""
    import imap_tools

    if settings.imap_url is None:
        raise ConfigError(tr("inbound.imap_url is not set"), tr("set it to imaps://USER@HOST/FOLDER"))
    url = urlsplit(settings.imap_url)
    host, password = url.hostname or "", settings.read_password()
    try:
        mailbox = _connect(url.scheme, host, url.port)
        try:
            folder = unquote(url.path.strip("/")) or "INBOX"
            yield mailbox.login(unquote(url.username or ""), password, initial_folder=folder)
        finally:
            with suppress(OSError, imaplib.IMAP4.error):
                mailbox.client.logout()
            with suppress(OSError):
                mailbox.client.shutdown()
    except (OSError, imaplib.IMAP4.error, imap_tools.ImapToolsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RelayUnavailable(
            tr("cannot read the mailbox at {host}: {reason}", host=host, reason=reason), tr("check inbound.imap_url")
        ) from None


def _connect(scheme: str, host: str, port: int | None) -> "BaseMailBox":
    """Connect to the server, with TLS unless it is on this machine."""
    import imap_tools

    context = ssl.create_default_context()
    if scheme == "imaps":
        return imap_tools.MailBox(host, port or 993, timeout=TIMEOUT_S, ssl_context=context)
    if host in _LOOPBACK:
        return imap_tools.MailBoxUnencrypted(host, port or 143, timeout=TIMEOUT_S)
    return imap_tools.MailBoxStartTls(host, port or 143, timeout=TIMEOUT_S, ssl_context=context)
