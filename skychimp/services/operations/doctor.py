"""Doctor: whether this installation can send, and what to mend where it can't. It changes and sends nothing."""

import asyncio
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import LargeBinary, cast, func
from sqlmodel import col, select

from skychimp import addresses
from skychimp.config.settings import Settings
from skychimp.config.types import Security
from skychimp.delivery.scheduling import planner, recurrence
from skychimp.errors import ConfigError, SkychimpError
from skychimp.models import Mailing, MailingStatus, Message, Occurrence, StoreInfo
from skychimp.services.operations import sender_dns
from skychimp.services.operations.findings import OK, PROBLEM, WARNING, Finding
from skychimp.store import relay_pauses, runs
from skychimp.store.database import Store

if TYPE_CHECKING:
    from skychimp.transport.smtp import SmtpTransport

MB = 1_000_000
SCARCE, LITTLE = 20 * MB, 500 * MB  # bytes of free disk
LONGEST_WAIT = timedelta(seconds=15)  # for a relay
ENCODED = 1.4  # how much larger a letter is than its text, at most, but for its header

NETWORK = {
    "afs", "beegfs", "ceph", "cifs", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "smb3", "smbfs",
}  # fmt: skip
"""File systems whose locks, or whose shared memory, other machines can't be trusted to see."""


def examine(settings: Settings, open_store: Callable[[], Store], selector: str | None = None) -> Iterator[Finding]:
    """One finding after the other: config, store, clock, relay, sender; what can't be opened is a finding, too."""
    yield from _config(settings)
    store = None
    try:
        store = open_store()
    except SkychimpError as error:
        yield Finding("store", PROBLEM, error.message, error.hint)
    else:
        yield from _store(store)
        yield _clock(store)
    if settings.mail.transport == "outbox":
        yield Finding("relay", OK, "letters are kept in an outbox beside the store, and go no further")
        return
    yield from _relay(settings, store)
    if settings.mail.sender is not None:
        address = addresses.parse_sender(settings.mail.sender)[1]
        try:
            ask = sender_dns.resolver(settings.dns.place)
        except sender_dns.DnsAway as away:
            yield Finding("sender", WARNING, f"not known: {away.message}", away.hint)
        else:
            yield from sender_dns.examine(address, settings.mail.return_path or address, ask, selector)


