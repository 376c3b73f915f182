"""All settings: their names, types, defaults and meanings.

Each setting is one field below. Loading, error messages and skychimp.example.toml are derived from it.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from skychimp.config import checked_files
from skychimp.config.locations import database_url, hide_password
from skychimp.config.system_time_zone import read_system_time_zone
from skychimp.config.types import (
    AccountNames,
    Command,
    Count,
    DomainName,
    Duration,
    Durations,
    EmailAddress,
    ExtensibleAddress,
    FilePath,
    FilePaths,
    Flag,
    Fraction,
    Headers,
    Host,
    ImapUrl,
    Language,
    ListenAddress,
    NameServer,
    PingUrl,
    PositiveDuration,
    Rates,
    RedisUrl,
    Security,
    Selectors,
    Sender,
    SiteUrl,
    Size,
    StoreLocation,
    TextLine,
    TimeZone,
    WebUrl,
    parse_address_and_port,
    parse_listen_address,
    parse_size,
    whole_number,
)
from skychimp.durations import parse_duration
from skychimp.errors import ConfigError
from skychimp.return_rates import Limits
from skychimp.translation import tr

_USUAL_PORTS = {Security.TLS: 465, Security.STARTTLS: 587, Security.NONE: 25}


def _setting(meaning: str, example: object = None) -> Any:
    """Describe a setting. The example is shown in place of a default if there is none."""
    return Field(description=meaning, examples=None if example is None else [example])


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class StoreSettings(_Section):
    """Where the data is."""

    url: Annotated[
        StoreLocation | None,
        _setting(
            "Store: a path, or postgresql+psycopg://USER@HOST/NAME (default: a file in your user data folder).",
            "/var/lib/skychimp/skychimp.db",
        ),
    ] = None
    password_file: Annotated[
        FilePath | None,
        _setting("File that contains the password of the PostgreSQL user on one line.", "store-password"),
    ] = None

    def read_password(self) -> str | None:
        """Return the password of the database's user, None if none is set. Raises ConfigError."""
        if self.password_file is None:
            return None
        return checked_files.read_password(self.password_file, "set store.password_file to a file with one line")


class MailSettings(_Section):
    """How emails leave, and who they come from."""

    transport: Annotated[
        Literal["outbox", "smtp"],
        _setting("How emails leave: smtp, or outbox to only write them to a Maildir next to the store."),
    ] = "outbox"
    sender: Annotated[
        Sender | None, _setting("Sender of the emails: Name <address>.", "Ada Lovelace <ada@example.org>")
    ] = None
    return_path: Annotated[
        EmailAddress | None,
        _setting("Address that bounces are sent to (default: the sender's address).", "bounces@example.org"),
    ] = None
    reply_to: Annotated[
        Sender | None, _setting("Address that replies go to (default: the sender).", "Help <help@example.org>")
    ] = None
    postal_address: Annotated[
        TextLine | None,
        _setting("Your postal address, as {{ postal_address }} shows it.", "Example Ltd, 1 Main Street, London"),
    ] = None
    headers: Annotated[
        Headers | None, _setting("More headers of the emails of mailings.", {"X-Campaign": "spring"})
    ] = None
    attachments_folder: Annotated[
        FilePath | None,
        _setting("Folder with files that only one client gets. See skychimp help attachments.", "/srv/certificates"),
    ] = None
    max_attachment_size: Annotated[
        Size, _setting("Maximum size of an email's attachments, encoded. Many mail servers refuse more than 10 MB.")
    ] = parse_size("10 MB")
    timezone: Annotated[
        TimeZone | None,
        _setting("Time zone of times without an offset (default: the system's time zone).", "Europe/Berlin"),
    ] = None
    allow_local: Annotated[
        Flag, _setting("Whether to accept addresses whose domain has no dot. localhost is always accepted.")
    ] = False
    account_emails_per_hour: Annotated[
        Count, _setting("Maximum number of emails with codes for accounts per hour, to all addresses together.")
    ] = 100

    def read_timezone(self) -> str:
        """Return the time zone, or the system's if none is set. Raises ConfigError if that has no name."""
        return self.timezone or read_system_time_zone()


