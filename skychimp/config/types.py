"""Types of settings and options: durations, rates, time zones, addresses, URLs.

Each check raises ValueError with a hint that says what to use instead.
"""

import contextlib
import json
import os
import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, PlainValidator, SecretStr

from skychimp.durations import parse_duration
from skychimp.errors import InvalidValue
from skychimp.text import has_control_character, shortened
from skychimp.timezones import TIME_ZONE_HINT, is_time_zone
from skychimp.translation import tr

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_DNS_PORT = 53
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_SELECTOR = re.compile(rf"(?=.{{1,63}}\Z){_LABEL}(?:\.{_LABEL})*")
"""A DKIM selector (RFC 6376, section 3.1)."""
_LOCAL_URL = re.compile(r"http://(localhost|127\.0\.0\.1)(:|/|$)")
_MAX_URL_LENGTH = 200
_MAX_PING_URL_LENGTH = 500
_MAX_EXTENSIBLE_LENGTH = 27
"""Characters before the @ of an address that takes a token: a local part has at most 64 (RFC 5321, section 4.5.3.1.1).

A token has 36 for up to 10^12 emails.
"""
_PLAIN_LOCAL_PART = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{_MAX_EXTENSIBLE_LENGTH - 1}}}")
_MAX_HEADERS = 20
_UNITS = {"kB": 1_000, "MB": 1_000_000}
_MAX_SIZE = 50_000_000
"""Bytes of an email's attachments. Hardly a mail server takes more."""
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,59}")
_OWN_HEADERS = {
    "auto-submitted", "bcc", "cc", "date", "dkim-signature", "domainkey-signature", "feedback-id", "from", "list-id",
    "list-unsubscribe", "list-unsubscribe-post", "message-id", "mime-version", "precedence", "received",
    "received-spf", "reply-to", "return-path", "sender", "subject", "to",
}  # fmt: skip
_OWN_HEADER_PREFIXES = ("arc-", "authentication-results", "content-", "resent-")
"""Headers in lower case that mail.headers must not have: ours, and those of mail servers."""
_LAST_PORT = 65535
_LONGEST_SOCKET_PATH = 107
"""Bytes (unix(7))."""


class Security(StrEnum):
    """How a connection to the mail server is encrypted."""

    TLS = "tls"
    STARTTLS = "starttls"
    NONE = "none"


class Rate(NamedTuple):
    """A number of emails per second, minute, hour or day, such as `300/min`."""

    emails: int
    unit: str

    @property
    def period_s(self) -> int:
        """Return the seconds in which that many emails may be sent."""
        return _SECONDS[self.unit]

    @property
    def is_even(self) -> bool:
        """Return whether the emails are spaced evenly. Otherwise they are counted in a rolling window."""
        return self.unit in ("s", "min")


class ByteSize(int):
    """A number of bytes, which is shown as `10 MB`."""

    def __str__(self) -> str:
        unit = next(unit for unit, size in reversed(_UNITS.items()) if self % size == 0)
        return f"{self // _UNITS[unit]} {unit}"


def parse_size(text: str) -> ByteSize:
    """Return the bytes of `10 MB` or `500 kB`. Raises ValueError, also for more than a mail server may take."""
    match = re.fullmatch(r"([1-9][0-9]{0,5}) ?(kB|MB)", text)
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < size <= _MAX_SIZE:
        raise ValueError(
            tr("use a size such as 500 kB or 10 MB, at most {max_mb} MB", max_mb=_MAX_SIZE // _UNITS["MB"])
        )
    return ByteSize(size)


def parse_site_url(text: str) -> str:
    """Return the URL of a site without a slash at its end.

    Raises InvalidValue for an invalid URL, and for characters that have a meaning in HTML or Markdown.
    """
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~%@+-]+)*/?", text):
        raise InvalidValue(
            tr("invalid URL {value}", value=shortened(text)),
            tr("use an http or https URL such as https://example.org/blog"),
        )
    return text.rstrip("/")


def parse_address_and_port(text: str) -> tuple[str, int]:
    """Return the IP address and the port of `9.9.9.9`, `127.0.0.1:5353` or `[::1]:5353`. The port is 53 by default.

    Raises ValueError for anything else, but not for a port above 65535.
    """
    from ipaddress import ip_address

    match = re.fullmatch(r"\[(.+)\]:([0-9]{1,5})|([^:]+):([0-9]{1,5})|(.+)", text)
    address, port = (match[1] or match[3] or match[5], match[2] or match[4] or _DNS_PORT) if match else ("", 0)
    return str(ip_address(address)), int(port)


