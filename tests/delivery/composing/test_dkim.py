"""Test DKIM signatures: what is signed, and that other programs verify it."""

import base64
import hashlib
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from support.dkim import (
    ED25519,
    RSA,
    has_opendkim,
    has_perl_verifier,
    opendkim_signs,
    opendkim_verifies,
    perl_verifies,
    published,
)

from skychimp.delivery.composing import dkim
from skychimp.errors import InvalidValue

NOW = 1_790_000_000
EMAIL = (
    b"From: Ada <ada@example.org>\r\nTo: grace@example.net\r\nSubject: News\r\nDate: Mon, 1 Jan 2029 09:00:00 +0000\r\n"
    b"Message-ID: <1@example.org>\r\nMIME-Version: 1.0\r\nList-Unsubscribe: <https://example.org/u/1>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nList-Id: <news.example.org>\r\n"
    b"X-Unsigned: a\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello,\r\n\r\nthis is new.\r\n"
)


def signed(email: bytes, *keys: dkim.DkimKey) -> bytes:
    return dkim.sign(email, keys or (RSA, ED25519), now=NOW) + email


def verify(email: bytes) -> list[bool]:
    """Return whether each signature of an email is valid, as dkimpy sees it."""
    count = len(re.findall(rb"(?m)^DKIM-Signature:", email.partition(b"\r\n\r\n")[0]))
    return [dkimpy.DKIM(email).verify(idx=index, dnsfunc=published) for index in range(count)]


def tags(signature: bytes) -> dict[str, str]:
    """Return the tags of a DKIM-Signature header, without white space in their values."""
    _, _, value = signature.decode().partition(":")
    return {name.strip(): "".join(text.split()) for name, _, text in (tag.partition("=") for tag in value.split(";"))}


@given(st.binary(max_size=60), st.lists(st.sampled_from([b"\r\n--b\r\n", b"a  b \r\n", b"\tx\r\n"]), min_size=1))
def test_pieces_are_signed_as_the_whole_email(body: bytes, pieces: list[bytes]) -> None:
    data, tail = EMAIL + body.replace(b"\r", b"") + b"\r\n", [*pieces, b"\r\n--b--\r\n"]
    (unfinished,) = dkim.start_signing(data, [ED25519], now=NOW, tail=tail)
    assert unfinished.finish() == dkim.sign(data + b"".join(tail), [ED25519], now=NOW)


# Examples of RFC 6376, section 3.4.5, and RFC 8463, appendix A

HEADERS = [
    (b"A: X", b"a:X"),
    (b"B : Y\t\r\n\tZ  ", b"b:Y Z"),
    (b"Subject:", b"subject:"),
    (b"SUBJect: AbC\r\n ", b"subject:AbC"),
    (b"X:a  b\t \tc", b"x:a b c"),
    (b"X: a: b", b"x:a: b"),
]


@pytest.mark.parametrize(("header", "canonical"), HEADERS)
def test_relaxed_header(header: bytes, canonical: bytes) -> None:
    assert dkim.canonical_header(header) == canonical


