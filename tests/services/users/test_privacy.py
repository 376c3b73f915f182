"""Personal data: a person is erased completely and still counted, and a user's own data is exported completely."""

import json
import tracemalloc
from contextlib import closing
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from conftest import create_user
from sqlmodel import select
from support import ledger_rows
from support.command import Home
from support.contents import bytes_of, contains, rows_with
from support.queue_steps import rows, update_row

from skychimp.cli.display.values import write_json_object
from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import Conflict, Denied, InvalidValue, NotFound, NotLoggedIn
from skychimp.models import (
    Attempt,
    AuditEntry,
    Client,
    Delivery,
    DeliveryState,
    Format,
    Intent,
    Lease,
    MailingClient,
    Outcome,
    Post,
    ReplyKind,
    Role,
    User,
)
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.clients import clients, importing
from skychimp.services.clients.importing import ImportedRow
from skychimp.services.listing import ListOptions
from skychimp.services.messages import messages
from skychimp.services.reporting import delivery_log, reports, rollups
from skychimp.services.users import privacy
from skychimp.services.users.privacy import RecordCounts
from skychimp.store import queue, sqlite
from skychimp.store.database import SQLITE, Store
from skychimp.store.sqlite import SqliteStore

GRACE = "Grace@Example.org"
REFUSED = "550 5.1.1 <grace@example.org>: no Grace here"
ACCEPTED = "250 2.0.0 ok"
S = DeliveryState


def add_grace(store: Store, owner: Actor, *, email: str = GRACE) -> int:
    """Give a user Grace as a client, and a mailing that was sent to her and to somebody else. Return its id."""
    client = clients.create(store, owner, email=email, name="Grace Hopper", comment="the Amazing Grace", tags=["grace"])
    key, mailing_id = email.lower(), ledger_rows.mailing(store, owner)
    deliveries = (S.FAILED, Outcome.FAILED, REFUSED), (S.SENT, Outcome.SENT, ACCEPTED), (S.QUEUED, None, "")
    for day, (state, outcome, reply) in enumerate(deliveries, 1):
        occurrence = ledger_rows.occurrence(store, mailing_id, ledger_rows.NINE.replace(day=day))
        for address in (key, "other@example.org"):
            delivery_id = ledger_rows.delivery(store, occurrence, address, state)
            if outcome is not None:
                attempt_id = ledger_rows.attempt(store, delivery_id, outcome, reply if address == key else reply[:9])
                update_row(store, Attempt, attempt_id, enhanced=reply[4:9])
            if address == key:
                update_row(
                    store,
                    Delivery,
                    delivery_id,
                    client_id=client.id,
                    name=client.name,
                    comment=client.comment,
                    tags="grace",
                )
            else:
                update_row(store, Delivery, delivery_id, client_id=1000)
    with store.write() as db:
        db.add(MailingClient(mailing_id=mailing_id, client_id=client.id))
    return mailing_id


# Forgetting


def test_no_record_is_left_in_any_table_or_in_the_file(store: Store, ada: Actor) -> None:
    add_grace(store, ada)
    rollups.count_new_attempts(store)
    assert rows(store, ReplyKind)
    assert (b"grace@example.org" in bytes_of(store)) == (store.dialect == SQLITE)
    assert len(rows_with(store, "grace")) > 5

    done = privacy.forget(store, ada, " grace@EXAMPLE.org ")

    assert done == RecordCounts(clients=1, deliveries=3, attempts=2, cancelled=1)
    for text in ("grace@example", "hopper", "amazing"):
        assert not contains(store, text)
    assert rows_with(store, "grace") == []


@pytest.mark.sqlite
def test_no_byte_is_left_in_pages_that_were_split(store: Store, ada: Actor) -> None:
    emails = [f"somebody-{n * 7919 % 4001}@{'victim' * (n % 1000 == 7)}x.example" for n in range(4000)]
    for name in ("", "longer" * 9):
        people = (ImportedRow(n, email, name, "", ()) for n, email in enumerate(emails))
        importing.import_rows(store, ada, people, update_columns=["name"], on_rejected=print)
    for email in emails[7::1000]:
        privacy.forget(store, ada, email)
    assert b"victimx.example" not in bytes_of(store)