def parse_list(value: object) -> list[Any] | None:
    """Return the items of a list, which the environment has as JSON, or None if the value is not a list."""
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    return list(value) if isinstance(value, list | tuple) else None


def parse_domain(text: str) -> str:
    """Return a domain in lower-case ASCII. Raises InvalidValue."""
    from skychimp import addresses

    try:
        return addresses.parse(f"a@{text}").key.partition("@")[2]
    except InvalidValue:
        raise InvalidValue(
            tr("invalid domain {value}", value=shortened(text)), tr("use a domain such as example.org")
        ) from None


def parse_selector(text: str) -> str:
    """Return a DKIM selector. Raises InvalidValue."""
    if not _SELECTOR.fullmatch(text):
        raise InvalidValue(
            tr("invalid selector {value}", value=shortened(text)), tr("use a name such as s1, with a-z, 0-9 and -")
        )
    return text.lower()


def parse_listen_address(text: str) -> tuple[str, int] | str:
    """Return the IP address and port of `127.0.0.1:8025` or `[::1]:8025`, or the path of `unix:/run/web.sock`.

    Raises ValueError for anything else.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not re.fullmatch(r"/[A-Za-z0-9_./@+~-]+", path) or len(path) > _LONGEST_SOCKET_PATH:
            raise ValueError(text)
        return path
    if not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5}", text):
        raise ValueError(text)
    address, port = parse_address_and_port(text)
    if port > _LAST_PORT:
        raise ValueError(text)
    return address, port


def whole_number(low: int, high: int) -> BeforeValidator:
    """Return a check for a whole number in a range. Text is accepted too: environment variables have no numbers."""

    def check(value: object) -> int:
        number = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else value
        if type(number) is not int or not low <= number <= high:
            raise ValueError(tr("use a whole number from {low} to {high}", low=low, high=high))
        return number

    return BeforeValidator(check)


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        return parse_duration(value if isinstance(value, str) else "")
    except InvalidValue as error:
        raise ValueError(error.hint) from None


def _positive_duration(value: object) -> timedelta:
    duration = _duration(value)
    if not duration:
        raise ValueError(tr("use a duration longer than 0s, such as 30s or 5m"))
    return duration


def _durations(value: object) -> list[timedelta]:
    if isinstance(value, str):  # an environment variable
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(tr('use a list of durations such as ["5m", "1h"]'))
    return [_positive_duration(duration) for duration in value]


def _size(value: object) -> ByteSize:
    return value if isinstance(value, ByteSize) else parse_size(value if isinstance(value, str) else "")


def _fraction(value: object) -> float:
    with contextlib.suppress(ValueError):
        if isinstance(value, str | int | float) and not isinstance(value, bool) and 0 <= float(value) <= 1:
            return float(value)
    raise ValueError(tr("use a number from 0 to 1"))


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):  # an environment variable
        return value == "true"
    raise ValueError(tr("use true or false"))


def _domain_name(value: object) -> str:
    try:
        return parse_domain(value if isinstance(value, str) else "")
    except InvalidValue as error:
        raise ValueError(error.hint) from None


def _selectors(value: object) -> list[str]:
    try:
        return [parse_selector(name if isinstance(name, str) else "") for name in _one_or_more(value)]
    except InvalidValue as error:
        raise ValueError(error.hint) from None


def _files(value: object) -> list[Path]:
    return [_file(each) for each in _one_or_more(value) or [None]]


def _one_or_more(value: object) -> list[Any]:
    found = parse_list(value)
    return [value] if found is None else found


def _account_names(value: object) -> list[str]:
    if isinstance(value, str):  # an environment variable
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise ValueError(tr('use a list of accounts such as ["ada", "grace"]'))
    return list(value)


def _command(value: object) -> list[str]:
    """Split a command into its words, without a shell. A program with a slash in its name must be an absolute path."""
    import shlex

    words = value
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):  # a list in an environment variable, or open quotes
            words = json.loads(value) if value.startswith("[") else shlex.split(value)
    hint = tr('use a program and its arguments, such as "/usr/bin/smtp-token ada"')
    if not isinstance(words, list | tuple) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError(hint)
    program, *arguments = words
    program = os.path.expanduser(program)
    if not program or any("\0" in word for word in words):
        raise ValueError(hint)
    if "/" in program and not os.path.isabs(program):
        raise ValueError(
            tr("use an absolute path of the program {program}, or the name of one in PATH", program=shortened(program))
        )
    return [program, *arguments]


def _rates(value: object) -> list[Rate]:
    if isinstance(value, str) and value.startswith("["):  # an environment variable
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    return [_rate(each) for each in (value if isinstance(value, list | tuple) else [value])]


def _rate(value: object) -> Rate:
    if isinstance(value, Rate):
        return value
    match = re.fullmatch(r"([1-9][0-9]{0,8})/(s|min|h|d)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            tr('use a rate such as 100/s, 300/min, 5000/h or 2000/d, or a list such as ["10/s", "2000/d"]')
        )
    return Rate(int(match[1]), match[2])


def _time_zone(value: object) -> str:
    if not isinstance(value, str) or not is_time_zone(value):
        raise ValueError(TIME_ZONE_HINT)
    return value


def _sender(value: object) -> str:
    from skychimp import addresses

    try:
        addresses.parse_sender(str(value))
    except InvalidValue as error:
        raise ValueError(tr("use Name <address> or an address ({problem})", problem=error.message)) from None
    return str(value)


def _email_address(value: object) -> str:
    from skychimp import addresses

    try:
        return addresses.parse(str(value), addresses.LOCAL).email
    except InvalidValue:
        raise ValueError(tr("use an email address such as bounces@example.org")) from None


def _host(value: object) -> str:
    """Check a host name or an IP address. An IPv6 address has no brackets, because no port follows it here."""
    if not isinstance(value, str) or not re.fullmatch(r"[\w.-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[\w.%:]*", value):
        raise ValueError(tr("use a host name or IP address such as mail.example.org, and smtp.port for the port"))
    return value


def _name_server(value: object) -> str:
    with contextlib.suppress(ValueError):
        if isinstance(value, str) and 1 <= parse_address_and_port(value)[1] <= 65535:
            return value
    raise ValueError(tr("use an IP address such as 9.9.9.9, 127.0.0.1:5353 or [::1]:5353"))


def _file(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(tr("use a file name"))
    _require_one_line(str(value))
    return Path(value)


def _store(value: object) -> str:
    allowed = r"(?!.*://).+|sqlite:///(?!:memory:)[^?]+|postgres(?:ql)?(?:\+psycopg)?://.+"
    if isinstance(value, str) and re.fullmatch(allowed, value, re.DOTALL):
        _require_one_line(unquote(value) if value.startswith("sqlite:///") else value)
        return value
    raise ValueError(tr("use a path, sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"))


def _require_one_line(path: str) -> None:
    """Raise ValueError for a path that could not be written on a line of a crontab or a systemd unit."""
    if has_control_character(path):
        raise ValueError(tr("use a path without line breaks and control characters"))


def _site_url(value: object) -> str:
    try:
        return parse_site_url(value if isinstance(value, str) else "")
    except InvalidValue as error:
        raise ValueError(error.hint) from None


def _redis_url(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"rediss?://[^/].*", value):
        return value
    raise ValueError(tr("use redis://HOST:PORT/NUMBER, or rediss:// for TLS"))


def _imap_url(value: object) -> str:
    if isinstance(value, str) and value.isprintable():
        with contextlib.suppress(ValueError):
            url = urlsplit(value)
            _ = url.port  # raises ValueError for an invalid one
            if url.scheme in ("imaps", "imap") and url.username and url.hostname and url.password is None:
                return value
    raise ValueError(tr("use imaps://USER@HOST/FOLDER, with the password in inbound.password_file"))


def _ping_url(value: object) -> str:
    if isinstance(value, str) and value.isascii() and value.isprintable() and len(value) <= _MAX_PING_URL_LENGTH:
        with contextlib.suppress(ValueError):
            url = urlsplit(value)
            _ = url.port  # raises ValueError for an invalid one
            if url.scheme in ("https", "http") and url.hostname and "@" not in url.netloc and " " not in value:
                return value
    raise ValueError(tr("use an https URL such as https://hc-ping.com/UUID"))


def _web_url(value: object) -> str:
    hint = tr("use an https URL such as https://mail.example.org (http only for localhost)")
    try:
        url = parse_site_url(value if isinstance(value, str) else "")
    except InvalidValue:
        raise ValueError(hint) from None
    if not url.startswith("https://") and not _LOCAL_URL.match(url):
        raise ValueError(hint)
    if len(url) > _MAX_URL_LENGTH:
        raise ValueError(tr("use a URL of at most {max_length} characters", max_length=_MAX_URL_LENGTH))
    return url


def _extensible_address(value: object) -> str:
    from skychimp import addresses

    address = addresses.with_ascii_domain(_email_address(value))
    local = address.rpartition("@")[0]
    if not _PLAIN_LOCAL_PART.fullmatch(local):
        raise ValueError(
            tr(
                "use an address with at most {max_length} letters, digits, dots and hyphens before the @, "
                "such as bounces@example.org",
                max_length=_MAX_EXTENSIBLE_LENGTH,
            )
        )
    return address


def _headers(value: object) -> dict[str, str]:
    if isinstance(value, str):  # an environment variable
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, dict) or len(value) > _MAX_HEADERS:
        raise ValueError(
            tr(
                'use a table of at most {max_headers} headers such as {{ "X-Campaign" = "spring" }}',
                max_headers=_MAX_HEADERS,
            )
        )
    for name, text in value.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ValueError(tr("use header names of letters, digits and hyphens, such as X-Campaign"))
        if name.lower().startswith(_OWN_HEADER_PREFIXES) or name.lower() in _OWN_HEADERS:
            raise ValueError(tr("use other headers than {name}, which Skychimp or the mail servers write", name=name))
        _text_line(text)
    if len({name.lower() for name in value}) < len(value):
        raise ValueError(tr("use each header only once"))
    return {name: _text_line(text) for name, text in value.items()}


def _text_line(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 200:
        raise ValueError(tr("use one line of at most 200 characters"))
    return value.strip()


def _language(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", value):
        raise ValueError(tr("use a language tag such as en, ru or pt-BR"))
    return value


def _listen_address(value: object) -> str:
    try:
        parse_listen_address(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(
            tr("use an IP address and a port such as 127.0.0.1:8025, or unix:/run/skychimp/web.sock")
        ) from None
    return str(value)


AccountNames = Annotated[tuple[str, ...], BeforeValidator(_account_names)]
Command = Annotated[tuple[str, ...], BeforeValidator(_command)]
Count = Annotated[int, whole_number(1, 1_000_000_000)]
DomainName = Annotated[str, BeforeValidator(_domain_name)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Durations = Annotated[tuple[timedelta, ...], BeforeValidator(_durations)]
EmailAddress = Annotated[str, BeforeValidator(_email_address)]
ExtensibleAddress = Annotated[str, BeforeValidator(_extensible_address)]
FilePath = Annotated[Path, BeforeValidator(_file)]
FilePaths = Annotated[tuple[Path, ...], BeforeValidator(_files)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Fraction = Annotated[float, BeforeValidator(_fraction)]
Headers = Annotated[dict[str, str], BeforeValidator(_headers)]
Host = Annotated[str, BeforeValidator(_host)]
ImapUrl = Annotated[str, BeforeValidator(_imap_url)]
Language = Annotated[str, BeforeValidator(_language)]
ListenAddress = Annotated[str, BeforeValidator(_listen_address)]
NameServer = Annotated[str, BeforeValidator(_name_server)]
PingUrl = Annotated[SecretStr, BeforeValidator(_ping_url)]
PositiveDuration = Annotated[timedelta, BeforeValidator(_positive_duration)]
Rates = Annotated[tuple[Rate, ...], BeforeValidator(_rates)]
RedisUrl = Annotated[str, BeforeValidator(_redis_url)]
Selectors = Annotated[tuple[str, ...], BeforeValidator(_selectors)]
Sender = Annotated[str, BeforeValidator(_sender)]
SiteUrl = Annotated[str, BeforeValidator(_site_url)]
Size = Annotated[ByteSize, PlainValidator(_size)]
StoreLocation = Annotated[str, BeforeValidator(_store)]
TextLine = Annotated[str, BeforeValidator(_text_line)]
TimeZone = Annotated[str, BeforeValidator(_time_zone)]
WebUrl = Annotated[str, BeforeValidator(_web_url)]
