"""Test the checks of a sender's domain against a real name server: each fault is found, with its remedy."""

import socket
from collections.abc import Mapping, Sequence

import pytest
from support.nameserver import NameServer, Records

from skychimp.services.operations import sender_dns
from skychimp.services.operations.findings import OK, WARNING, Finding
from skychimp.services.operations.sender_dns import DnsUnavailable

KEY = '"v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3" "DQEBAQUAA4GNADCB"'  # in two strings, as long keys are
GOOD: dict[str, dict[str, Sequence[str]]] = {
    "skychimp.test": {"MX": ["10 mx.skychimp.test."], "TXT": ['"v=spf1 mx -all"', '"unrelated"']},
    "mx.skychimp.test": {"A": ["192.0.2.1"]},
    "s7._domainkey.skychimp.test": {"TXT": [KEY]},
    "_dmarc.skychimp.test": {"TXT": ['"v=DMARC1; p=reject"']},
}


def records_with(change: Mapping[str, Mapping[str, Sequence[str]] | None]) -> Records:
    """Return the valid records with some names changed or removed."""
    merged = {name: {**GOOD.get(name, {}), **(change.get(name) or {})} for name in {*GOOD, *change}}
    return {name: kinds for name, kinds in merged.items() if change.get(name, {}) is not None}


def check(records: Records, selector: str | None = "s7", address: str = "news@skychimp.test") -> list[Finding]:
    with NameServer(records) as server:
        lookup = sender_dns.make_lookup(("127.0.0.1", int(server.address.rpartition(":")[2])))
        return list(sender_dns.check_domain(address, address, lookup, selector))


def test_valid_domain() -> None:
    found = check(records_with({}))
    assert [(finding.about, finding.level) for finding in found] == [
        ("sender", OK), ("SPF", OK), ("DKIM", OK), ("DMARC", OK), ("alignment", OK),
    ]  # fmt: skip
    assert found[1].found.startswith("v=spf1 mx -all (")
    assert [finding.remedy for finding in found] == [None] * 5


FAULTS: dict[str, tuple[Mapping[str, Mapping[str, Sequence[str]] | None], str, str, str]] = {
    "no such domain": (dict.fromkeys(GOOD), "sender", "the domain skychimp.test does not exist", "register the domain"),
    "no mail server": ({"skychimp.test": {"MX": []}}, "sender", "has no mail server", "publish an MX record"),
    "null MX": ({"skychimp.test": {"MX": ["0 ."]}}, "sender", "accepts no mail", "mail.return_path"),
    "no SPF": ({"skychimp.test": {"TXT": []}}, "SPF", "has no SPF record", '"v=spf1 include:YOUR-PROVIDER -all"'),
    "two SPF": ({"skychimp.test": {"TXT": ['"v=spf1 -all"', '"v=spf1 mx -all"']}}, "SPF", "2 SPF records", "merge"),
    "SPF for all": ({"skychimp.test": {"TXT": ['"v=spf1 +all"']}}, "SPF", "anyone may send", "-all"),
    "SPF without end": ({"skychimp.test": {"TXT": ['"v=spf1 mx"']}}, "SPF", "does not exclude other senders", "-all"),
    "no DKIM": ({"s7._domainkey.skychimp.test": None}, "DKIM", "no key at s7._domainkey", "key at s7._domainkey"),
    "revoked": ({"s7._domainkey.skychimp.test": {"TXT": ['"v=DKIM1; p="']}}, "DKIM", "is revoked", "new key"),
    "no DMARC": ({"_dmarc.skychimp.test": None}, "DMARC", "has no DMARC record", '"v=DMARC1; p=none; rua=mailto:'),
    "two DMARC": (
        {"_dmarc.skychimp.test": {"TXT": ['"v=DMARC1; p=none"', '"v=DMARC1; p=reject"']}}, "DMARC", "2 DMARC records",
        "merge",
    ),
    "DMARC without policy": ({"_dmarc.skychimp.test": {"TXT": ['"v=DMARC1; rua=x"']}}, "DMARC", "no policy", "p=none"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_with_its_remedy(name: str) -> None:
    change, about, text, remedy = FAULTS[name]
    faulty = [finding for finding in check(records_with(change)) if finding.level != OK]
    assert [(finding.about, finding.level) for finding in faulty] == [(about, WARNING)]
    assert text in faulty[0].found
    assert remedy in (faulty[0].remedy or "")


def test_domain_without_mx_may_be_a_mail_server_itself() -> None:
    """RFC 5321, section 5.1: without an MX record its address is the mail server."""
    found = check(records_with({"skychimp.test": {"MX": [], "AAAA": ["2001:db8::1"]}}))
    assert found[0] == Finding("sender", OK, "bounces can reach skychimp.test")


def test_dmarc_record_of_the_parent_domain_counts() -> None:
    records = records_with(
        {"news.skychimp.test": GOOD["skychimp.test"], "s7._domainkey.news.skychimp.test": {"TXT": [KEY]}}
    )
    assert [finding.level for finding in check(records, address="a@news.skychimp.test")] == [OK] * 5


def test_common_selectors_are_tried_without_a_selector() -> None:
    """If none of them has a key, it is not known whether that is a fault."""
    unknown = check(records_with({}), selector=None)[2]
    assert (unknown.level, unknown.found[:9]) == (WARNING, "not known")
    assert "--dkim-selector NAME" in (unknown.remedy or "")
    common = check(records_with({"k1._domainkey.skychimp.test": {"TXT": [KEY]}}), selector=None)[2]
    assert (common.level, "selector k1" in common.found) == (OK, True)


def test_unreachable_name_server_is_a_warning() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        lookup = sender_dns.make_lookup(silent.getsockname(), timeout_s=0.2)
        with pytest.raises(DnsUnavailable):
            lookup("skychimp.test", "MX")
        (finding,) = sender_dns.check_domain("a@skychimp.test", "a@skychimp.test", lookup)
    assert (finding.level, finding.found) == (WARNING, "not known: no name server answered for skychimp.test")
    assert "dns.nameserver" in (finding.remedy or "")
