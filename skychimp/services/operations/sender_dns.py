"""Check what DNS says about the sender's domain: can bounces return, and can receivers verify our emails.

Emails are sent even if something is missing, so every finding is at most a warning. SPF (RFC 7208), DKIM (RFC 6376) and
DMARC (RFC 7489) records are checked for being published and valid. What only the mail server knows, such as its
outgoing addresses and its selector, is reported as not known.
"""

from collections.abc import Callable, Iterator, Sequence

from skychimp.errors import SkychimpError
from skychimp.services.operations.findings import OK, WARNING, Finding

COMMON_SELECTORS = (
    "default", "dkim", "mail", "smtp", "s1", "s2", "k1", "k2", "k3", "selector1", "selector2", "google", "mandrill",
    "mxvault", "fm1", "protonmail", "key1", "mta",
)  # fmt: skip

Lookup = Callable[[str, str], Sequence[str] | None]
"""A function that returns the records of a name and type as text, or None if the name does not exist."""


class DnsUnavailable(SkychimpError):
    """No name server answers."""


def check_domain(sender: str, return_path: str, lookup: Lookup, selector: str | None = None) -> Iterator[Finding]:
    """Yield findings about bounces, SPF, DKIM and DMARC. `sender` and `return_path` are addresses."""
    domain, bounce_domain = (address.rpartition("@")[2].lower() for address in (sender, return_path))
    try:
        mx = lookup(bounce_domain, "MX")
        if mx is None:
            yield _no_such_domain(bounce_domain)
            return
        yield check_bounces(
            bounce_domain, mx, lambda: bool(lookup(bounce_domain, "A") or lookup(bounce_domain, "AAAA"))
        )
        yield check_spf(bounce_domain, lookup(bounce_domain, "TXT") or ())
        yield check_dkim(domain, selector, lookup)
        yield check_dmarc(domain, lookup)
    except DnsUnavailable as error:
        yield Finding("sender", WARNING, f"not known: {error.message}", error.hint)


def check_bounces(domain: str, mx: Sequence[str], has_address: Callable[[], bool]) -> Finding:
    """Check whether bounces can reach the domain."""
    if [record.split()[-1] for record in mx] == ["."]:  # RFC 7505
        return Finding("sender", WARNING, f"{domain} accepts no mail, so bounces are lost", "set mail.return_path")
    if not mx and not has_address():
        remedy = f"publish an MX record at {domain}, or set mail.return_path"
        return Finding("sender", WARNING, f"{domain} has no mail server, so receivers refuse its emails", remedy)
    return Finding("sender", OK, f"bounces can reach {domain}")


def check_spf(domain: str, records: Sequence[str]) -> Finding:
    """Check whether the domain publishes one complete list of who may send for it."""
    spf_records = [record for record in records if record.lower().split(" ")[0] == "v=spf1"]
    if not spf_records:
        remedy = f'publish a TXT record at {domain}: "v=spf1 include:YOUR-PROVIDER -all"'
        return Finding("SPF", WARNING, f"{domain} has no SPF record, so its emails look forged", remedy)
    if len(spf_records) > 1:
        return Finding(
            "SPF", WARNING, f"{domain} has {len(spf_records)} SPF records, which is an error", "merge them into one"
        )
    record = spf_records[0]
    terms = record.lower().split()
    if {"all", "+all"} & set(terms):
        return Finding("SPF", WARNING, f"{record}: anyone may send for {domain}", "end the record with -all")
    if not any(term.endswith("all") or term.startswith("redirect=") for term in terms):
        return Finding("SPF", WARNING, f"{record}: it does not exclude other senders", "end the record with -all")
    return Finding("SPF", OK, f"{record} (cannot check whether it includes your mail server)")


