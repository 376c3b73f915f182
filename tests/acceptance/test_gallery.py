"""A gallery: an email in the built-in layout, and its preview, in Chromium at two widths, light and dark.

Look at the pictures in the folder that --records names.
"""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.browser import CHROMIUM, check_pages, has_packages
from support.command import Home
from support.inbox import body_of, read_outbox

from skychimp.permissions import Actor
from skychimp.store.database import Store

MESSAGE = """\
<h1>What we shipped in May</h1>
<p>Dear {{ client.name }},</p>
<p>the <b>spring release</b> is out. It is faster, smaller and easier to install. The
<a href="https://example.org/notes">release notes</a> name all 41 changes; these are the three that you will notice
first:</p>
<ul>
<li>Imports take half of the time.</li>
<li>Reports show each reply of the mail server, and what it means.</li>
<li>A mailing can go to a few clients first.</li>
</ul>
<p><a class="button" href="https://example.org/download">Download version 4</a></p>
<p><img src="wide.png" alt="The emails of each day in May" width="1600" height="500"></p>
<h2>The numbers</h2>
<table>
<thead><tr><th>Month</th><th>Emails</th><th>Bounces</th></tr></thead>
<tbody>
<tr><td>March</td><td>120,400</td><td>0.8 %</td></tr>
<tr><td>April</td><td>131,950</td><td>0.6 %</td></tr>
<tr><td>May</td><td>164,100</td><td>0.3 %</td></tr>
</tbody>
</table>
<blockquote>“We moved our newsletter in an afternoon.” Grace, New York</blockquote>
<p>To find a long word, we asked a German friend, who wrote
Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft.</p>
<p><a href="https://example.org/talk" style="background: #15803d; color: #ffffff; padding: 8px 16px">Tell us</a></p>
<pre>pip install --upgrade example==4.0.0 --find-links https://downloads.example.org/wheels/2026-05/</pre>
<p>See you in June,<br>the team</p>
"""

LAYOUT = ("--layout", "default", "--preheader", "The spring release is out")

pytestmark = [
    pytest.mark.recorded,
    pytest.mark.sqlite,
    pytest.mark.skipif(
        not CHROMIUM or not has_packages("axe-core", "playwright-core"),
        reason="needs Chromium, and node with axe-core and playwright-core, as .ci/run installs them",
    ),
]


@pytest.fixture
def author(home_of: Callable[[Actor], Home], ada: Actor) -> Home:
    """Return the command line of a user with a message, whose emails have a complete footer."""
    home = home_of(ada)
    home.environ |= {
        "SKYCHIMP_WEB__URL": "https://mail.example.org",
        "SKYCHIMP_MAIL__POSTAL_ADDRESS": "Example Ltd, 1 Main Street, London",
    }
    picture = Image.linear_gradient("L").rotate(90).resize((1600, 500))
    Image.merge("RGB", (picture, picture.point(lambda value: 255 - value), Image.new("L", picture.size, 160))).save(
        home.folder / "wide.png"
    )
    (home.folder / "news.html").write_text(MESSAGE, encoding="utf-8")
    created = home.call("messages", "create", "--subject", "What is new", "--html-file", "news.html", *LAYOUT)
    assert created.status == 0, created.err
    return home


def email_page(author: Home, store: Store) -> str:
    """Return the HTML of a sent email, with its pictures in it."""
    assert author.call("messages", "test", "1", "--to", "grace@example.org").status == 0
    (email,) = read_outbox(store.path.with_name("outbox"))
    html = body_of(email, "html")
    for part in email.walk():
        if part["Content-ID"]:
            picture = part.get_payload(decode=True)
            assert isinstance(picture, bytes)
            url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
            html = html.replace(f"cid:{part['Content-ID'].strip('<>')}", url)
    return html


def preview_page(author: Home) -> str:
    """Return the page that `preview --open` shows."""
    shown = author.call(
        "messages", "preview", "1", "--open", "--json", environ={"BROWSER": "true %s", "TMPDIR": str(author.folder)}
    )
    return Path(shown.json["file"]).read_text(encoding="utf-8")


def test_layout_and_preview_look_right(author: Home, store: Store, tmp_path: Path, records: Path) -> None:
    pages = tmp_path / "gallery"
    pages.mkdir()
    (pages / "layout.html").write_text(email_page(author, store), encoding="utf-8")
    (pages / "preview.html").write_text(preview_page(author), encoding="utf-8")

    results = check_pages(records, *((pages / name).as_uri() for name in ("layout.html", "preview.html")))

    assert len(results) == 2 * 4
    for result in results:
        print(records / result["screenshot"])
        assert (result["messages"], result["broken"], result["faults"]) == ([], [], []), result
        assert result["overflow"] <= 0, result
        assert result["footers"], result
        for footer in result["footers"]:
            assert footer.splitlines()[0] == "Example Ltd, 1 Main Street, London"
            assert footer.endswith("Unsubscribe")
