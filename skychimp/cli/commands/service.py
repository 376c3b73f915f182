"""`skychimp service`: print what systemd, cron, sudo and web servers need for this installation."""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skychimp import files
from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.output_file import Force, write_generated_files
from skychimp.config import shared
from skychimp.errors import ConfigError, InvalidValue
from skychimp.shell import command_line
from skychimp.text import has_control_character, shortened

if TYPE_CHECKING:
    from skychimp.config.settings import Settings

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

_SANDBOX = """\
# Less than 100 MB are used with a million clients. The rest is for many large messages at the same time.
MemoryMax=1G
# Up to 35 threads and two processes.
TasksMax=64
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
_WEB_UNIT = """\
[Unit]
Description=Skychimp: answer unsubscribe links on the web
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={user}
ExecStart={command} serve --log-format logfmt
Restart=on-failure
RestartSec=10
# A restart does not help if the command line or the configuration is invalid.
RestartPreventExitStatus=2 3
# Requests that have come are answered first.
TimeoutStopSec=30
# For a socket such as unix:/run/skychimp/web.sock. The web server must be in the group of the user.
RuntimeDirectory=skychimp
RuntimeDirectoryMode=0750
{store_credential}{sandbox}ProcSubset=pid
ProtectProc=invisible
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


_SUDOERS = """\
# Lets others run Skychimp as {account}, and nothing else.
Defaults!{program} env_reset, !setenv, always_set_home, env_keep = "SKYCHIMP_TOKEN SKYCHIMP_PASSWORD"
{members} ALL = ({account}) NOPASSWD: NOSETENV: {program}
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
    force: Force = False,
    json: Json = False,
) -> None:
    """Print systemd units.

    skychimp.service runs the daemon. skychimp-run.service with its timer can be used instead of it.
    skychimp-web.service answers unsubscribe links.
    """
    context = get_context(ctx, json)
    missing = _missing_variables(context, carried=("smtp.password_file", "store.password_file"))
    units = _units(context, missing)
    if folder is not None:
        texts = {unit.name: unit.text for unit in units}
        write_generated_files(context, folder, texts, comment="#", force=force)
        context.out.note(f"wrote {', '.join(unit.name for unit in units)} to {folder}")
        context.out.note("next: systemctl daemon-reload && systemctl enable --now skychimp.service")
        context.out.note("or without a daemon: systemctl enable --now skychimp-run.timer")
        context.out.note("for unsubscribe links: systemctl enable --now skychimp-web.service")
    if json:
        context.out.record({unit.name: unit.text for unit in units})
    elif folder is None:
        context.out.text("\n".join(f"# {unit.name}\n{unit.text}" for unit in units))


@app.command(epilog="(crontab -l; skychimp service cron) | crontab -")
def cron(ctx: typer.Context, json: Json = False) -> None:
    """Print a crontab line that sends due mailings every minute. Cron mails errors to you."""
    context = get_context(ctx, json)
    missing = _missing_variables(context)
    line = f"* * * * * {_escape_for_cron(command_line(*_command(context), '-q', 'run'))} >/dev/null"
    if json:
        context.out.record({"crontab": line})
    else:
        context.out.text("".join(f"# {text}\n" for text in missing) + line)


@app.command(epilog="skychimp service web > /etc/nginx/snippets/skychimp.conf")
def web(
    ctx: typer.Context,
    server: Annotated[
        Literal["nginx", "caddy", "postgres"], typer.Option("--for", help="What to print it for.")
    ] = "nginx",
    role: Annotated[str, typer.Option(help="Role for --for postgres.", metavar="ROLE")] = "skychimp_web",
    json: Json = False,
) -> None:
    """Print what nginx or Caddy needs to pass requests on to [bold]skychimp serve[/bold].

    [bold]--for postgres[/bold] prints the rights of the role with which it should use a store in PostgreSQL.
    """
    context = get_context(ctx, json)
    text = "\n".join(_grants(role)) if server == "postgres" else _proxy_file(context, server)
    if json:
        context.out.record({server: text})
    else:
        context.out.text(text.rstrip("\n"))


def _grants(role: str) -> list[str]:
    from skychimp.store import web_rights

    if not role or has_control_character(role):
        raise InvalidValue(f"invalid name {shortened(role)}", "use the name of a role")
    return web_rights.grants(role)


def _proxy_file(context: Context, server: str) -> str:
    from skychimp.web import proxy_files

    settings = context.settings.web
    if settings.url is None:
        raise ConfigError("web.url is not set", "set web.url to the public https URL for unsubscribe links")
    return (proxy_files.caddy if server == "caddy" else proxy_files.nginx)(settings.url, settings)


@app.command(epilog="skychimp service sudoers --group team > skychimp.sudoers && visudo -cf skychimp.sudoers")
def sudoers(
    ctx: typer.Context,
    group: Annotated[
        list[str] | None, typer.Option(help="Who may run it: a group (default: skychimp).", metavar="GROUP")
    ] = None,
    user: Annotated[list[str] | None, typer.Option(help="Who may run it: a user.", metavar="USER")] = None,
    json: Json = False,
) -> None:
    """Print a sudoers file that lets others run Skychimp on this account.

    The config must say `service.shared = true` first. --group and --user can be repeated. Everyone needs a login of
    their own. See `skychimp help accounts`.
    """
    context = get_context(ctx, json)
    groups = group or ([] if user else ["skychimp"])
    text = _sudoers_text(groups, user or [])
    _require_shared()
    _warn_about_sudo(context)
    if json:
        context.out.record({"sudoers": text})
    else:
        context.out.text(text.rstrip("\n"))


def _sudoers_text(groups: list[str], users: list[str]) -> str:
    """Return the sudoers file. Raises InvalidValue for a name or a path that it cannot have."""
    members = [_sudoers_name(name, prefix="%") for name in groups] + [_sudoers_name(name) for name in users]
    account = _sudoers_name(files.account_name(os.geteuid()))
    return _SUDOERS.format(members=", ".join(members), account=account, program=_sudoers_program())


def _sudoers_name(name: str, *, prefix: str = "") -> str:
    """Return the name of an account or, with the prefix `%`, of a group, as it is written in sudoers(5)."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_ .@+-]*\$?", name) or name == "ALL":
        raise InvalidValue(f"invalid name {shortened(name)}", "use the name of an account or a group")
    return f"{prefix}{name}" if re.fullmatch(r"[a-z_][a-z0-9_-]*", name) else f'"{prefix}{name}"'


