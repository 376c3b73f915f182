"""Read the settings from their sources.

From the strongest to the weakest: command line, environment, .env beside the config file, config file. A setting that
none of them has gets its default.
"""

import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

from pydantic import ValidationError

from skychimp.config.config_file import AskTrust, ignore_untrusted, read_config
from skychimp.config.locations import database_url, hide_password
from skychimp.config.settings import SECTIONS, Settings
from skychimp.config.trust import ConfigFiles
from skychimp.config.types import parse_list
from skychimp.errors import ConfigError
from skychimp.text import did_you_mean, shortened, with_or
from skychimp.translation import Phrase, tr, verbatim

RENAMED_SETTINGS = {"smtp.letters_per_connection": "smtp.emails_per_connection"}
"""Old names of settings, which are still accepted, and their new ones."""

_PATHS = {
    "store.url", "store.password_file", "mail.attachments_folder", "smtp.password_file", "smtp.ca_file",
    "inbound.maildir", "inbound.password_file", "dkim.key_file", "monitor.metrics_file",
}  # fmt: skip
_MAX_LINES, _MAX_DOTS = 10_000, 100
"""Limits of a config or a .env, and of a line of a config.

A line takes up to 20 µs to parse, and the time for a key is quadratic in its parts.
"""

_ENVIRONMENT = tr("the environment")
_LIST_HINT = tr('run "skychimp help config" for all settings')
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
    ask_trust: AskTrust = ignore_untrusted,
) -> Settings:
    """Return the settings from all sources.

    `flags` maps names such as `store.url` to values from the command line. `config_file` must exist if it is given.
    `ask_trust` is called with a config file in the current folder that is not trusted. Raises ConfigError for a file
    that cannot be read or that others can change, an unknown setting, or an invalid value.
    """
    read = read_config(config_file, environ, ask_trust)
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    sources: dict[str, str] = {}
    for setting, value, source in _values(read, environ, flags or {}):
        section, _, key = setting.partition(".")
        sections[section][key] = value
        sources[setting] = source
    try:
        return Settings.model_validate({**sections, "config_file": read.path if read.config is not None else None})
    except ValidationError as error:
        raise _config_error(error, sources) from None


