"""Test that a body filled in quickly has the same bytes as one that is encoded for its client alone."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.composing.extras import NO_EXTRAS, Extras
from skychimp.errors import InvalidValue
from skychimp.models import Format

DATE = datetime(2026, 12, 1, 9, tzinfo=UTC)
MESSAGE_ID = "<0123456789abcdef@example.org>"
ADA = Recipient("ada@example.org", "Ada Lovelace", "", [])
LONG_LINE = "word " * 180

pieces = st.sampled_from(
    ["{{ client.name }}", "{{ client.email }}", "{{ client.comment }}", "{{ unsubscribe_url }}",
     "{{ postal_address }}", "Dear ", "\n", "\n\n", ".", "\n.", "=", "=_", "_",
     "\r\n", "\r", "\t", "<b>", "&", "\xe9", "{{ client.tags }}", "x" * 990, LONG_LINE]
)  # fmt: skip
sources = st.lists(pieces, max_size=8).map("".join)
values = st.text(st.characters(codec="utf-8"), max_size=20) | st.text(
    st.sampled_from("Ada.=_<>&\"' \r\n\té"), max_size=20
)


LINKS = (
    Extras(web_url="https://mail.example.org", inbound_address="in@example.org", is_bulk=True, postal_address="1 <St>"),
    Extras(inbound_address="in@example.org", postal_address="=_ 1 Main Street"),
    NO_EXTRAS,
)


def composer(content: MessageContent, extras: Extras = LINKS[0]) -> Composer:
    return Composer(content, sender="News <news@example.org>", date=DATE, mailing_id=7, due_at=DATE, extras=extras)


@given(sources, sources | st.none(), values, values, st.sampled_from(LINKS))
@example("{{ client.name }}.\n", None, "", "", LINKS[0])
@example("a\n{{ client.name }}{{ client.comment }}.\n", None, "", "", LINKS[0])
@example("{{ client.name }}\n", None, "." * 5, "", LINKS[0])
@example("a\n{{ client.name }}", None, "", "", LINKS[0])
@example("{{ client.comment }}\n", None, "", "x" * 990, LINKS[0])
@example("{{ client.name }}{{ unsubscribe_url }}_\n", "{{ client.name }}_{{ postal_address }}\n", "a=", "", LINKS[1])
def test_filled_in_body_is_the_same_as_an_encoded_one(
    source: str, html: str | None, name: str, comment: str, extras: Extras
) -> None:
    format_ = Format.TEXT if html is None else Format.HTML
    try:
        quick = composer(MessageContent("News", source, format_, html), extras)
    except InvalidValue:
        return
    client = Recipient("ada@example.org", name, comment, [])
    filled_in = quick.compose(client, MESSAGE_ID)
    quick._prepared_body = None
    assert quick.compose(client, MESSAGE_ID).data == filled_in.data
    assert filled_in.has_dots or b"\r\n." not in filled_in.data


@pytest.mark.parametrize(
    ("content", "client", "has_dots"),
    [
        (MessageContent("s", "Dear {{ client.name }},\nhello.\n", Format.TEXT), ADA, False),
        (MessageContent("s", "{{ client.name }}\n", Format.HTML, "<p>{{ client.name }}.</p>\n"), ADA, False),
        (MessageContent("s", "Dear {{ client.name }}\n.\n", Format.TEXT), ADA, True),
        (MessageContent("s", "{{ client.name }}.\n", Format.TEXT), ADA, True),
        (MessageContent("s", "Dear {{ client.name }},\n", Format.TEXT), ADA._replace(name="Zoë"), True),
        (
            MessageContent("s", "Bye: {{ unsubscribe_url }}\n", Format.HTML, "<a href='{{ unsubscribe_url }}'>x</a>\n"),
            ADA,
            False,
        ),
        (MessageContent("s", "Dear {{ client.name | upper }},\n", Format.TEXT), ADA, True),
    ],
)
def test_only_an_email_that_may_have_dots_is_searched_for_them(
    content: MessageContent, client: Recipient, has_dots: bool
) -> None:
    assert composer(content).compose(client, MESSAGE_ID).has_dots == has_dots


def test_value_that_completes_a_boundary_is_encoded() -> None:
    """The text of a message has its beginning, and a client's name the rest."""
    contents = (
        MessageContent("s", f"{number}\n--=_a{{{{ client.name }}}}\n", Format.HTML, "<p>x</p>\n")
        for number in range(1000)
    )
    rival = next(one for one in map(composer, contents) if one._boundary.startswith(b"=_a"))
    data = rival.compose(ADA._replace(name=rival._boundary[3:].decode()), MESSAGE_ID).data
    assert data.count(b"\r\n--" + rival._boundary) == 3


@pytest.mark.parametrize("extras", LINKS[:2])
def test_body_with_a_link_is_filled_in_quickly(extras: Extras) -> None:
    content = MessageContent("s", "Bye: {{ unsubscribe_url }}\n", Format.MARKDOWN)
    quick = composer(content, extras)
    assert quick._prepared_body is not None
    recipient = ADA._replace(unsubscribe_url=extras.unsubscribe_url.replace("\0", "abc"))
    assert quick._prepared_body.fill(recipient) is not None
