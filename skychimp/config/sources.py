"""Where settings come from: flags > environment > .env > skychimp.toml > defaults."""

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import ValidationError

from skychimp.config.locations import database_url, hide_password, user_folder
from skychimp.config.settings import SECTIONS, Settings
from skychimp.errors import ConfigError

FILE_NAME = "skychimp.toml"


_FILES = {"store.url", "smtp.password_file", "smtp.ca_file"}


def load(
    flags: Mapping[str, str] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read the settings. `flags` maps a setting's name to its value; `config_file` is one that must be there.

    Raises ConfigError for a file that can't be read, a setting that doesn't exist, or a value that can't be: it names
    the setting, where the value came from, and what it may be.
    """
    path = locate(config_file, environ)
    text = _read(path, needed=bool(config_file or environ.get("SKYCHIMP_CONFIG")))
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    sources: dict[str, str] = {}
    for name, value, source in _layers(path, text, environ, flags or {}):
        section, _, key = name.partition(".")
        values[section][key] = value
        sources[name] = source
    try:
        return Settings.model_validate({**values, "config_file": path if text is not None else None})
    except ValidationError as error:
        raise _plain_error(error, sources) from None


def store_url(
    flags: Mapping[str, str] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """The store's URL alone, for who can't wait until all settings are checked. Raises ConfigError."""
    path = locate(config_file, environ)
    layers = _layers(path, _read(path, needed=False), environ, flags or {})
    return database_url({name: value for name, value, _ in layers}.get("store.url"))


def locate(config_file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the config is, or where `init` makes it: as named, else in the working folder, else the user's."""
    named = config_file or (environ.get("SKYCHIMP_CONFIG") and os.path.expanduser(environ["SKYCHIMP_CONFIG"]))
    if named or os.path.lexists(FILE_NAME):
        return Path(named or FILE_NAME).absolute()
    return user_folder("config") / FILE_NAME


def absolute(name: str, value: Any, folder: Path = Path()) -> Any:
    """A setting's value with a file's name counted from a folder; any other value as it is."""
    if name not in _FILES or not isinstance(value, str) or not value:
        return value
    if match := re.fullmatch(r"sqlite:///(?!:memory:)([^?]+)", value):
        value = unquote(match[1])
    elif "://" in value:
        return value
    return str((folder / os.path.expanduser(value)).absolute())


def _layers(
    path: Path, text: str | None, environ: Mapping[str, str], flags: Mapping[str, str]
) -> Iterator[tuple[str, Any, str]]:
    """Each setting's name and value, and the words for where it was said; the weakest source first."""
    if text is not None:
        yield from _from_file(path, text)
    dot_env = next((file for file in (path.with_name(".env"), Path(".env")) if os.path.isfile(file)), None)
    if dot_env is not None:
        dot_env = dot_env.absolute()
        yield from _from_variables(_dot_env(dot_env), str(dot_env), dot_env.parent)
    yield from _from_variables(environ, "the environment", Path())
    for name, value in flags.items():
        yield name, absolute(name, value), "the command line"


def _names() -> list[str]:
    return [f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields]


def _read(path: Path, *, needed: bool) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        if not needed:
            return None
        raise ConfigError(f"there is no config file {path}", "make it: skychimp init --email YOU@EXAMPLE.ORG") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}", "name another file: --config FILE") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} can't be read: it is not UTF-8") from None


def _from_file(path: Path, text: str) -> Iterator[tuple[str, Any, str]]:
    import tomllib

    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    known = _names()
    for section, keys in tree.items():
        if not isinstance(keys, dict):
            sections = ", ".join(f"[{name}]" for name in SECTIONS)
            raise ConfigError(f"{path}: {section} is no section of settings", f"the sections are {sections}")
        for key, value in keys.items():
            name = f"{section}.{key}"
            if name not in known:
                raise ConfigError(f"{path}: there is no setting {name}", _similar(name, known))
            yield name, absolute(name, value, path.parent), str(path)


def _from_variables(environ: Mapping[str, str], source: str, folder: Path) -> Iterator[tuple[str, Any, str]]:
    """The settings among environment variables; an empty one says nothing."""
    known = {f"SKYCHIMP_{name.replace('.', '__')}".upper(): name for name in _names()}
    sections = tuple(f"SKYCHIMP_{section}__".upper() for section in SECTIONS)
    for variable in environ:
        if variable.startswith(sections) and variable not in known:
            raise ConfigError(f"{variable} in {source} is no setting", _similar(variable, known))
    for variable, name in (*known.items(), ("SKYCHIMP_STORE", "store.url")):
        if value := environ.get(variable):
            yield name, absolute(name, value, folder), f"{variable} in {source}"


def _similar(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else "skychimp.example.toml lists them all"


def _dot_env(path: Path) -> dict[str, str]:
    from dotenv.parser import parse_stream

    bindings = list(parse_stream(io.StringIO(_read(path, needed=False) or "")))
    for _, _, original, broken in bindings:
        if broken and "SKYCHIMP_" in original.string:  # the file may serve other programs, too
            line = original.line + len(original.string) - len(original.string.lstrip("\n"))
            raise ConfigError(f"{path}, line {line}: this is not NAME=value")
    return {binding.key: binding.value for binding in bindings if binding.key and binding.value}


def _plain_error(error: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    first = error.errors()[0]
    section, key = first["loc"][:2]
    name = f"{section}.{key}"
    value = "this value" if "password" in name else hide_password(repr(first["input"]))[:200]
    reason = str(first.get("ctx", {}).get("error", first["msg"].replace("Input should", "it should")))
    meaning = SECTIONS[str(section)].model_fields[str(key)].description
    return ConfigError(f"{name}: {value} can't be used: {reason} (from {sources[name]})", f"{name}: {meaning}")
