"""Protect a shared installation from the people who run it with sudo.

An installation is shared if the config file in the account's own config folder says `service.shared = true`. Whoever
then runs Skychimp on that account with sudo, and is neither root nor in `service.operators`, is restricted: settings
come from that folder only, and what only the account itself may do is refused. So they cannot make Skychimp use another
store or mail server, or start a program of theirs with the rights of the account.

Callers are known by SUDO_UID and SUDO_USER, which sudo sets. They cannot change these unless sudo lets them set
variables (SETENV), and then they could run any program anyway. `skychimp service sudoers` prints a rule that does not.
The account's own folders are those in its home in the password database, whatever the environment says.

A file in the account's state folder remembers that the installation is shared. Then its config must go on saying
whether it is: a file that is missing, or that an editor is just writing, would open it to everybody.
"""

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from skychimp.config.locations import FILE_NAME
from skychimp.errors import ConfigError, Denied
from skychimp.translation import Phrase, tr

_NOT_SETTINGS = frozenset({"SKYCHIMP_TOKEN", "SKYCHIMP_PASSWORD"})
_FOLDERS = {
    "HOME": "",
    "XDG_CACHE_HOME": ".cache",
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
}
"""Variables that name a folder with our files, and the folder below the home that they name by default."""

_CONFIG_FOLDER, _STATE_FOLDER = (
    ("Library/Application Support",) * 2 if sys.platform == "darwin" else (".config", ".local/state")
)
_KEPT = _NOT_SETTINGS | {
    *("HOME", "SUDO_COMMAND", "SUDO_GID", "SUDO_UID", "SUDO_USER", "TZ"),
    *("COLORTERM", "COLUMNS", "LINES", "NO_COLOR", "TERM", "LANG", "LANGUAGE"),
    *("COMP_CWORD", "COMP_WORDS", "_SKYCHIMP_COMPLETE", "_TYPER_COMPLETE_ARGS", "_TYPER_COMPLETE_FISH_ACTION"),
}
"""The variables that restricted callers may pass, besides LC_*. All others are dropped.

Many name programs and files that libraries use: PATH, PAGER, SSL_CERT_FILE, SSLKEYLOGFILE, OPENSSL_CONF, TMPDIR ...
"""


class Caller(NamedTuple):
    """The person who runs Skychimp on this account with sudo. `uid` is -1 if sudo's variable is not a number."""

    uid: int
    name: str


class Restriction(NamedTuple):
    """A caller of a shared installation who is not one of its operators, and the config file that says so."""

    caller: Caller
    config_file: Path

    def denied(self, action: Phrase, instead: Phrase | None = None) -> Denied:
        """Return the error for something that the caller may not do, such as "use --store"."""
        ask = tr(
            'ask the operator to add "{name}" to service.operators in {config_file}',
            name=self.caller.name,
            config_file=self.config_file,
        )
        message = tr("{name} may not {action} in this shared installation", name=self.caller.name, action=action)
        return Denied(
            message, tr("{instead}, or {ask_operator}", instead=instead, ask_operator=ask) if instead else ask
        )


def find_caller(environ: Mapping[str, str] = os.environ) -> Caller | None:
    """Return who runs this with sudo. None without sudo, and for the account itself."""
    value = environ.get("SUDO_UID")
    if value is None:
        return None
    uid = int(value) if value.isascii() and value.isdecimal() and len(value) <= 10 else -1
    if uid == os.geteuid():
        return None
    return Caller(uid, environ.get("SUDO_USER") or _account_name(uid))


def find_restriction(environ: Mapping[str, str] = os.environ) -> Restriction | None:
    """Return the restriction of the person who runs this with sudo, or None if everything is allowed.

    Raises ConfigError if the account's own config file cannot be read: it may say that the installation is shared. So
    it does if the file says nothing about it any more.
    """
    caller, file = find_caller(environ), own_config_file()
    if caller is None or caller.uid == 0 or file is None:  # root can become the account in other ways
        return None
    names = {caller.name, _account_name(caller.uid)} if caller.uid >= 0 else set()
    return Restriction(caller, file) if is_restricted(names, _read_service_section(file)) else None


def is_restricted(names: set[str], service: Mapping[str, Any]) -> bool:
    """Return whether a caller with these names is restricted by the section `service` of the account's own config."""
    operators = service.get("operators")
    is_operator = isinstance(operators, list) and any(name in operators for name in names)
    return _says_shared(service) and not is_operator


def is_shared() -> bool:
    """Return whether the account's own config says that this installation is shared. Raises ConfigError."""
    file = own_config_file()
    return file is not None and _says_shared(_read_service_section(file))


