"""Settings: flags > environment > .env > skychimp.toml > defaults.

Each setting is one row below: name, type, default and one line of meaning. The row drives loading, the error messages
and skychimp.example.toml.
"""

import contextlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from skychimp.errors import ConfigError, InvalidValue

FILE_NAME = "skychimp.toml"
LONGEST_DURATION = timedelta(days=36_500)  # so that now and it are always a date
_FILES = {"store.url", "smtp.password_file", "smtp.ca_file"}
_NO_ZONES = {"Factory", "localtime", "posixrules"}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PER = {"s": 1, "min": 60, "h": 3600}


class Security(StrEnum):
    TLS = "tls"
    STARTTLS = "starttls"
    NONE = "none"


class Rate(NamedTuple):
    """So many letters in so long, as `300/min`."""

    letters: int
    per: str

    @property
    def per_second(self) -> float:
        return self.letters / _PER[self.per]

    def __str__(self) -> str:
        return f"{self.letters}/{self.per}"


def parse_duration(text: str) -> timedelta:
    """The duration that `0s`, `5m`, `2h`, `3d` or `1h30m` says. Raises InvalidValue."""
    if not re.fullmatch(r"([0-9]{1,9}[smhd])+", text):
        raise InvalidValue(f"{text!r} is not a duration", "write 30s, 5m, 2h, 3d or 1h30m")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([smhd])", text))
    if seconds > LONGEST_DURATION.total_seconds():
        raise InvalidValue(f"{text!r} is too long", f"at most {format_duration(LONGEST_DURATION)}")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """A duration as it is written in the config."""
    seconds = int(duration.total_seconds())
    for unit, size in reversed(_UNITS.items()):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return "0s"


