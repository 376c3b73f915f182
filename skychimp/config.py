"""Settings: flags > environment > .env > skychimp.toml > defaults.

Each setting is one row below: name, type, default and one line of meaning. The row drives loading, the error messages
and skychimp.example.toml.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from skychimp.errors import ConfigError, InvalidValue

FILE_NAME = "skychimp.toml"
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
    if not re.fullmatch(r"(\d{1,9}[smhd])+", text):
        raise InvalidValue(f"{text!r} is not a duration", "write 30s, 5m, 2h, 3d or 1h30m")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", text))
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise InvalidValue(f"{text!r} is too long", "write 30s, 5m, 2h, 3d or 1h30m") from None


def format_duration(duration: timedelta) -> str:
    """A duration as it is written in the config."""
    seconds = int(duration.total_seconds())
    for unit, size in reversed(_UNITS.items()):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return "0s"


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value if isinstance(value, timedelta) else _refuse("write a duration as 30s, 5m, 2h or 3d")
    try:
        return parse_duration(value)
    except InvalidValue:
        return _refuse("write a duration as 30s, 5m, 2h or 3d")


def _rate(value: object) -> object:
    match = re.fullmatch(r"([1-9]\d{0,8})/(s|min|h)", value) if isinstance(value, str) else None
    if isinstance(value, Rate):
        return value
    return Rate(int(match[1]), match[2]) if match else _refuse("write a rate as 100/s, 300/min or 5000/h")


def _zone(value: object) -> object:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(str(value)).key
    except (OSError, ValueError, KeyError):
        return _refuse("write an IANA time zone, as Europe/Berlin or UTC")


def _sender(value: object) -> object:
    from skychimp import addresses

    try:
        addresses.parse_sender(str(value))
    except InvalidValue as error:
        return _refuse(f"write Name <address> or an address: {error.message}")
    return value


def _address(value: object) -> object:
    from skychimp import addresses

    try:
        return addresses.parse(str(value)).email
    except InvalidValue:
        return _refuse("write an address, as bounces@example.org")


def _refuse(reason: str) -> object:
    raise ValueError(reason)


def _system_zone() -> str:
    from zoneinfo import ZoneInfo

    link = os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
    for name in (os.environ.get("TZ", "").removeprefix(":"), link):
        try:
            if name:
                return ZoneInfo(name).key
        except (OSError, ValueError, KeyError):
            continue
    return "UTC"


Duration = Annotated[timedelta, BeforeValidator(_duration)]
PositiveDuration = Annotated[Duration, Field(gt=timedelta(0))]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class StoreSettings(_Section):
    url: str | None = Field(None, description="a path, or sqlite:///...; a file in your data folder otherwise")


class MailSettings(_Section):
    transport: Literal["outbox", "smtp"] = Field(
        "outbox", description="outbox (a Maildir beside the store, for before there is a server) or smtp"
    )
    sender: Annotated[str, BeforeValidator(_sender)] | None = Field(
        None, description="who letters come from: Name <address>", examples=["Ada Lovelace <ada@example.org>"]
    )
    return_path: Annotated[str, BeforeValidator(_address)] | None = Field(
        None, description="where bounces go; the sender's address otherwise", examples=["bounces@example.org"]
    )
    timezone: Annotated[str, BeforeValidator(_zone)] = Field(
        default_factory=_system_zone,
        description="zone of times given without an offset; the system's otherwise",
        examples=["Europe/Berlin"],
    )


class SmtpSettings(_Section):
    host: Annotated[str, Field(min_length=1)] = Field("localhost", description="the relay")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="465 for tls, 587 for starttls, 25 for none, if not set", examples=[587]
    )
    security: Security = Field(Security.STARTTLS, description="tls, starttls (both checked) or none")
    username: str | None = Field(None, description="for a relay that wants a login", examples=["ada"])
    password: SecretStr | None = Field(None, description="its password; better in a file", examples=["secret"])
    password_file: Path | None = Field(None, description="a file that holds the password", examples=["smtp-password"])
    ca_file: Path | None = Field(
        None, description="certificates to trust instead of the system's (PEM)", examples=["ca.pem"]
    )
    connections: Annotated[int, Field(ge=1, le=1000)] = Field(10, description="at most, at once")
    letters_per_connection: Annotated[int, Field(ge=1)] = Field(1000, description="then a new connection is made")
    connection_age: PositiveDuration = Field(timedelta(minutes=10), description="then a new connection is made")
    rate: Annotated[Rate, BeforeValidator(_rate)] | None = Field(
        None, description="at most: 100/s, 300/min, 5000/h", examples=["100/s"]
    )
    timeout: PositiveDuration = Field(timedelta(seconds=60), description="for connecting and for ordinary replies")
    dot_timeout: PositiveDuration = Field(timedelta(minutes=10), description="for the reply to the final dot")

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
    unknown: Literal["resend", "hold"] = Field(
        "resend", description="what to do when the server's last word is missing: resend, or hold for a person"
    )
    unknown_after: Duration = Field(timedelta(minutes=15), description="how long to wait before such a resend")
    retry_after: Annotated[tuple[PositiveDuration, ...], Field(min_length=1)] = Field(
        (timedelta(minutes=5), timedelta(minutes=15), timedelta(minutes=45), timedelta(hours=2), timedelta(hours=4)),
        description="waits between tries; the last one repeats",
    )
    give_up_after: PositiveDuration = Field(timedelta(hours=72), description="then a letter has expired")
    disable_failures: Annotated[int, Field(ge=1)] = Field(
        100, description="a mailing is disabled when so many of its letters have failed ..."
    )
    disable_failure_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="... and so large a part of them"
    )


class RunSettings(_Section):
    patience: Duration = Field(timedelta(minutes=1), description="how long run waits for a relay that is down")


class DaemonSettings(_Section):
    interval: PositiveDuration = Field(timedelta(seconds=1), description="how often the daemon looks for due mail")


class Settings(_Section):
    store: StoreSettings = StoreSettings()
    mail: MailSettings = Field(default_factory=MailSettings)
    smtp: SmtpSettings = SmtpSettings()
    delivery: DeliverySettings = DeliverySettings()
    run: RunSettings = RunSettings()
    daemon: DaemonSettings = DaemonSettings()
    config_file: Path | None = Field(None, exclude=True)
    """The file that was read, if any."""

    @property
    def store_url(self) -> str:
        """The store as an SQLAlchemy URL; a path becomes `sqlite:///` and the absolute path."""
        url = self.store.url
        if url is None:
            return f"sqlite:///{_user_folder('data') / 'skychimp.db'}"
        return url if "://" in url else f"sqlite:///{Path(url).expanduser().absolute()}"


def load(
    flags: Mapping[str, str] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read the settings. `flags` maps a setting's name to its value.

    Raises ConfigError for a file that can't be read, a setting that doesn't exist, or a value that can't be: it names
    the setting, where the value came from, and what it may be.
    """
    path = _find(config_file, environ)
    values: dict[str, dict[str, Any]] = {section: {} for section in _sections()}
    sources: dict[str, str] = {}
    for source, found in _layers(path, environ, flags or {}):
        for name, value in found.items():
            section, _, key = name.partition(".")
            values[section][key] = value
            sources[name] = source
    try:
        return Settings.model_validate({**values, "config_file": path})
    except ValidationError as error:
        raise _plain_error(error, sources) from None


