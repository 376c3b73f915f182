"""Header values and text parts, read back with the standard library's parser."""

import re
from binascii import a2b_base64, a2b_qp
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skychimp.delivery.composing import mime
from skychimp.errors import InvalidValue

HOSTILE = "=?utf-8?q?a=0ABcc:_eve=40example.org?="
any_text = st.one_of(
    st.text(st.characters(codec="utf-8")),
    st.text(st.characters(codec="ascii")),
    st.lists(st.text(st.sampled_from("abc,;:@<>()[]\"\\'.=?_ -"), max_size=80), max_size=8).map(" ".join),
    st.lists(st.sampled_from(["=?", "?=", "?q?", "utf-8", "=0A", "=0D", "Bcc:", *" \r\n\u2028\x85\x00é"])).map("".join),
    st.text(st.sampled_from("漢 éИ\U0001f600\u202e\u200d\N{COMBINING ACUTE ACCENT}"), max_size=300),
)  # fmt: skip
lines = any_text.map(mime.one_line)


def parsed(data: bytes) -> EmailMessage:
    message = message_from_bytes(data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def assert_is_folded(value: bytes, *, name: bytes = b"Subject", max_length: int = 76) -> None:
    """Check for 7-bit ASCII, for no line end except a fold between text, and for encoded words that stand alone."""
    whole = name + b": " + value
    assert re.fullmatch(rb"[\x20-\x7e]+(\r\n [\x20-\x7e]+)*", whole)
    assert all(line.strip() for line in whole.split(b"\r\n"))
    assert max(map(len, whole.split(b"\r\n"))) <= max_length
    for word, kind, encoded in re.findall(rb"(=\?utf-8\?([qb])\?([^?]*)\?=)", whole):
        assert len(word) <= 75
        a2b_qp(encoded, header=True).decode() if kind == b"q" else a2b_base64(encoded).decode()


@given(lines)
@example(HOSTILE)
@example("a" * 1000)
@example("word " * 200)
@example("x" * 66 + " " + "y" * 67)
@example("x" * 33 + " " + "y" * 33 + "; " + "z" * 33)
@example("й" * 1000)
def test_header_is_read_back_unchanged(text: str) -> None:
    value = mime.header_value(text)
    assert_is_folded(value)
    data = b"Subject: " + value + b"\r\n\r\nbody\r\n"
    message = parsed(data)
    assert message.keys() == ["Subject"]
    assert message["subject"] == text
    assert not message.defects
    old = message_from_bytes(data, policy=policy.compat32)
    assert old.keys() == ["Subject"]
    assert str(make_header(decode_header(old["subject"].replace("\r\n ", " ")))) == text


@given(lines, st.sampled_from(["ada@example.org", "a" * 60 + "@" + "b" * 60 + ".example.org"]))
@example(HOSTILE, "ada@example.org")
@example('"' * 66, "ada@example.org")
@example("a" * 1000, "ada@example.org")
def test_mailbox_is_read_back_unchanged(name: str, address: str) -> None:
    value = mime.mailbox(name, address)
    assert_is_folded(value, name=b"To", max_length=max(76, len(address) + 6))
    message = parsed(b"To: " + value + b"\r\n\r\n")
    assert message.keys() == ["To"]
    (recipient,) = message["to"].addresses
    assert recipient.addr_spec == address
    if value.startswith(b'"'):
        assert recipient.display_name == name
    else:  # this parser loses spaces of an encoded name; the older one below keeps them
        assert "".join(recipient.display_name.split()) == "".join(name.split())
    ((encoded, old_address),) = getaddresses([value.decode().replace("\r\n ", " ")])
    assert (str(make_header(decode_header(encoded))), old_address) == (name, address)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", b""),
        ("Hello, Ada!", b"Hello, Ada!"),
        ("x" * 67, b"x" * 67),
        ("word " * 13 + "words", (b"word " * 13).strip() + b"\r\n words"),
        ("two  spaces " + "x" * 60, b"two  spaces\r\n " + b"x" * 60),
        # a fold would lose one of the two spaces
        ("a  b" * 20, b"=?utf-8?q?" + b"a__b" * 13 + b"a__?=\r\n =?utf-8?q?b" + b"a__b" * 6 + b"?="),
        ("Zoë, 50% off?", b"=?utf-8?q?Zo=C3=AB=2C_50=25_off=3F?="),
        ("🎉 Sale", b"=?utf-8?q?=F0=9F=8E=89_Sale?="),
        ("Größe für Müller", b"=?utf-8?q?Gr=C3=B6=C3=9Fe_f=C3=BCr_M=C3=BCller?="),
        ("Новости мая", b"=?utf-8?b?0J3QvtCy0L7RgdGC0Lgg0LzQsNGP?="),
        ("5月のお知らせ", b"=?utf-8?b?NeaciOOBruOBiuefpeOCieOBmw==?="),
        (
            "é" * 20 + "a" * 20,
            (b"=?utf-8?q?" + b"=C3=A9" * 9 + b"?=\r\n ") * 2 + b"=?utf-8?q?=C3=A9=C3=A9" + b"a" * 20 + b"?=",
        ),
        (HOSTILE, b"=?utf-8?q?=3D=3Futf-8=3Fq=3Fa=3D0ABcc=3A=5Feve=3D40example=2Eorg?=\r\n =?utf-8?q?=3F=3D?="),
    ],
)
def test_header_value(text: str, value: bytes) -> None:
    assert mime.header_value(text) == value


