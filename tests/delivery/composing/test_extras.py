"""Test what an email has besides the message: links, the postal address, and headers of any settings."""

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skychimp.delivery.composing import compose, conversions, extras
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.composing.extras import Extras
from skychimp.errors import InvalidValue
from skychimp.models import Format

DATE = datetime(2026, 12, 1, 9, tzinfo=UTC)
ADA = Recipient("ada@example.org", "Ada", "", ())
WEB = Extras(web_url="https://mail.example.org", postal_address="Tom & Co, 1 <Main> St")
MAIL = Extras(inbound_address="in@example.org")
WEB_LINK, MAIL_LINK = "https://mail.example.org/u/abc123", "mailto:in+abc123@example.org?subject=unsubscribe"


def email_of(content: MessageContent, added: Extras) -> EmailMessage:
    composer = Composer(content, sender="News <news@example.org>", date=DATE, mailing_id=7, due_at=DATE, extras=added)
    data = composer.compose(ADA, "<1@example.org>", token="abc123").data
    message = message_from_bytes(data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def text_of(message: EmailMessage) -> str:
    return str(message.get_content()).replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("source", "added", "text"),
    [
        ("{{ unsubscribe_url }}\n", WEB, f"{WEB_LINK}\n"),
        ("{{ unsubscribe_url }}\n", MAIL, f"{MAIL_LINK}\n"),
        ("{{ unsubscribe_url }}|\n", Extras(), "|\n"),
        ("{% if unsubscribe_url %}{{ unsubscribe_url | upper }}{% endif %}\n", WEB, f"{WEB_LINK.upper()}\n"),
        ("{{ postal_address }}\n", WEB, "Tom & Co, 1 <Main> St\n"),
        ("{{ postal_address | upper }}{% if not postal_address %}none{% endif %}\n", WEB, "TOM & CO, 1 <MAIN> ST\n"),
        ("{% if postal_address %}at {{ postal_address }}{% else %}none{% endif %}\n", MAIL, "none\n"),
    ],
)  # fmt: skip
def test_text_has_link_and_address(source: str, added: Extras, text: str) -> None:
    assert text_of(email_of(MessageContent("s", source, Format.TEXT), added)) == text


def test_html_has_them_escaped() -> None:
    html = '<a href="{{ unsubscribe_url }}">x</a> {{ postal_address }}{{ "" or postal_address }}\n'
    body = email_of(MessageContent("s", "t", Format.HTML, html), WEB).get_body(("html",))
    assert body is not None
    address = "Tom &amp; Co, 1 &lt;Main&gt; St"
    assert body.get_content().replace("\r\n", "\n") == f'<a href="{WEB_LINK}">x</a> {address}{address}\n'


@pytest.mark.parametrize(("added", "link"), [(WEB, WEB_LINK), (MAIL, MAIL_LINK)])
def test_link_of_markdown_is_not_encoded_again(added: Extras, link: str) -> None:
    body = email_of(MessageContent("s", "[leave]({{ unsubscribe_url }})", Format.MARKDOWN), added).get_body(("html",))
    assert body is not None
    assert body.get_content().replace("\r\n", "\n") == f'<p><a href="{link}">leave</a></p>\n'


def test_text_made_from_html_has_the_link() -> None:
    text = conversions.text_from_html('<a href="{{ unsubscribe_url }}">Leave</a>')
    assert text == "Leave <{{ unsubscribe_url }}>\n"


@pytest.mark.parametrize("name", ["unsubscribe_url", "postal_address"])
def test_subject_cannot_contain_them(name: str) -> None:
    with pytest.raises(InvalidValue, match=f"the subject, line 1: {name} cannot be used in the subject"):
        compose.check_content(MessageContent(f"{{{{ {name} }}}}", "x", Format.TEXT))


def test_client_has_no_link_of_its_own() -> None:
    with pytest.raises(InvalidValue, match=r"unknown attribute client\.unsubscribe_url"):
        compose.check_content(MessageContent("s", "{{ client.unsubscribe_url }}", Format.TEXT))


@pytest.mark.parametrize(
    ("body", "uses"), [("{{ unsubscribe_url }}", True), ("unsubscribe_url", False), ("{% if unsubscribe_url %}", False)]
)
def test_message_uses_a_variable(body: str, uses: bool) -> None:
    assert compose.uses_variable(MessageContent("s", body, Format.TEXT), "unsubscribe_url") == uses


names = st.from_regex(r"X-[A-Za-z0-9]{1,20}", fullmatch=True)
lines = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "), min_size=1, max_size=200)
given_headers = st.lists(
    st.tuples(names, lines.map(str.strip).filter(bool)), max_size=3, unique_by=lambda header: header[0].lower()
).map(dict)


@settings(deadline=None)
@given(given_headers, st.sampled_from([True, False]))
def test_any_header_is_read_back_and_no_other_one_is_there(headers: dict[str, str], is_bulk: bool) -> None:
    added = WEB._replace(headers=list(headers.items()), inbound_address="in@example.org", is_bulk=is_bulk)
    assert extras.parse(extras.dump(added)) == added
    message = email_of(MessageContent("s", "x\n", Format.TEXT), added)
    links = ["List-Unsubscribe", "List-Unsubscribe-Post"] if is_bulk else []
    assert message.keys() == [
        "From", "To", "Subject", "Date", "Message-ID", *headers, *links, "MIME-Version", "Content-Type",
        "Content-Transfer-Encoding",
    ]  # fmt: skip
    if is_bulk:
        assert message["List-Unsubscribe"] == f"<{WEB_LINK}>, <{MAIL_LINK}>"
    assert text_of(message) == "x\n"
    assert all(
        str(message[name]).split() == value.split()
        for name, value in headers.items()
        if value.isascii() and "=?" not in value
    )


def test_email_of_an_older_version_has_no_more_headers() -> None:
    assert extras.header_lines(extras.parse("{}")) == b""
