"""Check what DNS says about the sender's domain: can bounces return, and can receivers verify our emails.

Emails are sent even if something is missing, so every finding is at most a warning. SPF (RFC 7208), DKIM (RFC 6376) and
DMARC (RFC 7489) records are checked for being published and valid. What only the mail server knows, such as its
outgoing addresses and its selector, is reported as not known.

An email passes DMARC if its sender's domain aligns with that of the return path (SPF) or that of a signature (DKIM):
they have the same organizational domain, or are the same if the DMARC record is strict.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from skychimp import addresses
from skychimp.delivery.composing import dkim
from skychimp.errors import SkychimpError
from skychimp.services.operations.findings import ALIGNMENT, DKIM, DMARC, OK, SENDER, SPF, WARNING, Finding
from skychimp.translation import tr, verbatim

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

    from skychimp.delivery.composing.dkim import DkimKey

COMMON_SELECTORS = (
    "default", "dkim", "mail", "smtp", "s1", "s2", "k1", "k2", "k3", "selector1", "selector2", "google", "mandrill",
    "mxvault", "fm1", "protonmail", "key1", "mta",
)  # fmt: skip

Lookup = Callable[[str, str], Sequence[str] | None]
"""A function that returns the records of a name and type as text, or None if the name does not exist."""


class DnsUnavailable(SkychimpError):
    """No name server answers."""


def check_domain(
    sender: str, return_path: str, lookup: Lookup, selector: str | None = None, keys: "Sequence[DkimKey]" = ()
) -> Iterator[Finding]:
    """Yield findings about bounces, SPF, DKIM, DMARC and alignment. `sender` and `return_path` are addresses.

    `selector` is the mail server's. It does not count if emails are signed here, with `keys`.
    """
    domain, bounce_domain = domain_of(sender), domain_of(return_path)
    try:
        mx = lookup(bounce_domain, "MX")
        if mx is None:
            yield _no_such_domain(bounce_domain)
            return
        yield check_bounces(
            bounce_domain, mx, lambda: bool(lookup(bounce_domain, "A") or lookup(bounce_domain, "AAAA"))
        )
        yield check_spf(bounce_domain, lookup(bounce_domain, "TXT") or ())
        if keys:
            yield from (check_published_key(key, lookup) for key in keys)
        else:
            yield check_dkim(domain, selector, lookup)
        yield check_dmarc(domain, lookup)
        yield check_alignment(domain, bounce_domain, [key.domain for key in keys], dmarc_tags(domain, lookup))
    except DnsUnavailable as error:
        yield Finding(SENDER, WARNING, tr("not known: {message}", message=error.message), error.hint)


def check_bounces(domain: str, mx: Sequence[str], has_address: Callable[[], bool]) -> Finding:
    """Check whether bounces can reach the domain."""
    if [record.split()[-1] for record in mx] == ["."]:  # RFC 7505
        return Finding(
            SENDER,
            WARNING,
            tr("{domain} accepts no mail, so bounces are lost", domain=domain),
            tr("set mail.return_path"),
        )
    if not mx and not has_address():
        remedy = tr("publish an MX record at {domain}, or set mail.return_path", domain=domain)
        return Finding(
            SENDER, WARNING, tr("{domain} has no mail server, so receivers refuse its emails", domain=domain), remedy
        )
    return Finding(SENDER, OK, tr("bounces can reach {domain}", domain=domain))


def check_spf(domain: str, records: Sequence[str]) -> Finding:
    """Check whether the domain publishes one complete list of who may send for it."""
    spf_records = [record for record in records if record.lower().split(" ")[0] == "v=spf1"]
    if not spf_records:
        remedy = tr('publish a TXT record at {domain}: "v=spf1 include:YOUR-PROVIDER -all"', domain=domain)
        return Finding(SPF, WARNING, tr("{domain} has no SPF record, so its emails look forged", domain=domain), remedy)
    if len(spf_records) > 1:
        return Finding(
            SPF,
            WARNING,
            tr("{domain} has {number} SPF records, which is an error", domain=domain, number=len(spf_records)),
            tr("merge them into one"),
        )
    record = spf_records[0]
    terms = record.lower().split()
    if {"all", "+all"} & set(terms):
        return Finding(
            SPF,
            WARNING,
            tr("{record}: anyone may send for {domain}", record=record, domain=domain),
            tr("end the record with -all"),
        )
    if not any(term.endswith("all") or term.startswith("redirect=") for term in terms):
        return Finding(
            SPF,
            WARNING,
            tr("{record}: it does not exclude other senders", record=record),
            tr("end the record with -all"),
        )
    return Finding(SPF, OK, tr("{record} (cannot check whether it includes your mail server)", record=record))


def check_dkim(domain: str, selector: str | None, lookup: Lookup) -> Finding:
    """Check whether the domain publishes a key with which its emails can be verified."""
    selectors = [selector] if selector else COMMON_SELECTORS
    keys = {name: _key(lookup(f"{name}._domainkey.{domain}", "TXT")) for name in selectors}
    valid = [name for name, key in keys.items() if key]
    if valid:
        found = tr(
            "{domain} has a key for selector {names} (cannot check whether your mail server signs)",
            domain=domain,
            names=", ".join(valid),
        )
        return Finding(DKIM, OK, found)
    revoked = [name for name, key in keys.items() if key == ""]
    if revoked:
        return Finding(
            DKIM,
            WARNING,
            tr("the key of selector {selector} is revoked", selector=revoked[0]),
            tr("publish your mail server's new key"),
        )
    if selector:
        remedy = tr(
            "publish your mail server's key at {selector}._domainkey.{domain}", selector=selector, domain=domain
        )
        return Finding(
            DKIM, WARNING, tr("no key at {selector}._domainkey.{domain}", selector=selector, domain=domain), remedy
        )
    remedy = tr('run "skychimp doctor --dkim-selector NAME" with your mail server\'s selector')
    return Finding(DKIM, WARNING, tr("not known: {domain} has no key for the common selectors", domain=domain), remedy)


def check_published_key(key: "DkimKey", lookup: Lookup) -> Finding:
    """Check whether the public key that belongs to a key of ours is the one that is published."""
    record, wanted = dkim.key_record(key), dkim.public_key(key)
    records = lookup(record.name, "TXT") or ()
    remedy = tr('publish this TXT record at {name}: "{record}"', name=record.name, record=record.text)
    published = _key(records)
    if published is None:
        return Finding(
            DKIM, WARNING, tr("no key at {name}, so receivers cannot verify our signatures", name=record.name), remedy
        )
    if len(records) > 1:
        return Finding(
            DKIM,
            WARNING,
            tr("{name} has {number} TXT records", name=record.name, number=len(records)),
            tr("delete all but one"),
        )
    if published != wanted:
        found = tr("the key is revoked") if not published else tr("the key differs from the one in dkim.key_file")
        return Finding(
            DKIM, WARNING, tr("{name}: {found}, so our signatures are invalid", name=record.name, found=found), remedy
        )
    kind = _tags(records[0]).get("k", "rsa")
    if kind != ("rsa" if key.is_rsa else "ed25519"):
        return Finding(DKIM, WARNING, tr("{name}: the key is published as {kind}", name=record.name, kind=kind), remedy)
    if "y" in _tags(records[0]).get("t", "").split(":"):
        found = tr("{name}: the record has t=y, so receivers may ignore the signatures (test mode)", name=record.name)
        return Finding(DKIM, WARNING, found, tr("delete t=y from the record"))
    return Finding(DKIM, OK, tr("emails are signed here, and {name} has the right key", name=record.name))


def check_dmarc(domain: str, lookup: Lookup) -> Finding:
    """Check whether the domain, or one above it, says what to do with forged emails."""
    name, records = _dmarc_records(domain, lookup)
    if len(records) > 1:
        problem = tr("_dmarc.{name} has {number} DMARC records, which count as none", name=name, number=len(records))
        return Finding(DMARC, WARNING, problem, tr("merge them into one"))
    if records:
        return _policy(records[0])
    remedy = tr('publish a TXT record at _dmarc.{domain}: "v=DMARC1; p=none; rua=mailto:YOU@{domain}"', domain=domain)
    return Finding(
        DMARC,
        WARNING,
        tr("{domain} has no DMARC record, so large receivers refuse its mailings", domain=domain),
        remedy,
    )


def dmarc_tags(domain: str, lookup: Lookup) -> Mapping[str, str]:
    """Return the tags of the DMARC record that is valid for a domain, none without one."""
    _, records = _dmarc_records(domain, lookup)
    return _tags(records[0].lower()) if len(records) == 1 else {}


def check_alignment(domain: str, bounce_domain: str, signing: Sequence[str], dmarc: Mapping[str, str]) -> Finding:
    """Check whether emails pass DMARC: whether the return path or a signature of ours aligns with the sender.

    `signing` has the domains that sign here, none if only the mail server may sign.
    """
    signs = any(is_aligned(domain, each, strict=dmarc.get("adkim") == "s") for each in signing)
    returns = is_aligned(domain, bounce_domain, strict=dmarc.get("aspf") == "s")
    if signing and not signs:
        found = tr(
            "DKIM signs as {names}, which does not align with the sender's {domain}",
            names=", ".join(sorted(set(signing))),
            domain=domain,
        )
        remedy = tr("set dkim.domain to {domain}", domain=domain)
        return Finding(ALIGNMENT, WARNING, found, remedy)
    if not (signs or returns):
        found = tr(
            "the return path's {bounce_domain} does not align with the sender's {domain}, "
            "so DMARC fails unless DKIM aligns",
            bounce_domain=bounce_domain,
            domain=domain,
        )
        remedy = tr(
            "have your mail server sign as {domain}, or set mail.return_path to an address at {domain}", domain=domain
        )
        return Finding(ALIGNMENT, WARNING, found, remedy)
    if signs and returns:
        return Finding(ALIGNMENT, OK, tr("the return path and DKIM align with {domain}", domain=domain))
    found = (
        tr("DKIM aligns with {domain}", domain=domain)
        if signs
        else tr("the return path aligns with {domain}", domain=domain)
    )
    return Finding(ALIGNMENT, OK, found)


def is_aligned(domain: str, other: str, *, strict: bool) -> bool:
    """Return whether two domains align (RFC 7489, section 3.1)."""
    return domain == other or (not strict and organizational_domain(domain) == organizational_domain(other))


def organizational_domain(domain: str) -> str:
    """Return the domain that somebody has registered, which is one level below a public suffix such as co.uk."""
    return _public_suffixes().privatesuffix(domain) or domain


@cache
def _public_suffixes() -> "PublicSuffixList":
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()


def domain_of(address: str) -> str:
    """Return the domain of an address, in lower-case ASCII."""
    return addresses.with_ascii_domain(address).rpartition("@")[2].lower()


def make_lookup(nameserver: tuple[str, int] | None, timeout_s: float = 3.0) -> Lookup:
    """Return the function that asks the system's name server, or the one at this address and port.

    It gives up after `timeout_s`. Raises DnsUnavailable if there is no name server.
    """
    import dns.exception
    import dns.resolver

    hint = tr("check this machine's name server, or set dns.nameserver")
    try:
        resolver = dns.resolver.Resolver(configure=nameserver is None)
    except dns.exception.DNSException as error:
        raise DnsUnavailable(tr("no name server is configured: {error}", error=error), hint) from None
    if nameserver is not None:
        resolver.nameservers, resolver.port = [nameserver[0]], nameserver[1]
    resolver.lifetime = timeout_s

    def lookup(name: str, kind: str) -> Sequence[str] | None:
        try:
            answer = resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN:
            return None
        except dns.exception.Timeout:
            raise DnsUnavailable(tr("no name server answered for {name}", name=name), hint) from None
        except (dns.exception.DNSException, OSError) as error:
            raise DnsUnavailable(tr("cannot look up {name}: {error}", name=name, error=error), hint) from None
        return [_text(record) for record in answer.rrset or ()]

    return lookup


def _no_such_domain(domain: str) -> Finding:
    remedy = tr("correct mail.sender, or register the domain")
    return Finding(
        SENDER,
        WARNING,
        tr("the domain {domain} does not exist, so receivers refuse its emails", domain=domain),
        remedy,
    )


def _policy(record: str) -> Finding:
    if _tags(record.lower()).get("p") in ("none", "quarantine", "reject"):
        return Finding(DMARC, OK, verbatim(record))
    return Finding(
        DMARC, WARNING, tr("{record}: it has no policy", record=record), tr("start the record with v=DMARC1; p=none")
    )


def _key(records: Sequence[str] | None) -> str | None:
    """Return the key in a selector's records: "" if it is revoked, None if there is none."""
    for record in records or ():
        tags = _tags(record)
        if "p" in tags:
            return "".join(tags["p"].split())
    return None


def _tags(record: str) -> dict[str, str]:
    """Return the tags of a DKIM or DMARC record (RFC 6376, section 3.2)."""
    parts = (part.partition("=") for part in record.split(";"))
    return {name.strip(): value.strip() for name, _, value in parts}


def _dmarc_records(domain: str, lookup: Lookup) -> tuple[str, list[str]]:
    """Return the first domain with DMARC records, from this one up, and these records."""
    for name in _with_parents(domain):
        records = [record for record in lookup(f"_dmarc.{name}", "TXT") or () if record.lower().startswith("v=dmarc1")]
        if records:
            return name, records
    return domain, []


def _with_parents(domain: str) -> Iterator[str]:
    """Return a domain and the domains above it, without the top level."""
    labels = domain.split(".")
    return (".".join(labels[start:]) for start in range(max(1, len(labels) - 1)))


def _text(record: object) -> str:
    strings = getattr(record, "strings", None)
    return str(record) if strings is None else b"".join(strings).decode("utf-8", "replace")