def remember_shared() -> None:
    """Remember that this installation is shared, if the account's state folder can be written."""
    from skychimp import files

    reminder = _reminder()
    if reminder is not None and not os.path.lexists(reminder):
        with suppress(OSError):
            files.make_folder(reminder.parent)
            files.write_file(reminder, b"")


def own_config_file() -> Path | None:
    """Return the path of the config file in the account's own config folder, None if the account has no home."""
    home = _own_home()
    return home and home / _CONFIG_FOLDER / "skychimp" / FILE_NAME


def own_config_name() -> str:
    """Return what to call the config file in the account's own config folder: its path, if the account has a home."""
    file = own_config_file()
    return str(file) if file is not None else tr("the config file in the home of this account")


def restrict_environment(environ: MutableMapping[str, str]) -> None:
    """Check and clean the environment of a restricted caller, before anything is read from it.

    Raises Denied for a setting in it, for a folder that is not the account's own, and for a config file in the current
    folder. All other variables that the caller may not pass are dropped.
    """
    restriction, home = find_restriction(environ), _own_home()
    if restriction is None or home is None:
        return
    remember_shared()
    refused, kept = next(refused_variables(environ, home), None), kept_variables(environ)
    environ.clear()  # also before an error, which may be recorded in the store
    environ.update(kept | {"HOME": str(home), "LESSSECURE": "1"})
    if refused is not None:
        raise restriction.denied(tr("set {variable}", variable=refused), tr("unset {variable}", variable=refused))
    if _has_other_config(restriction.config_file):
        raise restriction.denied(
            tr("use the {file_name} of the current folder", file_name=FILE_NAME), tr("change to another folder")
        )


def refused_variables(environ: Mapping[str, str], home: Path) -> Iterator[str]:
    """Yield the variables that are settings, or that name a folder other than the account's own.

    An empty variable counts as unset.
    """
    for variable, value in environ.items():
        if variable in _FOLDERS:
            is_refused = not _is_same(value, home / _FOLDERS[variable])
        else:
            is_refused = variable.startswith("SKYCHIMP_") and variable not in _NOT_SETTINGS
        if value and is_refused:
            yield variable


def kept_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a restricted caller may pass."""
    return {name: value for name, value in environ.items() if name in _KEPT or name.startswith("LC_")}


def check_options(*, config: object, store: object, environ: Mapping[str, str] = os.environ) -> None:
    """Raise Denied if a restricted caller gives one of the options `--config` and `--store`, and ConfigError."""
    for option, value in (("--config", config), ("--store", store)):
        if value is not None:
            require_operator(
                tr("use {option}", option=option), tr("leave {option} out", option=option), environ=environ
            )


def require_operator(action: Phrase, instead: Phrase | None = None, *, environ: Mapping[str, str] = os.environ) -> None:
    """Raise Denied if a restricted caller tries something that only the account itself and its operators may do.

    `action` is what they try, such as "use --operator", and `instead` what they can do. Raises ConfigError.
    """
    restriction = find_restriction(environ)
    if restriction is not None:
        raise restriction.denied(action, instead)


def _account_name(uid: int) -> str:
    from skychimp import files

    return files.account_name(uid)


def _own_home() -> Path | None:
    import pwd

    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return None
    return Path(home) if os.path.isabs(home) else None


def _reminder() -> Path | None:
    """Return the path of the file that remembers that this installation is shared, None without a home."""
    home = _own_home()
    return home and home / _STATE_FOLDER / "skychimp/shared"


def _says_shared(service: Mapping[str, Any]) -> bool:
    """Return whether a section `service` says that its installation is shared.

    So does a value that is not valid, because that is safe.
    """
    shared = service.get("shared", False)
    return shared is not False and shared != "false"


def _read_service_section(file: Path) -> Mapping[str, Any]:
    """Return the section `service` of the account's own config.

    Raises ConfigError if the file cannot be read, or if it does not say whether an installation is still shared.
    """
    section = _read_toml(file).get("service", {})
    if not isinstance(section, dict):
        return {"shared": section}
    reminder = _reminder()
    if "shared" not in section and reminder is not None and os.path.lexists(reminder):
        message = tr("this installation was shared, and {file} does not say whether it still is", file=file)
        raise ConfigError(message, tr("set service.shared to true or false in {file}", file=file))
    return section


def _read_toml(file: Path) -> Mapping[str, Any]:
    import tomllib

    from skychimp.config import checked_files

    try:
        data = checked_files.read_bytes(file, tr("let this account read it"))
        return tomllib.loads(data.decode("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError) as error:
        raise ConfigError(tr("{file} is not valid TOML: {error}", file=file, error=error)) from None


def _has_other_config(own_file: Path) -> bool:
    return os.path.lexists(FILE_NAME) and not _is_same(FILE_NAME, own_file)


def _is_same(path: str, own: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(own)
