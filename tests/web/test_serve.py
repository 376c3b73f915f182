"""The installed server, asked over HTTP: what it shows, what it changes, and what it refuses."""

import contextlib
import os
import re
import signal
import socket
import stat
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest
from conftest import create_user
from support.command import Home
from support.queue_steps import create_deliveries, create_mailing, open_due, open_mailing, rows
from support.stores import store_environ
from support.web_server import ONE_CLICK, WebServer, make_token

from skychimp.delivery.composing.tokens import Purpose
from skychimp.models import Delivery, DeliveryState, Suppression, SuppressionSource
from skychimp.permissions import Actor
from skychimp.services.users import privacy
from skychimp.store import token_keys
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import Store
from skychimp.store.schema import create_store
from skychimp.web.app import KEYS_KEPT_S

FORGED = ["x", "a" * 64, "a" * 3000, "%00", "%2e%2e", "..%2fetc%2fpasswd", "%F0%9F%90%92", "<script>", "' OR 1=1--"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, WebServer]]:
    """Return a store and its server, for tests about different persons."""
    folder = tmp_path_factory.mktemp("serve")
    store = create_store(f"sqlite:///{folder / 'skychimp.db'}")
    fill(store, create_user(store, "ada"))
    with WebServer(store, folder / "serve.log") as server:
        yield store, server
    store.close()


PERSONS = ("ann", "bob", "cat", "dan", "eve")


def fill(store: Store, owner: Actor) -> None:
    """Queue an email about news to each person, and then one about offers."""
    open_mailing(store, owner, *PERSONS, topic="news")
    create_mailing(store, owner, topic="offers")
    open_due(store)
    create_deliveries(store, 2)


def token_of(store: Store, person: str, purpose: Purpose = Purpose.UNSUBSCRIBE) -> str:
    """Return the token of the email about news to a person."""
    return make_token(store, PERSONS.index(person) + 1, purpose)


def suppressed(store: Store, person: str) -> list[tuple[str, str, str]]:
    address = f"{person}@example.org"
    return [(row.topic, row.reason, row.source) for row in rows(store, Suppression) if row.address == address]


@pytest.fixture
def server(store: Store, ada: Actor, tmp_path: Path) -> Iterator[WebServer]:
    fill(store, ada)
    with WebServer(store, tmp_path / "serve.log") as server:
        yield server


# One click


MULTIPART = '--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--x--\r\n'
BODIES = {
    "ann": (ONE_CLICK, "application/x-www-form-urlencoded"),
    "bob": (None, ""),
    "cat": (MULTIPART, "multipart/form-data; boundary=x"),
}


def test_one_click_suppresses_the_topic_at_once(server: WebServer, store: Store) -> None:
    for person, (body, kind) in BODIES.items():
        assert server.ask("POST", f"/u/{token_of(store, person)}", body, Content_Type=kind).status == 200
        assert suppressed(store, person) == [("news", "unsubscribed", "web")]
    states = [delivery.state for delivery in rows(store, Delivery)]
    assert states == [*[DeliveryState.CANCELLED] * 3, *[DeliveryState.QUEUED] * 7]
    metrics = server.ask("GET", "/metrics").text
    assert 'skychimp_queue{state="queued"} 7\n' in metrics
    assert 'skychimp_suppressions{reason="unsubscribed"} 3\n' in metrics


def test_new_key_is_used_and_the_old_one_is_still_good(server: WebServer, store: Store) -> None:
    old = token_of(store, "ann")
    assert server.ask("GET", f"/u/{old}").status == 200
    with store.write() as db:
        token_keys.replace(db.connection(), store.now())
    time.sleep(KEYS_KEPT_S + 0.1)
    for token in (old, token_of(store, "bob")):
        assert server.ask("POST", f"/u/{token}").status == 200
    assert server.stop() == 0
    assert [event["event"] for event in server.events][-2:] == ["started", "stopped"]


