"""The audit trail has refusals, looks at others' data, exports and imports, and it survives a restore."""

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import create_user
from support import ledger_rows
from support.command import PROGRAM, Home
from support.queue_steps import rows
from support.servers import CountingReceiver

from skychimp.models import AuditEntry, DeliveryState, Outcome, Role, User
from skychimp.permissions import OPERATOR, Actor
from skychimp.services import audit
from skychimp.services.clients import clients, importing
from skychimp.services.operations import backups
from skychimp.store import schema
from skychimp.store.database import Store
from skychimp.store.schema import create_store

HomeOf = Callable[[Actor], Home]
Entry = tuple[str, str, int | None, str]


def trail(store: Store, first: int = 0) -> list[Entry]:
    return [(row.action, row.object, row.object_id, row.detail) for row in rows(store, AuditEntry)[first:]]


# Refusals


DENIED = [
    ("users", "list"), ("users", "block", "2"), ("users", "role", "2", "admin"), ("audit", "list"),
    ("blog", "create", "--title", "T", "--body", "B"), ("blog", "delete", "1", "--yes"), ("blog", "build", "site"),
    ("backup", "copy.db"), ("resolve", "--restored"), ("doctor", "--accept-clock", "--yes"),
    ("store", "rotate-key", "--yes"),
    ("clients", "forget", "grace@example.org", "--all-users", "--yes"),
    ("suppressions", "add", "grace@example.org", "--everywhere"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", DENIED, ids=" ".join)
def test_denied_command_is_recorded(store: Store, home: Home, ada: Actor, arguments: tuple[str, ...]) -> None:
    denied = home.call(*arguments, "--json")
    assert (denied.status, denied.error["code"]) == (5, "denied")
    ((action, kind, object_id, detail),) = trail(store)
    assert (action, kind, object_id) == ("refused", "command", None)
    words = (
        arguments[:2]
        if arguments[0] in ("users", "audit", "blog", "clients", "store", "suppressions")
        else arguments[:1]
    )
    assert detail == f"{' '.join(words)}: {denied.error['message']}"
    assert "grace" not in detail
    assert [row.actor_id for row in rows(store, AuditEntry)] == [ada.user_id]


def test_command_without_a_login_is_recorded(store: Store, home: Home) -> None:
    assert home.call("clients", "list", environ={"SKYCHIMP_TOKEN": "wrong"}).status == 5
    assert trail(store) == [("refused", "command", None, "clients list: the token in SKYCHIMP_TOKEN is not valid")]
    assert rows(store, AuditEntry)[0].actor_id is None


def test_change_of_a_password_without_a_login_is_recorded(store: Store, home: Home) -> None:
    assert home.call("password", "change", environ={"SKYCHIMP_TOKEN": "wrong"}).status == 5
    assert trail(store) == [("refused", "command", None, "password change: the token in SKYCHIMP_TOKEN is not valid")]


def test_failed_login_is_recorded_once(store: Store, home: Home) -> None:
    assert home.call("login", "--email", "ada@skychimp.test", environ={"SKYCHIMP_PASSWORD": "wrong"}).status == 5
    assert [action for action, *_ in trail(store)] == ["login failed"]


OTHERS = [
    ("mailings", "show", "1"), ("mailings", "update", "1", "--end", "2031-01-01"), ("mailings", "delete", "1", "--yes"),
    ("mailings", "preview", "1"), ("mailings", "log", "1"), ("mailings", "disable", "1"), ("mailings", "enable", "1"),
    ("mailings", "duplicate", "1"), ("report", "1"), ("messages", "show", "1"), ("messages", "preview", "1"),
    ("messages", "update", "1", "--subject", "S"), ("messages", "delete", "1", "--yes"),
    ("messages", "test", "1", "--to", "x@example.org"), ("clients", "show", "1"), ("clients", "delete", "1", "--yes"),
    ("clients", "update", "1", "--name", "N"), ("clients", "show", "grace@example.org"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", OTHERS, ids=" ".join)
def test_attempt_at_another_users_object_is_recorded(
    store: Store, ada: Actor, bob: Actor, home_of: HomeOf, arguments: tuple[str, ...]
) -> None:
    """It answers as if there was no such object. So an attempt at one that does not exist is recorded, too."""
    ledger_rows.mailing(store, ada)
    clients.create(store, ada, email="grace@example.org")
    bobs = home_of(bob)
    missing = tuple("99" if word == "1" else word.replace("grace", "nobody") for word in arguments)
    answers = [bobs.call(*words, "--json") for words in (arguments, missing)]
    assert [answer.status for answer in answers] == [4, 4]
    kind = {"mailings": "mailing", "report": "mailing", "messages": "message", "clients": "client"}[arguments[0]]
    words = " ".join(arguments[:1] if kind == "mailing" and arguments[0] == "report" else arguments[:2])
    missing_id = None if "nobody@example.org" in missing else 99
    assert trail(store) == [("refused", kind, 1, words), ("not found", kind, missing_id, words)]
    assert {row.actor_id for row in rows(store, AuditEntry)} == {bob.user_id}


def test_attempts_at_other_kinds_of_objects_are_recorded(store: Store, ada: Actor, bob: Actor, home_of: HomeOf) -> None:
    """Also where a command names several."""
    mailing = ledger_rows.mailing(store, ada)
    delivery = ledger_rows.delivery(
        store, ledger_rows.occurrence(store, mailing), "x@example.org", DeliveryState.UNKNOWN
    )
    clients.create(store, ada, email="grace@example.org")
    bobs = home_of(bob)
    own_message = bobs.call("messages", "create", "--subject", "S", "--body", "B", "--json").json["id"]
    when = ("--start", "2030-01-01 09:00", "--every", "day")
    assert bobs.call("mailings", "create", "--message", str(own_message), "--client", "1", *when).status == 4
    assert bobs.call("mailings", "create", "--message", "1", "--all-clients", *when).status == 4
    assert bobs.call("resolve", "--sent", str(delivery)).status == 4
    assert bobs.call("resolve", "--sent", "99").status == 4
    assert trail(store) == [
        ("refused", "client", 1, "mailings create"), ("refused", "message", 1, "mailings create"),
        ("refused", "delivery", 1, "resolve"), ("not found", "delivery", 99, "resolve"),
    ]  # fmt: skip


def test_run_of_an_unknown_mailing_is_no_refusal(store: Store, home: Home) -> None:
    """Nobody is logged in to run it."""
    assert home.call("run", "--mailing", "99").status == 4
    assert trail(store) == []


def test_attempt_at_an_administrator_is_recorded(store: Store, manager: Actor, admin: Actor, home_of: HomeOf) -> None:
    home_of_manager = home_of(manager)
    assert home_of_manager.call("users", "show", admin.email).status == 4
    assert home_of_manager.call("users", "show", "99").status == 4
    assert trail(store) == [("refused", "user", admin.user_id, "users show"), ("not found", "user", 99, "users show")]


@pytest.mark.parametrize("arguments", [("clients", "show", "x"), ("blog", "show", "no"), ("mailings", "show", "x")])
def test_wrong_names_are_no_refusals(store: Store, home: Home, arguments: tuple[str, ...]) -> None:
    assert home.call(*arguments).status in (2, 4)
    assert [action for action, *_ in trail(store) if action == "refused"] == []


def test_success_writes_nothing(store: Store, home: Home, ada: Actor) -> None:
    """No write for a look at one's own things."""
    ledger_rows.mailing(store, ada)
    clients.create(store, ada, email="grace@example.org")
    for words in ("mailings show 1", "mailings list", "messages show 1", "clients list", "why grace@example.org"):
        assert home.call(*words.split()).status == 0
    assert trail(store) == []


def test_refusal_with_a_store_that_cannot_be_written(store: Store, home: Home) -> None:
    """The answer is the same, and comes soon."""
    with store.connect() as db, db.begin():  # somebody else writes
        began = time.monotonic()
        denied = home.call("users", "list")
        assert (denied.status, denied.err.splitlines()[0]) == (5, "error: a user may not see users")
        assert time.monotonic() - began < 20
    assert trail(store) == []


# Looks at others' data


LOOKS = {
    "mailings show 1": ("see", "mailing", 1, ""),
    "mailings preview 1": ("see", "mailing", 1, ""),
    "mailings log 1": ("see", "mailing", 1, ""),
    "mailings list": ("see", "mailing", None, "list"),
    "report 1": ("see", "mailing", 1, ""),
    "messages show 1": ("see", "message", 1, ""),
    "messages preview 1": ("see", "message", 1, ""),
    "messages list": ("see", "message", None, "list"),
    "why grace@example.org": ("see", "client", 1, "history with 1 user"),
    "users show 1": ("see", "user", 1, ""),
}


@pytest.mark.parametrize(
    ("role", "words"),
    [
        *((Role.MANAGER, words) for words in LOOKS),
        (Role.ADMIN, "mailings show 1"),
        *(pytest.param(Role.ADMIN, words, marks=pytest.mark.slow) for words in LOOKS if words != "mailings show 1"),
    ],
)
def test_look_at_others_data_is_recorded(store: Store, ada: Actor, home_of: HomeOf, role: Role, words: str) -> None:
    mailing = ledger_rows.mailing(store, ada)
    occurrence = ledger_rows.occurrence(store, mailing)
    delivery = ledger_rows.delivery(store, occurrence, "grace@example.org", DeliveryState.SENT, None)
    ledger_rows.attempt(store, delivery, Outcome.SENT, "ok")
    clients.create(store, ada, email="grace@example.org")
    overseer = create_user(store, "overseer", role)
    done = home_of(overseer).call(*words.split(), "--json")
    assert done.status == 0, done.err
    assert trail(store) == [LOOKS[words]]
    assert rows(store, AuditEntry)[0].actor_id == overseer.user_id


def test_look_is_recorded_once_a_command(store: Store, ada: Actor, manager: Actor) -> None:
    mailing = ledger_rows.mailing(store, ada)
    for _ in range(3):
        audit.record_view(store, manager, "mailing", mailing)
    assert len(trail(store)) == 1


def test_look_without_a_writable_store_is_shown(store: Store, ada: Actor, manager: Actor, home_of: HomeOf) -> None:
    ledger_rows.mailing(store, ada)
    managers = home_of(manager)
    with store.connect() as db, db.begin():
        assert managers.call("mailings", "show", "1").status == 0
    assert trail(store) == []


# Exports, imports, tests, posts


def test_exports_are_recorded(store: Store, home: Home, ada: Actor) -> None:
    clients.create(store, ada, email="grace@example.org")
    for words in ("clients export", "clients export all.csv", "clients export --format jsonl", "users export"):
        assert home.call(*words.split()).status == 0
    export = ("export", "client", None, "1 client")
    assert trail(store) == [export, export, export, ("export", "user", ada.user_id, "")]


def test_export_is_recorded_before_anything_is_written(store: Store, home: Home, ada: Actor) -> None:
    """A pipe that is closed early changes nothing about it."""
    for number in range(50):
        clients.create(store, ada, email=f"{number}@example.org")
    store.checkpoint()
    with subprocess.Popen(
        [PROGRAM, "clients", "export"], env=home.environ, cwd=home.folder, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
    assert trail(store) == [("export", "client", None, "50 clients")]


def test_imports_are_recorded(
    store: Store, home: Home, ada: Actor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importing, "IMPORT_BATCH", 2)
    file = tmp_path / "people.csv"
    file.write_text("email\na@example.org\nb@example.org\nb@example.org\nc@example.org\nnobody\n")
    assert home.call("clients", "import", str(file)).status == 0
    assert home.call("clients", "import", str(file), "--update").status == 0
    assert [detail for *_, detail in trail(store)] == [
        "2 created, 0 skipped", "1 created, 1 skipped", "0 created, 2 updated", "0 created, 2 updated",
    ]  # fmt: skip
    assert {(action, kind) for action, kind, *_ in trail(store)} == {("import", "client")}


def test_test_email_is_recorded_without_its_address(store: Store, home: Home, ada: Actor, tmp_path: Path) -> None:
    ledger_rows.mailing(store, ada)
    with CountingReceiver(tmp_path / "arrived") as receiver:
        smtp = {"MAIL__TRANSPORT": "smtp", "SMTP__HOST": "127.0.0.1", "SMTP__SECURITY": "none"}
        environ = {f"SKYCHIMP_{name}": value for name, value in smtp.items()}
        done = home.call(
            "messages", "test", "1", "--to", "grace@example.org",
            environ=environ | {"SKYCHIMP_SMTP__PORT": str(receiver.port)},
        )  # fmt: skip
    assert done.status == 0, done.err
    assert trail(store) == [("test", "message", 1, "to example.org")]


def test_changes_of_posts_are_recorded(store: Store, home_of: HomeOf) -> None:
    editors = home_of(create_user(store, "editor", Role.EDITOR))
    for words in (
        "create --title First --body B", "update 1 --title Second", "update 1 --title Second", "publish 1",
        "unpublish 1", "delete 1 --yes",
    ):  # fmt: skip
        assert editors.call("blog", *words.split()).status == 0
    assert [(action, detail) for action, _, _, detail in trail(store)] == [
        ("create", "First"), ("update", "First"), ("publish", "Second"), ("unpublish", "Second"), ("delete", "Second"),
    ]  # fmt: skip


# Restore


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "today.backup"


def restore(store: Store, file: Path) -> backups.Restored:
    store.close()
    return backups.restore(f"sqlite:///{store.path}", OPERATOR, file)


def record(store: Store, actor: Actor, *details: str) -> None:
    for detail in details:
        with store.write() as db:
            audit.record(db, actor, "test", "message", 1, detail)


def ids_and_details(store: Store) -> list[tuple[int | None, str]]:
    return [(row.id, row.detail or row.action) for row in rows(store, AuditEntry)]


@pytest.mark.sqlite
def test_newer_entries_survive_a_restore(store: Store, ada: Actor, file: Path) -> None:
    record(store, ada, "one", "two")
    backups.backup(store, OPERATOR, file)
    record(store, ada, "three", "four")
    done = restore(store, file)
    assert (done.audit_kept, done.audit_lost) == (2, 0)
    names = ["one", "two", str(file), "three", "four", str(file)]
    assert ids_and_details(store) == list(enumerate(names, 1))
    assert [row.actor_id for row in rows(store, AuditEntry)] == [1, 1, None, 1, 1, None]
    assert restore(store, file).audit_kept == 3  # with the entry about the first restore
    assert [detail for _, detail in ids_and_details(store)] == [*names, str(file)]


@pytest.mark.sqlite
def test_entries_of_backups_of_different_ages_survive_once(store: Store, ada: Actor, file: Path) -> None:
    later = file.with_name("later.backup")
    record(store, ada, "one")
    backups.backup(store, OPERATOR, file)
    record(store, ada, "two")
    backups.backup(store, OPERATOR, later)
    record(store, ada, "three")
    for copy in (file, later, file, later):
        assert restore(store, copy).audit_lost == 0
    details = [detail for _, detail in ids_and_details(store)]
    assert sorted(details) == sorted(["one", "two", "three", str(file), str(later), *[str(file), str(later)] * 2])


@pytest.mark.sqlite
def test_entries_of_later_users_name_them(store: Store, ada: Actor, file: Path) -> None:
    """The id of an account that the backup lacks is given to somebody else."""
    backups.backup(store, OPERATOR, file)
    eve = create_user(store, "eve", Role.ADMIN)
    record(store, eve, "stole", "")
    record(store, ada, "read")
    restore(store, file)
    mallory = create_user(store, "mallory")
    assert [(row.actor_id, row.detail) for row in rows(store, AuditEntry)][1:4] == [
        (None, "stole [by eve@skychimp.test]"), (None, "[by eve@skychimp.test]"), (ada.user_id, "read"),
    ]  # fmt: skip
    assert mallory.user_id not in [row.actor_id for row in rows(store, AuditEntry)]


@pytest.mark.sqlite
def test_actor_whose_id_was_given_away_is_named(store: Store, file: Path) -> None:
    """In the backup the same id is another account."""
    with closing(create_store(f"sqlite:///{file.with_name('other.db')}")):
        pass
    eve = create_user(store, "eve")
    backups.backup(store, OPERATOR, file)
    with store.write() as db:
        user = db.get_one(User, eve.user_id)
        user.email = user.address_key = "grace@skychimp.test"
        user.created_at = user.created_at.replace(year=2020)
    record(store, eve, "read")
    restore(store, file)
    assert (None, "read [by grace@skychimp.test]") in [(row.actor_id, row.detail) for row in rows(store, AuditEntry)]


@pytest.mark.sqlite
def test_lost_entries_are_counted_or_said_to_be_unknown(
    store: Store, ada: Actor, file: Path, tmp_path: Path, home: Home
) -> None:
    backups.backup(store, OPERATOR, file)
    with closing(create_store(f"sqlite:///{tmp_path / 'other.db'}")) as other:
        record(other, OPERATOR, "one", "two")
    to_other = home.call("restore", str(file), "--operator", "--yes", environ={"SKYCHIMP_STORE": f"{other.path}"})
    assert "audit trail: 2 entries of the replaced store lost" in to_other.err
    record(store, ada, "one")
    store.close()
    kept = home.call("restore", str(file), "--operator", "--yes", "--json")
    assert (kept.json["audit_kept"], kept.json["audit_lost"]) == (1, 0)
    assert "audit trail: 1 newer entry kept" in kept.err
    store.path.unlink()
    lost = home.call("restore", str(file), "--operator", "--yes", "--json")
    assert (lost.json["audit_kept"], lost.json["audit_lost"]) == (0, None)
    assert "entries since the backup are lost, their number is not known" in lost.err


@pytest.mark.sqlite
def test_entries_of_a_damaged_store_are_unknown(store: Store, ada: Actor, file: Path) -> None:
    record(store, ada, *map(str, range(200)))
    backups.backup(store, OPERATOR, file)
    store.close()
    with store.path.open("r+b") as damaged:
        damaged.seek(4096 * 4)
        damaged.write(b"\xff" * 4096 * 20)
    assert restore(store, file).audit_lost is None


@pytest.mark.sqlite
def test_entries_of_an_older_store_survive(
    store: Store, ada: Actor, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The replaced store is of an older version, which was not opened before."""
    backups.backup(store, OPERATOR, file)
    record(store, ada, "new")
    with store.write() as db:
        db.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    assert restore(store, file).audit_kept == 1
    assert schema.open_store(f"sqlite:///{store.path}").find_damage() == ""


@pytest.mark.sqlite
def test_long_trail_is_restored_soon(store: Store, ada: Actor, file: Path) -> None:
    """Finding the newer entries takes time in proportion to their number."""
    insert = "INSERT INTO audit (at, actor_id, action, object, detail) SELECT at, 1, 'x', 'y', number FROM n"
    numbers = (
        "WITH RECURSIVE n(number, at) AS (SELECT 1, '2026-01-01 00:00:00.000000' UNION ALL SELECT number + 1,"
        " strftime('%Y-%m-%d %H:%M:%S', 1760000000 + number, 'unixepoch') || '.000000' FROM n WHERE number < 100000)"
    )
    with store.write() as db:
        db.connection().exec_driver_sql(f"{numbers} {insert}")
    backups.backup(store, OPERATOR, file)
    record(store, ada, "new")
    began = time.monotonic()
    assert restore(store, file).audit_kept == 1
    assert time.monotonic() - began < 60


def test_audit_list_is_valid_json_with_hostile_details(store: Store, admin: Actor, home_of: HomeOf) -> None:
    record(store, admin, "a\x1b[2J\u202eb\x9b", 'quote"')
    listed = home_of(admin).call("audit", "list", "--json")
    assert [entry["detail"] for entry in json.loads(listed.out)] == ["a\x1b[2J\u202eb\x9b", 'quote"']
    assert "\x1b" not in listed.out
