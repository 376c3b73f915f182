"""Doctor: whether this installation can send, and what to mend where it can't."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlmodel import col, select

from skychimp.config import Settings
from skychimp.delivery import planner, recurrence
from skychimp.errors import SkychimpError
from skychimp.models import Mailing, MailingStatus, Occurrence
from skychimp.store import runs
from skychimp.store.engine import Store
from skychimp.transport import make_transport


@dataclass(frozen=True)
class Finding:
    """What one look found; `remedy` says what to do where it is not fine."""

    about: str
    ok: bool
    found: str
    remedy: str | None = None


def examine(store: Store, settings: Settings) -> Iterator[Finding]:
    """One finding after the other: config, store, clock, relay. Nothing is changed and no letter is sent."""
    yield _config(settings)
    yield _store(store)
    yield _clock(store)
    yield _relay(store, settings)


def accept_clock(store: Store) -> int:
    """Take this machine's clock for right, and compute each mailing's next time anew; how many there were."""
    now = datetime.now(UTC)
    with store.write() as session:
        runs.accept_clock(session.connection(), now)
        waiting = session.exec(
            select(Mailing).where(col(Mailing.deleted_at).is_(None), Mailing.status != MailingStatus.COMPLETED)
        ).all()
        for mailing in waiting:
            opened = select(Occurrence.due_local).where(Occurrence.mailing_id == mailing.id)
            known = set(session.exec(opened))
            coming = recurrence.upcoming(planner.schedule(mailing), now)
            mailing.next_at = next((due.at for due in coming if due.local.isoformat() not in known), None)
    return len(waiting)


def _config(settings: Settings) -> Finding:
    file = f"{settings.config_file or 'no file'}"
    if settings.mail.sender is None:
        return Finding("config", False, f"{file}; mail.sender is not set", 'set mail.sender = "Name <address>"')
    return Finding("config", True, f"{file}; letters come from {settings.mail.sender}")


def _store(store: Store) -> Finding:
    damage = store.damage()
    about = f"{store.path}, SQLite {store.sqlite_version}, {store.journal_mode} journal"
    if damage:
        return Finding("store", False, f"{about}: {damage}", "restore a backup; keep this file for a rescue")
    return Finding("store", True, about)


def _clock(store: Store) -> Finding:
    now = datetime.now(UTC)
    with store.read() as session:
        behind = runs.clock_behind(session.connection(), now)
    if behind is not None:
        return Finding("clock", False, behind.message, behind.hint)
    return Finding("clock", True, f"{now:%Y-%m-%d %H:%M:%S} UTC")


def _relay(store: Store, settings: Settings) -> Finding:
    transport = make_transport(settings, store.path)

    async def connect() -> None:
        await (await transport.connect()).close()

    try:
        asyncio.run(connect())
    except SkychimpError as error:
        return Finding("relay", False, error.message, error.hint)
    if settings.mail.transport == "outbox":
        return Finding("relay", True, "letters are kept in an outbox beside the store, and go no further")
    return Finding("relay", True, f"{transport.relay} takes mail ({settings.smtp.security})")
