"""Test custom fields in templates: how they print, what is needed of them, and that the quick way is the same."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.delivery.composing import compose
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.errors import InvalidValue
from skychimp.fields import Field, FieldValue
from skychimp.models import FieldType, Format

DATE = datetime(2026, 12, 1, 9, tzinfo=UTC)
FIELDS = [
    Field("city", FieldType.TEXT), Field("visits", FieldType.NUMBER), Field("vip", FieldType.BOOLEAN),
    Field("Born", FieldType.DATE), Field("имя", FieldType.TEXT), Field("name", FieldType.TEXT),
    Field("tags", FieldType.TEXT), Field("values", FieldType.NUMBER), Field("__class__", FieldType.TEXT),
]  # fmt: skip
ADA: Mapping[str, FieldValue] = {
    "city": "A & B", "visits": 1.5, "vip": True, "Born": "1815-12-10", "имя": "Ада", "name": "own", "tags": "t",
    "values": 0.00001, "__class__": "c",
}  # fmt: skip


def composer(body: str, html: str | None = None) -> Composer:
    content = MessageContent("s", body, Format.TEXT if html is None else Format.HTML, html)
    return Composer(content, sender="News <news@example.org>", date=DATE, mailing_id=7, due_at=DATE)


def render(body: str, fields: Mapping[str, FieldValue] = ADA) -> str:
    return composer(body).render(Recipient("ada@example.org", "Ada", "", (), fields))[1]


RENDERED = {
    "{{ client.fields.city }}": "A & B",
    "{{ client.fields.CITY | upper }}": "A & B",
    "{{ client.fields.visits }} {{ client.fields.values }}": "1.5 0.00001",
    "{{ client.fields.visits | default(0) }}": "1.5",
    "{{ client.fields.vip }}": "true",
    "x {{ client.fields.vip | default('no') }} {{ client.fields.vip | upper }}": "x true TRUE",
    "{{ client.fields.born }}": "1815-12-10",
    "{{ client.fields.Born | date('%d.%m.%Y') }}": "10.12.1815",
    "{{ client.fields.имя }} {{ client.fields.name }} {{ client.name }}": "Ада own Ada",
    "{{ client.fields.tags }} {{ client.fields.__class__ }}": "t c",
    "{% if client.fields.visits > 1 and client.fields.vip == true %}a{% else %}b{% endif %}": "a",
    "{{ 'a' if client.fields.Born < '1900-01-01' else 'b' }}": "a",
    "{{ 'y' if 'A' in client.fields.city else 'n' }}": "y",
}


@pytest.mark.parametrize("body", RENDERED)
def test_fields_print_as_they_are(body: str) -> None:
    assert render(body) == RENDERED[body]
    compose.check_content(MessageContent("s", body, Format.TEXT), FIELDS)


WITHOUT_VALUES = {
    "{{ client.fields.city | default('there') }}": "there",
    "{{ client.fields.city or 'there' }}": "there",
    "{{ client.fields.Born | date('%d') | default('soon') }}": "soon",
    "{{ client.fields.Born | default('2020-01-02') | date('%d') }}": "02",
    "{% if client.fields.city %}in {{ client.fields.city | upper }}{% else %}hi{% endif %}": "hi",
    "{% if not client.fields.city %}hi{% else %}{{ client.fields.city }}{% endif %}": "hi",
    "{% if client.fields.visits and client.fields.visits > 3 %}a{% elif client.fields.vip %}b{% endif %}": "",
    "{{ client.fields.city if client.fields.city and client.name else 'hi' }}": "hi",
    "{{ not client.fields.vip }}": "True",
}


@pytest.mark.parametrize("body", WITHOUT_VALUES)
def test_fields_with_a_default_or_a_condition_need_no_value(body: str) -> None:
    assert (list(composer(body).required_fields), render(body, {})) == ([], WITHOUT_VALUES[body])
    compose.check_content(MessageContent("s", body, Format.TEXT), FIELDS)


@pytest.mark.parametrize(
    ("body", "required"),
    [
        ("{{ client.fields.city }} {{ client.fields.vip | default('') }}", ["city"]),
        ("{{ client.fields.CITY | upper | default('x') }}", ["city"]),
        ("{% if client.fields.visits > 3 %}x{% endif %}", ["visits"]),
        ("{% if client.fields.city or client.name %}{{ client.fields.city }}{% endif %}", ["city"]),
        ("{% if not client.fields.city %}{{ client.fields.city }}{% endif %}", ["city"]),
        ("{{ client.fields.city and 'x' }}", ["city"]),
        ("{{ client.name or client.fields.city }}", ["city"]),
        ("{% for tag in client.tags %}{{ client.fields.city }}{% endfor %}", ["city"]),
        ("{% if client.fields.city %}a{% elif client.fields.vip == true %}b{% endif %}", ["vip"]),
    ],
)
def test_fields_without_a_default_need_a_value(body: str, required: Sequence[str]) -> None:
    assert sorted(composer(body).required_fields) == required
    name = "" if "client.name or" in body else "A"
    with pytest.raises(InvalidValue, match=rf"the client has no value for client\.fields\.{required[0]}"):
        composer(body).render(Recipient("a@x.org", name, "", ("t",)))


@pytest.mark.parametrize(
    ("body", "message", "hint"),
    [
        ("Hi\n{{ client.fields.citty }}", "line 2: unknown field citty", "did you mean city?"),
        ("{{ client.fields.zzz }}", "line 1: unknown field zzz", 'run "skychimp clients fields"'),
        ("{{ client.fields }}", "needs the name of a field", ""),
        ("{{ client.fields.city.x }}", "unknown attribute", ""),
        ("{{ client.fields['city'] }}", "not allowed", ""),
        ("{{ client.fields.city() }}", "not allowed", ""),
        ("{% for x in client.fields.tags %}{% endfor %}", "a for loop must be over client.tags", ""),
        ("{{ client.fields.tags | join(',') }}", "join must be used with client.tags", ""),
        ("{{ client.fields.city | date('%d') }}", "date must be used with a date", ""),
        ("{{ client.name | date('%d') }}", "date must be used with due_at or a field", ""),
        ("{% if client.fields.visits > 'x' %}{% endif %}", "not supported", ""),
        ("{{ client.fields.Born | default('soon') | date('%d') }}", "date must be used with a date", ""),
        ("{{ client.fields.city | urlencode }}" * 60 + "{{ client.comment | urlencode }}" * 4, "too long", ""),
    ],
)
def test_messages_with_invalid_fields_are_refused(body: str, message: str, hint: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        compose.check_content(MessageContent("s", body, Format.TEXT), FIELDS)

    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_fields_are_escaped_in_html_and_encoded_in_links() -> None:
    html = "<p>{{ client.fields.city }}</p>{{ client.fields.vip }}"
    client = Recipient("a@x.org", "", "", (), ADA)

    assert composer("x", html).render(client)[2] == "<p>A &amp; B</p>true"
    content = MessageContent("s", "[x](https://x.org/?c={{ client.fields.city }})", Format.MARKDOWN)
    made = Composer(content, sender="n@x.org", date=DATE, mailing_id=7, due_at=DATE)
    assert "https://x.org/?c=A%20%26%20B" in (made.render(client)[2] or "")


def test_value_that_is_too_long_fails_the_email() -> None:
    with pytest.raises(InvalidValue, match="too long"):
        render("{{ client.fields.city }}", {"city": "x" * 1_001})


@pytest.mark.parametrize(
    ("body", "used"),
    [("{{ client.fields.City }}{{ client.fields.city }}", ["City"]), ("my fields", []), ("{{ fields. }}", [])],
)
def test_used_fields(body: str, used: Sequence[str]) -> None:
    assert list(compose.used_fields(MessageContent("s", body, Format.TEXT))) == used


_sources = st.lists(
    st.sampled_from(
        ["{{ client.fields.city }}", "{{ client.fields.visits }}", "{{ client.fields.vip }}", "{{ client.name }}",
         "{{ client.fields.имя }}", "{{ client.email }}", "Dear ", "\n", ".", "=", "_", "<b>", "é"]
    ),
    max_size=6,
).map("".join)  # fmt: skip
_texts = st.text(st.sampled_from("Ada.=_<>&\"' 01xé\n"), max_size=12)


@given(_sources, _sources | st.none(), _texts, st.one_of(st.integers(), st.floats(0, 1)), st.booleans())
def test_quickly_filled_in_body_is_the_same(source: str, html: str | None, city: str, visits: float, vip: bool) -> None:
    quick = composer(source, html)
    client = Recipient("ada@example.org", city, "", [], {"City": city, "visits": visits, "vip": vip, "имя": "Ада"})

    filled_in = quick.compose(client, "<m@example.org>").data
    quick._prepared_body = None
    encoded = quick.compose(client, "<m@example.org>").data
    for template in quick._templates:
        template._segments = None

    assert quick.compose(client, "<m@example.org>").data == encoded == filled_in


def test_body_with_fields_is_prepared() -> None:
    prepared = composer(
        "Dear {{ client.name }} of {{ client.fields.city }},\nhello\n", "<p>{{ client.fields.vip }}.</p>\n"
    )

    assert prepared._prepared_body is not None
    assert (
        b"Ada of Riga"
        in prepared.compose(Recipient("a@x.org", "Ada", "", (), {"city": "Riga", "vip": False}), "<m@x.org>").data
    )
    with pytest.raises(InvalidValue, match=r"no value for client\.fields\.vip"):
        prepared.compose(Recipient("a@x.org", "Ada", "", (), {"city": "Riga"}), "<m@x.org>")
