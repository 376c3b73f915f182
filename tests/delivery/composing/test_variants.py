"""The rule that chooses a client's variant, and how an occurrence keeps variants."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.delivery.attachments import listing
from skychimp.delivery.attachments.listing import AttachedFile, Attachments
from skychimp.delivery.composing import variants
from skychimp.delivery.composing.compose import MessageContent
from skychimp.delivery.composing.layouts import finishing
from skychimp.delivery.composing.variants import Variant, VariedContent
from skychimp.errors import InvalidValue
from skychimp.fields import FieldValue, format_value
from skychimp.models import EmailLanguage, Format

NEWS = MessageContent("News", "News", Format.TEXT)


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        ("ru", ["ru"]), ("RU", ["ru"]), ("ru-RU", ["ru-ru", "ru"]), ("pt_BR", ["pt_br", "pt"]),
        ("zh-Hant-TW", ["zh-hant-tw", "zh-hant", "zh"]), ("СТРАНА", ["страна"]), ("Straße", ["strasse"]),
        ("plan-a", ["plan-a"]), ("vip-gold", ["vip-gold"]), ("es-419", ["es-419", "es"]),
        ("ru-", ["ru-"]), ("-ru", ["-ru"]), ("ru-toolongpart", ["ru-toolongpart"]),
        ("", [""]), (1, ["1"]), (1.5, ["1.5"]), (True, ["true"]), ("2026-12-01", ["2026-12-01"]),
    ],
)  # fmt: skip
def test_value_fits_the_variants(value: FieldValue, keys: list[str]) -> None:
    assert list(variants.keys_for(value)) == keys


def test_number_and_boolean_are_not_the_same() -> None:
    by_key = {"1": "one", "true": "yes"}
    assert [variants.choose(by_key, value, "none") for value in (1, True, 1, False)] == ["one", "yes", "one", "none"]


@pytest.mark.parametrize(
    ("value", "language"), [("ru", "ru"), ("RU-ru", "ru"), ("en_GB", "en"), ("de", "ru"), ("rus", "ru"), ("vip", "ru")]
)
def test_value_names_the_language_of_the_words(value: str, language: str) -> None:
    assert variants.language_of(value, EmailLanguage.RU) == language


words = st.sampled_from(["ru", "RU", "ru-RU", "ru-RU-x", "en", "en-GB", "ruble", "zh-Hant", "plan-a", "Ё", "ё", "1"])
values = st.none() | words | st.text("ruen-_RU1", max_size=8) | st.integers(0, 2) | st.booleans()


def expected(keys: set[str], value: FieldValue | None) -> str:
    """Return the key of the variant that a client with this value gets, "" for the message itself."""
    shown = "" if value is None else format_value(value).lower()
    is_language = re.fullmatch("[a-z]{2}([-_][a-z]{4})?([-_]([a-z]{2}|[0-9]{3}))?", shown)
    shorter = [shown[: at.start()] for at in re.finditer("[-_]", shown)] if is_language else []
    return next((key for key in [shown, *reversed(shorter)] if key and key in keys), "")


@given(st.sets(words, max_size=8), st.lists(values, max_size=10))
def test_each_client_gets_the_variant_of_the_rule(having: set[str], clients: list[FieldValue | None]) -> None:
    keys = {each.lower() for each in having}
    made = variants.finish(NEWS, None, [Variant(key, NEWS._replace(subject=key), None) for key in keys], "Lang")
    field, kept = variants.parse(made.columns()["variants"])
    assert (field, dict(made.variants)) == ("Lang" if keys else "", kept)
    for value in clients:
        fields = {"city": "Riga"} | ({} if value is None else {"lang": value})
        subject = expected(keys, value) or "News"
        assert made.content_for(fields).subject == subject
        assert variants.choose(kept, variants.value_of(fields, field), NEWS).subject == subject


def test_content_without_variants_is_kept_as_before() -> None:
    made = variants.finish(NEWS, None, field="lang")
    assert made == VariedContent(NEWS)
    assert made.columns() == NEWS._asdict() | {"variants": ""}
    assert made.used_fields == []


def test_fields_of_all_variants_and_the_one_that_chooses_are_used() -> None:
    variant = Variant("ru", NEWS._replace(body="{{ client.fields.city | default('') }}"), None)
    made = variants.finish(NEWS._replace(subject="{{ client.fields.n | default(0) }}"), None, [variant], "lang")
    assert sorted(made.used_fields) == ["city", "lang", "n"]


def test_words_of_the_layout_are_in_the_language_of_the_variant() -> None:
    def subject_to(language: EmailLanguage) -> finishing.Layout | None:
        return finishing.layout_of("default", None, "", language)

    content = MessageContent("News", "# News", Format.MARKDOWN)
    made = variants.finish(
        content, subject_to(EmailLanguage.EN), [Variant("ru", content, subject_to(EmailLanguage.RU))]
    )
    fallback, (_, russian) = made.fallback, made.variants[0]
    assert ('lang="en"' in (fallback.html or ""), ">Unsubscribe<" in (fallback.html or "")) == (True, True)
    assert ('lang="ru"' in (russian.html or ""), "Отписаться" in (russian.html or "")) == (True, True)
    assert "Отписаться: {{ unsubscribe_url }}" in russian.body
    assert "Unsubscribe" not in russian.body + (russian.html or "")


def file(name: str, sha256: str, source: str = "") -> AttachedFile:
    return AttachedFile(name, "application/pdf", sha256, 1, source)


def test_variant_has_the_attachments_of_the_message_and_its_own() -> None:
    message = Attachments((file("a.pdf", "1"), file("b.pdf", "2"), file("p.png", "3", "p.png")), ("{{ client.name }}",))
    own = Attachments((file("b.pdf", "4"), file("q.png", "5", "p.png")))
    merged = variants.with_files(NEWS._replace(attachments=listing.dump(own)), listing.dump(message))
    found = listing.parse(merged.attachments)
    assert [(each.name, each.sha256) for each in found.files] == [("a.pdf", "1"), ("b.pdf", "4"), ("q.png", "5")]
    assert found.paths == ("{{ client.name }}",)
    assert variants.with_files(NEWS, listing.NOTHING) == NEWS


CONTENT = NEWS._asdict()


@pytest.mark.parametrize(
    "stored",
    [
        "x", "[]", "1", "{}", '{"field": "lang"}', "[" * 100_000,
        json.dumps({"field": 1, "contents": {}}),
        json.dumps({"field": "lang", "contents": []}),
        json.dumps({"field": "lang", "contents": {"ru": {}}}),
        json.dumps({"field": "lang", "contents": {"ru": CONTENT | {"format": "x"}}}),
        json.dumps({"field": "lang", "contents": {"ru": CONTENT | {"body": 1}}}),
        json.dumps({"field": "lang", "contents": {"ru": CONTENT | {"more": ""}}}),
    ],
    ids=lambda stored: stored[:60],
)  # fmt: skip
def test_damaged_variants_are_an_error(stored: str) -> None:
    with pytest.raises(InvalidValue, match="the variants of the message are damaged"):
        variants.parse(stored)


def test_long_value_is_no_language() -> None:
    """All its parts would be kept in memory, for each of many clients."""
    value = "en" + "-us" * 300
    assert variants.keys_for(value) == (value,)