class SmtpSettings(_Section):
    """The mail server, and how much it is sent at once."""

    host: Annotated[Host, _setting("Host name or IP address of the mail server.")] = "localhost"
    port: Annotated[
        Annotated[int, whole_number(1, 65535)] | None,
        _setting("Port of the mail server (default: 465 for tls, 587 for starttls, 25 for none).", 587),
    ] = None
    security: Annotated[Security, _setting("Encryption: tls or starttls, both with certificate checks, or none.")] = (
        Security.STARTTLS
    )
    username: Annotated[str | None, _setting("User name, if the mail server requires a login.", "ada")] = None
    password: Annotated[SecretStr | None, _setting("Password of that user. password_file is safer.", "secret")] = None
    password_file: Annotated[
        FilePath | None, _setting("File that contains the password on one line.", "smtp-password")
    ] = None
    auth: Annotated[
        Literal["plain", "login", "xoauth2"] | None,
        _setting("How to log in: plain, login or xoauth2 (default: what the server offers).", "plain"),
    ] = None
    token_command: Annotated[
        Command | None,
        _setting(
            "Command that prints an OAuth 2 token for xoauth2. It runs without a shell.",
            "/usr/bin/smtp-token ada",
        ),
    ] = None
    ca_file: Annotated[
        FilePath | None,
        _setting("PEM file with the certificates to trust (default: the system's certificates).", "ca.pem"),
    ] = None
    connections: Annotated[
        int,
        whole_number(1, 1000),
        _setting("Maximum number of simultaneous connections to the mail server, of all processes on this host."),
    ] = 10
    emails_per_connection: Annotated[Count, _setting("Number of emails after which a connection is replaced.")] = 1000
    connection_age: Annotated[PositiveDuration, _setting("Time after which a connection is replaced.")] = timedelta(
        minutes=10
    )
    rate: Annotated[
        Rates | None,
        _setting("Maximum rate of all hosts: 100/s, 300/min, 5000/h, 2000/d or a list (default: no limit).", "100/s"),
    ] = None
    timeout: Annotated[PositiveDuration, _setting("How long to wait for a connection and for ordinary replies.")] = (
        timedelta(seconds=60)
    )
    dot_timeout: Annotated[
        PositiveDuration, _setting("How long to wait for the reply after the end of an email (RFC 5321: 10m).")
    ] = timedelta(minutes=10)

    @property
    def effective_port(self) -> int:
        """Return the port, or the usual one of the encryption if none is set."""
        return self.port or _USUAL_PORTS[self.security]

    @property
    def relay(self) -> str:
        """Return the mail server as the ledger names it: host and port."""
        return f"{self.host}:{self.effective_port}"

    def read_password(self) -> str | None:
        """Return the password from the setting or its file, None without either. Raises ConfigError."""
        if self.password is not None or self.password_file is None:
            return self.password.get_secret_value() if self.password is not None else None
        return checked_files.read_password(self.password_file, "set smtp.password_file to a file with one line")

    def read_certificates(self) -> str | None:
        """Return the certificates to trust as PEM text, None for the system's. Raises ConfigError."""
        if self.ca_file is None or self.security == Security.NONE:
            return None
        data = checked_files.require_bytes(self.ca_file, "set smtp.ca_file to a readable PEM file")
        return data.decode("ascii", "ignore")


class DkimSettings(_Section):
    """How emails are signed here, if the mail server does not sign them."""

    domain: Annotated[
        DomainName | None, _setting("Domain that signs the emails (DKIM), usually the sender's.", "example.org")
    ] = None
    selector: Annotated[
        Selectors | None,
        _setting("Name that the key is published under: SELECTOR._domainkey.DOMAIN. A list for several keys.", "s1"),
    ] = None
    key_file: Annotated[
        FilePaths | None,
        _setting('File with the private key, from "skychimp dkim keygen". A list for several keys.', "dkim-s1.pem"),
    ] = None

    @property
    def is_set(self) -> bool:
        """Return whether emails are signed, or would be if nothing were missing."""
        return self.domain is not None or self.selector is not None or self.key_file is not None

    def read_keys(self) -> list[tuple[str, Path, bytes]]:
        """Return the selector, the file and its content for each key, none if nothing is set. Raises ConfigError."""
        if not self.is_set:
            return []
        for name in ("domain", "selector", "key_file"):
            if not getattr(self, name):
                raise ConfigError(
                    tr("dkim.{name} is not set", name=name), tr("set dkim.domain, dkim.selector and dkim.key_file")
                )
        selectors, paths = self.selector or (), self.key_file or ()
        if len(selectors) != len(paths):
            raise ConfigError(tr("dkim.selector and dkim.key_file differ in length"), tr("give each key its selector"))
        hint = tr("set dkim.key_file to a readable PEM file")
        pems = (checked_files.require_bytes(path, hint, max_bytes=checked_files.MAX_KEY_BYTES) for path in paths)
        return list(zip(selectors, paths, pems, strict=True))