@pytest.mark.parametrize(
    ("name", "address", "value"),
    [
        ("", "ada@example.org", b"ada@example.org"),
        ("Ada", "ada@example.org", b'"Ada" <ada@example.org>'),
        ("Lovelace, Ada", "ada@example.org", b'"Lovelace, Ada" <ada@example.org>'),
        ('A "q" \\', "ada@example.org", b'"A \\"q\\" \\\\" <ada@example.org>'),
        ("Ada", "ada@bücher.example", b'"Ada" <ada@xn--bcher-kva.example>'),
        ("Ada", "юлия@почта.рф", '"Ada" <юлия@почта.рф>'.encode()),
        ("Zoë", "zoe@example.org", b"=?utf-8?q?Zo=C3=AB?= <zoe@example.org>"),
        ("Юлия", "j@example.org", b"=?utf-8?b?0K7Qu9C40Y8=?= <j@example.org>"),
        ("Office " * 12 + "A", "a@x.org", b'"' + b"Office " * 8 + b"Office\r\n " + b"Office " * 3 + b'A" <a@x.org>'),
        ("", "a..b@docomo.ne.jp", b'"a..b"@docomo.ne.jp'),
        ("Ada", "a.@docomo.ne.jp", b'"Ada" <"a."@docomo.ne.jp>'),
        ("Ada", '"a..b"@docomo.ne.jp', b'"Ada" <"a..b"@docomo.ne.jp>'),
        ("Ada", "a..b@bücher.example", b'"Ada" <"a..b"@xn--bcher-kva.example>'),
        ("A" * 40, "a" * 40 + "@x.org", b'"' + b"A" * 40 + b'"\r\n <' + b"a" * 40 + b"@x.org>"),
    ],
)
def test_mailbox(name: str, address: str, value: bytes) -> None:
    assert mime.mailbox(name, address) == value


@pytest.mark.parametrize(
    "address",
    [
        "a@x.org\r\nBcc: e@x.org",
        "a@x.org, e@x.org",
        "a@x.org> <e@x.org",
        "a b@x.org",
        "a@x.org\x00",
        "a@x.org\u2028",
        '"a b"@x.org',
        '"a@x.org',
        '"a"b"@x.org',
    ],
)
def test_address_that_would_add_a_recipient_is_refused(address: str) -> None:
    with pytest.raises(InvalidValue, match="cannot be used in a header"):
        mime.mailbox("Ada", address)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Ada", "Ada"),
        (" Ada \t\r\n Lovelace\n", "Ada   Lovelace"),
        ("Ada\r\nBcc: eve@example.org", "Ada Bcc: eve@example.org"),
        ("a\x00b\x7fc\x85d\u2028e\u2029f", "a b c d e f"),
        ("می\u200cخواهم \u202eabc", "می\u200cخواهم \u202eabc"),
    ],
)
def test_line_breaks_become_spaces(text: str, line: str) -> None:
    assert mime.one_line(text) == line


