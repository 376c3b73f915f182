"""`skychimp service`: what systemd or cron needs to run this installation."""

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

app = typer.Typer(no_args_is_help=True, help="What systemd or cron needs.", rich_markup_mode="rich")

HARDENED = """\
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
DAEMON = """\
[Unit]
Description=Skychimp: mailings, sent on schedule
Wants=network-online.target time-sync.target
# Due times are this machine's: its clock is to be right before the first look.
After=network-online.target time-sync.target

[Service]
Type=notify
User={user}
ExecStart={command} daemon --log-format logfmt
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=10
# A wrong config stays wrong: 2 and 3 want a person.
RestartPreventExitStatus=2 3
# Several looks for due mail.
WatchdogSec={watchdog_seconds}
# Longer than the server may take to answer a letter's final dot.
TimeoutStopSec={stop_seconds}
KillMode=mixed
{credential}{hardened}
[Install]
WantedBy=multi-user.target
"""
RUN = """\
[Unit]
Description=Skychimp: send what is due, once
Wants=network-online.target time-sync.target
# Due times are this machine's: its clock is to be right before the first look.
After=network-online.target time-sync.target

[Service]
Type=oneshot
User={user}
ExecStart={command} -q run
# 75: mail is left for the next time.
SuccessExitStatus=75
TimeoutStopSec={stop_seconds}
KillMode=mixed
{credential}{hardened}"""
TIMER = """\
[Unit]
Description=Skychimp: send what is due, every minute

[Timer]
OnCalendar=minutely
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
"""


@dataclass(frozen=True)
class _Unit:
    name: str
    text: str


@app.command(epilog="skychimp service systemd --dir /etc/systemd/system")
def systemd(
    ctx: typer.Context,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Write them there; to stdout otherwise.", metavar="DIR")
    ] = None,
    json: Json = False,
) -> None:
    """Print the units: skychimp.service, the daemon; or instead skychimp-run.service with its timer."""
    context = get_context(ctx, json)
    units = _units(context)
    if folder is not None:
        for unit in units:
            _write(folder / unit.name, unit.text)
        context.out.note(f"wrote {', '.join(unit.name for unit in units)} to {folder}")
        context.out.note("next: systemctl daemon-reload && systemctl enable --now skychimp.service")
        context.out.note("or, without a daemon: systemctl enable --now skychimp-run.timer")
    if json:
        context.out.one({unit.name: unit.text for unit in units})
    elif folder is None:
        context.out.text("\n".join(f"# {unit.name}\n{unit.text}" for unit in units))


@app.command(epilog="(crontab -l; skychimp service cron) | crontab -")
def cron(ctx: typer.Context, json: Json = False) -> None:
    """Print the crontab line: every minute, what is due; errors are mailed by cron."""
    context = get_context(ctx, json)
    line = f"* * * * * {_for_cron(shlex.join([*_command(context), '-q', 'run']))} >/dev/null"
    if json:
        context.out.one({"crontab": line})
    else:
        context.out.text(line)


def _units(context: Context) -> list[_Unit]:
    settings = context.settings
    values = {
        "command": " ".join(_for_systemd(word.replace("$", "$$")) for word in _command(context)),
        "user": getpass.getuser(),
        "stop_seconds": round(settings.smtp.dot_timeout.total_seconds()) + 60,
        "watchdog_seconds": max(120, 3 * round(settings.daemon.interval.total_seconds())),
        "credential": _credential(context),
        "hardened": HARDENED.format(folder=_for_systemd(str(_store_folder(context)))),
    }
    return [
        _Unit("skychimp.service", DAEMON.format_map(values)),
        _Unit("skychimp-run.service", RUN.format_map(values)),
        _Unit("skychimp-run.timer", TIMER),
    ]


def _command(context: Context) -> list[str]:
    """This very installation, config and store, wherever it is started."""
    program = shutil.which(sys.argv[0])
    called = [str(Path(program).absolute())] if program else [sys.executable, "-m", "skychimp"]
    config = context.settings.config_file
    return [*called, *(["--config", str(config)] if config else []), "--store", context.settings.store_url]


def _store_folder(context: Context) -> Path:
    from skychimp.store.schema import store_path

    return store_path(context.settings.store_url).parent


def _credential(context: Context) -> str:
    file = context.settings.smtp.password_file
    if file is None:
        return ""
    return (
        f"LoadCredential=smtp-password:{str(file).replace('%', '%%')}\n"
        "Environment=SKYCHIMP_SMTP__PASSWORD_FILE=%d/smtp-password\n"
    )


def _for_systemd(word: str) -> str:
    """A word of a unit file: specifiers doubled, and quoted where it has to be (systemd.service(5))."""
    word = word.replace("%", "%%")
    if word.isprintable() and not set(word) & set(" \"'\\"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _for_cron(command: str) -> str:
    return command.replace("%", r"\%")  # crontab(5): a bare one ends the command


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidValue(
            f"{path} can't be written: {error.strerror}", "name a folder that you may write to"
        ) from None