class DeliverySettings(_Section):
    """What happens to emails that could not be sent, or whose outcome is unknown."""

    unknown: Annotated[
        Literal["resend", "hold"],
        _setting("What to do if the final reply to an email was lost: resend it, or hold it until a person decides."),
    ] = "resend"
    unknown_after: Annotated[Duration, _setting("How long to wait before such an email is resent.")] = timedelta(
        minutes=15
    )
    retry_after: Annotated[Durations, _setting("How long to wait before each retry. The last value repeats.")] = tuple(
        map(parse_duration, ("6m", "15m", "45m", "2h", "4h"))
    )
    give_up_after: Annotated[PositiveDuration, _setting("How long to try before an email expires.")] = timedelta(
        hours=72
    )
    keep_attempts: Annotated[
        PositiveDuration | None, _setting("How long to keep the delivery log (default: forever).", "365d")
    ] = None
    require_consent: Annotated[
        Flag, _setting("Whether to leave out clients without a recorded consent. See skychimp help consent.")
    ] = False
    disable_failures: Annotated[Count, _setting("Disable a mailing after this many failed emails, ...")] = 100
    disable_failure_rate: Annotated[Fraction, _setting("... if they are at least this fraction of all tried.")] = 0.5
    canary_failure_rate: Annotated[
        Fraction, _setting("Hold a mailing if more than this fraction of its canary emails failed.")
    ] = 0.1
    bounce_rate: Annotated[
        Fraction, _setting("Hold a mailing when this fraction of a due time's emails has bounced (1: never).")
    ] = Limits().bounces
    complaint_rate: Annotated[
        Fraction, _setting("Hold a mailing when this fraction of a due time's emails was marked as spam (1: never).")
    ] = Limits().complaints

    @property
    def limits(self) -> Limits:
        """From which rates of bounces and complaints on a mailing is held."""
        return Limits(self.bounce_rate, self.complaint_rate)


class InboundSettings(_Section):
    """Where bounces, complaints and unsubscribe requests arrive, and what bounces mean."""

    address: Annotated[
        ExtensibleAddress | None,
        _setting(
            "Address that takes bounces and unsubscribe requests, also with an extension: local+TOKEN@domain.",
            "bounces@example.org",
        ),
    ] = None
    maildir: Annotated[
        FilePath | None, _setting("Maildir with that mail. The daemon reads it.", "/var/mail/bounces/Maildir")
    ] = None
    imap_url: Annotated[
        ImapUrl | None,
        _setting(
            "IMAP mailbox with that mail: imaps://USER@HOST/FOLDER. The daemon reads it.",
            "imaps://bounces@imap.example.org/INBOX",
        ),
    ] = None
    password_file: Annotated[
        FilePath | None, _setting("File that contains the IMAP password on one line.", "imap-password")
    ] = None
    soft_bounces: Annotated[
        Count, _setting("Mark a client as bad when its mailbox has bounced on this many days, ...")
    ] = 5
    soft_bounce_period: Annotated[PositiveDuration, _setting("... within this time.")] = timedelta(days=60)

    def read_password(self) -> str:
        """Return the IMAP password. Raises ConfigError."""
        hint = tr("set inbound.password_file to a file with one line")
        if self.password_file is None:
            raise ConfigError(tr("inbound.password_file is not set"), hint)
        return checked_files.read_password(self.password_file, hint)


class RunSettings(_Section):
    """How one run behaves."""

    patience: Annotated[
        Duration, _setting("How long a run waits for an unavailable mail server, for smtp.rate, or for a full disk.")
    ] = timedelta(minutes=1)


class DaemonSettings(_Section):
    """How the daemon behaves."""

    interval: Annotated[PositiveDuration, _setting("How often the daemon looks for due mailings.")] = timedelta(
        seconds=1
    )


