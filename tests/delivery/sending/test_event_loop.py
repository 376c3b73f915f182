"""Test that a run opens no more connections than the limit of open files allows, and says so."""

import re
import resource
import time
from pathlib import Path

import pytest
from support.command import Home
from support.sending import SENDER, create_mailing, make_addresses, state_counts
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.delivery.sending.event_loop import MIN_OPEN_FILES, fitting_connections
from skychimp.permissions import Actor
from skychimp.store.database import Store

WARNING = re.compile(r'using (\d+) of 48 connections: at most 40 files may be open at once \(see "ulimit -n"\)')


def limit_open_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))


def reply_slowly(command: str, _address: str) -> None:
    """Give the run time to open all its connections."""
    if command == ".":
        time.sleep(0.05)


def test_run_uses_as_many_connections_as_fit(store: Store, ada: Actor, store_url: str, tmp_path: Path) -> None:
    create_mailing(store, ada, make_addresses(60))
    store.close()
    with ScriptedServer([GREETING, accept_mail(reply_slowly)]) as server:
        home = Home(
            tmp_path,
            SKYCHIMP_STORE=store_url,
            SKYCHIMP_MAIL__TRANSPORT="smtp",
            SKYCHIMP_MAIL__SENDER=SENDER,
            SKYCHIMP_SMTP__HOST="127.0.0.1",
            SKYCHIMP_SMTP__PORT=str(server.port),
            SKYCHIMP_SMTP__SECURITY="none",
            SKYCHIMP_SMTP__CONNECTIONS="48",
        )
        done = home.run("run", preexec_fn=limit_open_files)
    assert (done.status, state_counts(store)) == (0, {"sent": 60})
    (fitting,) = WARNING.findall(done.err)
    assert 1 < len(server.conversations) <= int(fitting) < 48


def test_there_is_always_one_connection_and_never_more_than_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, low, high in ((resource.RLIM_INFINITY, 48, 48), (100_000, 48, 48), (MIN_OPEN_FILES, 1, 12), (8, 1, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert low <= fitting_connections(48) <= high