def test_get_and_head_change_nothing(shared: tuple[Store, WebServer]) -> None:
    store, server = shared
    token = token_of(store, "ann")
    for method, path in (("GET", f"/u/{token}"), ("HEAD", f"/u/{token}"), ("GET", f"/p/{token}")):
        assert server.ask(method, path).status == 200
    assert suppressed(store, "ann") == []


# Preferences


def test_topics_are_chosen(shared: tuple[Store, WebServer]) -> None:
    store, server = shared
    path = f"/p/{token_of(store, 'cat')}"
    assert checked(server.ask("GET", path).text) == {"news": True, "offers": True}
    shown = server.ask("POST", path, urlencode({"do": "topics", "topic": "news"})).text
    assert checked(shown) == {"news": True, "offers": False}
    assert suppressed(store, "cat") == [("offers", "unsubscribed", "web")]
    shown = server.ask("POST", path, urlencode([("do", "topics"), ("topic", "offers"), ("topic", "unknown")])).text
    assert checked(shown) == {"news": False, "offers": True}
    assert suppressed(store, "cat") == [("news", "unsubscribed", "web")]


def test_all_mail_is_paused_stopped_and_resumed(server: WebServer, store: Store) -> None:
    path = f"/p/{token_of(store, 'ann')}"
    shown = server.ask("POST", path, "do=pause").text
    (row,) = rows(store, Suppression)
    assert row.until is not None
    assert timedelta(days=29, hours=23) < row.until - store.now() <= timedelta(days=30)
    assert f"until {row.until:%Y-%m-%d}" in shown
    assert "Get email again" in shown
    shown = server.ask("POST", path, "do=stop").text
    assert [row.until for row in rows(store, Suppression)] == [None]
    assert ("Get email again" in shown, "Pause for 30 days" in shown) == (True, False)
    shown = server.ask("POST", path, "do=resume").text
    assert (rows(store, Suppression), "You get email from this sender" in shown) == ([], True)
    assert server.stop(signal.SIGINT) == 130


def test_who_was_forgotten_can_unsubscribe(server: WebServer, store: Store, ada: Actor) -> None:
    token = token_of(store, "ann")
    privacy.forget(store, ada, "ann@example.org")
    assert checked(server.ask("GET", f"/p/{token}").text) == {"news": True}
    assert "goes to your address." in server.ask("POST", f"/u/{token}", ONE_CLICK).text
    (row,) = rows(store, Suppression)
    assert (row.address, row.topic, row.reason) == (None, "news", "unsubscribed")


def test_what_others_suppressed_is_not_taken_back(shared: tuple[Store, WebServer]) -> None:
    store, server = shared
    path = f"/p/{token_of(store, 'dan')}"
    new = [NewSuppression("dan@example.org", "dan@example.org", "complaint")]
    with store.write() as db:
        suppressions.add(db.connection(), new, Holds(1), SuppressionSource.COMMAND, store.now())
    assert "Get email again" not in server.ask("GET", path).text
    for body in ("do=resume", "do=topics&topic=news&topic=offers"):
        assert server.ask("POST", path, body).status == 200
    assert suppressed(store, "dan") == [("", "complaint", "command")]


@pytest.mark.parametrize("body", ["", "do=", "do=delete", "do=%ff", "x" * 60_000, "&".join(["topic=a"] * 300)])
def test_unknown_change_is_refused(shared: tuple[Store, WebServer], body: str) -> None:
    store, server = shared
    assert server.ask("POST", f"/p/{token_of(store, 'ann')}", body).status == 400
    assert suppressed(store, "ann") == []


def checked(html: str) -> dict[str, bool]:
    boxes = re.findall(r'name="topic" value="([^"]*)"( checked)?>', html)
    return {topic: bool(is_checked) for topic, is_checked in boxes}


# What is shown