def test_erased_deliveries_are_still_counted(store: Store, ada: Actor) -> None:
    mailing = add_grace(store, ada)
    before = reports.mailing_report(store, ada, mailing)

    privacy.forget(store, ada, GRACE)

    after = reports.mailing_report(store, ada, mailing)
    assert (after.deliveries, after.attempts) == (before.deliveries, before.attempts) == (6, 4)
    assert after.counts == {**before.counts, S.QUEUED: 1, S.CANCELLED: 1}
    shown = [
        (one.email, one.status, one.code, one.reply)
        for one in delivery_log.list_attempts(store, ada, mailing, ListOptions())
    ]
    assert shown == [
        ("erased", "failed", 550, "550 5.1.1 erased"), ("other@example.org", "failed", 550, REFUSED[:9]),
        ("erased", "sent", 250, "250 2.0.0 erased"), ("other@example.org", "sent", 250, ACCEPTED[:9]),
    ]  # fmt: skip


def test_other_users_records_are_kept(store: Store, ada: Actor, bob: Actor) -> None:
    add_grace(store, ada)
    add_grace(store, bob)
    before = rows_with(store, "grace")

    privacy.forget(store, ada, GRACE)

    remaining = rows_with(store, "grace@example.org")
    assert remaining
    assert set(remaining) < set(before)
    assert [client.owner_id for client in rows(store, Client)] == [bob.user_id]
    with pytest.raises(NotFound):
        privacy.forget(store, ada, GRACE)


def test_only_administrators_erase_a_person_from_all_users_data(
    store: Store, ada: Actor, bob: Actor, admin: Actor, manager: Actor
) -> None:
    add_grace(store, ada)
    add_grace(store, bob)
    for actor in (ada, manager):
        with pytest.raises(Denied):
            privacy.forget(store, actor, GRACE, everywhere=True)
    with pytest.raises(NotFound):
        privacy.forget(store, admin, GRACE)

    assert privacy.count_records(store, admin, GRACE, everywhere=True) == RecordCounts(2, 6)
    assert privacy.forget(store, admin, GRACE, everywhere=True) == RecordCounts(2, 6, 4, 2)

    assert rows_with(store, "grace@example.org") == []
    assert [(row.actor_id, row.action, row.object, row.detail) for row in rows(store, AuditEntry)] == [
        (admin.user_id, "forget", "client", "clients: 2, deliveries: 6")
    ]


def test_deleted_clients_and_former_addresses_are_erased_too(store: Store, ada: Actor) -> None:
    add_grace(store, ada)
    add_grace(store, ada, email="old@example.org")
    clients.remove(store, ada, GRACE)
    clients.change(store, ada, "old@example.org", email="new@example.org")

    assert privacy.forget(store, ada, GRACE) == RecordCounts(0, 3, 2, 0)
    assert privacy.forget(store, ada, "new@example.org") == RecordCounts(1, 3, 2, 1)

    assert rows_with(store, "hopper") == rows_with(store, "old@example.org") == []


@pytest.mark.parametrize("state", [S.QUEUED, S.DEFERRED, S.UNKNOWN])
def test_waiting_email_is_cancelled(store: Store, ada: Actor, state: DeliveryState) -> None:
    add_grace(store, ada)
    with store.write() as db:
        waiting = db.get_one(Delivery, 5)
        waiting.state = state
        db.add(Lease(run_id=1, occurrence_id=waiting.occurrence_id, delivery_ids="[5]"))
    privacy.forget(store, ada, GRACE)

    left = rows(store, Delivery)[4]
    assert (left.state, left.next_try_at, left.address) == (S.CANCELLED, None, "erased")


def test_unknown_email_is_cancelled_when_it_is_resent(store: Store, ada: Actor) -> None:
    add_grace(store, ada)
    with store.write() as db:
        unknown = db.get_one(Delivery, 5)
        unknown.state, unknown.next_try_at = S.UNKNOWN, None
    privacy.forget(store, ada, GRACE)
    assert rows(store, Delivery)[4].state == S.UNKNOWN
    with store.write() as db:
        queue.resend(db.connection(), [5], ledger_rows.NINE)
    assert rows(store, Delivery)[4].state == S.CANCELLED