def usual_config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where `init` writes the config, and where it is looked for last."""
    return _named_by(environ) or _user_folder("config") / FILE_NAME


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
                value, off = (field.examples or ["/var/lib/skychimp/skychimp.db"])[0], "# "
            else:
                value, off = default, ""
            lines += [f"# {field.description}", f"{off}{key} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def _layers(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each source of settings and what it says, the weakest first; file names count from where they are written."""
    if path is not None:
        yield str(path), _from_here(path.parent, _from_file(path))
    folder = path.parent if path is not None else Path.cwd()
    yield str(folder / ".env"), _from_here(folder, _from_environ(_dot_env(folder / ".env")))
    yield "the environment", _from_environ(environ)
    yield "the command line", dict(flags)


def _sections() -> dict[str, type[BaseModel]]:
    return {name: field.annotation for name, field in Settings.model_fields.items() if name != "config_file"}  # type: ignore[misc]


def _find(config_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = config_file or _named_by(environ)
    for path in (named,) if named else (Path.cwd() / FILE_NAME, usual_config_file()):
        if path.exists():
            return path.absolute()
    if named is not None:
        raise ConfigError(f"there is no config file {named}", "make it: skychimp init --email YOU@EXAMPLE.ORG")
    return None


def _named_by(environ: Mapping[str, str]) -> Path | None:
    return Path(environ["SKYCHIMP_CONFIG"]) if environ.get("SKYCHIMP_CONFIG") else None


def _from_file(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    known = {f"{section}.{key}" for section, model in _sections().items() for key in model.model_fields}
    flat: dict[str, Any] = {}
    for section, keys in tree.items():
        named = (
            {f"{section}.{key}": value for key, value in keys.items()} if isinstance(keys, dict) else {section: keys}
        )
        for name in named.keys() - known:
            raise ConfigError(f"{path}: there is no setting {name}", _similar(name, known))
        flat |= named
    return flat


def _similar(name: str, known: set[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {close[0]}?" if close else "skychimp.example.toml lists them all"


def _dot_env(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value is not None}


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, model in _sections().items():
        for key, field in model.model_fields.items():
            value = environ.get(f"SKYCHIMP_{section}__{key}".upper())
            if value is not None:
                name, listed = f"{section}.{key}", isinstance(field.default, tuple)
                found[name] = _json(name, value) if listed else value
    if environ.get("SKYCHIMP_STORE"):
        found["store.url"] = environ["SKYCHIMP_STORE"]
    return found


def _json(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise ConfigError(
            f"{name} in the environment is not JSON: {value!r}", 'a list is written ["5m", "1h"]'
        ) from None


def _from_here(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    for name in ("smtp.password_file", "smtp.ca_file", "store.url"):
        value = found.get(name)
        if isinstance(value, str) and "://" not in value:
            found[name] = str(folder / Path(value).expanduser())
    return found


def _plain_error(error: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][:2])
    source = sources.get(name, "the defaults")
    variable = f"SKYCHIMP_{name.replace('.', '__')}".upper()
    place = f"{variable} in {source}" if "env" in source.rpartition("/")[2] else source
    value = "this value" if "password" in name else repr(first["input"])
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ").strip()
    return ConfigError(f"{name}: {value} can't be used: {reason} (from {place})", _meaning(name))


def _meaning(name: str) -> str | None:
    section, _, key = name.partition(".")
    field = _sections()[section].model_fields.get(key) if section in _sections() else None
    return f"{name} is {field.description}" if field else None


def _toml(value: object) -> str:
    if isinstance(value, tuple) and not isinstance(value, Rate):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, timedelta):
        value = format_duration(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | int | float) else json.dumps(str(value))


def _user_folder(kind: str) -> Path:
    import platformdirs

    find = partial(getattr(platformdirs, f"user_{kind}_path"), "skychimp", appauthor=False)
    return Path(find())
