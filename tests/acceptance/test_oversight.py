"""`users` and `audit`: JSON fields, exit statuses, and what the audit trail records."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import create_user
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from support import daemons, ledger_rows
from support.command import Home
from support.daemons import Daemon
from support.inbox import body_of, read_outbox
from support.queue_steps import rows

from skychimp.errors import Denied, InvalidValue, NotFound, StoreFailed
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
def manager_home(home_of: HomeOf, manager: Actor) -> Home:
    return home_of(manager)


@pytest.fixture
def admin_home(home_of: HomeOf, admin: Actor) -> Home:
    return home_of(admin)


# users


def test_user_in_json_and_plain_lines(home: Home, manager_home: Home, admin_home: Home) -> None:
    shown = manager_home.call("users", "show", "ada@skychimp.test", "--json")
    assert manager_home.call("users", "list", "--json").json == [shown.json]
    assert shown.json.keys() == FIELDS
    assert datetime.fromisoformat(shown.json["created_at"]).utcoffset() is not None
    assert manager_home.call("users", "list").out.split("\t")[:4] == ["1", "ada@skychimp.test", "", "user"]
    changed = admin_home.call("users", "role", "1", "editor", "--json").json
    assert changed == shown.json | {"role": "editor"}
    assert [user["role"] for user in admin_home.call("users", "list", "--role", "editor", "--json").json] == ["editor"]


def test_table_shows_the_whole_address_and_the_state(store: Store, ada: Actor, admin_home: Home) -> None:
    create_user(store, "a.rather.long.name.for.a.mailbox")
    with store.write() as db:
        db.get_one(User, ada.user_id).blocked_at = datetime.now(UTC)
    shown = admin_home.on_terminal("users", "list").out
    assert "a.rather.long.name.for.a.mailbox@skychimp.test" in shown
    assert shown.count("blocked") == 1


def test_blocked_user_is_logged_out_at_once(home: Home, manager_home: Home) -> None:
    assert home.call("clients", "list").status == 0

    assert manager_home.call("users", "block", "1", "--reason", "spam", "--json").json["blocked_at"] is not None
    out = home.call("clients", "list", "--json")
    assert (out.status, out.error["code"]) == (5, "not_logged_in")

    assert manager_home.call("users", "unblock", "1", "--json").json["blocked_at"] is None
    assert home.call("clients", "list").status == 5


def test_role_change_takes_effect_at_the_next_command(home: Home, admin_home: Home) -> None:
    admin_home.call("users", "role", "ada@skychimp.test", "manager")
    assert home.call("clients", "list").status == 5
    assert home.call("users", "list").status == 0
    admin_home.call("users", "role", "ada@skychimp.test", "user")
    assert home.call("clients", "list").status == 0


def test_mailings_of_a_changed_user_are_named(store: Store, home: Home, admin_home: Home) -> None:
    home.call("messages", "create", "--subject", "x", "--body", "x")
    for name in ("one", "two", "off"):
        arguments = ("--message", "1", "--start", "tomorrow", "--every", "day", "--all-clients", "--name", name)
        assert home.call("mailings", "create", *arguments).status == 0
    home.call("mailings", "disable", "off")

    assert "mailings 1, 2: still sent, but the user cannot" in admin_home.call("users", "role", "1", "manager").err
    assert "mailings" not in admin_home.call("users", "role", "1", "user").err
    assert "mailings 1, 2: stopped; emails that wait" in admin_home.call("users", "block", "1").err
    assert "mailings 1, 2: not stopped any more" in admin_home.call("users", "unblock", "1").err


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
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
def test_failed_command_changes_nothing(
    store: Store, home: Home, admin_home: Home, arguments: tuple[str, ...], status: int, code: str
) -> None:
    before = admin_home.call("users", "list").out
    done = admin_home.call("users", *arguments, "--json")
    assert (done.status, done.out, done.error["code"]) == (status, "", code)
    assert admin_home.call("users", "list").out == before
    refusals = {"denied": ["refused"], "not_found": ["not found"]}
    assert [entry.action for entry in rows(store, AuditEntry)] == refusals.get(code, [])


def test_manager_sees_the_owner_and_that_the_owner_is_blocked(store: Store, ada: Actor, manager_home: Home) -> None:
    ledger_rows.mailing(store, ada)
    manager_home.call("users", "block", "1")
    listed = manager_home.call("mailings", "list").out.split("\t")
    assert (listed[1], listed[6]) == ("ada@skychimp.test", "yes")
    assert manager_home.call("mailings", "show", "1", "--json").json["owner_blocked"] is True


def test_user_is_told_of_a_new_role_once(store: Store, ada: Actor, admin_home: Home) -> None:
    for _ in range(2):
        assert admin_home.call("users", "role", "1", "editor").status == 0
    (email,) = read_outbox(store.path.with_name("outbox"))
    assert (email["To"], email["Subject"]) == (ada.email, "Your Skychimp role was changed")
    assert "editor" in body_of(email)
    assert "<b>editor</b>" in body_of(email, "html")


def test_role_is_changed_even_if_the_user_cannot_be_told(ada: Actor, admin_home: Home) -> None:
    done = admin_home.call("users", "role", "1", "editor", "--json", environ={"SKYCHIMP_MAIL__SENDER": ""})
    assert (done.status, done.json["role"]) == (0, "editor")
    assert f"no email about this change was sent to {ada.email}: mail.sender is not set" in done.err


# The audit trail


def trail(store: Store, admin: Actor, **filters: object) -> list[AuditInfo]:
    return list(audit.list_entries(store, admin, ListOptions(), **filters))  # type: ignore[arg-type]


def summaries(store: Store, admin: Actor, **filters: object) -> list[tuple[str | None, str, str, int | None]]:
    return [(entry.actor, entry.action, entry.object, entry.object_id) for entry in trail(store, admin, **filters)]


def test_actions_on_other_users_mailings_are_recorded(store: Store, ada: Actor, manager: Actor, admin: Actor) -> None:
    mailing = ledger_rows.mailing(store, ada)
    for actor in (ada, manager):
        mailings.disable(store, actor, mailing, "too many complaints")
        mailings.enable(store, actor, mailing)
    assert summaries(store, admin) == [
        ("manager@skychimp.test", "disable", "mailing", mailing),
        ("manager@skychimp.test", "enable", "mailing", mailing),
    ]
    assert trail(store, admin)[0].detail == "too many complaints"


def test_deletion_is_recorded_without_an_address(store: Store, ada: Actor, admin: Actor) -> None:
    client = clients.create(store, ada, email="grace@example.org")
    mailing = ledger_rows.mailing(store, ada)
    clients.remove(store, ada, client.email)
    mailings.remove(store, ada, mailing)
    messages.remove(store, ada, 1)
    assert summaries(store, admin) == [(ada.email, "delete", noun, 1) for noun in ("client", "mailing", "message")]
    assert not any("grace" in repr(entry) for entry in trail(store, admin))


def test_service_that_refuses_records_nothing(store: Store, ada: Actor, manager: Actor, admin: Actor) -> None:
    mailing = ledger_rows.mailing(store, ada)
    with pytest.raises(Denied):
        mailings.remove(store, manager, mailing)
    with pytest.raises(NotFound):
        mailings.disable(store, manager, mailing + 1)
    assert trail(store, admin) == []


@pytest.mark.parametrize("statement", ["UPDATE audit SET action = 'slept'", "DELETE FROM audit"])
def test_audit_trail_cannot_be_changed(store: Store, ada: Actor, admin: Actor, statement: str) -> None:
    clients.create(store, ada, email="grace@example.org")
    clients.remove(store, ada, "1")
    before = trail(store, admin)
    with pytest.raises((IntegrityError, StoreFailed), match="only added to"), store.write() as db:
        db.connection().execute(text(statement))
    assert trail(store, admin) == before != []


def test_audit_trail_filters(store: Store, ada: Actor, bob: Actor, admin: Actor) -> None:
    with store.write() as db:
        for actor, action in ((ada, "block"), (bob, "block"), (bob, "role"), (ANONYMOUS, "reload")):
            audit.record(db, actor, action, "user", 7)
    assert [who for who, *_ in summaries(store, admin, by="BOB@skychimp.test")] == [bob.email, bob.email]
    assert [who for who, *_ in summaries(store, admin, by=str(ada.user_id))] == [ada.email]
    assert summaries(store, admin, by="nobody") == []
    assert [who for who, *_ in summaries(store, admin, action="block")] == [ada.email, bob.email]
    now = datetime.now(UTC)
    assert len(summaries(store, admin, since=now - timedelta(hours=1))) == 4
    assert summaries(store, admin, since=now) == []
    assert [entry.action for entry in audit.list_entries(store, admin, ListOptions(sort="-id", limit=2))] == [
        "reload",
        "role",
    ]
    assert [entry.actor for entry in audit.list_entries(store, admin, ListOptions(search="reload"))] == [None]
    with pytest.raises(InvalidValue):
        list(audit.list_entries(store, admin, ListOptions(sort="password")))


def test_audit_command_is_for_administrators(home: Home, manager_home: Home, admin_home: Home) -> None:
    manager_home.call("users", "block", "1", "--reason", "sp\u202eam")
    (entry,) = admin_home.call("audit", "list", "--since", "24h", "--json").json
    assert entry | {"at": ""} == {
        "id": 1, "at": "", "actor": "manager@skychimp.test", "action": "block", "object": "user", "object_id": 1,
        "detail": "sp\u202eam",
    }  # fmt: skip
    assert admin_home.call("audit", "list", "--actor", "manager@skychimp.test").out.endswith("\tsp\\u202eam\n")
    assert admin_home.call("audit", "list", "--since", "2100-01-01", "--json").json == []
    assert admin_home.call("audit", "list", "--since", "soon").status == 2
    assert [one.call("audit", "list").status for one in (home, manager_home)] == [5, 5]
    assert [entry["action"] for entry in home.call("audit", "list", "--operator", "--json").json] == [
        "block", "refused", "refused",
    ]  # fmt: skip


def test_config_reload_of_the_daemon_is_recorded(store: Store, tmp_path: Path) -> None:
    admin = create_user(store, "admin", Role.ADMIN)
    with Daemon(store, daemons.write_config(tmp_path, 1), daemons.clean_environ()) as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(lambda: "config reloaded" in daemon.event_names)
        assert daemon.stop() == 0
    assert summaries(store, admin) == [(None, "reload", "config", None)]