class MonitorSettings(_Section):
    """Who is told whether sending works. See skychimp help monitoring."""

    ping_url: Annotated[
        PingUrl | None,
        _setting(
            "URL that is told of each run's start, end and failure, as Healthchecks does it. Keep it secret.",
            "https://hc-ping.com/UUID",
        ),
    ] = None
    metrics_file: Annotated[
        FilePath | None,
        _setting(
            "File to write metrics to, in the text format of Prometheus.",
            "/var/lib/prometheus/node-exporter/skychimp.prom",
        ),
    ] = None

    @property
    def is_on(self) -> bool:
        """Whether anybody is told."""
        return self.ping_url is not None or self.metrics_file is not None


class WebSettings(_Section):
    """Unsubscribe links, and the server that answers them: see `skychimp serve`."""

    url: Annotated[
        WebUrl | None,
        _setting("Public https address of your unsubscribe links.", "https://mail.example.org"),
    ] = None
    listen: Annotated[
        ListenAddress, _setting("Where skychimp serve listens: ADDRESS:PORT, or unix:PATH for a socket.")
    ] = "127.0.0.1:8025"

    @property
    def address(self) -> tuple[str, int] | str:
        """Return the IP address and port, or the path of the Unix socket."""
        return parse_listen_address(self.listen)


class BlogSettings(_Section):
    """The blog and its static site."""

    url: Annotated[
        SiteUrl | None,
        _setting(
            "Public URL of the blog. Links in digests, the feed and the sitemap need it.", "https://blog.example.org"
        ),
    ] = None
    title: Annotated[TextLine, _setting("Title of the blog.")] = "Skychimp"
    tagline: Annotated[TextLine, _setting("Subtitle of the blog, a few words long.")] = "News and updates"
    description: Annotated[TextLine, _setting("Description of the blog in one sentence.")] = "The latest posts."
    language: Annotated[Language, _setting("Language of the posts, such as en, ru or pt-BR.")] = "en"


class CacheSettings(_Section):
    """Where the figures of the home page are cached."""

    url: Annotated[
        RedisUrl | None,
        _setting(
            "Redis server that caches the home page's figures (default: a folder of your account).",
            "redis://localhost/0",
        ),
    ] = None


class DnsSettings(_Section):
    """Where DNS records are looked up."""

    nameserver: Annotated[
        NameServer | None,
        _setting('Name server that "skychimp doctor" asks about your domain (default: the system\'s).', "9.9.9.9"),
    ] = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Return the name server's IP address and port, or None for the system's name server."""
        return None if self.nameserver is None else parse_address_and_port(self.nameserver)


class ServiceSettings(_Section):
    """Who may run this installation. The rules are in `shared`, which reads the account's own config file only."""

    shared: Annotated[
        Flag,
        _setting("Whether others run this installation with sudo. Counts only in the account's own config folder."),
    ] = False
    operators: Annotated[
        AccountNames, _setting("Accounts that may use other settings and --operator when they run it with sudo.")
    ] = ()


class Settings(_Section):
    """All settings, by section."""

    store: StoreSettings = StoreSettings()
    mail: MailSettings = Field(default_factory=MailSettings)
    smtp: SmtpSettings = SmtpSettings()
    dkim: DkimSettings = DkimSettings()
    monitor: MonitorSettings = MonitorSettings()
    web: WebSettings = WebSettings()
    delivery: DeliverySettings = DeliverySettings()
    inbound: InboundSettings = InboundSettings()
    run: RunSettings = RunSettings()
    daemon: DaemonSettings = DaemonSettings()
    blog: BlogSettings = BlogSettings()
    cache: CacheSettings = CacheSettings()
    dns: DnsSettings = DnsSettings()
    service: ServiceSettings = ServiceSettings()
    config_file: Path | None = None
    """The config file that was read, if any."""

    @property
    def relay(self) -> str:
        """Return what emails are sent through, as the ledger names it: the mail server, or `outbox`."""
        return self.smtp.relay if self.mail.transport == "smtp" else self.mail.transport

    @property
    def store_url(self) -> str:
        """Return the store as an SQLAlchemy URL."""
        return database_url(self.store.url)

    @property
    def store_name(self) -> str:
        """Return the store as it may be shown to a person: a path, or a URL without its password."""
        return hide_password(self.store.url or unquote(self.store_url.removeprefix("sqlite:///")))


SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation  # type: ignore[misc]
    for name, field in Settings.model_fields.items()
    if name != "config_file"
}
"""Each section's name and model."""