@pytest.mark.parametrize(
    ("accepted", "language", "words"),
    [
        ("", "en", "Stop email about “news” to a***@e***.org?"),
        ("ru-RU,ru;q=0.9,en;q=0.8", "ru", "Больше не присылать письма на тему «news» на a***@e***.org?"),
        ("de,fr;q=0.5", "en", "Stop email about"),
    ],
)
def test_page_has_the_language_of_the_browser(
    shared: tuple[Store, WebServer], accepted: str, language: str, words: str
) -> None:
    store, server = shared
    text = server.ask("GET", f"/u/{token_of(store, 'ann')}", Accept_Language=accepted).text
    assert f'<html lang="{language}">' in text
    assert words in text


def test_pages_have_no_client_data_and_strict_headers(shared: tuple[Store, WebServer]) -> None:
    store, server = shared
    for path in (f"/u/{token_of(store, 'ann')}", f"/p/{token_of(store, 'ann')}", "/u/x", "/", "/nothing"):
        answer = server.ask("GET", path)
        assert not re.search("ann@|bob|example|Ann|Dear|<script", answer.text)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-robots-tag"] == "noindex, nofollow"
        assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert not {"set-cookie", "server", "location"} & headers.keys()


# What is refused


@pytest.mark.parametrize("token", FORGED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_forged_token_is_not_found(shared: tuple[Store, WebServer], token: str, method: str) -> None:
    store, server = shared
    for page in ("u", "p"):
        assert server.ask(method, f"/{page}/{token.replace(' ', '+')}", "do=stop" * (method == "POST")).status == 404
    assert suppressed(store, "ann") == []


def test_tokens_for_something_else_are_not_found(shared: tuple[Store, WebServer]) -> None:
    store, server = shared
    token = token_of(store, "ann")
    for other in (token_of(store, "ann", Purpose.BOUNCE), make_token(store, 99), token[:-1], token + "a", token + "/"):
        assert server.ask("POST", f"/u/{other}", ONE_CLICK).status == 404
    assert server.ask("GET", f"/u/{token.upper()}").status == 200  # a mail program may have changed the case


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "FOO"])
def test_other_method_is_refused(shared: tuple[Store, WebServer], method: str) -> None:
    store, server = shared
    assert server.ask(method, f"/u/{token_of(store, 'ann')}").status in (400, 405)


def test_large_body_and_headers_are_refused(shared: tuple[Store, WebServer]) -> None:
    store, server = shared
    path = f"/u/{token_of(store, 'ann')}"
    assert server.ask("POST", path, "x" * 70_000).status == 413
    assert server.ask("GET", path, X_Large="x" * 20_000).status in (400, 431)
    assert suppressed(store, "ann") == []


NOT_HTTP = [b"GET /\r\n\r\n", b"\0\0\0\0", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nA\r\n\r\n"]


@pytest.mark.parametrize("sent", NOT_HTTP)
def test_what_is_not_http_is_refused(shared: tuple[Store, WebServer], sent: bytes) -> None:
    _, server = shared
    with server.connect() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1000)
    assert answer == b"" or b" 400 " in answer
    assert server.ask("GET", "/healthz").status == 200


@pytest.mark.slow
def test_request_that_does_not_come_is_given_up(shared: tuple[Store, WebServer]) -> None:
    _, server = shared
    with server.connect() as silent, server.connect() as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        for connection in (silent, slow):
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1000) == b""


# Health and metrics


def test_health_and_metrics_are_for_this_machine_only(shared: tuple[Store, WebServer]) -> None:
    _, server = shared
    for path in ("/healthz", "/metrics"):
        assert server.ask("GET", path).status == 200
        for header in ("X_Forwarded_For", "Forwarded", "X_Real_IP", "Via"):
            assert server.ask("GET", path, **{header: "127.0.0.1"}).status == 404


