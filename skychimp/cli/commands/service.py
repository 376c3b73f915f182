"""`skychimp service`: print what systemd or cron needs to run this installation."""

import getpass
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.errors import InvalidValue

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

_SANDBOX = """\
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={folder}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
"""
_DAEMON_UNIT = """\
[Unit]
Description=Skychimp: send mailings on schedule
Wants=network-online.target time-sync.target
# The clock must be right before the first mailings are sent.
After=network-online.target time-sync.target

[Service]
Type=notify
User={user}
ExecStart={command} daemon --log-format logfmt
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
WantedBy=multi-user.target
"""
_RUN_UNIT = """\
[Unit]
Description=Skychimp: send due mailings once
Wants=network-online.target time-sync.target
# The clock must be right before the first mailings are sent.
After=network-online.target time-sync.target

[Service]
Type=oneshot
User={user}
ExecStart={command} -q run
# 75: due mail is still queued, for the next run.
SuccessExitStatus=75
TimeoutStopSec={stop_seconds}
KillMode=mixed
{credential}{sandbox}"""
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


@dataclass(frozen=True)
class _Unit:
    """A unit file of systemd."""

    name: str
    text: str


@app.command(epilog="skychimp service systemd --dir /etc/systemd/system")
def systemd(
    ctx: typer.Context,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Write the units to this folder (default: stdout).", metavar="DIR")
    ] = None,
    json: Json = False,
) -> None:
    """Print systemd units.

    skychimp.service runs the daemon. skychimp-run.service with its timer can be used instead of it.
    """
    context = get_context(ctx, json)
    units = _units(context)
    if folder is not None:
        for unit in units:
            _write(folder / unit.name, unit.text)
        context.out.note(f"wrote {', '.join(unit.name for unit in units)} to {folder}")
        context.out.note("next: systemctl daemon-reload && systemctl enable --now skychimp.service")
        context.out.note("or without a daemon: systemctl enable --now skychimp-run.timer")
    if json:
        context.out.record({unit.name: unit.text for unit in units})
    elif folder is None:
        context.out.text("\n".join(f"# {unit.name}\n{unit.text}" for unit in units))


@app.command(epilog="(crontab -l; skychimp service cron) | crontab -")
def cron(ctx: typer.Context, json: Json = False) -> None:
    """Print a crontab line that sends due mailings every minute. Cron mails errors to you."""
    context = get_context(ctx, json)
    line = f"* * * * * {_escape_for_cron(shlex.join([*_command(context), '-q', 'run']))} >/dev/null"
    if json:
        context.out.record({"crontab": line})
    else:
        context.out.text(line)


def _units(context: Context) -> list[_Unit]:
    settings = context.settings
    values = {
        "command": " ".join(_quote_for_systemd(word.replace("$", "$$")) for word in _command(context)),
        "user": getpass.getuser(),
        "stop_seconds": round(settings.smtp.dot_timeout.total_seconds()) + 60,
        "watchdog_seconds": max(120, 3 * round(settings.daemon.interval.total_seconds())),
        "credential": _credential(context),
        "sandbox": _SANDBOX.format(folder=_quote_for_systemd(str(_store_folder(context)))),
    }
    return [
        _Unit("skychimp.service", _DAEMON_UNIT.format_map(values)),
        _Unit("skychimp-run.service", _RUN_UNIT.format_map(values)),
        _Unit("skychimp-run.timer", _TIMER_UNIT),
    ]


def _command(context: Context) -> list[str]:
    """Return the command line of this installation with its config and store, for any working folder."""
    program = shutil.which(sys.argv[0])
    words = [str(Path(program).absolute())] if program else [sys.executable, "-m", "skychimp"]
    config = context.settings.config_file
    return [*words, *(["--config", str(config)] if config else []), "--store", context.settings.store_url]


def _store_folder(context: Context) -> Path:
    from skychimp.store.schema import store_path

    return store_path(context.settings.store_url).parent


def _credential(context: Context) -> str:
    """Return the lines that pass the password file to the service, or "" if there is none."""
    file = context.settings.smtp.password_file
    if file is None:
        return ""
    return (
        f"LoadCredential=smtp-password:{str(file).replace('%', '%%')}\n"
        "Environment=SKYCHIMP_SMTP__PASSWORD_FILE=%d/smtp-password\n"
    )


def _quote_for_systemd(word: str) -> str:
    """Return a word as it is written in a unit file (systemd.service(5))."""
    word = word.replace("%", "%%")
    if word.isprintable() and not set(word) & set(" \"'\\"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _escape_for_cron(command: str) -> str:
    return command.replace("%", r"\%")  # a plain % ends the command (crontab(5))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidValue(f"cannot write {path}: {error.strerror}", "use --dir with a writable folder") from None
