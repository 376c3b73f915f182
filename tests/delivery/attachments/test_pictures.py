"""Test which pictures of an HTML part are local, and how they are linked."""

import pytest

from skychimp.delivery.attachments.pictures import link_pictures, local_pictures


@pytest.mark.parametrize(
    ("html", "names"),
    [
        ('<img src="a.png">', ["a.png"]),
        ("<IMG alt='x' SRC = 'b/a.png' />", ["b/a.png"]),
        ('<img src="a%20b.png"><img src="a b.png">', ["a b.png"]),
        ('<img src="a&amp;b.png">', ["a&b.png"]),
        ('<img src="/etc/passwd"><img src="../x">', ["/etc/passwd", "../x"]),
        (
            '<img src="https://x.org/a.png"><img src="//x.org/a"><img src="cid:1@x"><img src="data:image/png;base64,">',
            [],
        ),
        ('<img data-src="a.png"><a src="b.png"><image src="c.png"><img src=d.png>', []),
        ('<img src="{{ client.fields.photo }}"><img src=""><img src="#x">', []),
        ("<img alt=\"<img src='a.png'>", ["a.png"]),
        ("<img " * 50_000 + "src" * 50_000, []),
    ],
)
def test_local_pictures_are_found(html: str, names: list[str]) -> None:
    assert local_pictures(html) == names


def test_only_known_pictures_are_linked() -> None:
    html = '<img src="a.png"><img src=\'b.png\' alt="b"><img src="https://x.org/a.png">'
    linked = '<img src="cid:1@inline"><img src=\'b.png\' alt="b"><img src="https://x.org/a.png">'
    assert link_pictures(html, {"a.png": "cid:1@inline"}) == linked
    assert link_pictures(html, {}) == html