def _sudoers_program() -> str:
    """Return the path of the command. `python -m skychimp` is none: it finds modules in the current folder."""
    program = shutil.which(sys.argv[0]) or shutil.which(Path(sys.executable).with_name("skychimp"))
    path = str(Path(program or sys.argv[0]).absolute())
    if program is None or not re.fullmatch(r"[A-Za-z0-9_/.+@~-]+", path):
        raise InvalidValue(
            f"sudo cannot be given {shortened(path)} as the command", "install Skychimp so that its command is in PATH"
        )
    return path


def _require_shared() -> None:
    """Raise ConfigError unless this installation is shared. From here on, its config must say whether it is."""
    if not shared.is_shared():
        hint = f"set service.shared = true in {shared.own_config_name()}"
        raise ConfigError("sudo would let others use any settings: this installation is not shared", hint)
    shared.remember_shared()


def _warn_about_sudo(context: Context) -> None:
    """Warn if this installation is not safe to be run by others with sudo."""
    if os.geteuid() == 0:
        context.out.warn("warning: this lets them run Skychimp as root; run it on an account that is for Skychimp only")
    program = os.path.realpath(_sudoers_program())
    for path in (program, os.path.dirname(program)):
        with contextlib.suppress(OSError):
            _warn_about_place(context, path)


def _warn_about_place(context: Context, path: str) -> None:
    try:
        files.check_status(os.stat(path), path)
    except files.UnsafePlace as error:
        context.out.warn(f"warning: {error}; install Skychimp where only root can change it")


def _missing_variables(context: Context, carried: Sequence[str] = ()) -> list[str]:
    """Return a line for each variable of the environment that the service would lack, and show them on stderr.

    `carried` are settings that it gets otherwise.
    """
    from skychimp.config import sources

    names = [sources.variable(each) for each in sources.only_in_environment(context.settings) if each not in carried]
    lines = [f"{name} is only in your environment; the service does not have it" for name in names]
    for line in lines:
        context.out.warn(f"warning: {line}")
    if lines:
        config = context.settings.config_file
        context.out.note(f"hint: set {'it' if len(lines) == 1 else 'them'} in {config or 'a config file'}")
    return lines