def test_nothing_is_erased_while_an_email_is_being_sent(store: Store, ada: Actor) -> None:
    add_grace(store, ada)
    with store.write() as db:
        sending = db.get_one(Delivery, 5)
        db.add(Lease(id=1, run_id=1, occurrence_id=sending.occurrence_id, delivery_ids="[5]"))
        db.add(Intent(delivery_id=5, lease_id=1))
    before = rows_with(store, "")
    with pytest.raises(Conflict, match="being sent right now"):
        privacy.forget(store, ada, GRACE)
    assert rows_with(store, "") == before


@pytest.mark.parametrize(
    ("email", "error"), [("nobody@example.org", NotFound), ("1", InvalidValue), ("", InvalidValue)]
)
def test_nothing_to_erase(store: Store, ada: Actor, email: str, error: type[Exception]) -> None:
    add_grace(store, ada)
    with pytest.raises(error):
        privacy.forget(store, ada, email)


def leave_copies(store: Store, owner: Actor) -> list[str]:
    """Write to a store as an older Skychimp did, which did not overwrite what it deleted. Return some addresses."""
    assert isinstance(store, SqliteStore)
    emails = [f"somebody-{n * 7919 % 4001}@{'victim' * (n % 1000 == 7)}x.example" for n in range(4000)]
    old = SqliteStore(store.path, secure_delete="OFF")
    for name in ("", "longer" * 9):
        people = (ImportedRow(n, email, name, "", ()) for n, email in enumerate(emails))
        importing.import_rows(old, owner, people, update_columns=["name"], on_rejected=print)
    with old.write() as db:
        connection = db.connection()
        connection.exec_driver_sql("CREATE TABLE dropped AS SELECT email FROM client")
        connection.exec_driver_sql("DROP TABLE dropped")  # leaves its pages in the file
    old.close()
    return emails[7::1000]


@pytest.mark.sqlite
def test_copies_that_an_older_version_left_are_removed(store: Store, ada: Actor) -> None:
    for email in leave_copies(store, ada):
        privacy.forget(store, ada, email)
    assert b"victimx.example" not in bytes_of(store)


@pytest.mark.slow
@pytest.mark.sqlite
def test_copies_that_cannot_be_removed_now_are_reported(store: Store, home: Home, ada: Actor) -> None:
    emails = leave_copies(store, ada)
    with closing(SqliteStore(store.path)) as daemon, daemon.read() as db:
        assert db.get(Client, 1)
        db.rollback()  # it reads nothing now, but has the store open
        results = [home.run("clients", "forget", email, "--yes") for email in emails]
        reported = [done for done in results if done.status]
        assert reported
        assert all("copies of them may be left" in done.err for done in reported)
        assert all('run "skychimp store vacuum"' in done.err for done in reported)
        refused = home.run("store", "vacuum")
        assert (refused.status, "the store is in use" in refused.err) == (6, True)
    assert rows_with(store, "victim") == []
    assert b"victimx.example" in bytes_of(store)
    store.close()
    compacted = home.run("store", "vacuum", "--json")
    assert compacted.json["size"] < compacted.json["size_before"]
    assert b"victimx.example" not in bytes_of(store)
    assert len(rows(store, Client)) == 3996


