"""Write systemd units that run this installation."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from skychimp import files
from skychimp.config.locations import user_folder
from skychimp.config.settings import Settings
from skychimp.errors import InvalidValue
from skychimp.services.installing.command import command_words, on_one_line
from skychimp.services.monitoring.health import max_silence_s
from skychimp.store.schema import is_on_server, store_path
from skychimp.text import shortened
from skychimp.translation import tr

_LIMITS = """\
# Less than 100 MB are used with a million clients. The rest is for many large messages at the same time.
MemoryMax=1G
# Up to 35 threads and two processes.
TasksMax=64
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""
"""Limits that a user's own service manager can set, too."""

_SANDBOX = """\
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={folders}
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
"""
_DAEMON_UNIT = """\
[Unit]
Description=Skychimp: send mailings on schedule
Wants=network-online.target time-sync.target
# The clock must be right before the first mailings are sent.
After=network-online.target time-sync.target

[Service]
Type=notify
{user}ExecStart={command} daemon --log-format logfmt
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=10
# A restart does not help if the command line or the configuration is invalid.
RestartPreventExitStatus=2 3
# Longer than several intervals of the daemon.
WatchdogSec={watchdog_seconds}
# Longer than smtp.dot_timeout, so that the last emails can be finished.
TimeoutStopSec={stop_seconds}
KillMode=mixed
{credential}{sandbox}
[Install]
WantedBy={target}
"""
_RUN_UNIT = """\
[Unit]
Description=Skychimp: send due mailings once
Wants=network-online.target time-sync.target
# The clock must be right before the first mailings are sent.
After=network-online.target time-sync.target

[Service]
Type=oneshot
{user}ExecStart={command} -q run
# 75: due mail is still queued, for the next run.
SuccessExitStatus=75
TimeoutStopSec={stop_seconds}
KillMode=mixed
{credential}{sandbox}"""
_WEB_UNIT = """\
[Unit]
Description=Skychimp: answer unsubscribe links on the web
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
{user}ExecStart={command} serve --log-format logfmt
Restart=on-failure
RestartSec=10
# A restart does not help if the command line or the configuration is invalid.
RestartPreventExitStatus=2 3
# Requests that have come are answered first.
TimeoutStopSec=30
# For a socket such as unix:/run/skychimp/web.sock. The web server must be in the group of the user.
RuntimeDirectory=skychimp
RuntimeDirectoryMode=0750
{store_credential}{web_sandbox}ProcSubset=pid
{loopback}
[Install]
WantedBy=multi-user.target
"""
_LOOPBACK_ONLY = """\
# It has nothing to do with other machines.
IPAddressDeny=any
IPAddressAllow=localhost
"""
_TIMER_UNIT = """\
[Unit]
Description=Skychimp: send due mailings every minute

[Timer]
OnCalendar=minutely
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
"""


DAEMON = "skychimp.service"
"""The name of the daemon's unit."""


@dataclass(frozen=True)
class Unit:
    """A unit file of systemd."""

    name: str
    text: str


def make_units(settings: Settings, notes: Sequence[str] = ()) -> list[Unit]:
    """Return the units of this installation. Raises InvalidValue for a path that a unit cannot have.

    The services begin with the notes as comments.
    """
    comments = "".join(f"# {note}\n" for note in notes)
    values = _values(settings) | {
        "user": f"User={files.account_name(os.geteuid())}\n",
        "target": "multi-user.target",
        "credential": _credential(settings),
        "store_credential": _credential_lines("store", settings.store.password_file),
        "loopback": _LOOPBACK_ONLY if _is_local(settings) else "",
        "sandbox": _sandbox(_store_folder(settings), *_written_folders(settings)),
        "web_sandbox": _sandbox(_store_folder(settings)),
    }
    return [
        Unit(DAEMON, comments + _DAEMON_UNIT.format_map(values)),
        Unit("skychimp-run.service", comments + _RUN_UNIT.format_map(values)),
        Unit("skychimp-run.timer", _TIMER_UNIT),
        Unit("skychimp-web.service", comments + _WEB_UNIT.format_map(values)),
    ]


def make_user_unit(settings: Settings) -> Unit:
    """Return the daemon's unit for the service manager of a user, who can read the password files anyway.

    Raises InvalidValue for a path that a unit cannot have.
    """
    values = {"user": "", "target": "default.target", "credential": "", "sandbox": _LIMITS}
    return Unit(DAEMON, _DAEMON_UNIT.format_map(_values(settings) | values))


def _values(settings: Settings) -> dict[str, object]:
    """Return what is in the units of the system and of a user."""
    return {
        "command": " ".join(_quote_for_systemd(word.replace("$", "$$")) for word in command_words(settings)),
        "stop_seconds": round(settings.smtp.dot_timeout.total_seconds()) + 60,
        "watchdog_seconds": max_silence_s(settings.daemon.interval),
    }


def _is_local(settings: Settings) -> bool:
    """Return whether `serve` talks to nobody but this machine."""
    address = settings.web.address
    return not is_on_server(settings.store_url) and (isinstance(address, str) or ip_address(address[0]).is_loopback)


def _sandbox(folder: Path, *others: Path) -> str:
    """Return the lines that restrict a service. It may write to a folder, and to others if they exist."""
    paths = [str(folder), *(f"-{other}" for other in others)]
    return _LIMITS + _SANDBOX.format(folders=" ".join(map(_quote_for_systemd, paths)))


def _written_folders(settings: Settings) -> list[Path]:
    """Return the folders outside of the store's that sending writes to."""
    metrics_file, maildir = settings.monitor.metrics_file, settings.inbound.maildir
    folders = (None if metrics_file is None else metrics_file.parent, maildir)
    return [folder.absolute() for folder in folders if folder is not None]


def _store_folder(settings: Settings) -> Path:
    """Return the folder that sending writes to: that of the store, or of the locks and the outbox."""
    url = settings.store_url
    return user_folder("data") if is_on_server(url) else store_path(url).parent


def _credential(settings: Settings) -> str:
    """Return the lines that pass the password files to the service, or "" if there are none."""
    password_files = {
        "smtp": settings.smtp.password_file,
        "store": settings.store.password_file,
        "inbound": settings.inbound.password_file,
    }
    return "".join(_credential_lines(section, file) for section, file in password_files.items())


def _credential_lines(section: str, file: Path | None) -> str:
    if file is None:
        return ""
    path = on_one_line(str(file))
    if path.endswith("\\") or path != path.strip():  # a backslash would join the line with the next one
        hint = tr("use a name without a space or a backslash at its end")
        raise InvalidValue(tr("cannot write {path} in a unit", path=shortened(path, 200)), hint)
    return (
        f"LoadCredential={section}-password:{path.replace('%', '%%')}\n"
        f"Environment=SKYCHIMP_{section.upper()}__PASSWORD_FILE=%d/{section}-password\n"
    )


def _quote_for_systemd(word: str) -> str:
    """Return a word as it is written in a unit file (systemd.service(5))."""
    word = on_one_line(word).replace("%", "%%")
    if word.isprintable() and not set(word) & set(" \"'\\"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
