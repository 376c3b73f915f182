"""Find the config file that is used, and read it and the .env beside it.

A config that is named by an option or by $SKYCHIMP_CONFIG is used, and so is the one in the user's config folder. One
in the current folder is used only if it is trusted. All of them are refused if somebody else can change them.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from skychimp.config import checked_files, trust
from skychimp.config.locations import FILE_NAME, user_folder
from skychimp.config.trust import ConfigFiles
from skychimp.errors import ConfigError
from skychimp.shell import run_hint
from skychimp.translation import Phrase, tr


class UntrustedConfig(NamedTuple):
    """A config file in the current folder that is not trusted."""

    path: Path
    read: ConfigFiles | None
    """What is trusted if the user agrees, None if it cannot be trusted."""

    problem: Phrase | None
    """Why it cannot be trusted as it is, None if it can."""

    instead: Path | None
    """The config file that is used in its place, None if there is no other."""


AskTrust = Callable[[UntrustedConfig], bool]
"""Called with a config that is not trusted. Returns whether the user trusts it from now on."""


def ignore_untrusted(_: UntrustedConfig) -> bool:
    """Use another config in place of one that is not trusted, without a word."""
    return False


def find_config_file(
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    ask_trust: AskTrust = ignore_untrusted,
) -> Path:
    """Return the path of the config file, which may not exist: `init` creates it there.

    It is the given file, else $SKYCHIMP_CONFIG, else skychimp.toml in the current folder if it is trusted, else the one
    in the user's config folder. Raises ConfigError.
    """
    named = _named(config_file, environ)
    if named is not None:
        return named
    usual = usual_config_file()
    if not os.path.lexists(FILE_NAME) or _is_same_folder(usual.parent):
        return usual
    here = Path(FILE_NAME).absolute()
    return here if trust.find(here) or _ask_and_trust(here, usual, ask_trust) else usual


def usual_config_file() -> Path:
    """Return the path of the config file in the user's config folder. It may not exist."""
    return user_folder("config") / FILE_NAME


def read_config(
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    ask_trust: AskTrust = ignore_untrusted,
    *,
    must_exist: bool = True,
) -> ConfigFiles:
    """Find and read the config file and the .env beside it.

    With `must_exist`, a file that is named by an option or by the environment must exist. Raises ConfigError, also if
    the config was trusted and has changed since.
    """
    path = find_config_file(config_file, environ, ask_trust)
    read = read_files(path)
    named = _named(config_file, environ)
    if named is None and path != usual_config_file():
        trust.require_unchanged(read)
    elif named is not None and read.config is None and must_exist:
        hint = tr("{hint} to create it", hint=run_hint("init", "--email", "YOU@EXAMPLE.ORG"))
        raise ConfigError(tr("config file {path} not found", path=path), hint)
    return read


def read_files(path: Path) -> ConfigFiles:
    """Read a config file and the .env beside it, which is left out if the config does not exist.

    /dev/null stands for no config file. Raises ConfigError for a file that others can change, or that cannot be read.
    """
    if str(path) == os.devnull:
        return ConfigFiles(path, b"", None)
    config = _read(path, "use another file with --config FILE")
    read = ConfigFiles(path, config, None)
    if config is None or os.path.isdir(read.env_path):  # a folder of this name is somebody's virtual environment
        return read
    return read._replace(env=_read(read.env_path, "let your account read it, or delete it"))


def _named(config_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the config file that an option or the environment names."""
    if config_file is not None:
        return config_file.absolute()
    variable = environ.get("SKYCHIMP_CONFIG")
    return Path(os.path.expanduser(variable)).absolute() if variable else None


def _is_same_folder(folder: Path) -> bool:
    return os.path.realpath(folder) == os.path.realpath(".")


def _ask_and_trust(here: Path, usual: Path, ask_trust: AskTrust) -> bool:
    """Return whether the user trusts a config from now on, as it was shown. One that changes meanwhile is refused."""
    untrusted = _read_untrusted(here, usual if os.path.lexists(usual) else None)
    if not ask_trust(untrusted) or untrusted.read is None:
        return False
    trust.trust(untrusted.read)
    return True


def _read_untrusted(here: Path, instead: Path | None) -> UntrustedConfig:
    try:
        read = read_files(here)
    except ConfigError as error:
        return UntrustedConfig(here, None, error.message, instead)
    if read.config is None:
        return UntrustedConfig(here, None, f"{here} does not exist any more", instead)
    return UntrustedConfig(here, read, None, instead)


def _read(path: Path, hint: Phrase) -> bytes | None:
    try:
        return checked_files.read_bytes(path, hint)
    except (FileNotFoundError, NotADirectoryError):
        return None
