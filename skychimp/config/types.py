"""What a setting, or an option, can be: durations, rates, zones, addresses and the like.

Each check says in its error how the value is written.
"""

import contextlib
import json
import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator

from skychimp.durations import LONGEST_DURATION, format_duration, parse_duration
from skychimp.errors import InvalidValue

_NO_ZONES = {"Factory", "localtime", "posixrules"}
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


def whole(low: int, high: int) -> BeforeValidator:
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
        if isinstance(value, str) and 1 <= address_and_port(value)[1] <= 65535:
            return value
    raise ValueError("write an address, as 9.9.9.9, 127.0.0.1:5353 or [::1]:5353")


def address_and_port(text: str) -> tuple[str, int]:
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


Duration = Annotated[timedelta, BeforeValidator(_duration)]
PositiveDuration = Annotated[timedelta, BeforeValidator(_positive)]
Durations = Annotated[tuple[timedelta, ...], BeforeValidator(_durations)]
Count = Annotated[int, whole(1, 1_000_000_000)]
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