def parse_url(text: str) -> str:
    """A site's address, without a slash at its end. Raises InvalidValue, also for what could be taken for markup."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~%@+-]+)*/?", text):
        hint = "write http:// or https://, a host and perhaps a path, as https://example.org/blog"
        raise InvalidValue(f"{text!r} is no address of a site", hint)
    return text.rstrip("/")


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    longest = format_duration(LONGEST_DURATION)
    try:
        return parse_duration(value if isinstance(value, str) else "")
    except InvalidValue:
        raise ValueError(f"write a duration as 30s, 5m, 2h or 3d, {longest} at most") from None


def _positive(value: object) -> timedelta:
    duration = _duration(value)
    if not duration:
        raise ValueError("write a duration of more than 0s, as 30s or 5m")
    return duration


def _file(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("write a file's name")
    return Path(value)


def _durations(value: object) -> list[timedelta]:
    if isinstance(value, str):  # as it stands in an environment variable
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list | tuple) or not value:
        raise ValueError('write a list of durations, as ["5m", "1h"]')
    return [_positive(wait) for wait in value]


def _whole(low: int, high: int) -> BeforeValidator:
    def check(value: object) -> int:
        number = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else value
        if type(number) is not int or not low <= number <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return number

    return BeforeValidator(check)


def _part(value: object) -> float:
    with contextlib.suppress(ValueError):
        if isinstance(value, str | int | float) and not isinstance(value, bool) and 0 <= float(value) <= 1:
            return float(value)
    raise ValueError("write a number from 0 to 1")


def _rate(value: object) -> Rate:
    if isinstance(value, Rate):
        return value
    match = re.fullmatch(r"([1-9][0-9]{0,8})/(s|min|h)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("write a rate as 100/s, 300/min or 5000/h")
    return Rate(int(match[1]), match[2])


def _zone(value: object) -> str:
    if not isinstance(value, str) or not is_zone(value):
        raise ValueError("write an IANA time zone, as Europe/Berlin or UTC")
    return value


def is_zone(name: str) -> bool:
    """Whether this is the name of an IANA time zone; `localtime` and the like are files that only this machine has."""
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name).key not in _NO_ZONES and not name.startswith(("right/", "posix/"))
    except (OSError, ValueError, KeyError):
        return False


def _sender(value: object) -> str:
    from skychimp import addresses

    try:
        addresses.parse_sender(str(value))
    except InvalidValue as error:
        raise ValueError(f"write Name <address> or an address: {error.message}") from None
    return str(value)


def _address(value: object) -> str:
    from skychimp import addresses

    try:
        return addresses.parse(str(value)).email
    except InvalidValue:
        raise ValueError("write an address, as bounces@example.org") from None


def _host(value: object) -> str:
    """A name or an address; RFC 3986 writes an IPv6 address in brackets only where a port can follow it."""
    if not isinstance(value, str) or not re.fullmatch(r"[\w.-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[\w.%:]*", value):
        raise ValueError("write a host's name or address alone, as mail.example.org; its port is smtp.port")
    return value


def _web(value: object) -> str:
    try:
        return parse_url(value if isinstance(value, str) else "")
    except InvalidValue as error:
        raise ValueError(error.hint) from None


def _line(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 200:
        raise ValueError("write one line of up to 200 characters")
    return value.strip()


def _language(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", value):
        raise ValueError("write a language's tag, as en, ru or pt-BR")
    return value


def _name_server(value: object) -> str:
    with contextlib.suppress(ValueError):
        if isinstance(value, str) and 1 <= _address_and_port(value)[1] <= 65535:
            return value
    raise ValueError("write an address, as 9.9.9.9, 127.0.0.1:5353 or [::1]:5353")


def _address_and_port(text: str) -> tuple[str, int]:
    from ipaddress import ip_address

    match = re.fullmatch(r"\[(.+)\]:([0-9]{1,5})|([^:]+):([0-9]{1,5})|(.+)", text)
    address, port = (match[1] or match[3] or match[5], match[2] or match[4] or 53) if match else ("", 0)
    return str(ip_address(address)), int(port)


def _store(value: object) -> str:
    allowed = r"(?!.*://)[^\0]+|sqlite:///(?!:memory:)[^?\0]+|postgresql\+psycopg://.+"
    if isinstance(value, str) and re.fullmatch(allowed, value):
        return value
    raise ValueError("write a path, sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME")


def _redis(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"rediss?://[^/].*", value):
        return value
    raise ValueError("write redis://HOST:PORT/NUMBER, or rediss:// for TLS")


def _system_zone() -> str:
    link = os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
    names = (os.environ.get("TZ", "").removeprefix(":"), link)
    return next((name for name in names if is_zone(name)), "UTC")


Duration = Annotated[timedelta, BeforeValidator(_duration)]
PositiveDuration = Annotated[timedelta, BeforeValidator(_positive)]
Durations = Annotated[tuple[timedelta, ...], BeforeValidator(_durations)]
Count = Annotated[int, _whole(1, 1_000_000_000)]
Part = Annotated[float, BeforeValidator(_part)]
Place = Annotated[str, BeforeValidator(_store)]
Sender = Annotated[str, BeforeValidator(_sender)]
EMail = Annotated[str, BeforeValidator(_address)]
Zone = Annotated[str, BeforeValidator(_zone)]
NameServer = Annotated[str, BeforeValidator(_name_server)]
Host = Annotated[str, BeforeValidator(_host)]
PerTime = Annotated[Rate, BeforeValidator(_rate)]
File = Annotated[Path, BeforeValidator(_file)]
Web = Annotated[str, BeforeValidator(_web)]
Line = Annotated[str, BeforeValidator(_line)]
Language = Annotated[str, BeforeValidator(_language)]
RedisUrl = Annotated[str, BeforeValidator(_redis)]


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
        Annotated[int, _whole(1, 65535)] | None,
        _is("the relay's port; 465 for tls, 587 for starttls, 25 for none if not set", 587),
    ] = None
    security: Annotated[Security, _is("tls or starttls (both with the certificate checked), or none")] = (
        Security.STARTTLS
    )
    username: Annotated[str | None, _is("the login, for a relay that wants one", "ada")] = None
    password: Annotated[SecretStr | None, _is("its password; better in a file", "secret")] = None
    password_file: Annotated[File | None, _is("a file that holds the password", "smtp-password")] = None
    ca_file: Annotated[File | None, _is("certificates to trust instead of the system's, as PEM", "ca.pem")] = None
    connections: Annotated[int, _whole(1, 1000), _is("how many connections to the relay at once, at most")] = 10
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
        return None if self.nameserver is None else _address_and_port(self.nameserver)


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
