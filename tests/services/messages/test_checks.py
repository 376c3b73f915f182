"""Test what is found in a rendered email, and that near misses are not."""

import time

import pytest

from skychimp.services.messages.checking import check_samples, check_unsubscribing
from skychimp.services.messages.checks import texts
from skychimp.services.messages.checks.links import find_link_flaw, find_picture_flaw, web_links
from skychimp.services.messages.checks.shown_parts import Link, Picture, read_html, read_text
from skychimp.services.messages.rendering import Preview, Samples

LINK, ADDRESS = "https://mail.example.org/u/sample", "Example Ltd, 1 Main Street, London"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("", "goes nowhere"),
        ("#", "goes nowhere"),
        ("https://", "has no host"),
        ("https:///path", "has no host"),
        ("https:example.org", "has no host"),
        ("https:\\\\example.org", "has no host"),
        ("https://?x=1", "has no host"),
        ("https://example.org/a b", "contains a space"),
        ("https://example.org/\t", "contains a space"),
        ("https://exa mple.org", "contains a space"),
        ("https://{{ client.name }}/", "has a placeholder"),
        ("https://example.org/%7B%7B%20x%20%7D%7D", "has a placeholder"),
        ("https://example.org:port/", "is not a valid address"),
        ("https://example.org:99999/", "is not a valid address"),
        ("https://[::1/", "is not a valid address"),
        ("https://exa$mple.org/", "has an invalid host"),
        ("https://example..org/", "has an invalid host"),
        ("https://-example.org/", "has an invalid host"),
        ("https://intranet/page", "has a host without a domain"),
        ("http://example.org/", "is not encrypted"),
        ("HTTP://example.org/", "is not encrypted"),
        ("javascript:alert(1)", "is not opened by mail programs"),
        ("JavaScript:void(0)", "is not opened by mail programs"),
        ("data:text/html,x", "is not opened by mail programs"),
        ("file:///etc/passwd", "is not opened by mail programs"),
        ("www.example.org", "is not a complete address"),
        ("//example.org/x", "is not a complete address"),
        ("/news", "is not a complete address"),
        ("example.org:8080/x", "is not a complete address"),
        ("localhost:8080", "is not a complete address"),
        ("mailto:ada", "has an invalid email address"),
        ("mailto:ada@", "has an invalid email address"),
        ("https://example.org", None),
        ("HTTPS://Example.ORG./a?b=c%20d#e", None),
        ("https://bücher.example/ü", None),
        ("https://sub_domain.example.org:8443/", None),
        ("https://[2001:db8::1]:8443/", None),
        ("https://user@example.org/", None),
        ("https://example.org/{id}", None),
        ("https://example.org/?q=a|b", None),
        ("#top", None),
        ("mailto:ada@example.org?subject=x%20y", None),
        ("mailto:?subject=x", None),
        ("mailto:a@example.org,b@example.org", None),
        ("tel:+37120000000", None),
        ("whatsapp://send?text=x", None),
        ("*|UNSUB|*", None),
    ],
)
def test_link(url: str, found: str | None) -> None:
    flaw = find_link_flaw(url)
    assert (flaw is None) == (found is None)
    assert flaw is None or flaw.found.startswith(found or "")


@pytest.mark.parametrize(
    ("src", "alt", "found"),
    [
        ("", "x", "has no address"),
        ("https://example.org/a.png", None, "has no alt text"),
        ("cid:a@skychimp", None, "has no alt text"),
        ("http://example.org/a.png", "x", "is not encrypted"),
        ("a.png", "x", "is not a complete address"),
        ("data:image/png;base64,AA", "x", "is not shown by Gmail"),
        ("https://example.org/a.png", "", None),
        ("https://example.org/a.png", "x", None),
        ("cid:a@skychimp", "x", None),
    ],
)
def test_picture(src: str, alt: str | None, found: str | None) -> None:
    flaw = find_picture_flaw(Picture(src, alt, 1))
    assert (flaw is None) == (found is None)
    assert flaw is None or flaw.found.startswith(found or "")


def test_html_is_read_with_its_lines() -> None:
    page = read_html(
        "<title>No</title>\n<style>a{}</style>\n<p>Dear <b>A</b>da &amp;\nco</p><br>\n"
        "<a href=' https://a.example/?x=1&amp;y=2 ' href=b>more</a><!-- <a href=c> -->\n"
        "<img src=d alt=Logo><IMG SRC=e />"
    )
    assert page.links == [Link("https://a.example/?x=1&y=2", 5)]
    assert page.pictures == [Picture("d", "Logo", 6), Picture("e", None, 6)]
    lines = [" ".join(line.split()) for line in page.text.split("\n")]
    assert lines == ["", "", "Dear Ada &", "co", "more", "Logo"]


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("See https://a.example/x, or <https://b.example>.", ["https://a.example/x", "https://b.example"]),
        ("[site](https://a.example/x_(y)) (https://a.example/z)", ["https://a.example/x_(y)", "https://a.example/z"]),
        ("**https://a.example/** mailto:ada@a.example!", ["https://a.example/", "mailto:ada@a.example"]),
        ("http: example.org a.example", []),
    ],
)
def test_links_of_a_text(text: str, urls: list[str]) -> None:
    assert [link.url for link in read_text(text).links] == urls


