"""Settings: flags > environment > .env > skychimp.toml > defaults.

Each setting is one row below: name, type, default and one line of meaning. The row drives loading, the error messages
and skychimp.example.toml.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from skychimp.config.locations import database_url, hide_password
from skychimp.config.types import (
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
    RedisUrl,
    Security,
    Sender,
    Web,
    Zone,
    address_and_port,
    is_zone,
    whole,
)
from skychimp.durations import parse_duration
from skychimp.errors import ConfigError


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
        return database_url(self.store.url)

    @property
    def store_name(self) -> str:
        """The store as a person may see it: a path, or a URL without its password."""
        return hide_password(self.store.url or unquote(self.store_url.removeprefix("sqlite:///")))


SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation  # type: ignore[misc]
    for name, field in Settings.model_fields.items()
    if name != "config_file"
}
"""Each section's name and its settings."""
