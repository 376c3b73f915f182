"""`skychimp run` and the daemon tell monitoring what becomes of them."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ping_server
from support.command import Home
from support.daemons import Daemon, clean_environ, write_config
from support.ping_server import PingServer, running_ping_server
from support.sending import create_mailing, make_addresses
from support.servers import CountingReceiver
from support.stores import store_environ

from skychimp.cli.display.config_trust import deciding_settings
from skychimp.models import StoreInfo
from skychimp.permissions import Actor
from skychimp.store.database import Store


@pytest.fixture
def server() -> Iterator[PingServer]:
    with running_ping_server() as running:
        yield running


@pytest.fixture
def home(store: Store, tmp_path: Path, server: PingServer) -> Home:
    return Home(
        tmp_path,
        **store_environ(store),
        SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>",
        SKYCHIMP_MONITOR__PING_URL=server.url,
        SKYCHIMP_MONITOR__METRICS_FILE=str(tmp_path / "s.prom"),
    )


def smtp(port: int) -> dict[str, str]:
    return {
        "SKYCHIMP_MAIL__TRANSPORT": "smtp",
        "SKYCHIMP_SMTP__HOST": "127.0.0.1",
        "SKYCHIMP_SMTP__PORT": str(port),
        "SKYCHIMP_SMTP__SECURITY": "none",
        "SKYCHIMP_RUN__PATIENCE": "0s",
    }


def test_run_signals_its_start_and_success(home: Home, store: Store, ada: Actor, server: PingServer) -> None:
    create_mailing(store, ada, make_addresses(3))
    assert home.call("run").status == 0
    assert server.signals == ["/start", ""]
    assert len({each.run_id for each in server.received}) == 1
    assert server.received[0].run_id
    text = (home.folder / "s.prom").read_text()
    assert "skychimp_last_success_timestamp_seconds" in text


def test_run_without_a_mail_server_signals_a_failure(home: Home, store: Store, ada: Actor, server: PingServer) -> None:
    create_mailing(store, ada, make_addresses(3))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert home.call("run", environ=smtp(port)).status == 75
    assert server.signals == ["/start", "/fail"]
    assert "the mail server is unavailable" in server.received[1].body
    text = (home.folder / "s.prom").read_text()
    assert "skychimp_relay_unavailable 1\n" in text
    assert "skychimp_last_success_timestamp_seconds" not in text
    assert 'skychimp_queue{state="queued"} 3\n' in text


def test_run_that_cannot_start_signals_a_failure(home: Home, store: Store, server: PingServer) -> None:
    with store.write() as db:
        db.get_one(StoreInfo, 1).held_at = store.now()
    done = home.call("run")
    assert done.status == 3
    assert server.signals == ["/start", "/fail"]
    assert server.received[1].body.startswith("error: the store is on hold after a restore\nhint: ")
    assert "skychimp_store_held 1\n" in (home.folder / "s.prom").read_text()


@pytest.mark.sqlite
def test_run_without_a_store_signals_a_failure(home: Home, server: PingServer) -> None:
    done = home.call("run", environ={"SKYCHIMP_STORE": "missing.db"})
    assert done.status == 3
    assert server.signals == ["/start", "/fail"]
    assert not (home.folder / "s.prom").exists()


def test_mailing_that_does_not_exist_is_a_failure(home: Home, server: PingServer) -> None:
    assert home.call("run", "--mailing", "77").status == 4
    assert server.received[-1].signal == "/fail"


def test_plan_signals_nothing(home: Home, server: PingServer) -> None:
    assert home.call("run", "--plan").status == 0
    assert server.received == []


def test_monitoring_that_fails_does_not_change_the_run(
    home: Home, store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skychimp.services.monitoring.pings.MAX_WAIT_S", 0.1)
    create_mailing(store, ada, make_addresses(3))
    with running_ping_server(ping_server.hang) as hanging:
        environ = {
            "SKYCHIMP_MONITOR__PING_URL": hanging.url,
            "SKYCHIMP_MONITOR__METRICS_FILE": "missing folder/s.prom",
        }
        done = home.call("run", "--json", environ=environ)
    assert (done.status, done.json["stopped"]) == (0, None)
    assert "cannot write monitor.metrics_file" in done.err
    assert "secret" not in done.err


def test_url_is_not_shown(home: Home) -> None:
    for url in (
        "ftp://hc.test/secret",
        "https://a:secret@hc.test/",
        "file:///secret",
        "https://hc.test/se cret/secret",
    ):
        done = home.call("run", environ={"SKYCHIMP_MONITOR__PING_URL": url})
        assert done.status == 3
        assert done.err.startswith("error: invalid monitor.ping_url (from SKYCHIMP_MONITOR__PING_URL")
        assert "secret" not in done.err


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hc.test/secret", "https://hc.test/***"),
        ("https://a:secret@hc.test?secret", "https://hc.test/***"),
        ("hc.test/secret", "***"),
    ],
)
def test_config_that_is_not_trusted_shows_only_the_host_of_the_url(url: str, shown: str) -> None:
    assert deciding_settings({"monitor.ping_url": url}) == {"monitor.ping_url": shown}


def test_daemon_tells_monitoring(store: Store, ada: Actor, tmp_path: Path, server: PingServer) -> None:
    create_mailing(store, ada, make_addresses(3))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        config = write_config(tmp_path, receiver.port)
        config.write_text(
            f"{config.read_text()}[monitor]\nping_url = {json.dumps(server.url)}\nmetrics_file = 's.prom'\n"
        )
        with Daemon(store, config, clean_environ(**store_environ(store))) as daemon:
            daemon.wait_for(lambda: "occurrence finished" in daemon.event_names)
            server.wait_for(lambda: bool(server.received))
            assert daemon.stop(signal.SIGTERM) == 0
    assert set(server.signals) == {""}
    text = (tmp_path / "s.prom").read_text()
    assert 'skychimp_attempts_total{outcome="sent"} 3\n' in text
    assert "skychimp_sending_processes 0\n" in text
