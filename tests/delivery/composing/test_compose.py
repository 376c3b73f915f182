"""Whole emails, read back with the standard library's parser."""

import re
from datetime import UTC, datetime
from email import message_from_bytes, message_from_string, policy
from email.header import decode_header, make_header
from email.message import EmailMessage, MIMEPart
from email.utils import getaddresses, parsedate_to_datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skychimp import addresses
from skychimp.delivery.composing import compose, mime
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.errors import InvalidValue
from skychimp.models import Format

DATE = datetime(2026, 12, 1, 9, tzinfo=UTC)
MESSAGE_ID = "<0123456789abcdef@example.org>"
ADA = Recipient("ada@example.org", "Ada Lovelace", "", ["new", "vip"])
HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"]


def composer(content: MessageContent, sender: str = "News <news@example.org>") -> Composer:
    return Composer(content, sender=sender, date=DATE, mailing_id=7, due_at=DATE)


def compose_email(content: MessageContent, to: Recipient = ADA) -> bytes:
    return composer(content).compose(to, MESSAGE_ID).data


def parsed(data: bytes) -> EmailMessage:
    message = message_from_bytes(data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def text_of(part: MIMEPart) -> str:
    return str(part.get_content()).replace("\r\n", "\n")


def parsed_by_compat32(data: bytes, header: str) -> str:
    """Return a header as the older parser reads it."""
    value = message_from_bytes(data, policy=policy.compat32)[header]
    return str(make_header(decode_header(value.replace("\r\n ", " "))))


def with_lf(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") else text + "\n"


PLAIN = MessageContent("Hello {{ client.name }}", "Dear {{ client.name }},\n", Format.TEXT)
HTML = MessageContent("News", "Hi\n", Format.HTML, "<p>{{ client.name }}</p>\n")
MARKDOWN = MessageContent("s", "*{{ client.name }}*", Format.MARKDOWN)
EVERYTHING = MessageContent(
    "{{ client.comment }}",
    "{{ client.comment }}\n{{ client.tags }}",
    Format.HTML,
    "<p>{{ client.comment }}</p>{{ client.tags | join }}",
)


def test_plain_email_byte_by_byte() -> None:
    assert compose_email(PLAIN) == (
        b'From: "News" <news@example.org>\r\n'
        b'To: "Ada Lovelace" <ada@example.org>\r\n'
        b"Subject: Hello Ada Lovelace\r\n"
        b"Date: Tue, 01 Dec 2026 09:00:00 +0000\r\n"
        b"Message-ID: <0123456789abcdef@example.org>\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"\r\n"
        b"Dear Ada Lovelace,\r\n"
    )


@pytest.mark.parametrize(
    ("content", "text", "html"),
    [
        (PLAIN, "Dear Ada Lovelace,\n", None),
        (MessageContent("s", "", Format.TEXT), "\n", None),
        (MessageContent("s", "a\r\nb\r\n\r\n", Format.TEXT), "a\nb\n\n", None),
        (HTML, "Hi\n", "<p>Ada Lovelace</p>\n"),
        (MARKDOWN, "*Ada Lovelace*\n", "<p><em>Ada Lovelace</em></p>\n"),
        (MessageContent("s", "Hi\n-- \nAda", Format.MARKDOWN), "Hi\n-- \nAda\n", "<p>Hi</p>\n<p>-- <br />\nAda</p>\n"),
        (MessageContent("s", "Zoë\n-- \nAda", Format.TEXT), "Zoë\n-- \nAda\n", None),
        (MessageContent("s", "Жду *Вас*", Format.MARKDOWN), "Жду *Вас*\n", "<p>Жду <em>Вас</em></p>\n"),
    ],
)  # fmt: skip
def test_text_and_html_parts(content: MessageContent, text: str, html: str | None) -> None:
    message = parsed(compose_email(content))
    parts = list(message.walk())
    assert not [defect for part in parts for defect in part.defects]
    if html is None:
        assert message.keys() == [*HEADERS, "Content-Transfer-Encoding"]
        assert text_of(message) == text
    else:
        assert message.keys() == HEADERS
        assert [part.get_content_type() for part in parts] == ["multipart/alternative", "text/plain", "text/html"]
        assert [text_of(part) for part in message.iter_parts()] == [text, html]


any_text = st.text(st.characters(codec="utf-8"), max_size=300) | st.text(
    st.sampled_from("\r\n\x00\u2028 =?utf-8q_0ABc:,<>@\"'\\éИ漢\u202e\U0001f600"), max_size=300
)


@settings(deadline=None)
@given(any_text, any_text, st.lists(any_text, max_size=3))
@example("", "=?utf-8?q?a=0ABcc:_eve=40example.org?=", [])
@example("a" * 1000, "a" * 1500 + "\n" + "漢" * 1500, ["x" * 100] * 3)
@example("Office " * 20, "🎉 sale " * 30, ["x" * 100] * 3)
@example('"Ada", <eve@example.org>\r\nBcc: eve@example.org\r\n\r\nbody', "\r\n.\r\nQUIT\r\n", [])
def test_any_text_is_read_back_unchanged(name: str, comment: str, tags: list[str]) -> None:
    to = Recipient("ada@example.org", name, comment, tags)
    email_composer = composer(EVERYTHING)
    data = email_composer.compose(to, MESSAGE_ID).data
    assert_every_server_accepts(data)
    assert email_composer.compose(to, MESSAGE_ID).data == data

    message = parsed(data)
    assert message.keys() == HEADERS
    assert [address.addr_spec for address in message["to"].addresses] == ["ada@example.org"]
    assert message["subject"] == parsed_by_compat32(data, "Subject") == mime.one_line(comment)
    unfolded = message_from_bytes(data, policy=policy.compat32)["To"].replace("\r\n ", " ")
    ((shown, address),) = getaddresses([unfolded])
    assert (str(make_header(decode_header(shown))), address) == (mime.one_line(name), "ada@example.org")
    assert (message["message-id"], parsedate_to_datetime(message["date"])) == (MESSAGE_ID, DATE)
    text, html = message.iter_parts()
    assert text_of(text) == with_lf(comment + "\n" + ", ".join(tags))
    _, expected_text, expected_html = email_composer.render(to)
    assert text_of(text) == with_lf(expected_text)
    assert text_of(html) == with_lf(expected_html or "")


def assert_every_server_accepts(data: bytes) -> None:
    assert data.isascii()
    assert b"\0" not in data
    assert data.endswith(b"\r\n")
    assert re.search(rb"\r(?!\n)|(?<!\r)\n", data) is None
    assert max(map(len, data.split(b"\r\n"))) <= 998
    for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        assert len(line) <= 78
        assert line.strip()


@pytest.mark.parametrize(
    "content", [PLAIN, HTML, MessageContent("s", "**{{ client.name }}**\n\n{{ due_at }}", Format.MARKDOWN)]
)
def test_composing_an_email_again_gives_the_same_bytes(content: MessageContent) -> None:
    email_composer = composer(content)
    first = email_composer.compose(ADA, MESSAGE_ID).data
    email_composer.compose(Recipient("bob@example.org", "Боб", "", []), "<other@example.org>")
    assert email_composer.compose(ADA, MESSAGE_ID).data == first == composer(content).compose(ADA, MESSAGE_ID).data


@pytest.mark.parametrize(
    "content",
    [MessageContent("Same", "for all\n", Format.TEXT), MessageContent("Same", "*for all*\n", Format.MARKDOWN)],
)
def test_constant_content_has_each_recipient_s_address(content: MessageContent) -> None:
    email_composer = composer(content)
    for to in (ADA, Recipient("bob@example.org", "", "", [])):
        message = parsed(email_composer.compose(to, MESSAGE_ID).data)
        assert [(address.display_name, address.addr_spec) for address in message["to"].addresses] == [
            (to.name, to.email)
        ]
        assert message["subject"] == "Same"


def test_client_data_with_the_boundary_does_not_end_the_part() -> None:
    """The boundary does not depend on client data, so anyone who knows the content can compute it."""
    content = MessageContent("s", "{{ client.comment }}", Format.HTML, "<p>{{ client.comment }}</p>")
    boundary = parsed(compose_email(content)).get_boundary()
    evil = f"x\n--{boundary}\nContent-Type: text/html\n\n<b>evil</b>\n--{boundary}--\n"
    message = parsed(compose_email(content, ADA._replace(comment=evil)))
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert next(text_of(part) for part in message.iter_parts()) == evil


@pytest.mark.parametrize(
    "to",
    [
        ADA._replace(name="half \ud800"),
        ADA._replace(comment="half \udfff"),
        ADA._replace(email="ada@example.org\r\nBcc: eve@example.org"),
        ADA._replace(email="ada@example.org, eve@example.org"),
    ],
)
def test_email_that_cannot_be_composed_is_refused_with_the_reason(to: Recipient) -> None:
    with pytest.raises(InvalidValue, match=r"invalid Unicode|cannot be used in a header"):
        compose_email(EVERYTHING, to)


@pytest.mark.parametrize(
    ("sender", "value"),
    [
        ("news@example.org", "news@example.org"),
        ("Acme, Inc. <news@example.org>", '"Acme, Inc." <news@example.org>'),
        ("Ада <news@bücher.example>", "Ада <news@xn--bcher-kva.example>"),
    ],
)
def test_from_header(sender: str, value: str) -> None:
    data = composer(PLAIN, sender).compose(ADA, MESSAGE_ID).data
    assert data.isascii()
    assert parsed(data)["from"] == value
    with pytest.raises(InvalidValue):
        composer(PLAIN, "News <nobody>")


def test_only_an_international_address_is_not_ascii() -> None:
    data = compose_email(PLAIN, ADA._replace(email="юлия@почта.рф", name="Юлия"))
    assert [line for line in data.split(b"\r\n") if not line.isascii()] == [
        "To: =?utf-8?b?0K7Qu9C40Y8=?= <юлия@почта.рф>".encode()
    ]


def test_message_id_is_a_deterministic_keyed_hash() -> None:
    first = compose.message_id(b"secret", 1, "example.org")
    assert first == compose.message_id(b"secret", 1, "example.org")
    assert (
        len({first, compose.message_id(b"secret", 2, "example.org"), compose.message_id(b"other", 1, "example.org")})
        == 3
    )
    assert re.fullmatch(r"<[0-9a-f]{32}@example\.org>", first)
    assert compose.message_id(b"secret", 1, "bücher.example").endswith("@xn--bcher-kva.example>")


def test_rendered_preview_has_the_content_of_the_email() -> None:
    email_composer = composer(EVERYTHING)
    to = ADA._replace(comment=" two\nlines\t")
    subject, text, html = email_composer.render(to)
    assert (subject, text, html) == ("two lines", " two\nlines\t\nnew, vip", "<p> two\nlines\t</p>newvip")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PLAIN._replace(subject=""), "the subject is empty"),
        (PLAIN._replace(subject=" \t"), "the subject is empty"),
        (PLAIN._replace(subject="two\nlines"), "the subject contains a line break"),
        (PLAIN._replace(subject="a\u2028b"), "the subject contains a line break"),
        (PLAIN._replace(subject="x" * 1001), "the subject is longer than 1,000"),
        (PLAIN._replace(subject="{{ x }}"), "the subject, line 1: unknown variable x"),
        (PLAIN._replace(subject="half \ud800"), "the subject contains invalid Unicode"),
        (PLAIN._replace(body="a\n{{ client.nam }}"), "the body, line 2: unknown attribute client.nam"),
        (PLAIN._replace(body="half \udcff"), "the body contains invalid Unicode"),
        (PLAIN._replace(body="{{ '\\ud800' }}"), "the email contains invalid Unicode"),
        (PLAIN._replace(body="{{ client.tags | first }}"), "the body, line 1: No first item"),
        (PLAIN._replace(body="{{ client.name | first }}"), "the body, line 1: No first item"),
        (HTML._replace(html="\n{{ client }}"), "the HTML, line 2: client is not a text"),
        (HTML._replace(html="half \ud800"), "the HTML contains invalid Unicode"),
        (PLAIN._replace(format=Format.MARKDOWN, body="{% if %}"), "the body, line 1: Expected an expression"),
        (PLAIN._replace(format=Format.MARKDOWN, body="- {% if client.name %}\n- {% endif"), "the body, line 2: "),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_invalid_content_is_refused(content: MessageContent, reason: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        compose.check_content(content)
    assert caught.value.message.startswith(reason)


@pytest.mark.parametrize("content", [PLAIN, HTML, EVERYTHING, PLAIN._replace(body="", format=Format.MARKDOWN)])
def test_valid_content_is_accepted(content: MessageContent) -> None:
    compose.check_content(content)


@pytest.mark.parametrize(
    "condition", ["'vip' in client.tags", "'Cafe\u0301' in client.tags", "client.name in client.tags"]
)
def test_template_finds_a_tag_in_any_spelling(condition: str) -> None:
    content = MessageContent("s", "{% if " + condition + " %}yes{% else %}no{% endif %} {{ client.tags }}", Format.TEXT)
    to = Recipient("ada@example.org", "vIP", "", ("CAFÉ", "Vip"))
    assert text_of(parsed(compose_email(content, to))) == "yes CAFÉ, Vip\n"
    assert composer(content).render(to)[1] == "yes CAFÉ, Vip"
    assert text_of(parsed(compose_email(content, ADA._replace(name="no", tags=["vip2"])))) == "no vip2\n"


locals_ = st.from_regex(r"\A[a-zA-Z0-9._+-]{1,30}\Z") | st.from_regex(r'\A"[a-z.]{1,20}"\Z') | st.text(max_size=12)
domains = st.sampled_from(["x.org", "docomo.ne.jp", "BÜCHER.example", "почта.рф", "localhost", "intranet", "x"])


@given(locals_, domains, st.text(max_size=60))
@example("a..b", "docomo.ne.jp", "")
@example('"a.."', "docomo.ne.jp", "山田 太郎")
@example("." + "a" * 200, "docomo.ne.jp", "Ada" * 20)
def test_every_accepted_address_is_read_back_from_its_email(local: str, domain: str, name: str) -> None:
    try:
        address = addresses.parse(f"{local}@{domain}", addresses.STORED)
        data = compose_email(PLAIN, Recipient(address.email, name, "", ()))
    except InvalidValue:
        return
    (read,) = message_from_string(data.decode(), policy=policy.default)["To"].addresses
    assert addresses.parse(f"{read.username}@{read.domain}", addresses.STORED).key == address.key
