"""Posts: who may write and read them, when they are published, and that nothing in them can do harm."""

import pytest

from skychimp.services import blog


@pytest.mark.parametrize(
    "link",
    ["javascript:x", "JaVaScRiPt&#58;x", "&Tab;javascript:x", "data:image/png;base64,xx", "vbscript:x", "file:///x",
     "java\\\nscript:x", "x-unknown:y"],
)  # fmt: skip
def test_a_link_leads_nowhere_but_to_pages_and_mailboxes(link: str) -> None:
    html = blog.html_of(f"[x]({link}) ![x]({link}) <{link}>")

    assert "<a" not in html
    assert "<img" not in html


@pytest.mark.parametrize("link", ["https://example.org/a?b=c:d", "mailto:a@example.org", "/a/b:c", "#a", "a.html"])
def test_other_links_are_kept(link: str) -> None:
    assert blog.html_of(f"[x]({link})") == f'<p><a href="{link}">x</a></p>\n'


def test_raw_html_is_shown_not_obeyed() -> None:
    assert blog.html_of("<script>x</script>\n\na <b onclick=x>") == (
        "<p>&lt;script&gt;x&lt;/script&gt;</p>\n<p>a &lt;b onclick=x&gt;</p>\n"
    )
