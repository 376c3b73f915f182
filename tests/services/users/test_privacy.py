"""Personal data: a person is erased without a trace and without another count; one's own data are given out whole."""

import json
import resource
import tracemalloc
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from conftest import enrol
from sqlalchemy import Connection
from support import ledger_rows
from support.command import Home
from support.queue_steps import change, rows

from skychimp.cli.output import write_object
from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import Conflict, Denied, InvalidValue, NotFound, NotLoggedIn
from skychimp.models import (
    Attempt,
    AuditEntry,
    Client,
    Delivery,
    DeliveryState,
    Format,
    MailingClient,
    Outcome,
    Post,
    ReplyKind,
    Role,
    User,
)
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.clients import clients, importing
from skychimp.services.clients.importing import ClientRow
from skychimp.services.listing import ListOptions
from skychimp.services.messages import messages
from skychimp.services.reporting import delivery_log, reports, rollups
from skychimp.services.users import privacy
from skychimp.services.users.privacy import Traces
from skychimp.store import queue
from skychimp.store.database import Store

GRACE = "Grace@Example.org"
WORDS = "550 5.1.1 <grace@example.org>: no Grace here"
OK = "250 2.0.0 ok"
S = DeliveryState


def know(store: Store, owner: Actor, *, email: str = GRACE) -> int:
    """Grace is a client of somebody's, who has written to her and to somebody else; the mailing's id."""
    made = clients.create(store, owner, email=email, name="Grace Hopper", comment="the Amazing Grace", tags=["grace"])
    key, mailing = email.lower(), ledger_rows.mailing(store, owner)
    answers = (S.FAILED, Outcome.FAILED, WORDS), (S.SENT, Outcome.SENT, OK), (S.QUEUED, None, "")
    for day, (state, outcome, reply) in enumerate(answers, 1):
        occurrence = ledger_rows.occurrence(store, mailing, ledger_rows.NINE.replace(day=day))
        for address in (key, "other@example.org"):
            delivery_id = ledger_rows.delivery(store, occurrence, address, state)
            if outcome is not None:
                attempt_id = ledger_rows.attempt(store, delivery_id, outcome, reply if address == key else reply[:9])
                change(store, Attempt, attempt_id, enhanced=reply[4:9])
            if address == key:
                change(
                    store, Delivery, delivery_id, client_id=made.id, name=made.name, comment=made.comment, tags="grace"
                )
            else:
                change(store, Delivery, delivery_id, client_id=1000)
    with store.write() as db:
        db.add(MailingClient(mailing_id=mailing, client_id=made.id))
    return mailing


def everything(db: Connection) -> dict[str, list[str]]:
    """Every row of every table, as text."""
    found = {}
    for (table,) in db.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").all():
        found[table] = [repr(tuple(row)) for row in db.exec_driver_sql(f'SELECT * FROM "{table}"')]
    return found


def traces_of(store: Store, text: str) -> list[str]:
    """The rows that hold a text."""
    with store.read() as db:
        every = everything(db.connection())
    return [f"{table}: {row}" for table, found in every.items() for row in found if text.lower() in row.lower()]


def bytes_of(store: Store) -> bytes:
    """The store's files, as they lie on the disk."""
    return b"".join(path.read_bytes() for path in store.path.parent.glob(f"{store.path.name}*")).lower()


# Forgetting


def test_nothing_is_left_in_any_table_or_in_the_file(store: Store, ada: Actor) -> None:
    know(store, ada)
    rollups.add_up(store)
    assert rows(store, ReplyKind)
    assert b"grace@example.org" in bytes_of(store)
    assert len(traces_of(store, "grace")) > 5

    done = privacy.forget(store, ada, " grace@EXAMPLE.org ")

    assert done == Traces(clients=1, deliveries=3, attempts=2, cancelled=1)
    for text in ("grace@example", "hopper", "amazing"):
        assert traces_of(store, text) == []
        assert text.encode() not in bytes_of(store)
    assert not [row for row in traces_of(store, "grace") if not row.startswith("sqlite_")]


def test_no_byte_is_left_where_pages_were_split_and_rows_have_moved(store: Store, ada: Actor) -> None:
    emails = [f"somebody-{n * 7919 % 4001}@{'victim' * (n % 1000 == 7)}x.example" for n in range(4000)]
    for name in ("", "longer" * 9):
        people = (ClientRow(n, email, name, "", ()) for n, email in enumerate(emails))
        importing.import_rows(store, ada, people, change_known=["name"], on_bad=print)
    for email in emails[7::1000]:
        privacy.forget(store, ada, email)
    assert b"victimx.example" not in bytes_of(store)


