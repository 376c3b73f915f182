"""Front matter is read or refused, and never taken for the text of an email, nor the other way round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.errors import InvalidValue
from skychimp.services.messages.front_matter import FrontMatter, split_front_matter


@pytest.mark.parametrize(
    ("source", "front_matter", "body"),
    [
        ("---\nsubject: News\n---\n# News\n", FrontMatter("News"), "# News\n"),
        ("\n---  \r\nSubject:  A: 1 # 2 \r\n\n#\ndigest: true\n...\r\n\nHi", FrontMatter("A: 1 # 2", True), "Hi"),
        ('---\nsubject: "A \\"b\\" \\u00e9"\ndigest: No\n---\n', FrontMatter('A "b" é', False), ""),
        ("---\nsubject: 'It''s {{ client.name }}'\n---\nHi\n---\n", FrontMatter("It's {{ client.name }}"), "Hi\n---\n"),
        ("---\nsubject:\n---\nHi", FrontMatter(""), "Hi"),
        ("---\nsubject: [News] May\n---\nHi", FrontMatter("[News] May"), "Hi"),
    ],
)  # fmt: skip
def test_front_matter_is_read(source: str, front_matter: FrontMatter, body: str) -> None:
    assert split_front_matter(source) == (front_matter, body)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "Hello",
        "---",
        "---\n",
        "---\n\nHello\n\n---\n",
        "---\n\nsubject: News\n---\n",
        "---\nHello\n---\n",
        "---\nDear all: we are open\n---\n",
        "---\nhttps://example.org\n---\n",
        "Title\n---\nsubject: News\n---\n",
        "----\nsubject: News\n---\n",
        "***\nsubject: News\r\n",
        "+++\n\nHello = x\n",
    ],
)
def test_other_text_is_left_as_it_is(source: str) -> None:
    assert split_front_matter(source) == (FrontMatter(), source)


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ('---\ntitle: "Weekly"\ndate: 2026-11-28\n---\n# A', 'unknown key in the front matter: "title"', "subject"),
        ("---\nsubjekt: News\n---\n", 'unknown key in the front matter: "subjekt"', "did you mean subject?"),
        ("---\nsubject: A\nSubject: B\n---\n", "duplicate key in the front matter: subject", "remove"),
        ("---\nsubject: A\n  more\n---\n", 'invalid line in the front matter: "  more"', "KEY: VALUE"),
        ("---\nsubject: A\n- more\n---\n", 'invalid line in the front matter: "- more"', "KEY: VALUE"),
        ("---\nsubject: |\n  A\n---\n", "invalid value of subject in the front matter", "one line"),
        ('---\nsubject: "A\n---\n', "invalid value of subject in the front matter", "one line"),
        ("---\nsubject: 'A\n---\n", "invalid value of subject in the front matter", "one line"),
        ("---\nsubject: A\ndigest: maybe\n---\n", "invalid value of digest in the front matter", "true or false"),
        ("---\nsubject: A\ndigest:\n---\n", "invalid value of digest in the front matter", "true or false"),
        ("---\nsubject: A\n\nHello\n", "the front matter has no end", "a line ---"),
        ('+++\ntitle = "A"\n+++\n', "front matter between lines +++ is not supported", "---"),
    ],
)  # fmt: skip
def test_front_matter_that_is_not_understood_is_refused(source: str, message: str, hint: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        split_front_matter(source)
    assert caught.value.message.startswith(message)
    assert hint in (caught.value.hint or "")


@given(
    st.lists(
        st.sampled_from(["---", "\n", "\r\n", "...", "subject:", "digest:", " ", "a", '"', "'", "\\", "true", "é"])
    ).map("".join)
)
def test_any_text_is_read_or_refused(source: str) -> None:
    try:
        front_matter, body = split_front_matter(source)
    except InvalidValue:
        return
    assert body == source if front_matter == FrontMatter() else source.replace("\r\n", "\n").endswith(body)
