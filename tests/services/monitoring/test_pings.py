"""Signals get through, and a service that fails or hangs costs a warning and a little time."""

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ping_server
from support.logged import logged_events
from support.ping_server import Received, running_ping_server

from skychimp.services.monitoring import pings
from skychimp.services.monitoring.pings import MAX_BODY, Pings, Signal, last_bytes, signal_url

RUN_ID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    with logged_events() as logged:
        yield logged


@pytest.fixture
def _short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pings, "TIMEOUT_S", 0.2)


def reasons(events: list[dict[str, Any]]) -> list[str]:
    """Return the reasons in the log, after checking that it shows no part of the URL."""
    assert "secret" not in str(events)
    return [event["reason"] for event in events]


@pytest.mark.parametrize(
    ("url", "signal", "expected"),
    [
        ("https://hc.test/a", Signal.SUCCESS, "https://hc.test/a?rid=R"),
        ("https://hc.test/a/", Signal.START, "https://hc.test/a/start?rid=R"),
        ("https://hc.test", Signal.FAIL, "https://hc.test/fail?rid=R"),
        ("https://hc.test/a?create=1", Signal.FAIL, "https://hc.test/a/fail?create=1&rid=R"),
        ("http://[::1]:8000/a%2fb#c", Signal.START, "http://[::1]:8000/a%2fb/start?rid=R"),
    ],
)
def test_signal_is_added_to_the_path(url: str, signal: Signal, expected: str) -> None:
    assert signal_url(url, signal, "R") == expected


def test_daemon_has_no_run_id() -> None:
    assert signal_url("https://hc.test/a", Signal.SUCCESS) == "https://hc.test/a"


@given(st.text(max_size=60), st.integers(1, 40))
def test_body_is_the_end_of_the_log_in_utf_8(text: str, limit: int) -> None:
    data = last_bytes(text, limit)
    assert len(data) <= limit
    assert text.encode("utf-8", "backslashreplace").endswith(data)
    data.decode()


def test_body_begins_with_a_whole_line() -> None:
    text = "\n".join(f"line {number}" for number in range(10_000))
    data = last_bytes(text)
    assert MAX_BODY - 20 < len(data) <= MAX_BODY
    assert f"\n{data.decode()}" in text


def test_signals_arrive_in_order_with_their_run_id() -> None:
    with running_ping_server() as server:
        sent = Pings(server.url, RUN_ID)
        sent.send(Signal.START)
        sent.send(Signal.FAIL, "last line")
        sent.close()
    assert server.received == [Received("/start", RUN_ID, ""), Received("/fail", RUN_ID, "last line")]


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [
        (ping_server.reply(500), "the service replied 500"),
        (ping_server.reply(404), "the service replied 404"),
        (ping_server.reply(302, Location="file:///etc/passwd"), "it redirects to another URL"),
        (ping_server.reply(301, Location="https://elsewhere.test/"), "it redirects to another URL"),
        (ping_server.talk_nonsense, "the reply is not valid HTTP"),
    ],
)
def test_bad_reply_is_a_warning(events: list[dict[str, Any]], behavior: Callable[..., Any], reason: str) -> None:
    with running_ping_server(behavior) as server:
        sent = Pings(server.url)
        sent.send(Signal.START)
        sent.send(Signal.SUCCESS)
        sent.close()
    assert server.signals == ["/start", ""]
    assert reasons(events) == [reason], "each reason is logged once"


@pytest.mark.usefixtures("_short_timeout")
def test_service_that_hangs_is_left_after_the_timeout(events: list[dict[str, Any]]) -> None:
    with running_ping_server(ping_server.hang) as server:
        sent = Pings(server.url)
        sent.send(Signal.SUCCESS)
        sent.close()
    assert reasons(events) == ["timed out"]


@pytest.mark.parametrize("behavior", [ping_server.hang, ping_server.drip])
def test_close_does_not_wait_for_a_slow_service(
    events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, behavior: Callable[..., Any]
) -> None:
    monkeypatch.setattr(pings, "MAX_WAIT_S", 0.1)
    with running_ping_server(behavior) as server:
        sent = Pings(server.url)
        started_at = time.monotonic()
        for _ in range(100):
            sent.send(Signal.SUCCESS)
        assert time.monotonic() - started_at < 2, "the caller never waits"
        sent.close()
    sent._thread.join()
    assert reasons(events) == ["it takes too long"]


def test_refused_connection_is_a_warning(events: list[dict[str, Any]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    sent = Pings(f"http://127.0.0.1:{port}/secret")
    sent.send(Signal.SUCCESS)
    sent.close()
    assert reasons(events) == ["Connection refused"]


def test_plain_server_is_not_taken_for_tls(events: list[dict[str, Any]]) -> None:
    with running_ping_server() as server:
        sent = Pings(server.url.replace("http:", "https:"))
        sent.send(Signal.SUCCESS)
        sent.close()
    assert len(reasons(events)) == 1
    assert server.received == []
