"""Test the commands `backup`, `restore` and `resolve --restored`, and that a daemon waits for the last of them."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import daemons
from support.command import Home
from support.daemons import Daemon
from support.queue_steps import update_row
from support.sending import create_mailing, rows, state_counts
from support.servers import CountingReceiver

from skychimp.models import StoreInfo
from skychimp.permissions import OPERATOR, Actor
from skychimp.services.operations import backups
from skychimp.store.database import SQLITE, Store


@pytest.fixture
def admins(home_of: Callable[[Actor], Home], admin: Actor) -> Home:
    """Return the command line of an administrator."""
    return home_of(admin)


@pytest.mark.sqlite
def test_backup_and_restore(store: Store, ada: Actor, admins: Home) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    made = admins.call("backup", "today.backup", "--json")
    assert made.status == 0
    assert (made.json["file"], made.json["clients"]) == (str(admins.folder / "today.backup"), 1)
    assert admins.call("run").status == 0
    store.close()
    restored = admins.call("restore", "today.backup", "--yes", "--json")
    assert restored.status == 0
    assert restored.json["ledger_kept"] is True
    assert Path(restored.json["kept"]).exists()
    assert 'run "skychimp resolve --restored"' in restored.err
    held = admins.call("run", "--json")
    assert (held.status, held.error["code"]) == (3, "store_held")
    assert "on hold" in admins.call("status").out
    later = ("--start", "2099-01-01 09:00", "--every", "once", "--all-clients")
    admins.call("clients", "create", "--email", "eve@example.org")
    admins.call("messages", "create", "--subject", "Hello", "--body", "text")
    created = admins.call("mailings", "create", "--message", "2", *later)
    assert created.status == 0
    assert 'run "skychimp resolve --restored"' in created.err
    resumed = admins.call("resolve", "--restored", "--json")
    assert (resumed.status, resumed.json["restored"], resumed.json["to_send"]) == (0, True, 0)
    assert admins.call("resolve", "--restored").status == 6
    assert admins.call("run").status == 0
    assert state_counts(store) == {"outbox": 1}


@pytest.mark.sqlite
def test_existing_file_or_store_is_replaced_only_if_confirmed(store: Store, admins: Home) -> None:
    file = admins.folder / "today.backup"
    file.write_text("precious")
    refused = admins.call("backup", str(file))
    assert (refused.status, file.read_text()) == (2, "precious")
    assert f"refusing to replace {file} without confirmation" in refused.err
    assert admins.call("backup", str(file), "--force").status == 0
    store.close()
    refused = admins.call("restore", str(file))
    assert (refused.status, "refusing to replace the store" in refused.err) == (2, True)
    assert rows(store, StoreInfo)[0].held_at is None
    asked = admins.on_terminal("restore", str(file), answers=[("[y/N]", "n\n")])
    assert asked.status == 1
    assert rows(store, StoreInfo)[0].held_at is None


def test_restore_checks_the_role_and_the_file_before_it_asks(store: Store, home: Home, admins: Home) -> None:
    store.close()
    (admins.folder / "picture.png").write_bytes(b"\x89PNG")
    denied = home.call("restore", "nothing", width=80)
    missing = admins.call("restore", "nothing", width=80)
    foreign = admins.call("restore", "picture.png", width=80)
    assert [done.status for done in (denied, missing, foreign)] == [5, 2, 3]
    for done in (denied, missing, foreign):
        assert "[y/N]" not in done.err
    assert f"{admins.folder}/picture.png is not a backup of a Skychimp store" in foreign.err
    assert 'use a file written by "skychimp backup"' in foreign.err


@pytest.mark.parametrize("arguments", [("backup", "y"), ("restore", "x", "--yes"), ("resolve", "--restored")])
def test_commands_require_an_administrator_or_the_operator(
    store: Store, home: Home, arguments: tuple[str, ...]
) -> None:
    backups.backup(store, OPERATOR, home.folder / "x")
    store.close()
    words = {"backup": "back up the store", "restore": "restore the store", "resolve": "resume sending after a restore"}
    denied = home.call(*arguments)
    guest = home.call(*arguments, environ={"SKYCHIMP_TOKEN": ""})
    hint = "hint: log in as an administrator, or use --operator if you run this installation\n"
    assert (denied.status, denied.err) == (5, f"error: a user may not {words[arguments[0]]}\n{hint}")
    assert (guest.status, guest.err) == (5, f"error: you are not logged in\n{hint}")
    done = home.call(*arguments, "--operator")
    if arguments[0] == "resolve" or (arguments[0] == "restore" and store.dialect != SQLITE):
        assert done.status == 6, "nothing was restored, or only a file is replaced by a restore"
    else:
        assert done.status == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("restore", "nothing"), "not found"),
        (("restore", "folder"), "folder is not a regular file"),
        (("restore", "/dev/null"), "/dev/null is not a regular file"),
        (("backup", "folder"), "is not a file"),
        (("resolve", "--restored", "--sent", "--failed"), "--restored can be combined with only one of"),
        (("resolve", "--operator"), "--operator requires --restored"),
    ],
)
def test_invalid_arguments_are_refused(admins: Home, store: Store, arguments: tuple[str, ...], error: str) -> None:
    (admins.folder / "folder").mkdir()
    store.close()
    done = admins.call(*arguments, *(("--yes",) if arguments[0] != "resolve" else ()))
    assert (done.status, error in done.err) == (2, True), done.err


def test_daemon_waits_until_a_restored_store_is_resumed(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    update_row(store, StoreInfo, 1, held_at=datetime.now(UTC))  # as a restore does
    on_hold = "the store is on hold after a restore"
    with CountingReceiver(tmp_path / "arrived") as receiver:
        with Daemon(store, daemons.write_config(tmp_path, receiver.port), daemons.clean_environ()) as daemon:
            daemon.wait_for(lambda: on_hold in daemon.event_names)
            assert daemon.stop() == 0
        assert receiver.accepted_count == 0
        with Daemon(store, daemons.write_config(tmp_path, receiver.port), daemons.clean_environ()) as daemon:
            daemon.wait_for(lambda: on_hold in daemon.event_names)
            backups.resume(store, OPERATOR)
            daemon.wait_for(lambda: state_counts(store) == {"sent": 1})
            assert daemon.event_names.count(on_hold) == 1
            assert daemon.stop() == 0
