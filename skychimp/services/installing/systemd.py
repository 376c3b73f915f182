"""Set up the daemon as a service of systemd, of the system or of the user."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from skychimp.config.settings import Settings
from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.services.installing.marks import is_ours, mark
from skychimp.services.installing.steps import RemoveFile, RunProgram, Step, WriteFile
from skychimp.services.installing.units import DAEMON, make_units, make_user_unit
from skychimp.shell import run_hint, run_line_hint
from skychimp.translation import tr

BOOTED = Path("/run/systemd/system")
"""It exists if systemd runs this system (sd_booted(3))."""

SYSTEM_UNITS = Path("/etc/systemd/system")
COMMENT = "#"

LINGERING = Path("/var/lib/systemd/linger")
"""Has a file for each account whose services run while it is not logged in."""


def is_running() -> bool:
    """Return whether systemd runs this system."""
    return BOOTED.is_dir() and shutil.which("systemctl") is not None


def install_steps(settings: Settings, *, user: bool) -> list[Step]:
    """Return the steps that start the daemon now and with the system, or with the user.

    Raises InvalidValue if only root could do that, or for a path that a unit cannot have, and Conflict if there is a
    unit of this name that is not ours.
    """
    _require_root(user)
    path = unit_path(user=user)
    _require_ours(path)
    unit = make_user_unit(settings) if user else make_units(settings)[0]
    commands = (("daemon-reload",), ("enable", DAEMON), ("restart", DAEMON))
    return [WriteFile(path, mark(unit.text, COMMENT)), *_systemctl(user, *commands)]


def remove_steps(*, user: bool) -> list[Step]:
    """Return the steps that undo `install_steps`.

    Raises NotFound if there is no unit, InvalidValue if only root could remove it, and Conflict if it is not ours.
    """
    path = unit_path(user=user)
    if not os.path.lexists(path):
        raise NotFound(tr("{path} not found", path=path), run_hint("service", "install"))
    _require_root(user)
    _require_ours(path)
    return [*_systemctl(user, ("disable", "--now", DAEMON)), RemoveFile(path), *_systemctl(user, ("daemon-reload",))]


def unit_path(*, user: bool) -> Path:
    """Return the path of the daemon's unit."""
    if not user:
        return SYSTEM_UNITS / DAEMON
    config = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(config) if os.path.isabs(config) else Path.home() / ".config") / "systemd/user" / DAEMON


def is_lingering(account: str) -> bool:
    """Return whether an account's services run while it is not logged in."""
    return (LINGERING / account).exists()


def _require_root(user: bool) -> None:
    """Raise InvalidValue if a service of the system is to be changed and we are not root."""
    if not user and os.geteuid() != 0:
        raise InvalidValue(
            tr("only root can set up a service of the system"), tr("use --user for a service of your account")
        )


def _require_ours(path: Path) -> None:
    """Raise Conflict if there is a unit that we did not write, or that was changed since."""
    if os.path.lexists(path) and not is_ours(path, COMMENT):
        backup = path.with_name(f"{path.name}.old")
        raise Conflict(
            tr("{path} was not written by Skychimp, or was changed since", path=path), run_line_hint("mv", path, backup)
        )


def _systemctl(user: bool, *commands: Sequence[str]) -> list[Step]:
    program = ("systemctl", "--user") if user else ("systemctl",)
    journal = run_line_hint("journalctl", "--user-unit" if user else "--unit", DAEMON)
    return [RunProgram((*program, *command), journal) for command in commands]
