"""Write the line of the crontab that runs this installation, add it to the crontab, and remove it."""

import re
import shutil

from skychimp.config.settings import Settings
from skychimp.errors import ConfigError, NotFound, SkychimpError
from skychimp.services.installing.command import command_words, on_one_line
from skychimp.services.installing.steps import RunProgram, Step, run_program
from skychimp.shell import command_line, run_hint, run_line_hint
from skychimp.translation import tr

MARK = "# skychimp service install"
"""Ends a line that we have added. The shell takes it for a comment."""

_NO_CRONTAB = re.compile("no crontab for|No such file", re.IGNORECASE)


def make_line(settings: Settings) -> str:
    """Return the line that sends due mailings every minute. Raises InvalidValue for a path that it cannot have."""
    return f"* * * * * {_escaped(command_line(*command_words(settings), '-q', 'run'))} >/dev/null"


def install_steps(settings: Settings) -> list[Step]:
    """Return the step that adds the line to the crontab of this account, in place of an older one.

    Raises ConfigError without cron, SkychimpError if the crontab cannot be read, and InvalidValue.
    """
    line = f"{make_line(settings)} {MARK}"
    others = [each for each in _read_lines() if not _is_ours(each, settings)]
    return [_write([*others, line], f"add to the crontab: {line}")]


def remove_steps(settings: Settings) -> list[Step]:
    """Return the step that removes the line. Raises NotFound if it is not there, ConfigError and SkychimpError."""
    lines = _read_lines()
    ours = [each for each in lines if _is_ours(each, settings)]
    if not ours:
        raise NotFound(tr("the crontab has no line for this installation"), run_hint("service", "install"))
    others = [each for each in lines if each not in ours]
    return [_write(others, f"remove from the crontab: {ours[0]}")]


def _is_ours(line: str, settings: Settings) -> bool:
    """Return whether a line was added for this config and store, whatever the path of the program was then."""
    arguments = _escaped(command_line(*command_words(settings)[1:], "-q", "run"))
    return line.endswith(f" {arguments} >/dev/null {MARK}")


def _escaped(command: str) -> str:
    return on_one_line(command).replace("%", r"\%")  # a plain % ends the command (crontab(5))


def _read_lines() -> list[str]:
    if shutil.which("crontab") is None:
        raise ConfigError(tr("this system has neither systemd nor cron"), tr('start "skychimp daemon" in another way'))
    done = run_program("crontab", "-l")
    if done.returncode == 0:
        return done.stdout.splitlines()
    if _NO_CRONTAB.search(done.stderr):
        return []
    # An unreadable crontab must not be taken for an empty one, which would replace it.
    raise SkychimpError(
        tr("cannot read the crontab: {partition}", partition=done.stderr.strip().partition(chr(10))[0]),
        run_line_hint("crontab", "-l"),
    )


def _write(lines: list[str], shown: str) -> Step:
    return RunProgram(("crontab", "-"), run_line_hint("crontab", "-e"), "".join(f"{line}\n" for line in lines), shown)
