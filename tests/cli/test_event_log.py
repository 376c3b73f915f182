"""With `--log-format json`, each line of stderr is a JSON object with documented fields."""

import ast
import json
import re
import signal
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.command import PROGRAM, Home
from support.daemons import Daemon, clean_environ, write_config
from support.sending import create_mailing, make_addresses
from support.servers import CountingReceiver
from support.stores import store_environ

import skychimp
from skychimp.permissions import Actor
from skychimp.store.database import Store

ROOT = Path(skychimp.__file__).parent
TOPIC = (ROOT / "cli/topics/monitoring.md").read_text(encoding="utf-8")


def log_lines(text: str) -> list[dict[str, Any]]:
    """Return the events of a log, after checking what all of them have."""
    events = [json.loads(line) for line in text.splitlines()]
    for event in events:
        assert list(event)[:3] == ["at", "level", "event"]
        assert datetime.fromisoformat(event["at"]).tzinfo is not None
        assert event["level"] in ("info", "warning", "error")
        assert set(event) <= documented_fields(), event
    return events


def documented_fields() -> set[str]:
    """Return the fields in the table of the help topic."""
    return {name for line in re.findall(r"^\|(.*?)\|", TOPIC, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)}


@pytest.fixture
def home(store: Store, tmp_path: Path) -> Home:
    return Home(tmp_path, **store_environ(store), SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>")


def test_log_of_a_run(home: Home, store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(3))
    done = home.call("run", "--log-format", "json", "--json")
    assert done.json["queued"] == 0
    due, outbox, hint = (event["event"] for event in log_lines(done.err))
    assert (due, outbox.split(";")[0], hint[:5]) == ("mailings due", "3 written to the outbox", "hint:")


def test_quiet_log_has_only_warnings_and_errors(home: Home, store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(3))
    environ = {"SKYCHIMP_MONITOR__METRICS_FILE": "missing/s.prom"}
    done = home.call("-q", "run", "--log-format", "json", environ=environ)
    assert [(event["level"], event["event"]) for event in log_lines(done.err)] == [
        ("warning", "cannot write monitor.metrics_file")
    ]


@pytest.mark.parametrize("command", ["run", "daemon", "serve"])
def test_error_is_an_event(home: Home, command: str) -> None:
    environ = {"SKYCHIMP_SMTP__PORT": "none\x1b[2J"}
    done = home.call(command, "--log-format", "json", environ=environ)
    assert done.status == 3
    (event,) = log_lines(done.err)
    assert (event["level"], event["code"]) == ("error", "config")
    assert event["event"].startswith("invalid smtp.port")
    assert event["hint"]


def test_usual_log_of_a_run_shows_only_what_goes_wrong(home: Home, store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(3))
    assert home.call("-q", "run").err == ""
    assert home.call("run").err == "nothing was due\n"


def test_log_of_a_daemon(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada, make_addresses(3))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        config = write_config(tmp_path, receiver.port)
        with Daemon(store, config, clean_environ(**store_environ(store))) as daemon:
            daemon.wait_for(lambda: "occurrence finished" in daemon.event_names)
            assert daemon.stop(signal.SIGTERM) == 0
    names = [event["event"] for event in log_lines(daemon.log.read_text())]
    assert {"started", "stopped"} <= set(names)


def test_documented_rotation_loses_no_line_format(store: Store, tmp_path: Path) -> None:
    """With >> the log is written at its end, also after copytruncate of logrotate has emptied it."""
    config, log = write_config(tmp_path, 1), tmp_path / "log"
    command: list[str | Path] = [PROGRAM, "--config", config, "daemon", "--log-format", "json"]
    with log.open("ab") as stderr:
        daemon = subprocess.Popen(command, env=clean_environ(**store_environ(store)), stderr=stderr)
    with daemon:
        while b"started" not in log.read_bytes():
            assert daemon.poll() is None
        log.write_bytes(b"")
        daemon.terminate()
    assert log.read_bytes().startswith(b"{")
    assert [event["event"] for event in log_lines(log.read_text())][-1] == "stopped"


def test_all_fields_of_events_are_documented() -> None:
    fields = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "extra" and isinstance(node.value, ast.Dict):
                fields |= {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
    assert len(fields) > 10
    assert fields <= documented_fields()
