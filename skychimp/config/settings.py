"""Settings: flags > environment > .env > skychimp.toml > defaults.

Each setting is one row below: name, type, default and one line of meaning. The row drives loading, the error messages
and skychimp.example.toml.
"""

import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from skychimp.errors import ConfigError
from skychimp.values import (
    Count,
    Duration,
    Durations,
    EMail,
    File,
    Host,
    Language,
    Line,
    NameServer,
    Part,
    PerTime,
    Place,
    PositiveDuration,
    Rate,
    RedisUrl,
    Security,
    Sender,
    Web,
    Zone,
    address_and_port,
    format_duration,
    is_zone,
    parse_duration,
    whole,
)

FILE_NAME = "skychimp.toml"
_FILES = {"store.url", "smtp.password_file", "smtp.ca_file"}


def _system_zone() -> str:
    link = os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
    names = (os.environ.get("TZ", "").removeprefix(":"), link)
    return next((name for name in names if is_zone(name)), "UTC")


def _is(meaning: str, example: object = None) -> Any:
    """A setting's line of meaning, and what the example shows of one that has no default."""
    return Field(description=meaning, examples=None if example is None else [example])


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class StoreSettings(_Section):
    url: Annotated[
        Place | None,
        _is(
            "the store: a path or sqlite:///PATH; a file in your data folder if not set",
            "/var/lib/skychimp/skychimp.db",
        ),
    ] = None


class MailSettings(_Section):
    transport: Annotated[
        Literal["outbox", "smtp"],
        _is("where mail goes: outbox (a Maildir beside the store, for before there is a server) or smtp"),
    ] = "outbox"
    sender: Annotated[Sender | None, _is("who letters come from: Name <address>", "Ada Lovelace <ada@example.org>")] = (
        None
    )
    return_path: Annotated[
        EMail | None, _is("where bounces go; the sender's address if not set", "bounces@example.org")
    ] = None
    timezone: Annotated[
        Zone, _is("the zone of times given without an offset; the system's if not set", "Europe/Berlin")
    ] = Field(default_factory=_system_zone)


class SmtpSettings(_Section):
    host: Annotated[Host, _is("the relay's name or address")] = "localhost"
    port: Annotated[
        Annotated[int, whole(1, 65535)] | None,
        _is("the relay's port; 465 for tls, 587 for starttls, 25 for none if not set", 587),
    ] = None
    security: Annotated[Security, _is("tls or starttls (both with the certificate checked), or none")] = (
        Security.STARTTLS
    )
    username: Annotated[str | None, _is("the login, for a relay that wants one", "ada")] = None
    password: Annotated[SecretStr | None, _is("its password; better in a file", "secret")] = None
    password_file: Annotated[File | None, _is("a file that holds the password", "smtp-password")] = None
    ca_file: Annotated[File | None, _is("certificates to trust instead of the system's, as PEM", "ca.pem")] = None
    connections: Annotated[int, whole(1, 1000), _is("how many connections to the relay at once, at most")] = 10
    letters_per_connection: Annotated[Count, _is("how many letters before a connection is replaced")] = 1000
    connection_age: Annotated[PositiveDuration, _is("how long before a connection is replaced")] = timedelta(minutes=10)
    rate: Annotated[PerTime | None, _is("how many letters, at most: 100/s, 300/min, 5000/h", "100/s")] = None
    timeout: Annotated[PositiveDuration, _is("how long to wait for a connection and for ordinary replies")] = timedelta(
        seconds=60
    )
    dot_timeout: Annotated[PositiveDuration, _is("how long to wait for the reply to the final dot (RFC 5321: 10m)")] = (
        timedelta(minutes=10)
    )

    @property
    def effective_port(self) -> int:
        usual = {Security.TLS: 465, Security.STARTTLS: 587, Security.NONE: 25}
        return self.port or usual[self.security]

    def secret(self) -> str | None:
        """The password, from the setting or its file. Raises ConfigError where the file can't be read."""
        if self.password is not None or self.password_file is None:
            return self.password.get_secret_value() if self.password is not None else None
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"smtp.password_file: {self.password_file} can't be read: {reason}") from None


class DeliverySettings(_Section):
    unknown: Annotated[
        Literal["resend", "hold"],
        _is("what to do when the server's last word is missing: resend, or hold for a person"),
    ] = "resend"
    unknown_after: Annotated[Duration, _is("how long to wait before such a resend")] = timedelta(minutes=15)
    retry_after: Annotated[Durations, _is("how long to wait before each new try; the last one repeats")] = tuple(
        map(parse_duration, ("5m", "15m", "45m", "2h", "4h"))
    )
    give_up_after: Annotated[PositiveDuration, _is("how long before a letter has expired")] = timedelta(hours=72)
    keep_attempts: Annotated[
        PositiveDuration | None, _is("how long the log of attempts is kept by the daemon; for ever otherwise", "365d")
    ] = None
    disable_failures: Annotated[Count, _is("a mailing is disabled when so many of its letters have failed ...")] = 100
    disable_failure_rate: Annotated[Part, _is("... and they are so large a part of those tried")] = 0.5


class RunSettings(_Section):
    patience: Annotated[Duration, _is("how long run waits for a relay that is down")] = timedelta(minutes=1)


class DaemonSettings(_Section):
    interval: Annotated[PositiveDuration, _is("how often the daemon looks for due mail")] = timedelta(seconds=1)


class BlogSettings(_Section):
    url: Annotated[
        Web | None,
        _is(
            "where the blog's site is: links in digests, the feed and the map of the site need it",
            "https://blog.example.org",
        ),
    ] = None
    title: Annotated[Line, _is("the site's name")] = "Skychimp"
    tagline: Annotated[Line, _is("what it says of itself, in a few words")] = "Every client gets every mailing."
    description: Annotated[Line, _is("and in a sentence")] = (
        "A mailing service that survives what comes between, and knows of every letter what became of it."
    )
    language: Annotated[Language, _is("the language of its posts")] = "en"