@pytest.mark.sqlite
def test_reader_that_keeps_the_log_from_being_emptied_is_reported(
    store: Store, home: Home, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_grace(store, ada)
    monkeypatch.setattr(sqlite, "_LOG_TIMEOUT_S", 0.0)
    with store.read() as db:
        assert len(db.exec(select(Client)).all()) == 1
        done = home.call("clients", "forget", GRACE, "--yes")
    assert (done.status, done.out) == (1, "")
    assert f"the records of {GRACE} were erased, but" in done.err
    assert "another process is reading the store" in done.err
    assert rows_with(store, "grace@example.org") == []


def test_delivery_that_was_added_meanwhile_is_erased_too(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailing_id = add_grace(store, ada)
    find = privacy._find_records

    def find_slowly(*arguments: Any, **known: Any) -> Any:
        found = find(*arguments, **known)
        if not known:
            occurrence = ledger_rows.occurrence(store, mailing_id, ledger_rows.NINE.replace(day=9))
            ledger_rows.delivery(store, occurrence, "grace@example.org", S.QUEUED)
        return found

    monkeypatch.setattr(privacy, "_find_records", find_slowly)
    assert privacy.forget(store, ada, GRACE).deliveries == 4
    assert rows_with(store, "grace@example.org") == []


# The command


def test_forget_asks_on_a_terminal_and_needs_yes_elsewhere(store: Store, home: Home, ada: Actor) -> None:
    add_grace(store, ada)
    refused = home.call("clients", "forget", GRACE, "--json")
    assert (refused.status, refused.error["code"]) == (2, "invalid_value")
    shown = home.on_terminal("clients", "forget", GRACE, answers=[("(1 client, 3 emails in the log)? [y/N]", "n\n")])
    assert shown.status == 1
    assert len(rows(store, Client)) == 1
    done = home.call("clients", "forget", GRACE, "--yes", "--json")
    assert done.json == {"clients": 1, "deliveries": 3, "attempts": 2, "cancelled": 1}


# Exporting


def export_own(store: Store, actor: Actor) -> Any:
    """Export a user's own data and read it back."""
    written = StringIO()
    write_json_object(written, privacy.export(store, actor))
    return json.loads(written.getvalue())


def test_export_has_the_users_own_data_and_nothing_else(store: Store, ada: Actor, bob: Actor) -> None:
    mailing = add_grace(store, ada)
    add_grace(store, bob, email="bobs@example.org")
    messages.create(store, ada, MessageContent("Unsent", "Dear {{ client.name }}", Format.TEXT))
    with store.write() as db:
        post = Post(
            author_id=ada.user_id,
            slug="hello",
            title="Hello",
            content="World",
            created_at=ledger_rows.NINE,
            updated_at=ledger_rows.NINE,
        )
        db.add(post)

    data = export_own(store, ada)

    assert list(data) == [
        "account", "fields", "clients", "consents", "suppressions", "segments", "layouts", "messages", "variants",
        "files", "mailings", "attempts", "posts",
    ]  # fmt: skip
    assert (data["account"]["id"], data["account"]["email"]) == (ada.user_id, ada.email)
    assert [(one["email"], one["tags"]) for one in data["clients"]] == [("Grace@example.org", ["grace"])]
    assert [one["subject"] for one in data["messages"]] == ["Hello", "Unsent"]
    assert [one["id"] for one in data["mailings"]] == [mailing]
    assert [(one["email"], one["status"], one["reply"]) for one in data["attempts"]] == [
        ("grace@example.org", "failed", REFUSED), ("other@example.org", "failed", REFUSED[:9]),
        ("grace@example.org", "sent", ACCEPTED), ("other@example.org", "sent", ACCEPTED[:9]),
    ]  # fmt: skip
    assert [one["content"] for one in data["posts"]] == ["World"]
    assert "bob" not in json.dumps(data)


@pytest.mark.parametrize("role", [Role.MANAGER, Role.EDITOR, Role.ADMIN])
def test_export_is_the_same_for_every_role(store: Store, ada: Actor, bob: Actor, role: Role) -> None:
    add_grace(store, ada)
    add_grace(store, bob)
    before = export_own(store, ada)
    with store.write() as db:
        db.get_one(User, ada.user_id).role = role

    after = export_own(store, replace(ada, role=role))

    assert after == before | {"account": before["account"] | {"role": role}}


def test_export_needs_a_login(store: Store) -> None:
    with pytest.raises(NotLoggedIn):
        export_own(store, ANONYMOUS)
    actor = create_user(store, "new")
    assert export_own(store, actor) | {"account": None} == {
        "account": None, "fields": [], "clients": [], "consents": [], "suppressions": [], "segments": [],
        "layouts": [], "messages": [], "variants": [], "files": [], "mailings": [], "attempts": [], "posts": [],
    }  # fmt: skip


def test_large_export_needs_little_memory(store: Store, ada: Actor) -> None:
    people = (ImportedRow(n, f"x{n}@example.org", "", "x" * 1000, ()) for n in range(10_000))
    importing.import_rows(store, ada, people, on_rejected=print)
    tracemalloc.start()
    try:
        with open("/dev/null", "w") as null:
            write_json_object(null, privacy.export(store, ada))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000  # the text alone has 10 million characters


def test_export_to_stdout_or_to_a_private_file(home: Home) -> None:
    shown = home.call("users", "export").json
    done = home.call("users", "export", "mine.json", "--json")
    assert done.json == {"file": "mine.json"}
    path = home.folder / "mine.json"
    assert json.loads(path.read_text()) == shown
    assert path.stat().st_mode & 0o777 == 0o600
    assert home.call("users", "export", "missing/mine.json").status == 2
