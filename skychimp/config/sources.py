"""Read the settings from their sources.

From the strongest to the weakest: command line, environment, .env file, config file. A setting that none of them has
gets its default.
"""

import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from pydantic import ValidationError

from skychimp.config.locations import database_url, hide_password, user_folder
from skychimp.config.settings import SECTIONS, Settings
from skychimp.errors import ConfigError
from skychimp.text import did_you_mean, shortened

FILE_NAME = "skychimp.toml"

RENAMED_SETTINGS = {"smtp.letters_per_connection": "smtp.emails_per_connection"}
"""Old names of settings, which are still accepted, and their new ones."""

_PATHS = {"store.url", "smtp.password_file", "smtp.ca_file"}
_ENVIRONMENT = "the environment"
_LIST_HINT = 'run "skychimp help config" for all settings'
_OUR_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>SKYCHIMP_\w+)\s*(?P<equals>=?)")


class _Value(NamedTuple):
    """The value of a setting as one source has it, not checked yet. `source` describes the source in errors."""

    setting: str
    value: Any
    source: str


def load_settings(
    flags: Mapping[str, str] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Return the settings from all sources.

    `flags` maps names such as `store.url` to values from the command line. `config_file` must exist if it is given.
    Raises ConfigError for a file that cannot be read, an unknown setting, or an invalid value.
    """
    path = find_config_file(config_file, environ)
    text = _read(path, is_required=bool(config_file or environ.get("SKYCHIMP_CONFIG")))
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    sources: dict[str, str] = {}
    for setting, value, source in _values(path, text, environ, flags or {}):
        section, _, key = setting.partition(".")
        sections[section][key] = value
        sources[setting] = source
    try:
        return Settings.model_validate({**sections, "config_file": path if text is not None else None})
    except ValidationError as error:
        raise _config_error(error, sources) from None


def load_store_url(
    flags: Mapping[str, str] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Return only the store's URL, without the time to check all settings. Raises ConfigError."""
    path = find_config_file(config_file, environ)
    values = _values(path, _read(path, is_required=False), environ, flags or {})
    return database_url({setting: value for setting, value, _ in values}.get("store.url"))


def find_config_file(config_file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the config file, which may not exist: `init` creates it there.

    It is the given file, else $SKYCHIMP_CONFIG, else skychimp.toml in the current folder if there is one, else the one
    in the user's config folder.
    """
    given = config_file or (environ.get("SKYCHIMP_CONFIG") and os.path.expanduser(environ["SKYCHIMP_CONFIG"]))
    if given or os.path.lexists(FILE_NAME):
        return Path(given or FILE_NAME).absolute()
    return user_folder("config") / FILE_NAME


def resolve_path(setting: str, value: Any, folder: Path = Path()) -> Any:
    """Return the value of a setting; a path becomes absolute, relative to the given folder."""
    if setting not in _PATHS or not isinstance(value, str) or not value:
        return value
    if match := re.fullmatch(r"sqlite:///(?!:memory:)([^?]+)", value):
        value = unquote(match[1])
    elif "://" in value:
        return value
    return str((folder / os.path.expanduser(value)).absolute())


def _values(path: Path, text: str | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Iterator[_Value]:
    """Yield the values of all sources, the weakest source first."""
    if text is not None:
        yield from _from_file(path, text)
    env_file = next((file for file in (path.with_name(".env"), Path(".env")) if os.path.isfile(file)), None)
    if env_file is not None:
        env_file = env_file.absolute()
        yield from _from_variables(_read_env_file(env_file), str(env_file), env_file.parent)
    yield from _from_variables(environ, _ENVIRONMENT, Path())
    for setting, value in flags.items():
        yield _Value(setting, resolve_path(setting, value), "the command line")


def _from_file(path: Path, text: str) -> Iterator[_Value]:
    import tomllib

    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    known = _setting_names()
    for section, keys in tree.items():
        if not isinstance(keys, dict):
            sections = ", ".join(f"[{name}]" for name in SECTIONS)
            raise ConfigError(f"{path}: unknown section {shortened(section)}", f"use one of {sections}")
        for key, value in keys.items():
            setting = RENAMED_SETTINGS.get(f"{section}.{key}", f"{section}.{key}")
            if setting not in known:
                raise ConfigError(f"{path}: unknown setting {setting}", did_you_mean(setting, known) or _LIST_HINT)
            yield _Value(setting, resolve_path(setting, value, path.parent), str(path))


def _from_variables(environ: Mapping[str, str], source: str, folder: Path) -> Iterator[_Value]:
    """Yield the settings among environment variables. An empty variable counts as unset."""
    known = {_variable(old): new for old, new in RENAMED_SETTINGS.items()}
    known |= {_variable(setting): setting for setting in _setting_names()}
    prefixes = tuple(f"SKYCHIMP_{section}__".upper() for section in SECTIONS)
    for variable in environ:
        if variable.startswith(prefixes) and variable not in known:
            raise ConfigError(f"unknown setting {variable} in {source}", did_you_mean(variable, known) or _LIST_HINT)
    for variable, setting in (*known.items(), ("SKYCHIMP_STORE", "store.url")):
        if value := environ.get(variable):
            yield _Value(setting, resolve_path(setting, value, folder), f"{variable} in {source}")


def _setting_names() -> list[str]:
    return [f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields]


def _variable(setting: str) -> str:
    return f"SKYCHIMP_{setting.replace('.', '__')}".upper()


def _read(path: Path, *, is_required: bool) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        if not is_required:
            return None
        raise ConfigError(
            f"config file {path} not found", 'run "skychimp init --email YOU@EXAMPLE.ORG" to create it'
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "use another file with --config FILE") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read {path}: the file is not valid UTF-8") from None


def _read_env_file(path: Path) -> dict[str, str]:
    """Return the variables in a .env file.

    Raises ConfigError for a line of ours that is not NAME=value. Other lines may belong to other programs.
    """
    import logging

    from dotenv import dotenv_values

    logging.getLogger("dotenv").setLevel(logging.ERROR)  # no warnings about the lines of other programs
    text = _read(path, is_required=False) or ""
    variables = dotenv_values(stream=io.StringIO(text), interpolate=False)
    for number, line in enumerate(text.splitlines(), 1):
        match = _OUR_LINE.match(line)
        if match and not (match["equals"] and match["name"] in variables):
            raise ConfigError(f"{path}, line {number}: invalid line", "use NAME=value, with quotes closed")
    return {name: value for name, value in variables.items() if value}


def _config_error(error: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    """Return the error for the first invalid value. It does not show a password."""
    first = error.errors()[0]
    setting = ".".join(map(str, first["loc"][:2]))
    value = "" if "password" in setting else " " + _shown(first["input"])
    hint = str(first.get("ctx", {}).get("error", first["msg"].replace("Input should be", "use")))
    return ConfigError(f"invalid {setting}{value} (from {sources[setting]})", hint)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return shortened(hide_password(value), 200)
    return hide_password(repr(value))[:200]