class CacheSettings(_Section):
    url: Annotated[
        RedisUrl | None,
        _is("a Redis server for the home page's figures; a folder of your account's if not set", "redis://localhost/0"),
    ] = None


class DnsSettings(_Section):
    nameserver: Annotated[
        NameServer | None, _is("whom doctor asks about your domain; the system's name server if not set", "9.9.9.9")
    ] = None

    @property
    def place(self) -> tuple[str, int] | None:
        """Its address and port; None for the system's."""
        return None if self.nameserver is None else address_and_port(self.nameserver)


class Settings(_Section):
    store: StoreSettings = StoreSettings()
    mail: MailSettings = Field(default_factory=MailSettings)
    smtp: SmtpSettings = SmtpSettings()
    delivery: DeliverySettings = DeliverySettings()
    run: RunSettings = RunSettings()
    daemon: DaemonSettings = DaemonSettings()
    blog: BlogSettings = BlogSettings()
    cache: CacheSettings = CacheSettings()
    dns: DnsSettings = DnsSettings()
    config_file: Path | None = None
    """The file that was read, if any."""

    @property
    def store_url(self) -> str:
        """The store as an SQLAlchemy URL; a path becomes `sqlite:///` and the real path.

        Whoever comes by a link must find the same locks, outbox and session.
        """
        return _url(self.store.url)

    @property
    def store_name(self) -> str:
        """The store as a person may see it: a path, or a URL without its password."""
        return _without_password(self.store.url or unquote(self.store_url.removeprefix("sqlite:///")))


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
    values: dict[str, dict[str, Any]] = {section: {} for section in _sections()}
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
    return _url({name: value for name, value, _ in layers}.get("store.url"))


def locate(config_file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the config is, or where `init` makes it: as named, else in the working folder, else the user's."""
    named = config_file or (environ.get("SKYCHIMP_CONFIG") and os.path.expanduser(environ["SKYCHIMP_CONFIG"]))
    if named or os.path.lexists(FILE_NAME):
        return Path(named or FILE_NAME).absolute()
    return _user_folder("config") / FILE_NAME


def absolute(name: str, value: Any, folder: Path = Path()) -> Any:
    """A setting's value with a file's name counted from a folder; any other value as it is."""
    if name not in _FILES or not isinstance(value, str) or not value:
        return value
    if match := re.fullmatch(r"sqlite:///(?!:memory:)([^?]+)", value):
        value = unquote(match[1])
    elif "://" in value:
        return value
    return str((folder / os.path.expanduser(value)).absolute())


def example(said: Mapping[str, str] | None = None) -> str:
    """The text of skychimp.example.toml: every setting with its meaning and default, and those of `said` set."""
    lines = [
        "# Skychimp's settings, each with its default. An environment variable such as SKYCHIMP_SMTP__HOST wins",
        "# over this file, a flag over both.",
    ]
    for section, model in _sections().items():
        lines += ["", f"[{section}]"]
        for key, field in model.model_fields.items():
            default = field.get_default(call_default_factory=False)
            if f"{section}.{key}" in (said or {}):
                value, off = (said or {})[f"{section}.{key}"], ""
            elif default is None or field.default_factory is not None:
                value, off = (field.examples or [""])[0], "# "
            else:
                value, off = default, ""
            lines += [f"# {field.description}", f"{off}{key} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def _url(store: str | None) -> str:
    url = store or str(_user_folder("data") / "skychimp.db")
    if "://" in url:
        return url
    return "sqlite:///" + os.path.realpath(url).replace("%", "%25").replace("?", "%3F")


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


def _sections() -> dict[str, type[BaseModel]]:
    return {name: field.annotation for name, field in Settings.model_fields.items() if name != "config_file"}  # type: ignore[misc]


def _names() -> list[str]:
    return [f"{section}.{key}" for section, model in _sections().items() for key in model.model_fields]


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
            sections = ", ".join(f"[{name}]" for name in _sections())
            raise ConfigError(f"{path}: {section} is no section of settings", f"the sections are {sections}")
        for key, value in keys.items():
            name = f"{section}.{key}"
            if name not in known:
                raise ConfigError(f"{path}: there is no setting {name}", _similar(name, known))
            yield name, absolute(name, value, path.parent), str(path)


def _from_variables(environ: Mapping[str, str], source: str, folder: Path) -> Iterator[tuple[str, Any, str]]:
    """The settings among environment variables; an empty one says nothing."""
    known = {f"SKYCHIMP_{name.replace('.', '__')}".upper(): name for name in _names()}
    sections = tuple(f"SKYCHIMP_{section}__".upper() for section in _sections())
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
    value = "this value" if "password" in name else _without_password(repr(first["input"]))[:200]
    reason = str(first.get("ctx", {}).get("error", first["msg"].replace("Input should", "it should")))
    meaning = _sections()[str(section)].model_fields[str(key)].description
    return ConfigError(f"{name}: {value} can't be used: {reason} (from {sources[name]})", f"{name}: {meaning}")


def _without_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)


def _toml(value: object) -> str:
    if isinstance(value, tuple) and not isinstance(value, Rate):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, timedelta):
        value = format_duration(value)
    text = json.dumps(value if isinstance(value, str | int | float) else str(value), ensure_ascii=False)
    return text.replace("\x7f", r"\u007f")  # the one character that JSON lets through and TOML does not


def _user_folder(kind: str) -> Path:
    import platformdirs

    find = partial(getattr(platformdirs, f"user_{kind}_path"), "skychimp", appauthor=False)
    return Path(find())
