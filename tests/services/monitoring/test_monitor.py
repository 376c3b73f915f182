"""A daemon is healthy while it works and its mail server takes email."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.ping_server import PingServer, running_ping_server
from support.sending import make_settings

from skychimp.models import StoreInfo
from skychimp.services.monitoring import monitor
from skychimp.services.monitoring.health import find_failures, max_silence_s
from skychimp.services.monitoring.monitor import DaemonMonitor
from skychimp.services.operations.status import status
from skychimp.store.database import Store
from skychimp.store.holds import HeldMailing
from skychimp.store.relay_pauses import RelayPause, UnavailableRelay

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "WRITE_INTERVAL_S", 0.01)
    monkeypatch.setattr(monitor, "PING_INTERVAL_S", 0.05)


def start(store: Store, server: PingServer, folder: Path, interval: str = "1s") -> DaemonMonitor:
    settings = make_settings(
        1, monitor__ping_url=server.url, monitor__metrics_file=str(folder / "s.prom"), daemon__interval=interval
    )
    return DaemonMonitor(settings, store, lambda: "last line")


def test_healthy_daemon_signals_success_again_and_again(store: Store, tmp_path: Path) -> None:
    with running_ping_server() as server:
        started = start(store, server, tmp_path)
        server.wait_for(lambda: len(server.received) >= 3)
        started.stop()
    assert set(server.signals) == {""}
    assert "skychimp_last_success_timestamp_seconds" in (tmp_path / "s.prom").read_text()


def test_daemon_that_ends_by_an_error_signals_a_failure(store: Store, tmp_path: Path) -> None:
    with running_ping_server() as server:
        started = start(store, server, tmp_path)
        server.wait_for(lambda: bool(server.received))
        started.stop(RuntimeError("broken"))
    assert server.received[-1].signal == "/fail"
    assert server.received[-1].body == "last line\nerror: RuntimeError('broken')"


def test_daemon_of_a_held_store_signals_a_failure(store: Store, tmp_path: Path) -> None:
    with store.write() as db:
        db.get_one(StoreInfo, 1).held_at = NOW
    with running_ping_server() as server:
        started = start(store, server, tmp_path)
        server.wait_for(lambda: bool(server.received))
        started.stop()
    assert server.received[0].signal == "/fail"
    assert server.received[0].body == "last line\nthe store is on hold after a restore"
    assert "skychimp_last_success" not in (tmp_path / "s.prom").read_text()


def test_daemon_that_hangs_signals_a_failure(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "max_silence_s", lambda interval: 0.2)
    with running_ping_server() as server:
        started = start(store, server, tmp_path)
        server.wait_for(lambda: "/fail" in server.signals)
        started.alive()
        started.stop()
    assert "the daemon has done nothing for " in server.received[server.signals.index("/fail")].body


def test_metrics_are_counted_less_often_if_that_takes_long(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[float] = []

    def check_slowly(self: DaemonMonitor) -> None:
        checked.append(time.monotonic())
        time.sleep(0.02)

    monkeypatch.setattr(DaemonMonitor, "_check", check_slowly)
    with running_ping_server() as server:
        started = start(store, server, tmp_path)
        server.wait_for(lambda: len(checked) >= 2)
        started.stop()
    assert checked[1] - checked[0] >= 0.02 / monitor.MAX_SHARE


@pytest.mark.parametrize(("interval", "expected"), [("1s", 120), ("5m", 900)])
def test_silence_lasts_several_intervals(interval: str, expected: int) -> None:
    assert max_silence_s(make_settings(1, daemon__interval=interval).daemon.interval) == expected


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({}, None),
        ({"relay": RelayPause("mx", NOW, "535 no", NOW)}, "the mail server is paused: 535 no"),
        ({"unavailable_relay": UnavailableRelay("mx", NOW, "no route")}, "the mail server is unavailable: no route"),
        ({"held": True, "held_reason": "as it is a copy"}, "the store is on hold as it is a copy"),
        ({"held_mailings": [HeldMailing(3, NOW, "550 no", False)]}, "mailing 3 is held: 550 no"),
        ({"oldest_due_at": NOW - timedelta(days=1)}, None),
    ],
)
def test_what_keeps_emails_from_being_sent_is_a_failure(
    store: Store, change: dict[str, Any], failure: str | None
) -> None:
    current = status(store)
    vars(current).update(change)
    assert find_failures(current) == ([] if failure is None else [failure])
