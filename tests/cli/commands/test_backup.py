"""`backup`, `restore` and `resolve --restored` as they are typed; a daemon waits for the last of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support import daemons
from support.command import Home
from support.daemons import Daemon
from support.sending import mailing, rows, states
from support.servers import CountingReceiver

from skychimp.models import StoreInfo
from skychimp.permissions import OPERATOR, Actor
from skychimp.services.operations import backups
from skychimp.store.database import Store


@pytest.fixture
def admins(home_of: Callable[[Actor], Home], admin: Actor) -> Home:
    """An administrator's command line."""
    return home_of(admin)


def test_there_and_back(store: Store, ada: Actor, admins: Home) -> None:
    mailing(store, ada, ["bob@example.org"])
    made = admins.call("backup", "today.backup", "--json")
    assert made.status == 0
    assert (made.json["file"], made.json["clients"]) == (str(admins.folder / "today.backup"), 1)
    assert admins.call("run").status == 0
    store.close()
    back = admins.call("restore", "today.backup", "--yes", "--json")
    assert back.status == 0
    assert back.json["ledger_kept"] is True
    assert Path(back.json["kept"]).exists()
    assert "nothing is sent until you let it go on; next: skychimp resolve --restored" in back.err
    held = admins.call("run", "--json")
    assert (held.status, held.error["code"]) == (3, "store_held")
    assert "held" in admins.call("status").out
    later = ("--start", "2099-01-01 09:00", "--every", "once", "--all-clients")
    admins.call("clients", "create", "--email", "eve@example.org")
    admins.call("messages", "create", "--subject", "Hello", "--body", "text")
    created = admins.call("mailings", "create", "--message", "2", *later)
    assert created.status == 0
    assert "sends nothing until: skychimp resolve --restored" in created.err
    go = admins.call("resolve", "--restored", "--json")
    assert (go.status, go.json["restored"], go.json["to_send"]) == (0, True, 0)
    assert admins.call("resolve", "--restored").status == 6
    assert admins.call("run").status == 0
    assert states(store) == {"sent": 1}


def test_what_is_there_is_replaced_only_where_somebody_says_so(store: Store, admins: Home) -> None:
    file = admins.folder / "today.backup"
    file.write_text("precious")
    refused = admins.call("backup", str(file))
    assert (refused.status, file.read_text()) == (2, "precious")
    assert f"replace {file}?" in refused.err
    assert admins.call("backup", str(file), "--force").status == 0
    store.close()
    refused = admins.call("restore", str(file))
    assert (refused.status, "replace the store" in refused.err) == (2, True)
    assert rows(store, StoreInfo)[0].held_at is None
    asked = admins.on_terminal("restore", str(file), answers=[("[y/N]", "n\n")])
    assert asked.status == 1
    assert rows(store, StoreInfo)[0].held_at is None


@pytest.mark.parametrize("words", [("backup", "y"), ("restore", "x", "--yes"), ("resolve", "--restored")])
def test_for_an_administrator_or_whoever_runs_the_service(store: Store, home: Home, words: tuple[str, ...]) -> None:
    backups.backup(store, OPERATOR, home.folder / "x")
    store.close()
    denied = home.call(*words)
    assert (denied.status, "may not" in denied.err) == (5, True)
    guest = home.call(*words, environ={"SKYCHIMP_TOKEN": ""})
    assert guest.status == 5
    assert "hint: log in as an administrator; or, if you run the service: --operator" in guest.err
    assert home.call(*words, "--operator").status == (6 if words[0] == "resolve" else 0)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("restore", "nothing"), "there is no file"),
        (("restore", "folder"), "there is no file"),
        (("backup", "folder"), "is no file"),
        (("resolve", "--restored", "--sent", "--failed"), "--restored goes with one of"),
        (("resolve", "--operator"), "--operator goes with --restored"),
    ],
)
def test_what_cannot_be_meant(admins: Home, store: Store, words: tuple[str, ...], error: str) -> None:
    (admins.folder / "folder").mkdir()
    store.close()
    done = admins.call(*words, *(("--yes",) if words[0] != "resolve" else ()))
    assert (done.status, error in done.err) == (2, True), done.err


def test_a_daemon_waits_until_a_restored_store_is_let_go(store: Store, ada: Actor, tmp_path: Path) -> None:
    mailing(store, ada, ["bob@example.org"])
    backups.backup(store, OPERATOR, tmp_path / "today.backup")
    store.close()
    backups.restore(f"sqlite:///{store.path}", OPERATOR, tmp_path / "today.backup")
    words = "this store was restored and sends nothing yet"
    with CountingReceiver(tmp_path / "arrived") as receiver:
        with Daemon(store, daemons.config(tmp_path, receiver.port), daemons.environ()) as daemon:
            daemon.wait_for(lambda: words in daemon.said)
            assert daemon.stop() == 0
        assert receiver.taken == 0
        with Daemon(store, daemons.config(tmp_path, receiver.port), daemons.environ()) as daemon:
            daemon.wait_for(lambda: words in daemon.said)
            backups.let_go_on(store, OPERATOR)
            daemon.wait_for(lambda: states(store) == {"sent": 1})
            assert daemon.said.count(words) == 1
            assert daemon.stop() == 0
