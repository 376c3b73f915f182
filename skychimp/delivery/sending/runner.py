"""Start one run with its lock, its event loop and its signal handlers."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from datetime import datetime

from sqlalchemy import Connection

from skychimp import addresses
from skychimp.config.settings import Settings
from skychimp.delivery.scheduling import tzdata_changes
from skychimp.delivery.sending.dispatcher import Dispatcher, RunOptions
from skychimp.delivery.sending.event_loop import (
    fitting_connections,
    open_files_limit,
    require_open_files,
    run_in_event_loop,
)
from skychimp.delivery.sending.outcomes import RunStats
from skychimp.delivery.sending.signing import load_keys, make_signing_transport
from skychimp.delivery.sending.stop_signals import StopSignals
from skychimp.errors import ConfigError, StoreHeld
from skychimp.store import holds, runs
from skychimp.store.database import Store
from skychimp.store.postgres import failover
from skychimp.store.runs import OtherRun, RunLock
from skychimp.translation import Phrase, tr


class AlreadySending(Exception):
    """Another run of this host sends the same."""

    def __init__(self, other: OtherRun) -> None:
        super().__init__(f"process {other.pid} is sending")
        self.other = other


def send_due(
    store: Store,
    settings: Settings,
    options: RunOptions | None = None,
    report: Callable[[RunStats], None] = lambda stats: None,
    warn: Callable[[Phrase], None] = lambda text: None,
) -> RunStats:
    """Send what is due now, once, and return the stats.

    The first Ctrl-C or SIGTERM finishes the emails in progress and releases the rest. A second one stops at once.
    `report` is called with the stats several times a second, `warn` with texts for the user. Raises ConfigError if
    there is no sender or a file of the settings cannot be used, StoreHeld if the store is on hold after a restore,
    AlreadySending unless the run is to join others, ClockBehind, StoreFailed, and SkychimpError if too few files may be
    open at once.
    """
    require_open_files()
    settings = with_fitting_connections(with_sender(settings), warn)
    require_files(settings)
    options = options or RunOptions()
    with registered_run(store, mailing_id=options.mailing_id, join=options.join, relay=settings.relay) as lock:
        transport = make_signing_transport(settings, store.path)
        dispatcher = Dispatcher(store, settings, transport, lock, options, report=report)
        return run_in_event_loop(_send(dispatcher, warn))


@contextlib.contextmanager
def registered_run(
    store: Store,
    now: Callable[[], datetime] | None = None,
    *,
    mailing_id: int | None = None,
    join: bool = True,
    relay: str = "",
) -> Iterator[RunLock]:
    """Register this process as a run until the end of the block. `now` returns the time (default: the store's).

    It sends one mailing, or all if that is None, through `relay`. Raises StoreHeld if the store is on hold after a
    restore, ClockBehind if the clock is behind the last run's, and AlreadySending if it is not to join a run of this
    host.
    """
    now = now or store.now
    failover.check_store(store)
    with store.translate_errors(), store.connect() as db, db.begin():
        require_not_held(db)
        if (clock_error := runs.clock_behind(db, now())) is not None:
            raise clock_error
        if not join and (other := runs.find_sending(db, store.path, mailing_id, now())) is not None:
            raise AlreadySending(other)
        tzdata_changes.update_due_times(db)
        lock = runs.start(db, store.path, now(), mailing_id, relay)
    try:
        yield lock
    finally:
        lock.release()


def require_not_held(db: Connection) -> None:
    """Raise StoreHeld if the store is on hold after a restore."""
    if (reason := holds.why_held(db)) is not None:
        raise StoreHeld(tr("the store is on hold {reason}", reason=reason), tr('run "skychimp resolve --restored"'))


def why_held(store: Store) -> Phrase | None:
    """Return since what the store is on hold, such as "after a restore", or None if it is not."""
    with store.read() as db:
        return holds.why_held(db.connection())


def with_sender(settings: Settings) -> Settings:
    """Return the settings with the return path of mailings filled in. Raises ConfigError without a `mail.sender`.

    If that is `inbound.address`, each email has one of its own, with a token.
    """
    mail = settings.mail
    if mail.return_path is None and settings.inbound.address is not None:
        mail = mail.model_copy(update={"return_path": settings.inbound.address})
    return with_own_sender(settings.model_copy(update={"mail": mail}))


def with_own_sender(settings: Settings) -> Settings:
    """Return the settings with the return path of an email outside of mailings: its bounces go to the sender.

    Raises ConfigError without a `mail.sender`.
    """
    mail = settings.mail
    if mail.sender is None:
        hint = tr('set mail.sender = "Name <address>"')
        if settings.config_file:
            hint = tr('set mail.sender = "Name <address>" in {file}', file=settings.config_file)
        raise ConfigError(tr("mail.sender is not set"), hint)
    return_path = mail.return_path or addresses.parse_sender(mail.sender)[1]
    return settings.model_copy(update={"mail": mail.model_copy(update={"return_path": return_path})})


def with_fitting_connections(settings: Settings, warn: Callable[[Phrase], None]) -> Settings:
    """Return the settings with no more connections than files may be open at once. `warn` is told if they are fewer."""
    wanted = settings.smtp.connections
    fitting = fitting_connections(wanted)
    if fitting == wanted or settings.mail.transport != "smtp":
        return settings
    warn(
        tr(
            'using {number} of {wanted} connections: at most {limit} files may be open at once (see "ulimit -n")',
            number=fitting,
            wanted=wanted,
            limit=open_files_limit(),
        )
    )
    return settings.model_copy(update={"smtp": settings.smtp.model_copy(update={"connections": fitting})})


def require_files(settings: Settings) -> None:
    """Raise ConfigError if a file that sending needs cannot be used.

    The daemon does without this check: it must not end because of a file that is wrong for a while.
    """
    if settings.mail.transport == "smtp":
        settings.smtp.read_password()
        settings.smtp.read_certificates()
    load_keys(settings.dkim)


async def _send(dispatcher: Dispatcher, warn: Callable[[Phrase], None]) -> RunStats:
    stop_signals = StopSignals([signal.SIGINT, signal.SIGTERM], warn)
    with stop_signals:
        stop_signals.attach(dispatcher)
        return await dispatcher.send()
