"""Test `skychimp dkim keygen`: the key file, the record, and that both can be used."""

import re
import stat
from pathlib import Path

import dkim as dkimpy
import pytest
from support.command import Home

from skychimp.delivery.composing import dkim

EMAIL = b"From: ada@example.org\r\n\r\nhello\r\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def keygen(folder: Path, *arguments: str, **environ: str) -> "tuple[int, str, str]":
    result = Home(folder).call("dkim", "keygen", *arguments, environ=environ)
    return result.status, result.out, result.err


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_record_verifies_what_the_key_signs(folder: Path, kind: str) -> None:
    result = Home(folder).call(
        "dkim", "keygen", "--type", kind, "--selector", "s1", "--domain", "example.org", "--json"
    )
    assert result.status == 0, result.err
    made, record = result.json, result.json["record"]
    path = folder / "dkim-s1.pem"
    assert (made["domain"], made["selector"], made["type"], made["key_file"]) == ("example.org", "s1", kind, str(path))
    assert (record["name"], record["type"]) == ("s1._domainkey.example.org", "TXT")
    assert "".join(record["strings"]) == record["value"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = dkim.load_key(path.read_bytes(), "example.org", "s1")
    signed = dkim.sign(EMAIL, [key], now=1) + EMAIL
    assert dkimpy.DKIM(signed).verify(dnsfunc=lambda name, timeout=5: record["value"].encode())


def test_record_is_shown_as_in_a_zone_file(folder: Path) -> None:
    status, out, err = keygen(folder, "--domain", "example.org")
    lines = dict(line.split("\t") for line in out.splitlines())
    assert (status, lines["type"]) == (0, "TXT")
    assert re.fullmatch(r"rsa-\d{6}\._domainkey\.example\.org", lines["name"])
    assert re.fullmatch(r'"v=DKIM1; k=rsa; p=[\w+/=]+" "[\w+/=]+"', lines["value"])
    assert "dkim.domain, dkim.selector and dkim.key_file" in err
    assert "PRIVATE" not in out + err


def test_existing_file_is_never_replaced(folder: Path) -> None:
    (folder / "k.pem").write_text("mine")
    status, out, err = keygen(folder, "--domain", "example.org", "--out", "k.pem")
    assert (status, out) == (6, "")
    assert err.startswith(f"error: {folder / 'k.pem'} already exists\nhint: use --out")
    assert (folder / "k.pem").read_text() == "mine"


@pytest.mark.parametrize(
    ("environ", "domain"),
    [
        ({"SKYCHIMP_MAIL__SENDER": "Ada <ada@Bücher.example.org>"}, "xn--bcher-kva.example.org"),
        ({"SKYCHIMP_MAIL__SENDER": "ada@example.org", "SKYCHIMP_DKIM__DOMAIN": "example.net"}, "example.net"),
    ],
)
def test_domain_is_that_of_the_settings(folder: Path, environ: dict[str, str], domain: str) -> None:
    status, out, _ = keygen(folder, "--selector", "s1", "--type", "ed25519", **environ)
    assert (status, f"s1._domainkey.{domain}\n" in out) == (0, True)


WRONG = {
    "no domain": ((), "no domain for the key"),
    "domain": (("--domain", "a b"), "invalid domain"),
    "selector": (("--domain", "example.org", "--selector", "../x"), "invalid selector"),
    "type": (("--domain", "example.org", "--type", "dsa"), "dsa"),
    "no folder": (("--domain", "example.org", "--out", "none/k.pem"), "cannot write"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_value_makes_no_file(folder: Path, name: str) -> None:
    arguments, message = WRONG[name]
    status, out, err = keygen(folder, *arguments)
    assert (status, out, message in err) == (2, "", True), err
    assert "hint: " in err
    assert not list(folder.rglob("*.pem"))
