"""The contract of `users` and `audit`: fields, exit statuses, and what is written down of whoever does what."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import enrol
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from support import daemons, ledger_rows
from support.command import Home
from support.daemons import Daemon
from support.queue_steps import rows

from skychimp.errors import Denied, InvalidValue, NotFound
from skychimp.models import AuditEntry, Role, User
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services import audit
from skychimp.services.audit import AuditInfo
from skychimp.services.clients import clients
from skychimp.services.listing import ListOptions
from skychimp.services.mailings import mailings
from skychimp.services.messages import messages
from skychimp.store.database import Store

HomeOf = Callable[[Actor], Home]

FIELDS = {"id", "email", "name", "role", "verified_at", "blocked_at", "created_at"}


@pytest.fixture
def at_managers(home_of: HomeOf, manager: Actor) -> Home:
    return home_of(manager)


@pytest.fixture
def at_admins(home_of: HomeOf, admin: Actor) -> Home:
    return home_of(admin)


# users


def test_a_user_is_shown_in_json_and_in_plain_lines(home: Home, at_managers: Home, at_admins: Home) -> None:
    shown = at_managers.call("users", "show", "ada@skychimp.test", "--json")
    assert at_managers.call("users", "list", "--json").json == [shown.json]
    assert shown.json.keys() == FIELDS
    assert datetime.fromisoformat(shown.json["created_at"]).utcoffset() is not None
    assert at_managers.call("users", "list").out.split("\t")[:4] == ["1", "ada@skychimp.test", "", "user"]
    changed = at_admins.call("users", "role", "1", "editor", "--json").json
    assert changed == shown.json | {"role": "editor"}
    assert [user["role"] for user in at_admins.call("users", "list", "--role", "editor", "--json").json] == ["editor"]


def test_on_a_terminal_an_address_is_whole_and_what_keeps_somebody_out_is_a_word(
    store: Store, ada: Actor, at_admins: Home
) -> None:
    enrol(store, "a.rather.long.name.for.a.mailbox")
    with store.write() as db:
        db.get_one(User, ada.user_id).blocked_at = datetime.now(UTC)
    shown = at_admins.on_terminal("users", "list").out
    assert "a.rather.long.name.for.a.mailbox@skychimp.test" in shown
    assert shown.count("blocked") == 1


def test_a_blocked_user_is_out_at_once_and_has_to_log_in_again(home: Home, at_managers: Home) -> None:
    assert home.call("clients", "list").status == 0

    assert at_managers.call("users", "block", "1", "--reason", "spam", "--json").json["blocked_at"] is not None
    out = home.call("clients", "list", "--json")
    assert (out.status, out.error["code"]) == (5, "not_logged_in")

    assert at_managers.call("users", "unblock", "1", "--json").json["blocked_at"] is None
    assert home.call("clients", "list").status == 5


def test_a_role_counts_from_the_next_command_and_the_session_stays(home: Home, at_admins: Home) -> None:
    at_admins.call("users", "role", "ada@skychimp.test", "manager")
    assert home.call("clients", "list").status == 5
    assert home.call("users", "list").status == 0
    at_admins.call("users", "role", "ada@skychimp.test", "user")
    assert home.call("clients", "list").status == 0


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("role", "1", "owner"), 2, "invalid_value"),
        (("role", "1"), 2, "invalid_value"),
        (("block", "1", "--reason", "a\nb"), 2, "invalid_value"),
        (("list", "--role", "king"), 2, "invalid_value"),
        (("list", "--sort", "password_hash"), 2, "invalid_value"),
        (("show", "99"), 4, "not_found"),
        (("block", "admin@skychimp.test"), 5, "denied"),
        (("role", "admin@skychimp.test", "admin"), 5, "denied"),
    ],
)
def test_what_goes_wrong_changes_nothing(
    store: Store, home: Home, at_admins: Home, words: tuple[str, ...], status: int, code: str
) -> None:
    before = at_admins.call("users", "list").out
    done = at_admins.call("users", *words, "--json")
    assert (done.status, done.out, done.error["code"]) == (status, "", code)
    assert at_admins.call("users", "list").out == before
    assert rows(store, AuditEntry) == []


def test_a_manager_sees_whose_mailing_it_is_and_that_it_stands_still(
    store: Store, ada: Actor, at_managers: Home
) -> None:
    ledger_rows.mailing(store, ada)
    at_managers.call("users", "block", "1")
    listed = at_managers.call("mailings", "list").out.split("\t")
    assert (listed[1], listed[6]) == ("ada@skychimp.test", "yes")
    assert at_managers.call("mailings", "show", "1", "--json").json["owner_blocked"] is True


# The audit trail


def trail(store: Store, admin: Actor, **asked: object) -> list[AuditInfo]:
    return list(audit.list_entries(store, admin, ListOptions(), **asked))  # type: ignore[arg-type]


def said(store: Store, admin: Actor, **asked: object) -> list[tuple[str | None, str, str, int | None]]:
    return [(deed.actor, deed.action, deed.object, deed.object_id) for deed in trail(store, admin, **asked)]


def test_what_an_overseer_does_is_written_down_and_what_an_owner_does_is_not(
    store: Store, ada: Actor, manager: Actor, admin: Actor
) -> None:
    mailing = ledger_rows.mailing(store, ada)
    for actor in (ada, manager):
        mailings.disable(store, actor, mailing, "too many complaints")
        mailings.enable(store, actor, mailing)
    assert said(store, admin) == [
        ("manager@skychimp.test", "disable", "mailing", mailing),
        ("manager@skychimp.test", "enable", "mailing", mailing),
    ]
    assert trail(store, admin)[0].detail == "too many complaints"


def test_what_is_deleted_is_written_down_without_an_address(store: Store, ada: Actor, admin: Actor) -> None:
    client = clients.create(store, ada, email="grace@example.org")
    mailing = ledger_rows.mailing(store, ada)
    clients.remove(store, ada, client.email)
    mailings.remove(store, ada, mailing)
    messages.remove(store, ada, 1)
    assert said(store, admin) == [(ada.email, "delete", noun, 1) for noun in ("client", "mailing", "message")]
    assert not any("grace" in repr(deed) for deed in trail(store, admin))


def test_what_was_not_done_is_not_written_down(store: Store, ada: Actor, manager: Actor, admin: Actor) -> None:
    mailing = ledger_rows.mailing(store, ada)
    with pytest.raises(Denied):
        mailings.remove(store, manager, mailing)
    with pytest.raises(NotFound):
        mailings.disable(store, manager, mailing + 1)
    assert trail(store, admin) == []


@pytest.mark.parametrize("statement", ["UPDATE audit SET action = 'slept'", "DELETE FROM audit"])
def test_nothing_in_it_is_changed_or_taken_out(store: Store, ada: Actor, admin: Actor, statement: str) -> None:
    clients.create(store, ada, email="grace@example.org")
    clients.remove(store, ada, "1")
    before = trail(store, admin)
    with pytest.raises(IntegrityError, match="only added to"), store.write() as db:
        db.connection().execute(text(statement))
    assert trail(store, admin) == before != []


def test_it_is_filtered(store: Store, ada: Actor, bob: Actor, admin: Actor) -> None:
    with store.write() as db:
        for actor, action in ((ada, "block"), (bob, "block"), (bob, "role"), (ANONYMOUS, "reload")):
            audit.record(db, actor, action, "user", 7)
    assert [who for who, *_ in said(store, admin, by="BOB@skychimp.test")] == [bob.email, bob.email]
    assert [who for who, *_ in said(store, admin, by=str(ada.user_id))] == [ada.email]
    assert said(store, admin, by="nobody") == []
    assert [who for who, *_ in said(store, admin, action="block")] == [ada.email, bob.email]
    now = datetime.now(UTC)
    assert len(said(store, admin, since=now - timedelta(hours=1))) == 4
    assert said(store, admin, since=now) == []
    assert [deed.action for deed in audit.list_entries(store, admin, ListOptions(sort="-id", limit=2))] == [
        "reload",
        "role",
    ]
    assert [deed.actor for deed in audit.list_entries(store, admin, ListOptions(search="reload"))] == [None]
    with pytest.raises(InvalidValue):
        list(audit.list_entries(store, admin, ListOptions(sort="password")))


def test_the_command_lists_it_for_administrators(home: Home, at_managers: Home, at_admins: Home) -> None:
    at_managers.call("users", "block", "1", "--reason", "sp\u202eam")
    (deed,) = at_admins.call("audit", "list", "--since", "24h", "--json").json
    assert deed | {"at": ""} == {
        "id": 1, "at": "", "actor": "manager@skychimp.test", "action": "block", "object": "user", "object_id": 1,
        "detail": "sp\u202eam",
    }  # fmt: skip
    assert at_admins.call("audit", "list", "--actor", "manager@skychimp.test").out.endswith("\tsp\\u202eam\n")
    assert at_admins.call("audit", "list", "--since", "2100-01-01", "--json").json == []
    assert at_admins.call("audit", "list", "--since", "soon").status == 2
    assert [one.call("audit", "list").status for one in (home, at_managers)] == [5, 5]


def test_a_daemons_new_config_is_written_down(store: Store, tmp_path: Path) -> None:
    admin = enrol(store, "admin", Role.ADMIN)
    with Daemon(store, daemons.config(tmp_path, 1), daemons.environ()) as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(lambda: "config read again" in daemon.said)
        assert daemon.stop() == 0
    assert said(store, admin) == [(None, "reload", "config", None)]
