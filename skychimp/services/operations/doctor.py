"""Check whether this installation can send, and say how to fix what is wrong. Nothing is changed or sent."""

import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import func, select

from skychimp import addresses, files
from skychimp.config import config_file, shared, sources
from skychimp.config.settings import Settings
from skychimp.delivery.sending.runner import with_sender
from skychimp.delivery.sending.signing import load_keys
from skychimp.errors import ConfigError, SkychimpError, StoreFailed
from skychimp.models import tables
from skychimp.services.operations import growth, relay_check, sender_dns
from skychimp.services.operations.findings import (
    CLOCK,
    CONFIG,
    CONSENT,
    DISK,
    GROWTH,
    OK,
    PROBLEM,
    RELAY,
    SENDER,
    STANDBY,
    STORE,
    TIME_ZONE,
    WARNING,
    Finding,
)
from skychimp.shell import run_hint, run_line_hint
from skychimp.store import holds, place, runs
from skychimp.store.database import SQLITE, Store
from skychimp.store.postgres.server import PostgresStore
from skychimp.store.sqlite import SqliteStore
from skychimp.text import count_of
from skychimp.translation import Phrase, joined, tr
from skychimp.transport import make_outbox

_C = tables.client

MB = 1_000_000
TOO_LITTLE_SPACE, LITTLE_SPACE = 20 * MB, 500 * MB
"""Bytes of free disk space."""

LARGE_LOG = 200 * MB
"""Bytes. SQLite empties its log when it is a few MB large, unless a reader still needs it."""

COPIES_KEPT = 3
"""How many copies of old stores, which hold personal data, may lie beside a store without a warning."""

_CLOCK_DIFFERENCE = timedelta(seconds=10)

_RELEASE = tr('run "skychimp resolve --restored"')

NETWORK_FILE_SYSTEMS = {
    "afs", "beegfs", "ceph", "cifs", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "smb3", "smbfs",
}  # fmt: skip
"""File systems on which SQLite's locks, or its shared memory, may not work between machines."""


def check_installation(
    settings: Settings, open_store: Callable[[], Store], selector: str | None = None
) -> Iterator[Finding]:
    """Yield findings about the configuration, store, disk, clock, mail server and sender's domain.

    A store that cannot be opened is a finding too. `selector` is the DKIM selector of the mail server.
    """
    yield from _config(settings)
    store = None
    try:
        store = open_store()
    except SkychimpError as error:
        yield Finding(STORE, PROBLEM, error.message, error.hint)
    else:
        yield from _store(store)
        yield from _growth(store)
        yield _clock(store)
        if settings.delivery.require_consent:
            yield _consents(store)
    if settings.mail.transport == "outbox":
        yield _outbox(store)
        return
    yield from relay_check.check_relay(settings, store)
    if settings.mail.sender is not None:
        yield from _sender(settings, settings.mail.sender, selector)


def return_path(settings: Settings) -> str:
    """Return the address that bounces of mailings go to: mail.return_path, inbound.address, or the sender's."""
    return with_sender(settings).mail.return_path or addresses.parse_sender(settings.mail.sender or "")[1]


def file_system_type(path: Path, mounts: str) -> str:
    """Return the type of the file system of a path from the text of /proc/self/mountinfo, or "" if it is not there."""
    best, fs_type = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split()[4])
        if len(point) >= len(best) and path.is_relative_to(point):
            best, fs_type = point, after.split()[0]
    return fs_type


