"""Test the web server behind nginx and Caddy, with TLS and what `skychimp service web` prints, as it is printed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin

import pytest
from conftest import create_user
from support.command import Home
from support.queue_steps import create_deliveries, open_due, open_mailing, rows
from support.stores import store_environ
from support.web_proxies import HOST, Caddy, Nginx, WebProxy
from support.web_server import ONE_CLICK, WebServer, make_token

from skychimp.models import Suppression
from skychimp.store.database import Store
from skychimp.store.schema import create_store
from skychimp.web.rate_limit import BURST

if TYPE_CHECKING:
    import trustme

pytestmark = [pytest.mark.mta, pytest.mark.sqlite]

PERSONS = ("ann", "bob")


class Site(NamedTuple):
    """A proxy, the store whose server is behind it, and the path at which the pages are."""

    proxy: WebProxy
    store: Store
    path: str

    def page(self, person: str) -> str:
        return f"{self.path}/u/{self.token(person)}"

    def token(self, person: str) -> str:
        return make_token(self.store, PERSONS.index(person) + 1)


CASES = {
    "nginx": (Nginx, "127.0.0.1:0", ""),
    "nginx, Unix socket, path": (Nginx, "unix:{folder}/web.sock", "/mail"),
    "Caddy, path": (Caddy, "127.0.0.1:0", "/mail"),
    "Caddy, Unix socket": (Caddy, "unix:{folder}/web.sock", ""),
}


@pytest.fixture(scope="module", params=CASES)
def site(
    request: pytest.FixtureRequest, authority: "trustme.CA", tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Start the server behind a proxy, for a store with an email to each person."""
    kind, listen, path = CASES[request.param]
    if problem := kind.why_not_here():
        pytest.skip(problem)
    folder = tmp_path_factory.mktemp("proxy")
    proxy = kind(authority)
    store = create_store(f"sqlite:///{folder / 'skychimp.db'}")
    open_mailing(store, create_user(store, "ada"), *PERSONS)
    open_due(store)
    create_deliveries(store, 1)
    with WebServer(store, folder / "serve.log", listen=listen.format(folder=proxy.folder)) as server:
        proxy.text = printed(store, folder, kind.kind, server.address, path)
        with proxy:
            yield Site(proxy, store, path)
    store.close()


def printed(store: Store, folder: Path, kind: str, listen: str, path: str) -> str:
    """Return what the command prints for a proxy."""
    environ = {"SKYCHIMP_WEB__URL": f"https://{HOST}{path}", "SKYCHIMP_WEB__LISTEN": listen}
    done = Home(folder, **store_environ(store), **environ).call("service", "web", "--for", kind)
    assert done.status == 0, done.err
    return done.out


def test_one_click_unsubscribes(site: Site) -> None:
    assert site.proxy.ask("POST", site.page("ann"), ONE_CLICK).status == 200
    assert [row.address for row in rows(site.store, Suppression)] == ["ann@example.org"]


def test_page_and_its_link_work_and_change_nothing(site: Site) -> None:
    shown = site.proxy.ask("GET", site.page("bob"))
    link = re.search(r'href="([^"]+)"', shown.text)
    assert shown.status == 200
    assert "default-src 'none'" in shown.headers["Content-Security-Policy"]
    assert link
    assert site.proxy.ask("GET", urljoin(site.page("bob"), link[1])).status == 200
    assert "bob@example.org" not in {row.address for row in rows(site.store, Suppression)}


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/u/../metrics", "/u/..%2fmetrics", "/u/%2e%2e/healthz"])
def test_nothing_else_is_passed_on(site: Site, path: str) -> None:
    answer = site.proxy.ask("GET", site.path + path)
    assert "skychimp_" not in answer.text
    assert answer.text != "ok\n"


def test_limit_counts_the_address_that_the_proxy_sees(site: Site) -> None:
    """Whatever address a client claims to have."""
    connection, statuses = site.proxy.connect("127.0.0.9"), list[int]()
    while 429 not in statuses and len(statuses) < 4 * BURST:
        claimed = f"203.0.113.{len(statuses) % 250}"
        connection.request("GET", f"{site.path}/u/forged", headers={"X-Forwarded-For": claimed})
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()

    assert set(statuses[:BURST]) == {404}
    assert statuses[-1] == 429
    assert site.proxy.ask("GET", f"{site.path}/u/forged", source="127.0.0.1").status == 404


def test_large_body_is_refused(site: Site) -> None:
    """By the server or by the proxy. Caddy 2.6 has only 502 for it."""
    assert site.proxy.ask("POST", site.page("bob"), "x" * 70_000).status in (413, 502)


def test_token_is_not_logged(site: Site) -> None:
    assert site.proxy.ask("GET", site.page("ann")).status == 200
    assert site.token("ann") not in site.proxy.log()
