"""Test the pages of `serve` in Chromium: axe-core at two widths, light and dark, and a person who unsubscribes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import CHROMIUM, check_pages, has_packages
from support.queue_steps import open_mailing
from support.web_server import WebServer, make_token

from skychimp.permissions import Actor
from skychimp.store.database import Store

pytestmark = pytest.mark.sqlite


@pytest.fixture
def server(store: Store, ada: Actor, tmp_path: Path) -> Iterator[WebServer]:
    if not CHROMIUM or not has_packages("axe-core", "playwright-core"):
        pytest.skip("needs Chromium, and node with axe-core and playwright-core, as .ci/run installs them")
    open_mailing(store, ada, "ann", "bob", topic="Supercalifragilisticexpialidocious_unbreakable_topic")
    with WebServer(store, tmp_path / "serve.log") as server:
        yield server


def test_pages_are_accessible(server: WebServer, store: Store, tmp_path: Path) -> None:
    """Their policy lets nothing else be loaded, so the browser asks for no other file."""
    asks, chooses, paused = f"/u/{make_token(store, 1)}", f"/p/{make_token(store, 1)}", f"/p/{make_token(store, 2)}"
    server.ask("POST", paused, "do=pause")
    results = check_pages(tmp_path, *(f"http://{server.address}{path}" for path in (asks, chooses, paused)))
    assert len(results) == 3 * 4
    for result in results:
        assert (result["faults"], result["messages"], result["broken"]) == ([], [], []), result
        assert result["checked"] > 10
        assert result["overflow"] <= 0, result["url"]