def _units(context: Context, missing: Sequence[str]) -> list[_Unit]:
    settings = context.settings
    values = {
        "command": " ".join(_quote_for_systemd(word.replace("$", "$$")) for word in _command(context)),
        "user": files.account_name(os.geteuid()),
        "stop_seconds": round(settings.smtp.dot_timeout.total_seconds()) + 60,
        "watchdog_seconds": max(120, 3 * round(settings.daemon.interval.total_seconds())),
        "credential": _credential(context),
        "store_credential": _credential_lines("store", settings.store.password_file),
        "loopback": _LOOPBACK_ONLY if _is_local(settings) else "",
        "sandbox": _SANDBOX.format(folder=_quote_for_systemd(str(_store_folder(context)))),
    }
    comments = "".join(f"# {text}\n" for text in missing)
    return [
        _Unit("skychimp.service", comments + _DAEMON_UNIT.format_map(values)),
        _Unit("skychimp-run.service", comments + _RUN_UNIT.format_map(values)),
        _Unit("skychimp-run.timer", _TIMER_UNIT),
        _Unit("skychimp-web.service", comments + _WEB_UNIT.format_map(values)),
    ]


def _is_local(settings: "Settings") -> bool:
    """Return whether `serve` talks to nobody but this machine."""
    from ipaddress import ip_address

    from skychimp.store.schema import is_on_server

    address = settings.web.address
    return not is_on_server(settings.store_url) and (isinstance(address, str) or ip_address(address[0]).is_loopback)


def _command(context: Context) -> list[str]:
    """Return the command line of this installation with its config and store, for any working folder."""
    program = shutil.which(sys.argv[0])
    words = [str(Path(program).absolute())] if program else [sys.executable, "-m", "skychimp"]
    config = context.settings.config_file
    return [*words, *(["--config", str(config)] if config else []), *_store_words(context)]


def _store_words(context: Context) -> list[str]:
    """Return the option that names the store. A server that the config names is left to it, as is a password."""
    from skychimp.config import config_file, sources
    from skychimp.config.locations import hide_password
    from skychimp.store.schema import is_on_server

    url, config = context.settings.store_url, context.settings.config_file
    if not is_on_server(url):
        return ["--store", url]
    in_config = {} if config is None else sources.file_values(config_file.read_files(config))
    if in_config.get("store.url") == context.settings.store.url:
        return []
    if hide_password(url) != url:
        raise InvalidValue(
            "the store's URL has a password, which others would see on the command line", "set store.url in the config"
        )
    return ["--store", url]


def _store_folder(context: Context) -> Path:
    """Return the folder that sending writes to: that of the store, or of the locks and the outbox."""
    from skychimp.config.locations import user_folder
    from skychimp.store.schema import is_on_server, store_path

    url = context.settings.store_url
    return user_folder("data") if is_on_server(url) else store_path(url).parent


def _credential(context: Context) -> str:
    """Return the lines that pass the password files to the service, or "" if there are none."""
    settings = context.settings
    return _credential_lines("smtp", settings.smtp.password_file) + _credential_lines(
        "store", settings.store.password_file
    )


def _credential_lines(section: str, file: Path | None) -> str:
    if file is None:
        return ""
    path = _on_one_line(str(file))
    if path.endswith("\\") or path != path.strip():  # a backslash would join the line with the next one
        hint = "use a name without a space or a backslash at its end"
        raise InvalidValue(f"cannot write {shortened(path, 200)} in a unit", hint)
    return (
        f"LoadCredential={section}-password:{path.replace('%', '%%')}\n"
        f"Environment=SKYCHIMP_{section.upper()}__PASSWORD_FILE=%d/{section}-password\n"
    )


def _quote_for_systemd(word: str) -> str:
    """Return a word as it is written in a unit file (systemd.service(5))."""
    word = _on_one_line(word).replace("%", "%%")
    if word.isprintable() and not set(word) & set(" \"'\\"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _escape_for_cron(command: str) -> str:
    return _on_one_line(command).replace("%", r"\%")  # a plain % ends the command (crontab(5))


def _on_one_line(text: str) -> str:
    """Return a text that is put on a line of a crontab or a unit. Raises InvalidValue if it would end the line."""
    if has_control_character(text):
        hint = "use paths without line breaks and control characters"
        raise InvalidValue(f"cannot write {shortened(text, 200)} on one line", hint)
    return text
