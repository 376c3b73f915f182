"""The `skychimp service sudoers` command: print a sudoers file that lets others run Skychimp on this account."""

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from skychimp import files
from skychimp.cli.context import Context, Json, get_context
from skychimp.config import shared
from skychimp.errors import ConfigError, InvalidValue
from skychimp.text import shortened
from skychimp.translation import tr

EXAMPLE = tr("skychimp service sudoers --group team > skychimp.sudoers && visudo -cf skychimp.sudoers")

_SUDOERS = """\
# Lets others run Skychimp as {account}, and nothing else.
Defaults!{program} env_reset, !setenv, always_set_home, env_keep = "SKYCHIMP_TOKEN SKYCHIMP_PASSWORD"
{members} ALL = ({account}) NOPASSWD: NOSETENV: {program}
"""


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
        raise InvalidValue(tr("invalid name {name}", name=shortened(name)), tr("use the name of an account or a group"))
    return f"{prefix}{name}" if re.fullmatch(r"[a-z_][a-z0-9_-]*", name) else f'"{prefix}{name}"'


def _sudoers_program() -> str:
    """Return the path of the command. `python -m skychimp` is none: it finds modules in the current folder."""
    program = shutil.which(sys.argv[0]) or shutil.which(Path(sys.executable).with_name("skychimp"))
    path = str(Path(program or sys.argv[0]).absolute())
    if program is None or not re.fullmatch(r"[A-Za-z0-9_/.+@~-]+", path):
        raise InvalidValue(
            tr("sudo cannot be given {path} as the command", path=shortened(path)),
            tr("install Skychimp so that its command is in PATH"),
        )
    return path


def _require_shared() -> None:
    """Raise ConfigError unless this installation is shared. From here on, its config must say whether it is."""
    if not shared.is_shared():
        hint = tr("set service.shared = true in {own_config_name}", own_config_name=shared.own_config_name())
        raise ConfigError(tr("sudo would let others use any settings: this installation is not shared"), hint)
    shared.remember_shared()


def _warn_about_sudo(context: Context) -> None:
    """Warn if this installation is not safe to be run by others with sudo."""
    if os.geteuid() == 0:
        context.out.warn(
            tr("warning: this lets them run Skychimp as root; run it on an account that is for Skychimp only")
        )
    program = os.path.realpath(_sudoers_program())
    for path in (program, os.path.dirname(program)):
        with contextlib.suppress(OSError):
            _warn_about_place(context, path)


def _warn_about_place(context: Context, path: str) -> None:
    try:
        files.check_status(os.stat(path), path)
    except files.UnsafePlace as error:
        context.out.warn(tr("warning: {error}; install Skychimp where only root can change it", error=error))