def load_store_place(
    flags: Mapping[str, str] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[str, Path | None]:
    """Return only the store's URL and its password's file, without the time to check all settings.

    Raises ConfigError.
    """
    values = _values(read_config(config_file, environ, must_exist=False), environ, flags or {})
    try:
        found = {setting: value for setting, value, _ in values}
        password_file = found.get("store.password_file")
        return database_url(found.get("store.url")), Path(password_file) if password_file else None
    except (TypeError, ValueError):  # not a text, or with a null character
        raise ConfigError(tr("invalid store.url"), tr("use a path, or postgresql+psycopg://USER@HOST/NAME")) from None


def file_values(read: ConfigFiles) -> dict[str, Any]:
    """Return the values that a config file and the .env beside it have, by setting, not checked yet.

    Raises ConfigError for invalid TOML, an invalid line, or an unknown setting.
    """
    return {setting: value for setting, value, _ in _from_files(read)}


def environment_values(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the values that the environment has, by setting, not checked yet. Raises ConfigError."""
    return {setting: value for setting, value, _ in _from_variables(environ, _ENVIRONMENT, Path())}


def only_in_environment(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the settings that have another value, or none, without the environment. Raises ConfigError.

    `settings` are those in force. The store is left out, as a command line can name it.
    """
    without = load_settings(config_file=settings.config_file, environ={}) if settings.config_file else Settings()

    def differs(setting: str) -> bool:
        section, _, key = setting.partition(".")
        now, then = (getattr(getattr(each, section), key) for each in (settings, without))
        return bool(now != then)

    return [setting for setting in environment_values(environ) if setting != "store.url" and differs(setting)]


def has_password(setting: str, value: object) -> bool:
    """Return whether the value of a setting is a password, or a URL with one."""
    return setting == "smtp.password" or hide_password(str(value)) != str(value)


def variable(setting: str) -> str:
    """Return the name of the environment variable of a setting."""
    return f"SKYCHIMP_{setting.replace('.', '__')}".upper()


def files_with_passwords(read: ConfigFiles) -> list[Path]:
    """Return which of a config file and the .env beside it contain a password. Raises ConfigError."""
    from_config, from_env = (
        any(has_password(setting, value) for setting, value, _ in values)
        for values in (_from_config(read), _from_env_file(read))
    )
    return [path for path, has_one in ((read.path, from_config), (read.env_path, from_env)) if has_one]


def resolve_path(setting: str, value: Any, folder: Path = Path()) -> Any:
    """Return the value of a setting; a path becomes absolute, relative to the given folder. So does each of a list."""
    if setting == "dkim.key_file" and (paths := parse_list(value)) is not None:
        return [resolve_path(setting, each, folder) for each in paths]
    if setting not in _PATHS or not isinstance(value, str) or not value:
        return value
    if match := re.fullmatch(r"sqlite:///(?!:memory:)([^?]+)", value):
        value = unquote(match[1])
    elif "://" in value:
        return value
    return str((folder / os.path.expanduser(value)).absolute())


def _values(read: ConfigFiles, environ: Mapping[str, str], flags: Mapping[str, str]) -> Iterator[_Value]:
    """Yield the values of all sources, the weakest source first."""
    yield from _from_files(read)
    yield from _from_variables(environ, _ENVIRONMENT, Path())
    for setting, value in flags.items():
        if setting == "store.url" and hide_password(value) != value:
            message = tr("other users can see a password on the command line")
            raise ConfigError(message, tr("leave it out, and set store.password_file or use ~/.pgpass"))
        yield _Value(setting, resolve_path(setting, value), tr("the command line"))


def _from_files(read: ConfigFiles) -> Iterator[_Value]:
    yield from _from_config(read)
    yield from _from_env_file(read)


def _from_config(read: ConfigFiles) -> Iterator[_Value]:
    if read.config is None:
        return
    import tomllib

    path = read.path
    text = _decode(path, read.config)
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _MAX_DOTS:
            raise ConfigError(
                tr("{path} is not valid TOML: too many dots in line {number}", path=path, number=number),
                tr("correct the file"),
            )
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number with 5,000 digits is a ValueError of its own
        reason = tr("it is nested too deeply") if isinstance(error, RecursionError) else error
        raise ConfigError(
            tr("{path} is not valid TOML: {reason}", path=path, reason=reason), tr("correct the file")
        ) from None
    known = _setting_names()
    for section, keys in tree.items():
        if not isinstance(keys, dict):
            sections = ", ".join(f"[{name}]" for name in SECTIONS)
            raise ConfigError(
                tr("{path}: unknown section {section}", path=path, section=shortened(section)),
                tr("use one of {sections}", sections=sections),
            )
        for key, value in keys.items():
            setting = RENAMED_SETTINGS.get(f"{section}.{key}", f"{section}.{key}")
            if setting not in known:
                raise ConfigError(
                    tr("{path}: unknown setting {setting}", path=path, setting=setting),
                    did_you_mean(setting, known) or _LIST_HINT,
                )
            yield _Value(setting, resolve_path(setting, value, path.parent), str(path))


def _from_variables(environ: Mapping[str, str], source: str, folder: Path) -> Iterator[_Value]:
    """Yield the settings among environment variables. An empty variable counts as unset."""
    known = {variable(old): new for old, new in RENAMED_SETTINGS.items()}
    known |= {variable(setting): setting for setting in _setting_names()}
    prefixes = tuple(f"SKYCHIMP_{section}__".upper() for section in SECTIONS)
    for name in environ:
        if name.startswith(prefixes) and name not in known:
            raise ConfigError(
                tr("unknown setting {name} in {source}", name=name, source=source),
                did_you_mean(name, known) or _LIST_HINT,
            )
    for name, setting in (*known.items(), ("SKYCHIMP_STORE", "store.url")):
        if value := environ.get(name):
            yield _Value(
                setting, resolve_path(setting, value, folder), tr("{name} in {source}", name=name, source=source)
            )


def _setting_names() -> list[str]:
    return [f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields]


def _decode(path: Path, data: bytes) -> str:
    if data.count(b"\n") > _MAX_LINES:
        raise ConfigError(
            tr("{path} has more than {max_lines:,} lines", path=path, max_lines=_MAX_LINES),
            tr("delete what does not belong there"),
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(
            tr("cannot read {path}: the file is not valid UTF-8", path=path), tr("save it as UTF-8")
        ) from None


def _from_env_file(read: ConfigFiles) -> Iterator[_Value]:
    if read.env is not None:
        variables = _parse_env_file(read.env_path, _decode(read.env_path, read.env))
        yield from _from_variables(variables, str(read.env_path), read.path.parent)


def _parse_env_file(path: Path, text: str) -> dict[str, str]:
    """Return the variables in the text of a .env file.

    Raises ConfigError for a line of ours that is not NAME=value. Other lines may belong to other programs.
    """
    import logging

    from dotenv import dotenv_values

    logging.getLogger("dotenv").setLevel(logging.ERROR)  # no warnings about the lines of other programs
    variables = dotenv_values(stream=io.StringIO(text), interpolate=False)
    for number, line in enumerate(text.splitlines(), 1):
        match = _OUR_LINE.match(line)
        if match and not (match["equals"] and match["name"] in variables):
            raise ConfigError(
                tr("{path}, line {number}: invalid line", path=path, number=number),
                tr("use NAME=value, with quotes closed"),
            )
    return {name: value for name, value in variables.items() if value}


def _config_error(error: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    """Return the error for the first invalid value. It shows no password and no secret URL."""
    first = error.errors()[0]
    setting = ".".join(map(str, first["loc"][:2]))
    source, hint = sources[setting], _hint(first)
    if "password" in setting or setting == "monitor.ping_url":
        return ConfigError(tr("invalid {setting} (from {source})", setting=setting, source=source), hint)
    value = _shown(first["input"])
    return ConfigError(
        tr("invalid {setting} {value} (from {source})", setting=setting, value=value, source=source), hint
    )


def _hint(details: Mapping[str, Any]) -> Phrase:
    """Return what to use in place of an invalid value: what our check says, or else pydantic."""
    context = details.get("ctx", {})
    if "error" in context:
        return cast("Phrase", context["error"].args[0])
    _, start, expected = details["msg"].rpartition("Input should be ")
    return tr("use {expected}", expected=with_or(expected.split(" or "))) if start else verbatim(expected)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return shortened(hide_password(value), 200)
    return hide_password(repr(value))[:200]