BODIES = [
    (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
    (b"", b""),
    (b"\r\n", b""),
    (b"\r\n\r\n", b""),
    (b" \r\n\t\r\n", b""),
    (b" ", b""),
    (b"a", b"a\r\n"),
    (b"a ", b"a\r\n"),
    (b"a\r\n", b"a\r\n"),
    (b"a\r\n \r\nb\r\n \r\n", b"a\r\n\r\nb\r\n"),
    (b"\r\na\r\n", b"\r\na\r\n"),
]


@pytest.mark.parametrize(("body", "canonical"), BODIES)
def test_relaxed_body(body: bytes, canonical: bytes) -> None:
    assert dkim.canonical_body(body) == canonical


def test_hash_of_an_empty_body_is_that_of_the_rfc() -> None:
    """RFC 6376, section 3.4.4, has it for SHA-256."""
    assert dkim.hash_body(b"") == b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


# What is signed


def test_listed_headers_are_signed_and_from_once_more() -> None:
    names = tags(dkim.sign(EMAIL, [RSA], now=NOW))["h"]
    assert names == (
        "from:from:to:subject:date:message-id:mime-version:content-type:list-unsubscribe:list-unsubscribe-post:list-id"
    )


def test_tags_name_the_key_and_the_time() -> None:
    found = tags(dkim.sign(EMAIL, [ED25519], now=NOW))
    expected = {"v": "1", "a": "ed25519-sha256", "c": "relaxed/relaxed", "d": "example.org", "s": "e1", "t": str(NOW)}
    assert expected.items() <= found.items()


def test_lines_of_the_signature_are_short() -> None:
    lines = dkim.sign(EMAIL, [RSA, ED25519], now=NOW).split(b"\r\n")
    assert max(map(len, lines)) <= 78
    assert lines[-1] == b""


def test_announced_size_is_that_of_the_header() -> None:
    for unfinished in dkim.start_signing(EMAIL, [RSA, ED25519], now=NOW):
        assert unfinished.size == len(unfinished.finish())


def test_signing_again_gives_the_same_bytes() -> None:
    assert signed(EMAIL) == signed(EMAIL)


# Verified by others


def test_dkimpy_verifies_both_kinds_of_keys() -> None:
    assert verify(signed(EMAIL)) == [True, True]


TAMPERED = {
    "body": (b"new", b"old"),
    "subject": (b"Subject: News", b"Subject: Olds"),
    "unsubscribe link": (b"/u/1", b"/u/2"),
    "one-click": (b"List-Unsubscribe-Post: List", b"List-Unsubscribe-Post: Lost"),
    "a header less": (b"List-Id: <news.example.org>\r\n", b""),
    "a second From": (b"From: Ada", b"From: eve@example.com\r\nFrom: Ada"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_changed_email_is_not_verified(name: str) -> None:
    assert verify(signed(EMAIL).replace(*TAMPERED[name], 1)) == [False, False]


HARMLESS = {
    "unsigned header": (b"X-Unsigned: a", b"X-Unsigned: b"),
    "folded header": (b"To: grace", b"To:\r\n\tgrace"),
    "space at the end": (b"new.\r\n", b"new. \t\r\n\r\n"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_email_that_a_server_has_folded_anew_is_still_verified(name: str) -> None:
    assert verify(signed(EMAIL).replace(*HARMLESS[name], 1)) == [True, True]


LINES = st.lists(st.text(st.sampled_from("ab\t .é="), max_size=12), max_size=6)
LONG_LINES = st.builds(lambda text, times: [text * times], st.text(st.sampled_from("ab \t"), max_size=5), st.just(300))
WORDS = st.lists(st.text(st.sampled_from("ab:;=é\t "), min_size=1, max_size=10), min_size=1, max_size=4)


@st.composite
def emails(draw: st.DrawFn) -> bytes:
    """Return an email with folded headers, and a body that is empty or ends with a line end, as SMTP has it."""
    names = draw(st.lists(st.sampled_from(["To", "SUBJECT", "list-id", "Reply-To", "Reply-To", "X-A"]), max_size=6))
    headers = ["From: ada@example.org"]
    # dkimpy does not take a folded line of only white space, which RFC 5322 has made obsolete.
    headers += [f"{name}:" + "\r\n ".join(f"x{word}" for word in draw(WORDS)) for name in names]
    body = "".join(f"{line}\r\n" for line in draw(st.one_of(LINES, LONG_LINES)))
    return ("\r\n".join(headers) + "\r\n\r\n" + body).encode()


@given(emails())
def test_dkimpy_verifies_any_email(email: bytes) -> None:
    assert verify(signed(email, ED25519)) == [True]


@given(emails())
def test_body_and_headers_are_relaxed_as_dkimpy_does(email: bytes) -> None:
    head, _, body = email.partition(b"\r\n\r\n")
    assert dkim.canonical_body(body) == dkimpy.canonicalization.Relaxed.canonicalize_body(body)
    headers = [header.partition(b":")[::2] for header in re.split(rb"\r\n(?![ \t])", head)]
    relaxed = dkimpy.canonicalization.Relaxed.canonicalize_headers([(name, value) for name, value in headers])
    assert [dkim.canonical_header(b":".join(header)) + b"\r\n" for header in headers] == [b":".join(r) for r in relaxed]


@pytest.mark.mta
def test_perl_verifies_rsa() -> None:
    """Mail::DKIM is another implementation, which does not share any code with ours or with dkimpy.

    Debian's does not know Ed25519.
    """
    if not has_perl_verifier():
        pytest.skip("Mail::DKIM is not installed (libmail-dkim-perl)")
    assert perl_verifies(signed(EMAIL)) == ["pass", "invalid (unsupported algorithm ed25519-sha256)"]
    assert perl_verifies(signed(EMAIL, RSA).replace(b"new", b"old")) == ["fail (message has been altered)"]


@pytest.mark.mta
def test_opendkim_verifies_rsa() -> None:
    if not has_opendkim():
        pytest.skip("OpenDKIM is not installed")
    record = dkim.key_record(RSA)
    assert opendkim_verifies(signed(EMAIL, RSA), {record.name: record.text})
    assert not opendkim_verifies(signed(EMAIL, RSA).replace(b"new", b"old"), {record.name: record.text})


@pytest.mark.mta
def test_opendkim_signs_the_one_click_header_only_if_told_to() -> None:
    """As the topic "deliverability" says, with the setting that it names."""
    if not has_opendkim():
        pytest.skip("OpenDKIM is not installed")
    topic = files("skychimp").joinpath("cli/topics/deliverability.md").read_text()
    (setting,) = re.findall(r"`(SignHeaders .*)`", topic)
    for settings, is_signed in (((), False), ((setting,), True)):
        names = "".join(re.findall(r"h=([^;]*);", opendkim_signs(EMAIL, RSA, *settings))).split(":")
        assert "List-Unsubscribe" in names
        assert ("List-Unsubscribe-Post" in names) == is_signed


def test_ed25519_signature_of_the_rfc_is_valid() -> None:
    """RFC 8463, appendix A.3."""
    email = (
        b"From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\n"
        b"Subject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
        b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n"
        b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
    )
    signature = (
        b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; "
        b"i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : "
        b"message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b="
    )
    value = b"/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
    head, _, body = email.partition(b"\r\n\r\n")
    text = b"".join(dkim.canonical_header(line) + b"\r\n" for line in head.split(b"\r\n"))
    digest = hashlib.sha256(text + dkim.canonical_header(signature)).digest()
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="))
    public.verify(base64.b64decode(value), digest)
    assert dkim.hash_body(body) == b"2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="


# Keys


def test_keys_are_read_from_their_files() -> None:
    for key in (RSA, ED25519):
        again = dkim.load_key(dkim.to_pem(key.private), key.domain, key.selector)
        assert dkim.public_key(again) == dkim.public_key(key)


def openssl_key(folder: Path, *words: str) -> bytes:
    path = folder / "key.pem"
    subprocess.run(["openssl", "genpkey", "-out", path, "-quiet", "-algorithm", *words], check=True)
    return path.read_bytes()


UNUSABLE = {
    "small": (["RSA", "-pkeyopt", "rsa_keygen_bits:1024"], "the RSA key has 1,024 bits"),
    "other kind": (["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "neither RSA nor Ed25519"),
    "passphrase": (["ED25519", "-aes256", "-pass", "pass:secret"], "has a passphrase"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_key_is_refused(tmp_path: Path, name: str) -> None:
    words, message = UNUSABLE[name]
    with pytest.raises(InvalidValue, match=message) as caught:
        dkim.load_key(openssl_key(tmp_path, *words), "example.org", "s1")
    assert "skychimp dkim keygen" in (caught.value.hint or "")


@pytest.mark.parametrize("pem", [b"", b"secret\n", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_file_without_a_key_is_refused(pem: bytes) -> None:
    with pytest.raises(InvalidValue, match="not a private key in PEM format"):
        dkim.load_key(pem, "example.org", "s1")


def test_record_is_split_into_strings_of_255_bytes() -> None:
    record = dkim.key_record(RSA)
    assert (record.name, record.text[:24]) == ("s1._domainkey.example.org", "v=DKIM1; k=rsa; p=MIIBIj")
    assert [len(string) <= 255 for string in record.strings] == [True, True]
    assert "".join(record.strings) == record.text


def test_record_of_an_ed25519_key_has_the_key_alone() -> None:
    """RFC 8463, section 4: 32 bytes without ASN.1, so 44 characters."""
    kind, _, key = dkim.key_record(ED25519).text.rpartition("; p=")
    assert (kind, len(key)) == ("v=DKIM1; k=ed25519", 44)
