"""What DNS says of the sender's domain: can bounces come back, and will receivers believe our letters.

Letters go out without all of this, so that nothing here is more than a warning.
SPF (RFC 7208), DKIM (RFC 6376) and DMARC (RFC 7489): whether they are published and can be read. What only the relay
knows, as its outgoing addresses and its selector, is said to be not known.
"""

from collections.abc import Callable, Iterator, Sequence

from skychimp.errors import SkychimpError
from skychimp.services.operations.findings import OK, WARNING, Finding

USUAL_SELECTORS = (
    "default", "dkim", "mail", "smtp", "s1", "s2", "k1", "k2", "k3", "selector1", "selector2", "google", "mandrill",
    "mxvault", "fm1", "protonmail", "key1", "mta",
)  # fmt: skip

Ask = Callable[[str, str], Sequence[str] | None]
"""The records of a name and type, as text; none where the name has none, None where there is no such name."""


class DnsAway(SkychimpError):
    """DNS does not answer."""


def examine(sender: str, return_path: str, ask: Ask, selector: str | None = None) -> Iterator[Finding]:
    """A finding on each of: where bounces go, SPF, DKIM, DMARC. `sender` and `return_path` are addresses."""
    domain, bounces = (address.rpartition("@")[2].lower() for address in (sender, return_path))
    try:
        mx = ask(bounces, "MX")
        if mx is None:
            yield _no_domain(bounces)
            return
        yield returns(bounces, mx, lambda: bool(ask(bounces, "A") or ask(bounces, "AAAA")))
        yield spf(bounces, ask(bounces, "TXT") or ())
        yield dkim(domain, selector, ask)
        yield dmarc(domain, ask)
    except DnsAway as away:
        yield Finding("sender", WARNING, f"not known: {away.message}", away.hint)


def returns(domain: str, mx: Sequence[str], has_address: Callable[[], bool]) -> Finding:
    """Whether a bounce finds its way back."""
    if [record.split()[-1] for record in mx] == ["."]:  # RFC 7505
        return Finding("sender", WARNING, f"{domain} takes no mail: bounces are lost", "set mail.return_path")
    if not mx and not has_address():
        remedy = f"publish an MX record at {domain}, or set mail.return_path"
        return Finding("sender", WARNING, f"{domain} has no mail server: receivers refuse its letters", remedy)
    return Finding("sender", OK, f"bounces come back to {domain}")


def spf(domain: str, records: Sequence[str]) -> Finding:
    """Whether the domain says, once and for all, who may send for it."""
    found = [record for record in records if record.lower().split(" ")[0] == "v=spf1"]
    if not found:
        remedy = f'publish a TXT record at {domain}: "v=spf1 include:YOUR-PROVIDER -all"'
        return Finding("SPF", WARNING, f"{domain} has none: letters look forged", remedy)
    if len(found) > 1:
        return Finding("SPF", WARNING, f"{domain} has {len(found)} records, which counts as an error", "make them one")
    terms = found[0].lower().split()
    if {"all", "+all"} & set(terms):
        return Finding("SPF", WARNING, f"{found[0]}: anybody may send for {domain}", "end it with -all")
    if not any(term.endswith("all") or term.startswith("redirect=") for term in terms):
        return Finding("SPF", WARNING, f"{found[0]}: it says nothing of all others", "end it with -all")
    return Finding("SPF", OK, f"{found[0]} (whether that is your relay is not known here)")


def dkim(domain: str, selector: str | None, ask: Ask) -> Finding:
    """Whether there is a key by which the relay can sign."""
    tried = [selector] if selector else USUAL_SELECTORS
    keys = {name: _key(ask(f"{name}._domainkey.{domain}", "TXT")) for name in tried}
    there = [name for name, key in keys.items() if key]
    if there:
        said = f"{domain} has a key: selector {', '.join(there)} (whether your relay signs is not known here)"
        return Finding("DKIM", OK, said)
    revoked = [name for name, key in keys.items() if key == ""]
    if revoked:
        return Finding("DKIM", WARNING, f"the key of selector {revoked[0]} is revoked", "publish your relay's new key")
    if selector:
        remedy = f"publish the key that your relay signs with at {selector}._domainkey.{domain}"
        return Finding("DKIM", WARNING, f"there is no key at {selector}._domainkey.{domain}", remedy)
    remedy = "ask your relay for its selector, then: skychimp doctor --dkim-selector NAME"
    return Finding("DKIM", WARNING, f"not known: {domain} has no key at the usual selectors", remedy)


def dmarc(domain: str, ask: Ask) -> Finding:
    """Whether the domain, or one above it, says what is to be done about forged letters."""
    for name in _upwards(domain):
        found = [record for record in ask(f"_dmarc.{name}", "TXT") or () if record.lower().startswith("v=dmarc1")]
        if len(found) > 1:
            said = f"_dmarc.{name} has {len(found)} records, which count as none"
            return Finding("DMARC", WARNING, said, "make them one")
        if found:
            return _policy(found[0])
    remedy = f'publish a TXT record at _dmarc.{domain}: "v=DMARC1; p=none; rua=mailto:YOU@{domain}"'
    return Finding("DMARC", WARNING, f"{domain} has none: large receivers refuse mailings without it", remedy)


def resolver(nameserver: tuple[str, int] | None, patience: float = 3.0) -> Ask:
    """Asks the system's name server, or another one by address and port, for so many seconds. Raises DnsAway."""
    import dns.exception
    import dns.resolver

    hint = "check this machine's name server, or name another one in dns.nameserver"
    try:
        stub = dns.resolver.Resolver(configure=nameserver is None)
    except dns.exception.DNSException as error:
        raise DnsAway(f"this machine has no name server: {error}", hint) from None
    if nameserver is not None:
        stub.nameservers, stub.port = [nameserver[0]], nameserver[1]
    stub.lifetime = patience

    def ask(name: str, kind: str) -> Sequence[str] | None:
        try:
            answer = stub.resolve(name, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN:
            return None
        except dns.exception.Timeout:
            raise DnsAway(f"no name server answers about {name}", hint) from None
        except (dns.exception.DNSException, OSError) as error:
            raise DnsAway(f"DNS can't be asked about {name}: {error}", hint) from None
        return [_text(record) for record in answer.rrset or ()]

    return ask


def _no_domain(domain: str) -> Finding:
    remedy = "mend mail.sender, or register the domain"
    return Finding("sender", WARNING, f"there is no domain {domain}: receivers refuse its letters", remedy)


def _policy(record: str) -> Finding:
    tags = dict(part.strip().lower().partition("=")[::2] for part in record.split(";"))
    if tags.get("p", "").strip() in ("none", "quarantine", "reject"):
        return Finding("DMARC", OK, record)
    return Finding("DMARC", WARNING, f"{record}: it has no policy", "begin it with v=DMARC1; p=none")


def _key(records: Sequence[str] | None) -> str | None:
    """The key among a selector's records: "" where it is revoked, None where there is none."""
    for record in records or ():
        tags = dict(part.strip().partition("=")[::2] for part in record.split(";"))
        if "p" in tags:
            return "".join(tags["p"].split())
    return None


def _upwards(domain: str) -> Iterator[str]:
    """A domain and those above it, without the top level."""
    labels = domain.split(".")
    return (".".join(labels[start:]) for start in range(max(1, len(labels) - 1)))


def _text(record: object) -> str:
    strings = getattr(record, "strings", None)
    return str(record) if strings is None else b"".join(strings).decode("utf-8", "replace")
