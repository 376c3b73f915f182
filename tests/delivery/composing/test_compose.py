"""Whole letters, with the standard library's parser as the judge: whatever is in them, they say what they should."""

import re
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage, MIMEPart
from email.utils import getaddresses, parsedate_to_datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skychimp.delivery.composing import compose, mime
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.errors import InvalidValue
from skychimp.models import Format

DATE = datetime(2026, 12, 1, 9, tzinfo=UTC)
NAME = "<0123456789abcdef@example.org>"
ADA = Recipient("ada@example.org", "Ada Lovelace", "", ["new", "vip"])
HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"]


def composer(words: MessageContent, sender: str = "News <news@example.org>") -> Composer:
    return Composer(words, sender=sender, date=DATE, mailing_id=7, due_at=DATE)


def letter(words: MessageContent, to: Recipient = ADA) -> bytes:
    return composer(words).compose(to, NAME)


def parsed(data: bytes) -> EmailMessage:
    message = message_from_bytes(data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def content(part: MIMEPart) -> str:
    return str(part.get_content()).replace("\r\n", "\n")


def old_parsed(data: bytes, header: str) -> str:
    """A header as the parser of old says it."""
    value = message_from_bytes(data, policy=policy.compat32)[header]
    return str(make_header(decode_header(value.replace("\r\n ", " "))))


def normalised(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") else text + "\n"


PLAIN = MessageContent("Hello {{ client.name }}", "Dear {{ client.name }},\n", Format.TEXT)
HTML = MessageContent("News", "Hi\n", Format.HTML, "<p>{{ client.name }}</p>\n")
EVERYTHING = MessageContent(
    "{{ client.comment }}",
    "{{ client.comment }}\n{{ client.tags }}",
    Format.HTML,
    "<p>{{ client.comment }}</p>{{ client.tags | join }}",
)


def test_a_plain_letter_to_the_byte() -> None:
    assert letter(PLAIN) == (
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
    ("words", "text", "html"),
    [
        (PLAIN, "Dear Ada Lovelace,\n", None),
        (MessageContent("s", "", Format.TEXT), "\n", None),
        (MessageContent("s", "a\r\nb\r\n\r\n", Format.TEXT), "a\nb\n\n", None),
        (HTML, "Hi\n", "<p>Ada Lovelace</p>\n"),
        (MessageContent("s", "*{{ client.name }}*", Format.MARKDOWN), "*Ada Lovelace*\n", "<p><em>Ada Lovelace</em></p>\n"),
        (MessageContent("s", "Жду *Вас*", Format.MARKDOWN), "Жду *Вас*\n", "<p>Жду <em>Вас</em></p>\n"),
    ],
)  # fmt: skip
def test_text_and_html(words: MessageContent, text: str, html: str | None) -> None:
    message = parsed(letter(words))
    parts = list(message.walk())
    assert not [defect for part in parts for defect in part.defects]
    if html is None:
        assert message.keys() == [*HEADERS, "Content-Transfer-Encoding"]
        assert content(message) == text
    else:
        assert message.keys() == HEADERS
        assert [part.get_content_type() for part in parts] == ["multipart/alternative", "text/plain", "text/html"]
        assert [content(part) for part in message.iter_parts()] == [text, html]


any_text = st.text(st.characters(codec="utf-8"), max_size=300) | st.text(
    st.sampled_from("\r\n\x00\u2028 =?utf-8q_0ABc:,<>@\"'\\éИ漢\u202e\U0001f600"), max_size=300
)


@settings(deadline=None)
@given(any_text, any_text, st.lists(any_text, max_size=3))
@example("", "=?utf-8?q?a=0ABcc:_eve=40example.org?=", [])
@example("a" * 1000, "a" * 1500 + "\n" + "漢" * 1500, ["x" * 100] * 3)
@example('"Ada", <eve@example.org>\r\nBcc: eve@example.org\r\n\r\nbody', "\r\n.\r\nQUIT\r\n", [])
def test_any_words_come_back_equal(name: str, words: str, tags: list[str]) -> None:
    to = Recipient("ada@example.org", name, words, tags)
    made = composer(EVERYTHING)
    data = made.compose(to, NAME)
    assert_goes_through_any_server(data)
    assert made.compose(to, NAME) == data

    message = parsed(data)
    assert message.keys() == HEADERS
    assert [address.addr_spec for address in message["to"].addresses] == ["ada@example.org"]
    assert message["subject"] == old_parsed(data, "Subject") == mime.one_line(words)
    unfolded = message_from_bytes(data, policy=policy.compat32)["To"].replace("\r\n ", " ")
    ((shown, address),) = getaddresses([unfolded])
    assert (str(make_header(decode_header(shown))), address) == (mime.one_line(name), "ada@example.org")
    assert (message["message-id"], parsedate_to_datetime(message["date"])) == (NAME, DATE)
    text, html = message.iter_parts()
    assert content(text) == normalised(words + "\n" + ", ".join(tags))
    _, expected_text, expected_html = made.render(to)
    assert content(text) == normalised(expected_text)
    assert content(html) == normalised(expected_html or "")


def assert_goes_through_any_server(data: bytes) -> None:
    assert data.isascii()
    assert b"\0" not in data
    assert data.endswith(b"\r\n")
    assert re.search(rb"\r(?!\n)|(?<!\r)\n", data) is None
    assert max(map(len, data.split(b"\r\n"))) <= 998


@pytest.mark.parametrize(
    "words", [PLAIN, HTML, MessageContent("s", "**{{ client.name }}**\n\n{{ due_at }}", Format.MARKDOWN)]
)
def test_a_letter_composed_again_is_the_same_to_the_byte(words: MessageContent) -> None:
    one = composer(words)
    first = one.compose(ADA, NAME)
    one.compose(Recipient("bob@example.org", "Боб", "", []), "<other@example.org>")
    assert one.compose(ADA, NAME) == first == composer(words).compose(ADA, NAME)


@pytest.mark.parametrize(
    "words", [MessageContent("Same", "for all\n", Format.TEXT), MessageContent("Same", "*for all*\n", Format.MARKDOWN)]
)
def test_what_is_the_same_for_all_still_has_its_own_recipient(words: MessageContent) -> None:
    made = composer(words)
    for to in (ADA, Recipient("bob@example.org", "", "", [])):
        message = parsed(made.compose(to, NAME))
        assert [(each.display_name, each.addr_spec) for each in message["to"].addresses] == [(to.name, to.email)]
        assert message["subject"] == "Same"


def test_a_client_who_knows_the_boundary_can_not_end_the_part() -> None:
    """What a client says is no part of the boundary, so that anyone with the words can tell what it is."""
    words = MessageContent("s", "{{ client.comment }}", Format.HTML, "<p>{{ client.comment }}</p>")
    boundary = parsed(letter(words)).get_boundary()
    evil = f"x\n--{boundary}\nContent-Type: text/html\n\n<b>evil</b>\n--{boundary}--\n"
    message = parsed(letter(words, ADA._replace(comment=evil)))
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert next(content(part) for part in message.iter_parts()) == evil


@pytest.mark.parametrize(
    "to",
    [
        ADA._replace(name="half \ud800"),
        ADA._replace(comment="half \udfff"),
        ADA._replace(email="ada@example.org\r\nBcc: eve@example.org"),
        ADA._replace(email="ada@example.org, eve@example.org"),
    ],
)
def test_a_letter_that_can_not_be_is_refused_with_the_reason(to: Recipient) -> None:
    with pytest.raises(InvalidValue, match=r"half a character|can't be written in a letter"):
        letter(EVERYTHING, to)


@pytest.mark.parametrize(
    ("sender", "value"),
    [
        ("news@example.org", "news@example.org"),
        ("Acme, Inc. <news@example.org>", '"Acme, Inc." <news@example.org>'),
        ("Ада <news@bücher.example>", "Ада <news@xn--bcher-kva.example>"),
    ],
)
def test_senders(sender: str, value: str) -> None:
    data = composer(PLAIN, sender).compose(ADA, NAME)
    assert data.isascii()
    assert parsed(data)["from"] == value
    with pytest.raises(InvalidValue):
        composer(PLAIN, "News <nobody>")


def test_an_international_address_is_the_only_thing_that_is_not_ascii() -> None:
    data = letter(PLAIN, ADA._replace(email="юлия@почта.рф", name="Юлия"))
    assert [line for line in data.split(b"\r\n") if not line.isascii()] == [
        "To: =?utf-8?b?0K7Qu9C40Y8=?= <юлия@почта.рф>".encode()
    ]


def test_a_message_id_is_a_keyed_hash_the_same_each_time() -> None:
    one = compose.message_id(b"secret", 1, "example.org")
    assert one == compose.message_id(b"secret", 1, "example.org")
    assert (
        len({one, compose.message_id(b"secret", 2, "example.org"), compose.message_id(b"other", 1, "example.org")}) == 3
    )
    assert re.fullmatch(r"<[0-9a-f]{32}@example\.org>", one)
    assert compose.message_id(b"secret", 1, "bücher.example").endswith("@xn--bcher-kva.example>")


def test_a_constant_letter_and_a_personal_one_come_from_the_same_words() -> None:
    """A preview is what is sent."""
    made = composer(EVERYTHING)
    to = ADA._replace(comment=" two\nlines\t")
    subject, text, html = made.render(to)
    assert (subject, text, html) == ("two lines", " two\nlines\t\nnew, vip", "<p> two\nlines\t</p>newvip")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (PLAIN._replace(subject=""), "the subject is empty"),
        (PLAIN._replace(subject=" \t"), "the subject is empty"),
        (PLAIN._replace(subject="two\nlines"), "the subject is one line"),
        (PLAIN._replace(subject="a\u2028b"), "the subject is one line"),
        (PLAIN._replace(subject="x" * 1001), "the subject is one line of up to 1000"),
        (PLAIN._replace(subject="{{ x }}"), "the subject, line 1: there is no x"),
        (PLAIN._replace(subject="half \ud800"), "the subject holds half a character"),
        (PLAIN._replace(body="a\n{{ client.nam }}"), "the body, line 2: there is no client.nam"),
        (PLAIN._replace(body="half \udcff"), "the body holds half a character"),
        (PLAIN._replace(body="{{ '\\ud800' }}"), "the letter holds half a character"),
        (PLAIN._replace(body="{{ client.tags | first }}"), "the body, line 1: No first item"),
        (PLAIN._replace(body="{{ client.name | first }}"), "the body, line 1: No first item"),
        (HTML._replace(html="\n{{ client }}"), "the HTML, line 2: client is no text"),
        (HTML._replace(html="half \ud800"), "the HTML holds half a character"),
        (PLAIN._replace(format=Format.MARKDOWN, body="{% if %}"), "the body, line 1: Expected an expression"),
        (PLAIN._replace(format=Format.MARKDOWN, body="- {% if client.name %}\n- {% endif"), "the body, line 2: "),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_what_is_no_message(words: MessageContent, reason: str) -> None:
    with pytest.raises(InvalidValue) as told:
        compose.check(words)
    assert told.value.message.startswith(reason)


@pytest.mark.parametrize("words", [PLAIN, HTML, EVERYTHING, PLAIN._replace(body="", format=Format.MARKDOWN)])
def test_what_is_a_message(words: MessageContent) -> None:
    compose.check(words)
