"""Test that each requirement of a mailbox provider is met, not met or not knowable, with its fix and source."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.command import Home
from support.dkim import ED25519
from support.nameserver import NameServer
from support.sending import make_settings

from skychimp.delivery.composing import dkim
from skychimp.services.operations import deliverability
from skychimp.services.operations.deliverability import (
    ALIGNMENT,
    DKIM,
    DMARC,
    LIST_UNSUBSCRIBE,
    MET,
    NOT_KNOWABLE,
    NOT_MET,
    ONE_CLICK,
    OWN_DOMAIN,
    REVERSE_DNS,
    SPF,
    Requirement,
    Status,
)
from skychimp.services.operations.sender_dns import DnsUnavailable
from skychimp.translation import verbatim

KEY = ED25519._replace(domain="skychimp.test")
RECORDS = {
    ("skychimp.test", "TXT"): ["v=spf1 mx -all"],
    ("_dmarc.skychimp.test", "TXT"): ["v=DMARC1; p=none"],
    ("e1._domainkey.skychimp.test", "TXT"): [dkim.key_record(KEY).text],
}


@pytest.fixture
def signing(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "e1.pem"
    path.write_bytes(dkim.to_pem(KEY.private))
    path.chmod(0o600)
    return {"dkim__domain": "skychimp.test", "dkim__selector": "e1", "dkim__key_file": str(path)}


def compare(
    records: dict[tuple[str, str], list[str]] | None = None, selector: str | None = None, /, **settings: Any
) -> dict[tuple[str, str], Requirement]:
    """Return the rows by provider and requirement."""
    known = RECORDS if records is None else records
    rows = deliverability.compare(make_settings(1, **settings), lambda name, kind: known.get((name, kind)), selector)
    return {(row.provider, row.requirement): row for row in rows}


def of_gmail(rows: dict[tuple[str, str], Requirement], *requirements: str) -> list[Status]:
    return [rows["Gmail", requirement].status for requirement in requirements]


def test_installation_that_meets_all_that_can_be_known(signing: dict[str, str]) -> None:
    rows = compare(**signing, web__url="https://mail.skychimp.test")
    assert {row.status for row in rows.values()} == {MET, NOT_KNOWABLE}
    assert of_gmail(rows, SPF, DKIM, DMARC, ALIGNMENT, ONE_CLICK, OWN_DOMAIN) == [MET] * 6
    assert all((row.fix is None) == (row.status == MET) and row.source.startswith("https://") for row in rows.values())
    assert {provider for provider, _ in rows} == {"Gmail", "Yahoo", "Microsoft", "Apple", "Mail.ru", "Yandex"}


def test_nothing_is_met_without_records() -> None:
    rows = compare({}, mail__sender="ada@gmail.com")
    assert of_gmail(rows, SPF, DMARC, ONE_CLICK, OWN_DOMAIN) == [NOT_MET] * 4
    assert rows["Mail.ru", LIST_UNSUBSCRIBE].status == NOT_MET
    assert of_gmail(rows, REVERSE_DNS) == [NOT_KNOWABLE]


DKIM_CASES: dict[str, tuple[dict[tuple[str, str], list[str]], str | None, Status, str]] = {
    "the mail server's key is published": (RECORDS, "e1", NOT_KNOWABLE, "dkim=pass"),
    "no key at its selector": (RECORDS, "s2", NOT_MET, "publish your mail server's key"),
    "its selector is not known": (RECORDS, None, NOT_KNOWABLE, "--dkim-selector NAME"),
}


@pytest.mark.parametrize("name", DKIM_CASES)
def test_signature_of_the_mail_server(name: str) -> None:
    records, selector, status, fix = DKIM_CASES[name]
    row = compare(records, selector)["Gmail", DKIM]
    assert (row.status, fix in (row.fix or "")) == (status, True)


def test_key_of_ours_that_is_not_published(signing: dict[str, str]) -> None:
    row = compare({}, **signing)["Gmail", DKIM]
    assert row.status == NOT_MET
    assert dkim.key_record(KEY).text in (row.fix or "")


def test_key_of_ours_that_cannot_be_read(signing: dict[str, str]) -> None:
    Path(signing["dkim__key_file"]).unlink()
    assert of_gmail(compare(**signing), SPF, DKIM) == [MET, NOT_MET]


def test_other_return_path_aligns_only_if_the_mail_server_signs(signing: dict[str, str]) -> None:
    relay = {"mail__return_path": "b@relay.test"}
    assert of_gmail(compare(**relay), ALIGNMENT) == [NOT_KNOWABLE]
    assert of_gmail(compare(**relay, **signing), ALIGNMENT) == [MET]
    assert of_gmail(compare(**relay, **signing | {"dkim__domain": "relay.test"}), ALIGNMENT) == [NOT_MET]


def test_one_click_needs_https() -> None:
    rows = compare(web__url="http://localhost:8025")
    assert (rows["Gmail", ONE_CLICK].status, rows["Mail.ru", LIST_UNSUBSCRIBE].status) == (NOT_MET, MET)


def test_name_server_that_does_not_answer_is_asked_once() -> None:
    asked = []

    def lookup(name: str, kind: str) -> Sequence[str]:
        asked.append(name)
        raise DnsUnavailable(verbatim("no name server answered"), verbatim("check it"))

    rows = {row.requirement: row for row in deliverability.compare(make_settings(1), lookup)}
    assert [rows[name].status for name in (SPF, DKIM, DMARC, ALIGNMENT)] == [NOT_KNOWABLE] * 4
    assert rows[SPF].fix == "no name server answered: check it"
    assert asked == ["skychimp.test"]


def test_command_lists_the_requirements(home: Home) -> None:
    records = {name: {kind: [f'"{text}"' for text in texts]} for (name, kind), texts in RECORDS.items()}
    with NameServer(records) as server:
        environ = {"SKYCHIMP_MAIL__SENDER": "news@skychimp.test", "SKYCHIMP_DNS__NAMESERVER": server.address}
        result = home.call("doctor", "--deliverability", "--dkim-selector", "e1", "--json", environ=environ)
        plain = home.call("doctor", "--deliverability", "--dkim-selector", "e1", environ=environ).out
    assert result.status == 0, result.err
    assert result.json[0] == {
        "provider": "Gmail",
        "requirement": "SPF record",
        "status": "met",
        "fix": None,
        "source": "https://support.google.com/mail/answer/81126",
    }
    assert len(plain.splitlines()) == len(result.json) > 30


def test_command_needs_a_sender(home: Home) -> None:
    environ = {"SKYCHIMP_CONFIG": "/dev/null", "SKYCHIMP_MAIL__SENDER": ""}
    result = home.call("doctor", "--deliverability", "--json", environ=environ)
    assert (result.status, result.error["message"]) == (3, "mail.sender is not set")
