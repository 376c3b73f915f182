"""Compare this installation with what mailbox providers require of those who send in bulk.

They change what they require: `source` says where to look it up. Where it depends on the mail server, or on people, it
cannot be known here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from skychimp import addresses
from skychimp.config.settings import Settings
from skychimp.delivery.composing.dkim import DkimKey
from skychimp.delivery.sending.signing import load_keys
from skychimp.errors import ConfigError
from skychimp.return_rates import PUBLISHED, RateKind, format_rate
from skychimp.services.operations import sender_dns
from skychimp.services.operations.doctor import return_path
from skychimp.services.operations.findings import OK, Finding
from skychimp.services.operations.sender_dns import DnsUnavailable, Lookup
from skychimp.translation import tr


class Status(StrEnum):
    """Whether a requirement is met, as far as that can be known here."""

    MET = "met"
    NOT_MET = "not_met"
    NOT_KNOWABLE = "not_knowable"


MET, NOT_MET, NOT_KNOWABLE = Status.MET, Status.NOT_MET, Status.NOT_KNOWABLE


@dataclass(frozen=True)
class Requirement:
    """One row of the table. `fix` is None if the requirement is met, and `source` is the provider's page."""

    provider: str
    requirement: str
    status: Status
    fix: str | None
    source: str


class Provider(NamedTuple):
    """A mailbox provider, and the checks of what it requires."""

    name: str
    source: str
    requires: Sequence[str]


SPF = tr("SPF record")
DKIM = tr("DKIM signature")
DMARC = "DMARC record"
ALIGNMENT = "sender's domain aligns with SPF or DKIM"
REVERSE_DNS = "forward and reverse DNS of the mail server"
TLS = "TLS when the mail server delivers"
ONE_CLICK = "one-click unsubscribe (RFC 8058)"
LIST_UNSUBSCRIBE = "List-Unsubscribe header"
LINK = "unsubscribe link in the body"
OWN_DOMAIN = "sender at a domain of your own"
COMPLAINTS = f"complaint rate below {format_rate(PUBLISHED[RateKind.COMPLAINTS].most)}"

PROVIDERS = (
    Provider(
        "Gmail",
        "https://support.google.com/mail/answer/81126",
        (SPF, DKIM, DMARC, ALIGNMENT, REVERSE_DNS, TLS, ONE_CLICK, LINK, OWN_DOMAIN, COMPLAINTS),
    ),
    Provider(
        "Yahoo",
        "https://senders.yahooinc.com/best-practices/",
        (SPF, DKIM, DMARC, ALIGNMENT, REVERSE_DNS, ONE_CLICK, LINK, COMPLAINTS),
    ),
    Provider(
        "Microsoft",
        "https://sendersupport.olc.protection.outlook.com/pm/policies.aspx",
        (SPF, DKIM, DMARC, ALIGNMENT, REVERSE_DNS, LINK),
    ),
    Provider("Apple", "https://support.apple.com/en-us/102322", (SPF, DKIM, DMARC, REVERSE_DNS, LINK)),
    Provider(
        "Mail.ru",
        "https://help.mail.ru/developers/mailing_rules",
        (SPF, DKIM, DMARC, ALIGNMENT, LIST_UNSUBSCRIBE, LINK, OWN_DOMAIN),
    ),
    Provider("Yandex", "https://yandex.com/support/mail/", (SPF, DKIM, LIST_UNSUBSCRIBE, LINK)),
)

MAILBOX_DOMAINS = {
    "aol.com", "bk.ru", "gmail.com", "googlemail.com", "hotmail.com", "icloud.com", "inbox.ru", "list.ru", "live.com",
    "mac.com", "mail.ru", "me.com", "msn.com", "outlook.com", "ya.ru", "yahoo.com", "yandex.com", "yandex.ru",
}  # fmt: skip
"""Domains where anybody can have a mailbox. Nobody but their owner may send for them."""


def compare(settings: Settings, lookup: Lookup, selector: str | None = None) -> Iterator[Requirement]:
    """Yield each requirement of each provider. `settings` has a sender. `selector` is the mail server's, for DKIM."""
    checks = _Checks(settings, lookup, selector)
    known: dict[str, _Result] = {}
    for provider in PROVIDERS:
        for requirement in provider.requires:
            if requirement not in known:
                known[requirement] = checks.check(requirement)
            yield Requirement(provider.name, requirement, *known[requirement], provider.source)


