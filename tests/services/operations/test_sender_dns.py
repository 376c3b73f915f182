"""What DNS says of a sender's domain is read from a real name server, and each fault comes with its remedy."""

import socket
from collections.abc import Mapping, Sequence

import pytest
from support.nameserver import NameServer, Records

from skychimp.services.operations import sender_dns
from skychimp.services.operations.findings import OK, WARNING, Finding
from skychimp.services.operations.sender_dns import DnsAway

KEY = '"v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3" "DQEBAQUAA4GNADCB"'  # in two strings, as long keys are
GOOD: dict[str, dict[str, Sequence[str]]] = {
    "skychimp.test": {"MX": ["10 mx.skychimp.test."], "TXT": ['"v=spf1 mx -all"', '"unrelated"']},
    "mx.skychimp.test": {"A": ["192.0.2.1"]},
    "s7._domainkey.skychimp.test": {"TXT": [KEY]},
    "_dmarc.skychimp.test": {"TXT": ['"v=DMARC1; p=reject"']},
}


def changed(change: Mapping[str, Mapping[str, Sequence[str]] | None]) -> Records:
    """The good records with some names changed, or gone."""
    merged = {name: {**GOOD.get(name, {}), **(change.get(name) or {})} for name in {*GOOD, *change}}
    return {name: kinds for name, kinds in merged.items() if change.get(name, {}) is not None}


def examined(records: Records, selector: str | None = "s7", address: str = "news@skychimp.test") -> list[Finding]:
    with NameServer(records) as server:
        ask = sender_dns.resolver(("127.0.0.1", int(server.place.rpartition(":")[2])))
        return list(sender_dns.examine(address, address, ask, selector))


def test_a_domain_that_is_as_it_should_be() -> None:
    found = examined(changed({}))
    assert [(finding.about, finding.level) for finding in found] == [
        ("sender", OK), ("SPF", OK), ("DKIM", OK), ("DMARC", OK),
    ]  # fmt: skip
    assert found[1].found.startswith("v=spf1 mx -all (")
    assert [finding.remedy for finding in found] == [None] * 4


FAULTS: dict[str, tuple[Mapping[str, Mapping[str, Sequence[str]] | None], str, str, str]] = {
    "no such domain": (dict.fromkeys(GOOD), "sender", "there is no domain skychimp.test", "register the domain"),
    "no mail server": ({"skychimp.test": {"MX": []}}, "sender", "has no mail server", "publish an MX record"),
    "null MX": ({"skychimp.test": {"MX": ["0 ."]}}, "sender", "takes no mail", "mail.return_path"),
    "no SPF": ({"skychimp.test": {"TXT": []}}, "SPF", "has none", '"v=spf1 include:YOUR-PROVIDER -all"'),
    "two SPF": ({"skychimp.test": {"TXT": ['"v=spf1 -all"', '"v=spf1 mx -all"']}}, "SPF", "2 records", "make them one"),
    "SPF for all": ({"skychimp.test": {"TXT": ['"v=spf1 +all"']}}, "SPF", "anybody may send", "-all"),
    "SPF without end": ({"skychimp.test": {"TXT": ['"v=spf1 mx"']}}, "SPF", "says nothing of all others", "-all"),
    "no DKIM": ({"s7._domainkey.skychimp.test": None}, "DKIM", "no key at s7._domainkey", "publish the key"),
    "revoked": ({"s7._domainkey.skychimp.test": {"TXT": ['"v=DKIM1; p="']}}, "DKIM", "is revoked", "new key"),
    "no DMARC": ({"_dmarc.skychimp.test": None}, "DMARC", "has none", '"v=DMARC1; p=none; rua=mailto:'),
    "two DMARC": (
        {"_dmarc.skychimp.test": {"TXT": ['"v=DMARC1; p=none"', '"v=DMARC1; p=reject"']}}, "DMARC", "2 records", "one",
    ),
    "DMARC without policy": ({"_dmarc.skychimp.test": {"TXT": ['"v=DMARC1; rua=x"']}}, "DMARC", "no policy", "p=none"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_remedy(name: str) -> None:
    change, about, words, remedy = FAULTS[name]
    faulty = [finding for finding in examined(changed(change)) if finding.level != OK]
    assert [(finding.about, finding.level) for finding in faulty] == [(about, WARNING)]
    assert words in faulty[0].found
    assert remedy in (faulty[0].remedy or "")


def test_a_mail_server_may_be_the_domain_itself() -> None:
    """RFC 5321, section 5.1: without an MX record its address is the mail server."""
    found = examined(changed({"skychimp.test": {"MX": [], "AAAA": ["2001:db8::1"]}}))
    assert found[0] == Finding("sender", OK, "bounces come back to skychimp.test")


def test_dmarc_of_the_domain_above_counts() -> None:
    records = changed({"news.skychimp.test": GOOD["skychimp.test"], "s7._domainkey.news.skychimp.test": {"TXT": [KEY]}})
    assert [finding.level for finding in examined(records, address="a@news.skychimp.test")] == [OK] * 4


def test_without_a_selector_the_usual_ones_are_tried() -> None:
    """Where there is none of them, that is no fault for sure: it is not known."""
    unknown = examined(changed({}), selector=None)[2]
    assert (unknown.level, unknown.found[:9]) == (WARNING, "not known")
    assert "--dkim-selector NAME" in (unknown.remedy or "")
    usual = examined(changed({"k1._domainkey.skychimp.test": {"TXT": [KEY]}}), selector=None)[2]
    assert (usual.level, "selector k1" in usual.found) == (OK, True)


def test_where_dns_does_not_answer_nothing_is_known() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        ask = sender_dns.resolver(silent.getsockname(), patience=0.2)
        with pytest.raises(DnsAway):
            ask("skychimp.test", "MX")
        (finding,) = sender_dns.examine("a@skychimp.test", "a@skychimp.test", ask)
    assert (finding.level, finding.found) == (WARNING, "not known: no name server answers about skychimp.test")
    assert "dns.nameserver" in (finding.remedy or "")