def test_it_counts_as_before(store: Store, ada: Actor) -> None:
    mailing = know(store, ada)
    before = reports.report(store, ada, mailing)

    privacy.forget(store, ada, GRACE)

    after = reports.report(store, ada, mailing)
    assert (after.deliveries, after.attempts) == (before.deliveries, before.attempts) == (6, 4)
    assert after.counts == {**before.counts, S.QUEUED: 1, S.CANCELLED: 1}
    shown = [
        (one.email, one.status, one.code, one.reply) for one in delivery_log.log(store, ada, mailing, ListOptions())
    ]
    assert shown == [
        ("erased", "failed", 550, "550 5.1.1 erased"), ("other@example.org", "failed", 550, WORDS[:9]),
        ("erased", "sent", 250, "250 2.0.0 erased"), ("other@example.org", "sent", 250, OK[:9]),
    ]  # fmt: skip


def test_what_another_user_has_stays(store: Store, ada: Actor, bob: Actor) -> None:
    know(store, ada)
    know(store, bob)
    before = traces_of(store, "grace")

    privacy.forget(store, ada, GRACE)

    left = traces_of(store, "grace@example.org")
    assert left
    assert set(left) < set(before)
    assert [client.owner_id for client in rows(store, Client)] == [bob.user_id]
    with pytest.raises(NotFound):
        privacy.forget(store, ada, GRACE)


def test_an_administrator_erases_a_person_everywhere_and_a_user_does_not(
    store: Store, ada: Actor, bob: Actor, admin: Actor, manager: Actor
) -> None:
    know(store, ada)
    know(store, bob)
    for actor in (ada, manager):
        with pytest.raises(Denied):
            privacy.forget(store, actor, GRACE, everywhere=True)
    with pytest.raises(NotFound):
        privacy.forget(store, admin, GRACE)

    assert privacy.traces(store, admin, GRACE, everywhere=True) == Traces(2, 6)
    assert privacy.forget(store, admin, GRACE, everywhere=True) == Traces(2, 6, 4, 2)

    assert traces_of(store, "grace@example.org") == []
    assert [(row.actor_id, row.action, row.object, row.detail) for row in rows(store, AuditEntry)] == [
        (admin.user_id, "forget", "client", "clients: 2, deliveries: 6")
    ]


def test_a_client_that_is_deleted_already_or_had_another_address_is_forgotten_too(store: Store, ada: Actor) -> None:
    know(store, ada)
    know(store, ada, email="old@example.org")
    clients.remove(store, ada, GRACE)
    clients.change(store, ada, "old@example.org", email="new@example.org")

    assert privacy.forget(store, ada, GRACE) == Traces(0, 3, 2, 0)
    assert privacy.forget(store, ada, "new@example.org") == Traces(1, 3, 2, 1)

    assert traces_of(store, "hopper") == traces_of(store, "old@example.org") == []


@pytest.mark.parametrize("state", [S.QUEUED, S.DEFERRED, S.CLAIMED, S.UNKNOWN])
def test_what_waits_goes_to_nobody(store: Store, ada: Actor, state: DeliveryState) -> None:
    know(store, ada)
    with store.write() as db:
        waiting = db.get_one(Delivery, 5)
        waiting.state, waiting.run_id, waiting.token = state, 1, 7
    privacy.forget(store, ada, GRACE)

    left = rows(store, Delivery)[4]
    assert (left.state, left.next_try_at, left.address) == (S.CANCELLED, None, "erased")


def test_an_unknown_one_that_a_person_resends_goes_to_nobody_either(store: Store, ada: Actor) -> None:
    know(store, ada)
    with store.write() as db:
        unknown = db.get_one(Delivery, 5)
        unknown.state, unknown.next_try_at = S.UNKNOWN, None
    privacy.forget(store, ada, GRACE)
    assert rows(store, Delivery)[4].state == S.UNKNOWN
    with store.write() as db:
        queue.resend(db.connection(), [5], ledger_rows.NINE, ledger_rows.NINE)
    assert rows(store, Delivery)[4].state == S.CANCELLED


def test_while_a_letter_is_on_its_way_nothing_is_changed(store: Store, ada: Actor) -> None:
    know(store, ada)
    with store.write() as db:
        sending = db.get_one(Delivery, 5)
        sending.state, sending.run_id, sending.token = S.SENDING, 1, 7
    before = traces_of(store, "")
    with pytest.raises(Conflict, match="being sent just now"):
        privacy.forget(store, ada, GRACE)
    assert traces_of(store, "") == before


@pytest.mark.parametrize(
    ("email", "error"), [("nobody@example.org", NotFound), ("1", InvalidValue), ("", InvalidValue)]
)
def test_nobody_to_forget(store: Store, ada: Actor, email: str, error: type[Exception]) -> None:
    know(store, ada)
    with pytest.raises(error):
        privacy.forget(store, ada, email)