def test_only_valid_links_to_the_web_are_asked_for() -> None:
    page = read_html(
        '<a href="https://a.example">x</a><a href="mailto:a@a.example">y</a><a href="https://">z</a>\n'
        '<img src="http://b.example/c.png"><a href="https://a.example">again</a><img src="cid:d">'
    )
    assert web_links(page, "HTML") == {"https://a.example": "HTML line 1", "http://b.example/c.png": "HTML line 2"}


@pytest.mark.parametrize(
    ("subject", "found"),
    [
        ("", "the subject is empty"),
        (" ", "the subject is empty"),
        ("x" * 71, "the subject has 71 characters, and phones cut it"),
        ("x" * 70, None),
        ("Hi", None),
    ],
)
def test_subject(subject: str, found: str | None) -> None:
    assert [each.found for each in texts.check_subject(subject)] == ([found] if found else [])


@pytest.mark.parametrize(
    ("size", "largest", "level"),
    [(102_001, 1, "problem"), (102_000, 102_001, "warning"), (102_000, 102_000, None)],
)
def test_size(size: int, largest: int, level: str | None) -> None:
    findings = list(texts.check_size("x" * size, ["", "x" * largest]))
    assert [each.level for each in findings] == ([level] if level else [])


def test_size_is_that_in_utf_8() -> None:
    (finding,) = texts.check_size("ж" * 60_000, [])
    assert finding.found == "the HTML part has 120 kB"


WORDS = "autumn brings yellow leaves while birds travel south over mountains and quiet lakes"


@pytest.mark.parametrize(
    ("text", "html", "found"),
    [
        ("a", '<a href="https://a.example/x">a</a>', ["the text part lacks 1 link: \"https://a.example/x\""]),
        ("see https://a.example/x", "<p>see</p>", ["the HTML part lacks 1 link: \"https://a.example/x\""]),
        (WORDS, "<p>Our offers of the week", ["the HTML part lacks most words of the text part"]),
        ("See the HTML", f"<p>{WORDS}</p>", ["the text part lacks most words of the HTML part"]),
        ("", "".join(f'<a href="https://a.example/{n}">' for n in range(9)),
         ['the text part lacks 9 links: "https://a.example/0", "https://a.example/1",'
          ' "https://a.example/2" and 6 more']),
        ("more: https://a.example/x%20y/", '<a href="https://a.example/x%20y">more</a>', []),
        ("see https://a.example/", "<p>see https://a.example/</p>", []),
        (f"{WORDS.upper()} {'https://a.example/long'}", f'<p><a href="https://a.example/long">{WORDS}</a></p>', []),
        ("one two three", "<p>four five six</p>", []),
        ("mail", '<a href="mailto:a@a.example">mail</a> <img src="https://a.example/x.png">', []),
    ],
)  # fmt: skip
def test_parts_agree(text: str, html: str, found: list[str]) -> None:
    assert [each.found for each in texts.check_parts_agree(read_text(text), read_html(html))] == found


def test_merge_tags_are_found_once_each_with_their_line() -> None:
    page = read_html('<style>*|NO|*</style>\n<p>Hi *|FNAME|*</p>\n<a href="*|UNSUB|*">*|FNAME|*</a>')
    assert [(each.found, each.where) for each in texts.check_merge_tags(page, "HTML")] == [
        ('"*|FNAME|*" is a merge tag of another program', "HTML line 2"),
        ('"*|UNSUB|*" is a merge tag of another program', "HTML line 3"),
    ]


def test_what_is_wrong_only_without_values_is_named_so() -> None:
    full = Preview("a@example.org", "Hi Ada", "see https://a.example/Ada", '<p>see https://a.example/Ada <a href="#a">')
    minimal = Preview("b@example.org", "", "see https:///", "<p>see https:///")
    findings = [(each.about, each.where) for each in check_samples(Samples(full, minimal, []))]
    assert findings == [
        ("subject", "subject, for a client without values"),
        ("link", "text line 1, for a client without values"),
    ]


@pytest.mark.parametrize(
    ("text", "html", "found"),
    [
        (f"{LINK} {ADDRESS}", None, []),
        (f"{LINK}\nExample Ltd,\n1 Main Street, London", f'<a href="{LINK}">out</a><p>{ADDRESS}', []),
        (f"{ADDRESS}", None, [("the body has no unsubscribe link", "text")]),
        (f"{LINK} {ADDRESS}", "<p>x", [("the body has no unsubscribe link", "HTML"),
                                       ("the body has no postal address", "HTML")]),
        ("x", f'<a href="{LINK}x">', [("the body has no unsubscribe link", "HTML and text"),
                                      ("the body has no postal address", "HTML and text")]),
    ],
)  # fmt: skip
def test_unsubscribing(text: str, html: str | None, found: list[tuple[str, str]]) -> None:
    from skychimp.delivery.composing.extras import LARGEST_SAMPLE

    extras = LARGEST_SAMPLE._replace(web_url="https://mail.example.org", postal_address=ADDRESS)
    findings = check_unsubscribing(Preview("a@example.org", "s", text, html), extras)
    assert [(each.found, each.where) for each in findings] == found


@pytest.mark.parametrize(
    "piece",
    ["<!--", "<a ", "<a href='", "<![CDATA[", "&#", "</", "<b>", "<?", "<script>", "{{ ", "x", ")", "https://a)"],
)
def test_hostile_html_takes_little_time(piece: str) -> None:
    html = f"https://a{piece * (100_000 // len(piece))}"
    began = time.process_time()
    sample = Preview("a@example.org", "s", html, html)
    list(check_samples(Samples(sample, sample, [])))
    assert time.process_time() - began < 20  # it would be minutes if the time grew with the square of the size
