"""Test the checks of a sender's domain against a real name server: each fault is found, with its remedy."""

import socket
from collections.abc import Mapping, Sequence

import pytest
from support.dkim import ED25519, RSA
from support.nameserver import NameServer, Records

from skychimp.delivery.composing import dkim
from skychimp.delivery.composing.dkim import DkimKey
from skychimp.services.operations import sender_dns
from skychimp.services.operations.findings import OK, SENDER, WARNING, Finding, Level
from skychimp.services.operations.sender_dns import DnsUnavailable
from skychimp.translation import verbatim

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


def check(
    records: Records,
    selector: str | None = "s7",
    address: str = "news@skychimp.test",
    return_path: str | None = None,
    keys: Sequence[DkimKey] = (),
) -> list[Finding]:
    with NameServer(records) as server:
        lookup = sender_dns.make_lookup(("127.0.0.1", int(server.address.rpartition(":")[2])))
        return list(sender_dns.check_domain(address, return_path or address, lookup, selector, keys))


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
    assert found[0] == Finding(SENDER, OK, verbatim("bounces can reach skychimp.test"))


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


# Keys that sign here

OURS = [key._replace(domain="skychimp.test") for key in (RSA, ED25519)]
PUBLISHED = {
    record.name: {"TXT": [" ".join(f'"{part}"' for part in record.strings)]} for record in map(dkim.key_record, OURS)
}


def test_published_keys_of_ours_are_right() -> None:
    found = check(records_with(PUBLISHED), selector=None, keys=OURS)
    assert [(finding.about, finding.level) for finding in found] == [
        ("sender", OK), ("SPF", OK), ("DKIM", OK), ("DKIM", OK), ("DMARC", OK), ("alignment", OK),
    ]  # fmt: skip
    assert found[2].found == "emails are signed here, and s1._domainkey.skychimp.test has the right key"
    assert found[5].found == "the return path and DKIM align with skychimp.test"


E1 = "e1._domainkey.skychimp.test"
P = dkim.public_key(ED25519)
KEY_FAULTS: dict[str, tuple[list[str] | None, str]] = {
    "none": (None, f"no key at {E1}"),
    "not a key": (['"hello"'], f"no key at {E1}"),
    "revoked": (['"v=DKIM1; k=ed25519; p="'], "the key is revoked"),
    "another": ([f'"v=DKIM1; k=ed25519; p={P[:-4]}AAA="'], "the key differs from the one in dkim.key_file"),
    "two": ([f'"v=DKIM1; k=ed25519; p={P}"', '"v=DKIM1; k=ed25519; p="'], "has 2 TXT records"),
    "without its kind": ([f'"v=DKIM1; p={P}"'], "the key is published as rsa"),
    "test mode": ([f'"v=DKIM1; k=ed25519; t=s:y; p={P}"'], "t=y"),
}


@pytest.mark.parametrize("name", KEY_FAULTS)
def test_wrong_published_key_of_ours_is_found(name: str) -> None:
    strings, text = KEY_FAULTS[name]
    records = records_with({E1: None if strings is None else {"TXT": strings}})
    (finding,) = (each for each in check(records, keys=OURS[1:]) if each.level != OK)
    assert (finding.about, text in finding.found) == ("DKIM", True)
    assert finding.remedy


def test_published_key_may_have_spaces_in_it() -> None:
    records = records_with({E1: {"TXT": [f'"v=DKIM1;k=ed25519 ; n=note; p={P[:9]} {P[9:]} ;"']}})
    assert [each.level for each in check(records, keys=OURS[1:])] == [OK] * 5


# Alignment

ALIGNMENTS = [
    # sender, return path, domains that sign, DMARC, level, what is found
    ("a.test", "a.test", [], {}, OK, "the return path aligns with a.test"),
    ("a.test", "bounces.a.test", [], {}, OK, "the return path aligns"),
    ("news.a.test", "a.test", ["mail.a.test"], {}, OK, "the return path and DKIM align with news.a.test"),
    ("a.test", "relay.test", ["a.test"], {}, OK, "DKIM aligns with a.test"),
    ("a.test", "relay.test", [], {}, WARNING, "the return path's relay.test does not align with the sender's a.test"),
    ("a.test", "a.test", ["relay.test"], {}, WARNING, "DKIM signs as relay.test, which does not align"),
    ("a.test", "bounces.a.test", [], {"aspf": "s"}, WARNING, "does not align"),
    ("a.test", "bounces.a.test", ["a.test"], {"aspf": "s", "adkim": "s"}, OK, "DKIM aligns"),
    ("a.test", "a.test", ["mail.a.test"], {"adkim": "s"}, WARNING, "DKIM signs as mail.a.test"),
    # Public suffixes
    ("a.co.uk", "b.co.uk", [], {}, WARNING, "does not align"),
    ("x.a.co.uk", "y.a.co.uk", [], {}, OK, "aligns"),
    ("ada.github.io", "bob.github.io", [], {}, WARNING, "does not align"),
    ("localhost", "localhost", [], {}, OK, "aligns"),
]


@pytest.mark.parametrize(("sender", "bounces", "signing", "dmarc", "level", "text"), ALIGNMENTS)
def test_alignment(
    sender: str, bounces: str, signing: list[str], dmarc: dict[str, str], level: Level, text: str
) -> None:
    finding = sender_dns.check_alignment(sender, bounces, signing, dmarc)
    assert (finding.level, text in finding.found) == (level, True), finding.found
    assert (finding.remedy is None) == (level == OK)


def test_strict_alignment_is_read_from_the_dmarc_record() -> None:
    records = records_with(
        {"b.skychimp.test": GOOD["skychimp.test"], "_dmarc.skychimp.test": {"TXT": ['"v=DMARC1; p=none; aspf=S"']}}
    )
    found = check(records, return_path="x@b.skychimp.test")
    assert [each.about for each in found if each.level != OK] == ["alignment"]
