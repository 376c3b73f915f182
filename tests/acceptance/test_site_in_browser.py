"""Test the site in Chromium at two widths, light and dark, with axe-core, and with the Nu HTML checker."""

import io
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import create_user
from PIL import Image
from support import ledger_rows
from support.browser import CHROMIUM, check_pages, has_packages

from skychimp.config.settings import Settings
from skychimp.models import DeliveryState, Outcome, Role
from skychimp.permissions import Actor
from skychimp.services.blog import images, posts
from skychimp.services.reporting import reports, rollups
from skychimp.site.build import build
from skychimp.site.reports import render_report
from skychimp.store.database import Store

TITLES = [
    "Every reply, word for word",
    "Письма, которые доходят",
    "שלום עולם",
    "Supercalifragilisticexpialidocious_unbreakable_title_that_goes_on_and_on",
    "<script>alert(1)</script> & \u202efriends",
]
CONTENT = """
When a server accepts an email, it says so with a *250*, and **no client can close** [the gap](https://example.org/).

# A heading

- `code` in a list
- two

> A quotation.

```
C: MAIL FROM:<you@example.org> SIZE=1204 BODY=8BITMIME SMTPUTF8 a-line-that-is-longer-than-any-phone-is-wide
```

| Event | Outcome | What is done, in a table that is wider than a phone |
|---:|---|---|
| `421` | given_back_given_back_given_back | wait_wait_wait_wait_wait_wait_wait_wait |

<b>raw</b> {{ client.name }}
"""


@pytest.fixture(scope="module")
def tools() -> None:
    if not CHROMIUM or not has_packages("axe-core", "playwright-core", "vnu-jar") or not shutil.which("java"):
        pytest.skip(
            "needs Chromium, Java, and node with axe-core, playwright-core and vnu-jar, as .ci/run installs them"
        )


@pytest.fixture
def site(tools: None, store: Store, tmp_path: Path) -> Path:
    """Build a site of many posts, every other one with a picture."""
    editor = create_user(store, "grace", Role.EDITOR)
    raw = io.BytesIO()
    Image.linear_gradient("L").resize((1200, 700)).save(raw, "PNG")
    picture, now = images.reencode(raw.getvalue()), datetime.now(UTC)
    for number in range(20):
        posts.create(
            store,
            editor,
            title=TITLES[number % len(TITLES)],
            content=CONTENT,
            image=picture if number % 2 else None,
            publish=True,
            at=now - timedelta(days=20 - number),
        )
    build(store, editor, tmp_path / "site", Settings())
    return tmp_path / "site"


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Serve the site on this machine, and return its address."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pages_load_completely_and_are_accessible(address: str, site: Path, tmp_path: Path) -> None:
    with_picture = next(path for path in sorted((site / "posts").iterdir()) if "<img src=" in path.read_text())
    urls = [f"{address}{place}" for place in ("/", f"/posts/{with_picture.name}", "/page/1.html")]

    results = check_pages(tmp_path, *urls, (site / "index.html").as_uri())

    assert len(results) == 4 * (len(urls) + 1)
    for page in results:
        assert (page["messages"], page["broken"], page["faults"]) == ([], [], []), page
        assert page["overflow"] <= 0, page
        assert page["checked"] > 20, page
    light, dark = (page["background"] for page in results[:2])
    assert light != dark


def test_report_fits_a_phone(tools: None, store: Store, ada: Actor, tmp_path: Path) -> None:
    """Its plot is drawn completely, with the last time."""
    mailing_id = ledger_rows.mailing(store, ada)
    occurrence = ledger_rows.occurrence(store, mailing_id)
    for minute in range(40):
        sent = ledger_rows.delivery(store, occurrence, f"a{minute}@one.example", DeliveryState.SENT, None)
        ledger_rows.attempt(store, sent, Outcome.SENT, "250 ok", ledger_rows.NINE + timedelta(minutes=minute))
    rollups.count_new_attempts(store)
    page = tmp_path / "report.html"
    page.write_text(render_report(reports.mailing_report(store, ada, mailing_id), "UTC"), encoding="utf-8")
    assert '<figure class="plot">' in page.read_text(encoding="utf-8")

    for shown in check_pages(tmp_path, page.as_uri()):
        assert (shown["messages"], shown["faults"], shown["cut"]) == ([], [], 0), shown
        assert shown["overflow"] <= 0, shown


@pytest.mark.slow
def test_files_are_valid(site: Path) -> None:
    command = ["node", "-p", "require.resolve('vnu-jar/build/dist/vnu.jar')"]
    checker = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    checked = [path for kind in ("html", "css", "svg") for path in site.rglob(f"*.{kind}")]
    command = ["java", "-jar", checker, "--also-check-css", "--also-check-svg", "--stdout", "--format", "json"]
    done = subprocess.run([*command, *checked], capture_output=True, timeout=100, check=False)
    # The checker reads files, for which "self" in the policy means nothing. The browser has checked the policy.
    messages = json.loads(done.stdout)["messages"]
    assert [message for message in messages if "Content Security Policy" not in message["message"]] == []
    assert len(checked) > 20