def test_metrics_have_the_text_format(shared: tuple[Store, WebServer]) -> None:
    _, server = shared
    answer = server.ask("GET", "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    for line in answer.text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="\w+"\})? [0-9.]+', line)


def test_who_asks_too_often_is_refused_for_a_while(shared: tuple[Store, WebServer]) -> None:
    """Also whoever invents addresses: only what the proxy has added to the end counts."""
    store, server = shared
    path = f"/u/{token_of(store, 'eve')}"
    for number in range(5000):
        if server.ask("GET", "/u/x", X_Forwarded_For=f"10.0.0.{number % 250}, 192.0.2.7").status == 429:
            break
    answer = server.ask("POST", path, X_Forwarded_For="192.0.2.7")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "10")
    assert suppressed(store, "eve") == []
    assert server.ask("POST", path, X_Forwarded_For="192.0.2.8").status == 200


# The process


@pytest.mark.sqlite
def test_unix_socket_is_for_the_group_and_is_reused(store: Store, ada: Actor, tmp_path: Path) -> None:
    fill(store, ada)
    path = tmp_path / "web.sock"
    log, listen = tmp_path / "serve.log", f"unix:{path}"
    with WebServer(store, log, listen=listen) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert server.ask("POST", f"/u/{token_of(store, 'ann')}", ONE_CLICK).status == 200
        second = Home(tmp_path, **store_environ(store)).run("serve", "--listen", listen)
        assert second.status == 6
        assert f"error: {listen} is already in use" in second.err
        assert server.ask("GET", "/healthz").status == 200
        server.process.kill()
        server.process.wait()
    assert path.exists()
    log.unlink()
    with WebServer(store, log, listen=listen) as server:
        assert server.ask("GET", "/healthz").status == 200
        assert server.stop() == 0
    assert not path.exists()


@pytest.mark.sqlite
def test_other_file_in_place_of_the_socket_is_kept(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    path.write_text("mine")
    done = Home(tmp_path, **store_environ(store)).run("serve", "--listen", f"unix:{path}")
    assert done.status == 6
    assert path.read_text() == "mine"


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["--listen", "unix:/nonexistent/x.sock"], 3, "cannot listen on unix:/nonexistent/x.sock: No such file"),
        (["--listen", "192.0.2.1:80"], 3, "cannot listen on 192.0.2.1:80: Cannot assign requested address"),
        (["--listen", "example.org:80"], 3, "web.listen"),
        (["--listen", "unix:x.sock"], 3, "web.listen"),
        (["--listen", "127.0.0.1:99999"], 3, "web.listen"),
        (["--site", "/nonexistent"], 2, "/nonexistent is not a folder"),
    ],
)
def test_what_cannot_be_served(store: Store, tmp_path: Path, arguments: list[str], status: int, error: str) -> None:
    done = Home(tmp_path, **store_environ(store)).call("serve", *arguments)
    assert done.status == status, done.err
    assert error in done.err
    assert "hint: " in done.err


@pytest.mark.sqlite
def test_site_is_served_with_its_own_headers(store: Store, ada: Actor, tmp_path: Path) -> None:
    fill(store, ada)
    folder = tmp_path / "site"
    (folder / "posts").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>Blog</h1>")
    (folder / "posts" / "a.html").write_text("<p>A post")
    (tmp_path / "secret.txt").write_text("secret")
    os.symlink(tmp_path / "secret.txt", folder / "link.txt")
    with WebServer(store, tmp_path / "serve.log", "--site", str(folder)) as server:
        for path, words in (("/", "<h1>Blog"), ("/posts/a.html", "<p>A post")):
            answer = server.ask("GET", path)
            assert (answer.status, answer.text[:8]) == (200, words[:8])
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
        assert server.ask("GET", f"/u/{token_of(store, 'ann')}").status == 200
        for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/link.txt", "/none", "/%00"):
            answer = server.ask("GET", path)
            assert (answer.status, "secret" in answer.text) == (404, False)