def with_lf(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") else text + "\n"


def assert_is_valid_body(data: bytes) -> None:
    assert data.isascii()
    assert b"\0" not in data
    assert re.search(rb"\r(?!\n)|(?<!\r)\n", data) is None
    assert max(map(len, data.split(b"\r\n"))) <= 998


texts = st.one_of(
    any_text,
    st.lists(st.sampled_from(["a" * 997, "a" * 500, "\r\n", "From ", "--", *"\r\n \t.=é漢\x0c"])).map("".join),
)  # fmt: skip


@given(texts, st.sampled_from(["plain", "html"]))
@example("", "plain")
@example("a" * 998 + "\n" + "b" * 999, "plain")
@example("a" * 998 + "\n" + "b" * 998, "plain")
@example("\ud7ff\U0010ffff\x00\x1b" * 500, "plain")
def test_part_is_read_back_unchanged(text: str, subtype: str) -> None:
    data = mime.text_part([text], subtype)
    assert_is_valid_body(data)
    for rules in (policy.default, policy.compat32):
        message = message_from_bytes(data, policy=rules)
        assert message.keys() == ["Content-Type", "Content-Transfer-Encoding"]
        assert (message.get_content_type(), message.get_content_charset()) == (f"text/{subtype}", "utf-8")
        payload = message.get_payload(decode=True)
        assert isinstance(payload, bytes)
        assert payload.decode().replace("\r\n", "\n") == with_lf(text)
    assert not parsed(data).defects


PIECES = ["Dear ", "Zoë", "", " ", "=", ".", "\n", "\r", "\r\n", "漢", "x" * 80, "a b" * 30 + "\n" + "c d" * 30 + " "]


@given(st.lists(st.sampled_from(PIECES) | texts))
@example(["Zoë", " ", PIECES[-1], "=", PIECES[-1], "\n"])
def test_pieces_give_the_same_part_as_the_whole_text(pieces: list[str]) -> None:
    assert mime.text_part(pieces, "plain") == mime.text_part(["".join(pieces)], "plain")


@pytest.mark.parametrize(
    ("text", "encoding", "body"),
    [
        ("Hello\n", "7bit", b"Hello\r\n"),
        ("Hello\r\n\rAda", "7bit", b"Hello\r\n\r\nAda\r\n"),
        ("", "7bit", b"\r\n"),
        ("Die Tür ist offen.  \n", "quoted-printable", b"Die T=C3=BCr ist offen. =20\r\n"),
        ("a" * 998 + "\n" + "b" * 998, "7bit", b"a" * 998 + b"\r\n" + b"b" * 998 + b"\r\n"),
        ("a" * 999, "quoted-printable", (b"a" * 75 + b"=\r\n") * 13 + b"a" * 24 + b"\r\n"),
        ("Hello\x00 to all of you\n", "quoted-printable", b"Hello=00 to all of you\r\n"),
        ("Привет", "base64", b"0J/RgNC40LLQtdGCDQo=\r\n"),
        ("<p>Привет</p>", "quoted-printable", b"<p>=D0=9F=D1=80=D0=B8=D0=B2=D0=B5=D1=82</p>\r\n"),
        ("漢字\nab", "quoted-printable", b"=E6=BC=A2=E5=AD=97\r\nab\r\n"),
        ("漢字漢字漢\nab", "base64", b"5ryi5a2X5ryi5a2X5ryiDQphYg0K\r\n"),
    ],
)
def test_encoding_depends_on_the_text(text: str, encoding: str, body: bytes) -> None:
    head, _, encoded = mime.text_part([text], "plain").partition(b"\r\n\r\n")
    assert head.decode().endswith(f"Content-Transfer-Encoding: {encoding}")
    assert encoded == body


def test_text_with_the_boundary_is_encoded() -> None:
    boundary = b"=_0123456789abcdef"
    for text in (f"--{boundary.decode()}--\n", f"é --{boundary.decode()}\n", f"漢字 {boundary.decode()}\n" * 9):
        data = mime.text_part([text], "plain", avoid=boundary)
        assert boundary not in data
        assert parsed(data).get_content().replace("\r\n", "\n") == text