def accept_clock(store: Store) -> int:
    """Take this machine's clock for right, and compute each mailing's next time anew; how many there were."""
    now = datetime.now(UTC)
    with store.write() as db:
        runs.accept_clock(db.connection(), now)
        waiting = db.exec(
            select(Mailing).where(col(Mailing.deleted_at).is_(None), Mailing.status != MailingStatus.COMPLETED)
        ).all()
        for mailing in waiting:
            opened = select(Occurrence.due_local).where(Occurrence.mailing_id == mailing.id)
            known = set(db.exec(opened))
            coming = recurrence.upcoming(planner.schedule(mailing), now)
            mailing.next_at = next((due.at for due in coming if due.local.isoformat() not in known), None)
    return len(waiting)


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that a path is on, by the text of /proc/self/mountinfo; "" where it is not there."""
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split()[4])
        if len(point) >= len(best) and path.is_relative_to(point):
            best, kind = point, after.split()[0]
    return kind


def room(free: int, size: int) -> Finding:
    """Whether there is enough free disk for a store of this size, in bytes."""
    said = f"{free // MB:,} MB free"
    if free < SCARCE:
        return Finding("disk", PROBLEM, f"{said}: soon nothing can be recorded", "free some disk space")
    if free < LITTLE or free < 2 * size:
        remedy = f"free some disk space: an upgrade or a restore takes twice the store's {size // MB:,} MB"
        return Finding("disk", WARNING, said, remedy)
    return Finding("disk", OK, said)


def _config(settings: Settings) -> Iterator[Finding]:
    file = f"{settings.config_file or 'no file'}"
    if settings.mail.sender is None:
        yield Finding("config", PROBLEM, f"{file}; mail.sender is not set", 'set mail.sender = "Name <address>"')
    else:
        yield Finding("config", OK, f"{file}; letters come from {settings.mail.sender}")
    try:
        settings.smtp.secret()
    except ConfigError as error:
        yield Finding("config", PROBLEM, error.message, error.hint or "mend smtp.password_file")
    for secret in (settings.smtp.password_file, _file_with_password(settings)):
        if secret is not None and _mode(secret) & (stat.S_IROTH | stat.S_IWOTH):
            yield Finding("config", WARNING, f"anybody here can read the password in {secret}", f"chmod 600 {secret}")


def _file_with_password(settings: Settings) -> Path | None:
    file = settings.config_file
    if file is None or not re.search(r"^\s*password\s*=", file.read_text(encoding="utf-8-sig"), re.MULTILINE):
        return None
    return file


def _store(store: Store) -> Iterator[Finding]:
    about = f"{store.path}, SQLite {store.sqlite_version}, {store.journal_mode} journal"
    if damage := store.damage():
        yield Finding("store", PROBLEM, f"{about}: {damage}", "bring back a copy: skychimp restore FILE --operator")
        return
    kind = file_system(store.path.resolve(), _mounts())
    with store.read() as db:
        is_held = db.get_one(StoreInfo, 1).held_at is not None
    if kind in NETWORK:
        remedy = "move the store to a disk of this machine: store.url"
        said = f"{about}: on a network file system ({kind}), where locks can't be trusted"
        yield Finding("store", PROBLEM, said, remedy)
    elif is_held:
        remedy = "let it go on: skychimp resolve --restored"
        yield Finding("store", PROBLEM, f"{about}: it was restored and sends nothing yet", remedy)
    elif _mode(store.path) & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding("store", WARNING, f"{about}: not its owner's alone", f"chmod 600 {store.path}")
    elif not store.is_sound_build:
        yield Finding("store", WARNING, f"{about}: safe, but slower than by a newer SQLite", "pip install pysqlite3")
    else:
        yield Finding("store", OK, about)
    yield room(shutil.disk_usage(store.path.parent).free, store.path.stat().st_size)


def _clock(store: Store) -> Finding:
    now = datetime.now(UTC)
    with store.read() as db:
        behind = runs.clock_behind(db.connection(), now)
    if behind is not None:
        return Finding("clock", PROBLEM, behind.message, behind.hint)
    return Finding("clock", OK, f"{now:%Y-%m-%d %H:%M:%S} UTC")


def _relay(settings: Settings, store: Store | None) -> Iterator[Finding]:
    """DNS, connect, TLS, login, and what it offers."""
    from skychimp.transport.smtp import SmtpTransport

    smtp = settings.smtp
    try:
        found = socket.getaddrinfo(smtp.host, smtp.effective_port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        remedy = "mend smtp.host, or this machine's name server"
        yield Finding("relay", PROBLEM, f"there is no host {smtp.host} in DNS", remedy)
        return
    brief = smtp.model_copy(update={"timeout": min(smtp.timeout, LONGEST_WAIT)})
    transport = SmtpTransport(brief)
    try:
        offers = asyncio.run(_offers(transport))
    except SkychimpError as error:
        yield Finding("relay", PROBLEM, error.message, error.hint)
        return
    logged_in = f", logged in as {smtp.username}" if smtp.username else ""
    about = (
        f"{transport.relay} takes mail ({smtp.security}{logged_in}); it offers {', '.join(sorted(offers)) or 'nothing'}"
    )
    here = all(ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)
    if smtp.security == Security.NONE and not here:
        yield Finding("relay", WARNING, f"{about}: all can read what goes there", 'set smtp.security = "starttls"')
    else:
        yield Finding("relay", OK, about)
    if store is not None:
        yield from _beyond(store, offers)


def _beyond(store: Store, offers: Mapping[str, str]) -> Iterator[Finding]:
    """What the store knows of the relay: that it was paused, or letters that are too large for it."""
    words = col(Message.subject) + col(Message.body) + func.coalesce(Message.html, "")
    size = func.length(cast(words, LargeBinary))
    with store.read() as db:
        paused = relay_pauses.latest_paused(db.connection())
        largest = db.exec(select(Message.id, size).order_by(size.desc()).limit(1)).first()
    if paused is not None:
        remedy = "if that is mended: skychimp run"
        yield Finding("relay", WARNING, f"paused since {paused.since:%Y-%m-%d %H:%M} UTC: {paused.reason}", remedy)
    limit = int(offers["SIZE"]) if offers.get("SIZE", "").isdecimal() else 0
    if limit and largest and largest[1] * ENCODED > limit:
        said = f"message {largest[0]} may be larger than it takes ({limit:,} bytes)"
        yield Finding("relay", WARNING, said, f"shorten it: skychimp messages update {largest[0]}")


async def _offers(transport: "SmtpTransport") -> Mapping[str, str]:
    """The relay's extensions, each with its parameters."""
    connection = await transport.connect()
    try:
        return dict(connection.protocol.capabilities)
    finally:
        await connection.close()


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
