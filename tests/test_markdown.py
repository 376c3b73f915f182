"""Markdown: links are safe, and the blog's site and digests show the same excerpt of a post."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from conftest import create_user

from skychimp import markdown
from skychimp.config.settings import Settings
from skychimp.delivery.composing import digest
from skychimp.models import Role
from skychimp.services.blog import posts
from skychimp.site.build import build
from skychimp.store.database import Store

PARAGRAPH = "The first one, with code & a link."


EXCERPTS = [
    ("# Head\n\nThe *first*  one,\nwith `code` & [a link](https://x.example).\n\nSecond.", PARAGRAPH),
    ("![only](x.png)\n\nThe *first*  one,\nwith `code` & [a link](https://x.example).\n\nSecond.", PARAGRAPH),
    ("> The first one, with code & a link.", PARAGRAPH),
    ("It costs ~~100~~ *50*.", "It costs 100 50."),
    ("[Read](javascript:alert(1)) this, [or](mailto:a@b.example) that.", "[Read](javascript:alert(1)) this, or that."),
    ("| a | b |\n|---|---|\n| c | d |\n\nAfter the table.", "After the table."),
    ("| a | b |\n|---|---|\n| c | d |", "a b c d"),
    ("- a\n- b", "a b"),
    ("", ""),
    ("<b>raw</b> {{ x }}", "<b>raw</b> {{ x }}"),
    ("word " * 100, "word " * 47 + "word…"),
    ("字" * 300, "字" * 240 + "…"),
]


@pytest.mark.parametrize(("source", "expected"), EXCERPTS)
def test_excerpt_is_the_first_paragraph_without_markup(source: str, expected: str) -> None:
    assert markdown.excerpt(source) == expected


def test_site_and_digest_show_the_same_excerpts(store: Store, tmp_path: Path) -> None:
    editor = create_user(store, "grace", Role.EDITOR)
    expected = {}
    for number, (source, _) in enumerate(EXCERPTS):
        if source:
            posts.create(store, editor, title=f"Post {number}", content=source, publish=True)
            expected[f"Post {number}"] = digest.summarize_post("", source, "", None).excerpt

    build(store, editor, tmp_path / "site", Settings.model_validate({"blog": {"url": "https://blog.example.org"}}))

    atom = "{http://www.w3.org/2005/Atom}"
    entries = ET.parse(tmp_path / "site/feed.xml").iter(f"{atom}entry")
    assert {entry.findtext(f"{atom}title"): entry.findtext(f"{atom}summary") for entry in entries} == expected


@pytest.mark.parametrize(
    ("source", "html"),
    [
        (
            "[a](https://x.example) [b](mailto:a@b.example)",
            '<a href="https://x.example">a</a> <a href="mailto:a@b.example">b</a>',
        ),
        ("[a](/path?a:b)", '<a href="/path?a:b">a</a>'),
        ("[a](javascript:alert(1))", "[a](javascript:alert(1))"),
        ("[a](data:text/html,x)", "[a](data:text/html,x)"),
        ("<b>x</b> ~~y~~", "&lt;b&gt;x&lt;/b&gt; <s>y</s>"),
    ],
)
def test_only_safe_links_and_no_raw_html(source: str, html: str) -> None:
    assert markdown.to_html(source) == f"<p>{html}</p>\n"