def check_dkim(domain: str, selector: str | None, lookup: Lookup) -> Finding:
    """Check whether the domain publishes a key with which its emails can be verified."""
    selectors = [selector] if selector else COMMON_SELECTORS
    keys = {name: _key(lookup(f"{name}._domainkey.{domain}", "TXT")) for name in selectors}
    valid = [name for name, key in keys.items() if key]
    if valid:
        found = f"{domain} has a key for selector {', '.join(valid)} (cannot check whether your mail server signs)"
        return Finding("DKIM", OK, found)
    revoked = [name for name, key in keys.items() if key == ""]
    if revoked:
        return Finding(
            "DKIM", WARNING, f"the key of selector {revoked[0]} is revoked", "publish your mail server's new key"
        )
    if selector:
        remedy = f"publish your mail server's key at {selector}._domainkey.{domain}"
        return Finding("DKIM", WARNING, f"no key at {selector}._domainkey.{domain}", remedy)
    remedy = 'run "skychimp doctor --dkim-selector NAME" with your mail server\'s selector'
    return Finding("DKIM", WARNING, f"not known: {domain} has no key for the common selectors", remedy)


def check_dmarc(domain: str, lookup: Lookup) -> Finding:
    """Check whether the domain, or one above it, says what to do with forged emails."""
    for name in _with_parents(domain):
        records = [record for record in lookup(f"_dmarc.{name}", "TXT") or () if record.lower().startswith("v=dmarc1")]
        if len(records) > 1:
            problem = f"_dmarc.{name} has {len(records)} DMARC records, which count as none"
            return Finding("DMARC", WARNING, problem, "merge them into one")
        if records:
            return _policy(records[0])
    remedy = f'publish a TXT record at _dmarc.{domain}: "v=DMARC1; p=none; rua=mailto:YOU@{domain}"'
    return Finding("DMARC", WARNING, f"{domain} has no DMARC record, so large receivers refuse its mailings", remedy)


def make_lookup(nameserver: tuple[str, int] | None, timeout_s: float = 3.0) -> Lookup:
    """Return the function that asks the system's name server, or the one at this address and port.

    It gives up after `timeout_s`. Raises DnsUnavailable if there is no name server.
    """
    import dns.exception
    import dns.resolver

    hint = "check this machine's name server, or set dns.nameserver"
    try:
        resolver = dns.resolver.Resolver(configure=nameserver is None)
    except dns.exception.DNSException as error:
        raise DnsUnavailable(f"no name server is configured: {error}", hint) from None
    if nameserver is not None:
        resolver.nameservers, resolver.port = [nameserver[0]], nameserver[1]
    resolver.lifetime = timeout_s

    def lookup(name: str, kind: str) -> Sequence[str] | None:
        try:
            answer = resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN:
            return None
        except dns.exception.Timeout:
            raise DnsUnavailable(f"no name server answered for {name}", hint) from None
        except (dns.exception.DNSException, OSError) as error:
            raise DnsUnavailable(f"cannot look up {name}: {error}", hint) from None
        return [_text(record) for record in answer.rrset or ()]

    return lookup


def _no_such_domain(domain: str) -> Finding:
    remedy = "correct mail.sender, or register the domain"
    return Finding("sender", WARNING, f"the domain {domain} does not exist, so receivers refuse its emails", remedy)


def _policy(record: str) -> Finding:
    tags = dict(part.strip().lower().partition("=")[::2] for part in record.split(";"))
    if tags.get("p", "").strip() in ("none", "quarantine", "reject"):
        return Finding("DMARC", OK, record)
    return Finding("DMARC", WARNING, f"{record}: it has no policy", "start the record with v=DMARC1; p=none")


def _key(records: Sequence[str] | None) -> str | None:
    """Return the key in a selector's records: "" if it is revoked, None if there is none."""
    for record in records or ():
        tags = dict(part.strip().partition("=")[::2] for part in record.split(";"))
        if "p" in tags:
            return "".join(tags["p"].split())
    return None


def _with_parents(domain: str) -> Iterator[str]:
    """Return a domain and the domains above it, without the top level."""
    labels = domain.split(".")
    return (".".join(labels[start:]) for start in range(max(1, len(labels) - 1)))


def _text(record: object) -> str:
    strings = getattr(record, "strings", None)
    return str(record) if strings is None else b"".join(strings).decode("utf-8", "replace")