class _Result(NamedTuple):
    status: Status
    fix: str | None = None


class _Checks:
    """The check of each requirement, which is the same for all providers."""

    def __init__(self, settings: Settings, lookup: Lookup, selector: str | None) -> None:
        self._settings = settings
        self._ask = lookup
        self._selector = selector
        self._unavailable: DnsUnavailable | None = None
        self._domain = sender_dns.domain_of(addresses.parse_sender(settings.mail.sender or "")[1])
        self._bounce_domain = sender_dns.domain_of(return_path(settings))
        self._checks: dict[str, Callable[[], _Result]] = {
            SPF: self._spf,
            DKIM: self._dkim,
            DMARC: lambda: _from(sender_dns.check_dmarc(self._domain, self._lookup)),
            ALIGNMENT: self._alignment,
            ONE_CLICK: self._one_click,
            LIST_UNSUBSCRIBE: self._list_unsubscribe,
            OWN_DOMAIN: self._own_domain,
        }

    def check(self, requirement: str) -> _Result:
        """Return whether a requirement is met. Without a name server, what DNS has is not knowable."""
        if (fix := _NEVER_KNOWABLE.get(requirement)) is not None:
            return _Result(NOT_KNOWABLE, fix)
        try:
            return self._checks[requirement]()
        except DnsUnavailable as error:
            self._unavailable = error
            return _Result(NOT_KNOWABLE, f"{error.message}: {error.hint}")
        except ConfigError as error:
            return _Result(NOT_MET, f"{error.message}: {error.hint}")

    def _lookup(self, name: str, kind: str) -> Sequence[str] | None:
        """Ask the name server, unless it did not answer before."""
        if self._unavailable is not None:
            raise self._unavailable
        return self._ask(name, kind)

    def _spf(self) -> _Result:
        return _from(sender_dns.check_spf(self._bounce_domain, self._lookup(self._bounce_domain, "TXT") or ()))

    def _dkim(self) -> _Result:
        keys = self._keys()
        if keys:
            results = [_from(sender_dns.check_published_key(key, self._lookup)) for key in keys]
            return next((result for result in results if result.status != MET), results[0])
        published = sender_dns.check_dkim(self._domain, self._selector, self._lookup)
        if published.level == OK:
            return _Result(NOT_KNOWABLE, tr("send yourself an email, and look for dkim=pass in its headers"))
        sign_here = 'or sign here: run "skychimp dkim keygen"'
        return _Result(NOT_MET if self._selector else NOT_KNOWABLE, f"{published.remedy}, {sign_here}")

    def _alignment(self) -> _Result:
        domains = [key.domain for key in self._keys()]
        tags = sender_dns.dmarc_tags(self._domain, self._lookup)
        result = _from(sender_dns.check_alignment(self._domain, self._bounce_domain, domains, tags))
        return result if result.status == MET or domains else _Result(NOT_KNOWABLE, result.fix)

    def _one_click(self) -> _Result:
        if (self._settings.web.url or "").startswith("https://"):
            return _Result(MET)
        return _Result(
            NOT_MET, tr("set web.url to an https address. If your mail server signs, let it sign both headers")
        )

    def _list_unsubscribe(self) -> _Result:
        inbound = getattr(getattr(self._settings, "inbound", None), "address", None)
        return (
            _Result(MET)
            if self._settings.web.url or inbound
            else _Result(NOT_MET, tr("set web.url or inbound.address"))
        )

    def _own_domain(self) -> _Result:
        if self._domain in MAILBOX_DOMAINS:
            return _Result(NOT_MET, tr("set mail.sender to an address at a domain of your own"))
        return _Result(MET)

    def _keys(self) -> list[DkimKey]:
        return load_keys(self._settings.dkim)


_NEVER_KNOWABLE = {
    REVERSE_DNS: "ask your mail server's administrator: the name of its address must lead back to the address",
    TLS: "ask your mail server's administrator: it should use STARTTLS (Postfix: smtp_tls_security_level = may)",
    LINK: "use {{ unsubscribe_url }} in each message",
    COMPLAINTS: "look it up at postmaster.google.com and senders.yahooinc.com, and write only to those who agreed. "
    'Complaints that came back are in "skychimp stats"',
}
"""What to do about requirements that depend on the mail server, the messages or the recipients."""


def _from(finding: Finding) -> _Result:
    return _Result(MET) if finding.level == OK else _Result(NOT_MET, f"{finding.found}: {finding.remedy}")