def test_where_the_disk_is_full_the_person_is_erased_and_told_what_is_left(
    store: Store, home: Home, ada: Actor
) -> None:
    know(store, ada)
    people = (ClientRow(n, f"x{n}@example.org", "", "x" * 1000, ()) for n in range(2000))
    importing.import_rows(store, ada, people, on_bad=print)
    store.close()

    def narrow() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = home.run("clients", "forget", GRACE, "--yes", preexec_fn=narrow)

    assert (done.status, done.out) == (1, "")
    assert f"{GRACE} is forgotten, but" in done.err
    assert "VACUUM" in done.err
    assert traces_of(store, "grace@example.org") == []


# The command


def test_it_asks_on_a_terminal_and_needs_a_yes_elsewhere(store: Store, home: Home, ada: Actor) -> None:
    know(store, ada)
    refused = home.call("clients", "forget", GRACE, "--json")
    assert (refused.status, refused.error["code"]) == (2, "invalid_value")
    shown = home.on_terminal(
        "clients", "forget", GRACE, answers=[("(clients: 1, letters in the log: 3)? [y/N]", "n\n")]
    )
    assert shown.status == 1
    assert len(rows(store, Client)) == 1
    done = home.call("clients", "forget", GRACE, "--yes", "--json")
    assert done.json == {"clients": 1, "deliveries": 3, "attempts": 2, "cancelled": 1}


# Exporting


def own(store: Store, actor: Actor) -> Any:
    """One's own data, as they are written and read again."""
    written = StringIO()
    write_object(written, privacy.export(store, actor))
    return json.loads(written.getvalue())


def test_all_that_is_ones_own_is_given_out_and_nothing_else(store: Store, ada: Actor, bob: Actor) -> None:
    mailing = know(store, ada)
    know(store, bob, email="bobs@example.org")
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

    data = own(store, ada)

    assert list(data) == ["account", "clients", "messages", "mailings", "attempts", "posts"]
    assert (data["account"]["id"], data["account"]["email"]) == (ada.user_id, ada.email)
    assert [(one["email"], one["tags"]) for one in data["clients"]] == [("Grace@example.org", ["grace"])]
    assert [one["subject"] for one in data["messages"]] == ["Hello", "Unsent"]
    assert [one["id"] for one in data["mailings"]] == [mailing]
    assert [(one["email"], one["status"], one["reply"]) for one in data["attempts"]] == [
        ("grace@example.org", "failed", WORDS), ("other@example.org", "failed", WORDS[:9]),
        ("grace@example.org", "sent", OK), ("other@example.org", "sent", OK[:9]),
    ]  # fmt: skip
    assert [one["content"] for one in data["posts"]] == ["World"]
    assert "bob" not in json.dumps(data)


@pytest.mark.parametrize("role", [Role.MANAGER, Role.EDITOR, Role.ADMIN])
def test_another_role_does_not_widen_or_narrow_it(store: Store, ada: Actor, bob: Actor, role: Role) -> None:
    know(store, ada)
    know(store, bob)
    before = own(store, ada)
    with store.write() as db:
        db.get_one(User, ada.user_id).role = role

    after = own(store, replace(ada, role=role))

    assert after == before | {"account": before["account"] | {"role": role}}


def test_nobody_has_nothing_to_export(store: Store) -> None:
    with pytest.raises(NotLoggedIn):
        own(store, ANONYMOUS)
    actor = enrol(store, "new")
    assert own(store, actor) | {"account": None} == {
        "account": None, "clients": [], "messages": [], "mailings": [], "attempts": [], "posts": [],
    }  # fmt: skip


def test_a_large_export_needs_little_memory(store: Store, ada: Actor) -> None:
    people = (ClientRow(n, f"x{n}@example.org", "", "x" * 1000, ()) for n in range(10_000))
    importing.import_rows(store, ada, people, on_bad=print)
    tracemalloc.start()
    try:
        with open("/dev/null", "w") as nowhere:
            write_object(nowhere, privacy.export(store, ada))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000  # its text alone has 10 million characters


def test_it_goes_to_stdout_or_to_a_file_for_its_owner_alone(home: Home) -> None:
    shown = home.call("users", "export").json
    done = home.call("users", "export", "mine.json", "--json")
    assert done.json == {"file": "mine.json"}
    path = home.folder / "mine.json"
    assert json.loads(path.read_text()) == shown
    assert path.stat().st_mode & 0o777 == 0o600
    assert home.call("users", "export", "missing/mine.json").status == 2