def check_disk_space(free: int, size: int) -> Finding:
    """Check whether there is enough free disk space for a store of `size` bytes."""
    free_mb = free // MB
    if free < TOO_LITTLE_SPACE:
        return Finding(
            DISK,
            PROBLEM,
            tr("{free:,} MB free: soon no outcome can be recorded", free=free_mb),
            tr("free some disk space"),
        )
    found = tr("{free:,} MB free", free=free_mb)
    if free < LITTLE_SPACE or free < 2 * size:
        remedy = tr("free some disk space: upgrade and restore need twice the store's {size:,} MB", size=size // MB)
        return Finding(DISK, WARNING, found, remedy)
    return Finding(DISK, OK, found)


def _config(settings: Settings) -> Iterator[Finding]:
    file = settings.config_file or tr("no configuration file")
    if settings.mail.sender is None:
        yield Finding(
            CONFIG, PROBLEM, tr("{file}; mail.sender is not set", file=file), tr('set mail.sender = "Name <address>"')
        )
    else:
        yield Finding(CONFIG, OK, tr("{file}; emails are sent from {sender}", file=file, sender=settings.mail.sender))
    if settings.web.url is not None and not settings.web.url.startswith("https:"):
        found = tr("web.url is {url}: mailbox providers accept only https for unsubscribing", url=settings.web.url)
        yield Finding(CONFIG, WARNING, found, tr("set web.url to the public https address"))
    for read_file in (settings.smtp.read_password, settings.smtp.read_certificates, partial(load_keys, settings.dkim)):
        try:
            read_file()
        except ConfigError as error:
            yield Finding(CONFIG, PROBLEM, error.message, error.hint)
    secrets = [*((tr("password"), path) for path in _files_with_passwords(settings))]
    secrets += ((tr("private key"), path) for path in settings.dkim.key_file or ())
    for kind, secret in secrets:
        with suppress(OSError):
            if files.can_others_read(secret.stat(), secret):
                yield Finding(
                    CONFIG,
                    WARNING,
                    tr("other users can read the {secret} in {file}", secret=kind, file=secret),
                    _chmod_hint(secret),
                )
    try:
        settings.mail.read_timezone()
    except ConfigError as error:
        yield Finding(TIME_ZONE, WARNING, error.message, error.hint)
    if settings.service.shared and not shared.is_shared():
        remedy = tr(
            "set service.shared in {file}, the only place where it counts",
            file=shared.own_config_name(),
        )
        yield Finding(CONFIG, WARNING, tr("service.shared has no effect where it is set"), remedy)


def _files_with_passwords(settings: Settings) -> list[Path]:
    found = [settings.smtp.password_file] if settings.smtp.password_file is not None else []
    if settings.config_file is not None:
        with suppress(ConfigError):  # somebody changed it just now
            found += sources.files_with_passwords(config_file.read_files(settings.config_file))
    return found


def _sender(settings: Settings, sender: str, selector: str | None) -> Iterator[Finding]:
    """Check what DNS has about the sender's domain. A key that cannot be read is a finding of the config."""
    try:
        keys = load_keys(settings.dkim)
    except ConfigError:
        keys = []
    try:
        lookup = sender_dns.make_lookup(settings.dns.address)
    except sender_dns.DnsUnavailable as error:
        yield Finding(SENDER, WARNING, tr("not known: {message}", message=error.message), error.hint)
    else:
        address = addresses.parse_sender(sender)[1]
        yield from sender_dns.check_domain(address, return_path(settings), lookup, selector, keys)


def _store(store: Store) -> Iterator[Finding]:
    if isinstance(store, SqliteStore):
        yield from _file(store)
    elif isinstance(store, PostgresStore):
        yield from _server(store)


def _file(store: SqliteStore) -> Iterator[Finding]:
    about = store.description
    if damage := store.find_damage():
        yield Finding(
            STORE,
            PROBLEM,
            tr("{store}: {damage}", store=about, damage=damage),
            tr('run "skychimp restore FILE --operator"'),
        )
        return
    if (part := place.find_unwritable(store.path)) is not None:
        yield Finding(
            STORE,
            PROBLEM,
            tr("{store}: cannot write to {part}", store=about, part=part),
            place.permissions_hint(store.path),
        )
        return
    fs_type = file_system_type(store.path.resolve(), _mounts())
    if fs_type in NETWORK_FILE_SYSTEMS:
        remedy = tr("move the store to a local disk, and set store.url")
        found = tr(
            "{store}: on a network file system ({fs_type}), where locks are not reliable", store=about, fs_type=fs_type
        )
        yield Finding(STORE, PROBLEM, found, remedy)
    elif (reason := _why_held(store)) is not None:
        yield Finding(STORE, PROBLEM, tr("{store}: on hold {reason}", store=about, reason=reason), _RELEASE)
    elif _mode(store.path) & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding(STORE, WARNING, tr("{store}: accessible to other users", store=about), _chmod_hint(store.path))
    elif not store.has_safe_wal:
        yield Finding(
            STORE,
            WARNING,
            tr("{store}: slow journal mode (old SQLite)", store=about),
            tr('run "pip install pysqlite3"'),
        )
    else:
        yield Finding(STORE, OK, about)
    yield check_disk_space(shutil.disk_usage(store.path.parent).free, store.path.stat().st_size)
    yield from _log(store.path)
    yield from _copies(store.path)


def _growth(store: Store) -> Iterator[Finding]:
    """Say how much a million emails take, if there are enough to know."""
    with suppress(StoreFailed):  # a store that is damaged or cannot be written has a finding already
        measured = growth.measure(store)
        if measured is not None:
            size = measured.bytes_per_million
            found = tr("a million emails take about {size:,} MB", size=size // MB)
            if store.dialect == SQLITE:
                found = tr(
                    "{found}; there is room for {millions:,.1f} million more",
                    found=found,
                    millions=shutil.disk_usage(store.path.parent).free / size,
                )
            yield Finding(GROWTH, OK, found)


def _log(store: Path) -> Iterator[Finding]:
    """Warn of a large write-ahead log: it grows with each email while somebody reads the store for long."""
    with suppress(OSError):
        size = store.with_name(f"{store.name}-wal").stat().st_size
        if size > LARGE_LOG:
            found = tr("the store's write-ahead log has grown to {size:,} MB", size=size // MB)
            yield Finding(
                DISK, WARNING, found, tr("end the commands that have been reading it, such as a paused pager")
            )


def _copies(store: Path) -> Iterator[Finding]:
    """Count the copies that restores and upgrades have left beside a store. Nothing removes them but a person."""
    name = re.compile(re.escape(store.name) + r"\.before-(restore-\d{8}T\d{6}Z|\d{4})(-\d+)?")
    found = sorted((path.stat().st_mtime, path) for path in store.parent.iterdir() if name.fullmatch(path.name))
    if len(found) > COPIES_KEPT:
        size = sum(path.stat().st_size for _, path in found)
        about = tr(
            "{copies} from restores and upgrades ({size:,} MB) in {folder}",
            copies=count_of(len(found), "copy", "copies"),
            size=size // MB,
            folder=store.parent,
        )
        old = [path for _, path in found[:-COPIES_KEPT]]
        yield Finding(DISK, WARNING, about, run_line_hint("rm", *old))


def _server(store: PostgresStore) -> Iterator[Finding]:
    server = store.read_server()
    about = joined(", ", (store.description, server.encryption or tr("not encrypted")))
    if server.is_standby:
        yield Finding(
            STORE,
            PROBLEM,
            tr("{store}: a standby, which only reads", store=about),
            tr("use the URL of the primary server"),
        )
    elif (reason := _why_held(store)) is not None:
        yield Finding(STORE, PROBLEM, tr("{store}: on hold {reason}", store=about, reason=reason), _RELEASE)
    elif not server.survives_power_loss:
        remedy = tr("set fsync and full_page_writes to on: emails would be lost or sent twice after a crash")
        yield Finding(
            STORE, PROBLEM, tr("{store}: it does not flush what is committed to the disk", store=about), remedy
        )
    elif not server.has_unicode:
        remedy = tr("create the database with --locale C.UTF-8, and use store copy")
        yield Finding(
            STORE, WARNING, tr("{store}: its locale knows only ASCII, so a search finds less", store=about), remedy
        )
    else:
        yield Finding(STORE, OK, about)
    if server.waits_for_standby:
        yield Finding(STANDBY, OK, tr("each commit waits for a standby server: a fail-over loses nothing"))
    elif server.standbys:
        found = tr("{servers}, and no commit waits for one", servers=count_of(server.standbys, "standby server"))
        remedy = tr("set synchronous_standby_names, or expect that a fail-over loses the last commits")
        yield Finding(STANDBY, WARNING, found, remedy)


def _why_held(store: Store) -> Phrase | None:
    with store.read() as db:
        return holds.why_held(db.connection())


def _clock(store: Store) -> Finding:
    now = store.now()
    with store.read() as db:
        behind = runs.clock_behind(db.connection(), now)
    if behind is not None:
        return Finding(CLOCK, PROBLEM, behind.message, behind.hint)
    if abs(datetime.now(UTC) - now) > _CLOCK_DIFFERENCE:
        found = tr(
            "this machine's clock differs from the database's, which counts: {now:%Y-%m-%d %H:%M:%S} UTC", now=now
        )
        return Finding(CLOCK, WARNING, found, tr("set this machine's clock"))
    return Finding(CLOCK, OK, tr("{now:%Y-%m-%d %H:%M:%S} UTC", now=now))


def _consents(store: Store) -> Finding:
    total, lacking = select(func.count()).select_from(_C), select(func.count()).where(_C.c.consent_at.is_(None))
    with store.read() as db:
        clients, without = db.scalar(total) or 0, db.scalar(lacking) or 0
    if without:
        found = tr(
            "{number:,} of {clients} have no recorded consent, and get no email",
            number=without,
            clients=count_of(clients, "client"),
        )
        return Finding(CONSENT, WARNING, found, run_hint("help", "consent"))
    return Finding(CONSENT, OK, tr("a recorded consent is required, and all clients have one"))


def _outbox(store: Store | None) -> Finding:
    if store is not None:
        try:
            make_outbox(store.path).check()
        except SkychimpError as error:
            return Finding(RELAY, PROBLEM, error.message, error.hint)
    return Finding(RELAY, OK, tr("emails are written to the outbox (no mail server configured)"))


def _chmod_hint(path: Path) -> Phrase:
    return run_line_hint("chmod", "600", path)


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
