"""Text: what a line, lines and tags may contain, and how text is shortened and counted."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.errors import InvalidValue
from skychimp.text import (
    MAX_TAGS,
    checked_tags,
    checked_topic,
    count_of,
    did_you_mean,
    folded,
    has_control_character,
    nfc,
    one_line,
    shortened,
    some_lines,
)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("a\nb", ".a.nb. contains a control character or a line break"),
        ("a\u2028b", "contains a line break"),
        ("a\x00", "contains a control character"),
        ("\ud800", "contains invalid UTF-8"),
        ("x" * 11, "is longer than 10 characters"),
    ],
    ids=ascii,
)
def test_invalid_line_is_refused(value: str, problem: str) -> None:
    with pytest.raises(InvalidValue, match=f"the name .*{problem}") as caught:
        one_line(value, "name", 10)
    assert caught.value.message.isprintable()


def test_line_is_stripped_and_keeps_format_characters() -> None:
    assert one_line(" می\u200cخواهم ", "name", 20) == "می\u200cخواهم"


def test_topic_is_one_line_in_nfc() -> None:
    assert checked_topic(" Cafe\N{COMBINING ACUTE ACCENT} ") == "Café"
    for wrong in ("", "  ", "a\nb", "x" * 101):
        with pytest.raises(InvalidValue):
            checked_topic(wrong)


def test_lines_have_lf_line_ends() -> None:
    assert some_lines("a\r\nb\rc\td\n", "comment", 20) == "a\nb\nc\td\n"
    with pytest.raises(InvalidValue, match=r"the comment .* contains a control character"):
        some_lines("a\x00", "comment", 20)


def test_tags_are_sorted_and_unique() -> None:
    assert checked_tags(["b", " a", "b"]) == ["a", "b"]
    assert checked_tags([]) == []


def test_first_spelling_of_a_tag_stays_and_its_letters_are_composed() -> None:
    assert checked_tags(["VIP", "vip", " Vip "]) == ["VIP"]
    assert checked_tags(["Cafe\N{COMBINING ACUTE ACCENT}", "CAFÉ"]) == ["Café"]
    assert checked_tags(["ΟΔΟΣ", "οδος", "οδοσ"]) == ["ΟΔΟΣ"]


texts = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("aÅßıİςΣΐǰᾳﬁ\u0301\u0308\u0327\u0345")))


@given(texts)
def test_folded_text_is_the_same_for_every_case_and_composition(text: str) -> None:
    key = folded(text)
    assert folded(key) == key
    for form in ("NFC", "NFD"):
        assert folded(unicodedata.normalize(form, text)) == key
    # In form D: a combining iota (U+0345) becomes a letter, and the marks after it are not the ones before it any more.
    assert folded(unicodedata.normalize("NFD", text).casefold()) == key
    assert folded(nfc(text)) == folded(nfc(nfc(text))) == key


@given(st.lists(texts, max_size=4))
def test_checked_tags_do_not_change_when_they_are_checked_again(tags: list[str]) -> None:
    try:
        checked = checked_tags(tags)
    except InvalidValue:
        return
    assert checked_tags(checked) == checked
    assert {folded(tag) for tag in checked} == {folded(tag.strip()) for tag in tags}
    assert len({folded(tag) for tag in checked}) == len(checked)


@pytest.mark.parametrize(
    "tags", [[""], [" "], ["a,b"], ["a;b"], ["a\nb"], ["x" * 101], list(map(str, range(MAX_TAGS + 1)))]
)
def test_invalid_tags_are_refused(tags: list[str]) -> None:
    with pytest.raises(InvalidValue, match="tag"):
        checked_tags(tags)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ada", '"ada"'),
        ("it's", '"it\'s"'),
        ("a\nb", r"'a\nb'"),
        ("\u202ea", r"'\u202ea'"),
        ("x" * 41, f'"{"x" * 40}…"'),
    ],
)
def test_value_is_quoted_escaped_and_cut(value: str, expected: str) -> None:
    assert shortened(value) == expected


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 emails"), (1, "1 email"), (2, "2 emails"), (2002, "2,002 emails")]
)
def test_number_is_followed_by_the_right_form_of_the_noun(number: int, expected: str) -> None:
    assert count_of(number, "email") == expected
    assert count_of(number, "reply", "replies").replace("replies", "emails").replace("reply", "email") == expected


def test_suggestion_is_close_to_the_mistyped_word() -> None:
    assert did_you_mean("clinets", ["clients", "mailings"]) == "did you mean clients?"
    assert did_you_mean("mail", ["mails", "mailx"], most=2) in (
        "did you mean mails or mailx?",
        "did you mean mailx or mails?",
    )
    assert did_you_mean("xyz", ["clients"]) == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((f"a{character}b", True) for character in "\0\t\n\v\f\r\x1b\x1f\x7f\x80\x85\x9b\u2028\u2029"),
        *((f"a{character}b", False) for character in " \u00a0\u00ad\u202e\u200d\ufeffé漢🐒"),
        ("", False),
    ],
)
def test_control_characters_and_line_breaks_are_found(value: str, expected: bool) -> None:
    assert has_control_character(value) == expected
