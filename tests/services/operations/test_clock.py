"""A clock that was wrong for a while loses nothing once it is accepted, and a person has to accept it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from conftest import create_user
from sqlmodel import select, update
from support import ledger_rows
from support.command import Home
from support.sending import create_mailing, make_settings, rows, send, state_counts
from support.servers import GREETING, CountingReceiver, ScriptedServer, accept_mail

from skychimp.delivery.scheduling import planner, recurrence
from skychimp.delivery.scheduling.recurrence import Schedule, upcoming
from skychimp.errors import Denied, NotLoggedIn
from skychimp.models import (
    AuditEntry,
    CatchUp,
    Client,
    Delivery,
    Every,
    Mailing,
    MailingStatus,
    Message,
    Occurrence,
    OccurrenceState,
    RelayState,
    Role,
    Run,
)
from skychimp.permissions import ANONYMOUS, OPERATOR, Actor
from skychimp.services.mailings.schedules import schedule_columns
from skychimp.services.operations import backups, clock
from skychimp.services.operations.clock import AcceptedClock, PassedDueTime
from skychimp.store import relay_pauses
from skychimp.store.database import Store
from skychimp.transport import make_transport

DAY = timedelta(days=1)


def run_at(store: Store, at: datetime) -> None:
    """Open what a run with a clock at this time opens."""
    with store.write() as db:
        db.add(Run(host="here", pid=1, started_at=at, heartbeat_at=at, ended_at=at))
        planner.open_due(db.connection(), at, sender="ada@skychimp.test", return_path="ada@skychimp.test")


def finish_all(store: Store) -> None:
    """Finish what is open, as if all of it were sent."""
    with store.write() as db:
        opened = update(Occurrence.__table__).where(Occurrence.__table__.c.state == OccurrenceState.OPENING)
        db.execute(opened.values(state=OccurrenceState.FINISHED))


def busy_server() -> ScriptedServer:
    """Return a mail server that defers each recipient."""
    reply = b"450 4.2.1 the mailbox is busy\r\n"
    return ScriptedServer([GREETING, accept_mail(lambda command, _: reply if command == "RCPT" else None)])


def only_mailing(store: Store) -> Mailing:
    (mailing,) = rows(store, Mailing)
    return mailing


def test_due_mailing_stays_due(store: Store, ada: Actor, tmp_path: Path) -> None:
    """It was dropped without a word."""
    create_mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    due_at = only_mailing(store).next_at
    with store.write() as db:
        future = datetime.now(UTC) + 3 * DAY
        db.add(Run(host="here", pid=1, started_at=future, heartbeat_at=future, ended_at=future))
    assert clock.accept(store, OPERATOR) == AcceptedClock(1, 0, 0, [])
    assert only_mailing(store).next_at == due_at
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(store, make_settings(receiver.port)).sent == 1
        assert send(store, make_settings(receiver.port)).sent == 0


def test_what_was_missed_in_the_future_is_due_again(store: Store, ada: Actor, tmp_path: Path) -> None:
    """A run three days ahead missed today and two days, and opened the third, which waits for its day."""
    create_mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    first = only_mailing(store).next_at
    assert first is not None
    run_at(store, datetime.now(UTC) + 3 * DAY)
    assert [row.state for row in rows(store, Occurrence)] == [OccurrenceState.MISSED] * 3 + [OccurrenceState.OPENING]
    accepted = clock.accept(store, OPERATOR)
    assert accepted == AcceptedClock(1, 3, 0, [PassedDueTime(1, first + 3 * DAY)])
    assert only_mailing(store).next_at == first
    with CountingReceiver(tmp_path / "arrived") as receiver:
        today = send(store, make_settings(receiver.port))
        assert (today.sent, today.queued) == (1, 1)
        assert send(store, make_settings(receiver.port)).sent == 0
    following = only_mailing(store).next_at
    assert following == first + DAY
    (entry,) = [row for row in rows(store, AuditEntry) if row.action == "accept clock"]
    passed = f"mailing 1 at {first + 3 * DAY:%Y-%m-%d %H:%M}"
    assert entry.detail == f"1 mailing, 3 due again, 1 opened already: {passed}"


def test_completed_mailing_that_was_missed_in_the_future_is_sent(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    with store.write() as db:
        db.get_one(Mailing, 1).catch_up = CatchUp.SKIP
    run_at(store, datetime.now(UTC) + DAY)
    assert only_mailing(store).status == MailingStatus.COMPLETED
    assert clock.accept(store, OPERATOR).restored == 1
    assert only_mailing(store).status == MailingStatus.CREATED
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(store, make_settings(receiver.port)).sent == 1
    assert state_counts(store) == {"sent": 1}


def test_what_was_missed_in_the_past_stays_missed(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    run_at(store, datetime.now(UTC) + 2 * DAY)
    with store.write() as db:
        for row in db.exec(select(Occurrence)):
            row.opened_at = datetime.now(UTC) - DAY
    assert clock.accept(store, OPERATOR).restored == 0
    assert len(rows(store, Occurrence)) == 3


def test_what_a_person_gave_up_after_a_restore_stays_missed(store: Store, ada: Actor) -> None:
    """The lost store may have sent it."""
    create_mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    run_at(store, datetime.now(UTC) + 2 * DAY)
    with store.write() as db:
        db.add(AuditEntry(at=datetime.now(UTC) + DAY, action=backups.RESUMED, object="store_info"))
    assert clock.accept(store, OPERATOR).restored == 0


def test_deleted_and_broken_mailings_are_left(store: Store, ada: Actor) -> None:
    ledger_rows.mailing(store, ada)
    create_mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    with store.write() as db:
        db.get_one(Mailing, 1).deleted_at = datetime.now(UTC)
        db.get_one(Mailing, 2).timezone = "Nowhere/Else"
        db.get_one(Mailing, 2).next_at = datetime.now(UTC) - DAY
    assert clock.accept(store, OPERATOR).mailings == 1
    assert rows(store, Mailing)[1].next_at is not None


@pytest.mark.parametrize("catch_up", CatchUp)
@pytest.mark.parametrize("ahead", [timedelta(hours=2), 7 * DAY, 40 * DAY])
@pytest.mark.parametrize("end", [None, 5 * DAY])
@pytest.mark.parametrize("every", Every)
def test_each_due_time_opens_once_after_a_run_with_a_clock_ahead(
    store: Store, ada: Actor, every: Every, end: timedelta | None, ahead: timedelta, catch_up: CatchUp
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    start = now + timedelta(hours=1)
    schedule = Schedule(start.replace(tzinfo=None), "UTC", every, None if end is None else start + end)
    create_mailing(store, ada, ["bob@example.org"], every=every)
    with store.write() as db:
        mailing = db.get_one(Mailing, 1)
        mailing.next_at, mailing.catch_up = start, catch_up
        for name, value in schedule_columns(schedule).items():
            setattr(mailing, name, value)
    run_at(store, now + ahead)
    finish_all(store)
    clock.accept(store, OPERATOR)
    expected = [due.at for due in islice(upcoming(schedule, now), 10)]
    for due_at in expected:
        run_at(store, due_at)
        finish_all(store)
    by_state: dict[OccurrenceState, list[datetime]] = {}
    for row in rows(store, Occurrence):
        by_state.setdefault(row.state, []).append(row.due_at)
    assert sorted(by_state.pop(OccurrenceState.FINISHED))[: len(expected)] == expected
    assert by_state == {}


def test_clock_that_was_years_ahead_keeps_what_is_due_now(store: Store, ada: Actor) -> None:
    """Only the last 1,000 missed due times are recorded, and today's is not among them."""
    create_mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    first = only_mailing(store).next_at
    run_at(store, datetime.now(UTC) + 3000 * DAY)
    assert clock.accept(store, OPERATOR).restored == recurrence.MAX_MISSED
    assert only_mailing(store).next_at == first


def test_email_that_expired_in_the_future_is_sent(store: Store, ada: Actor, tmp_path: Path) -> None:
    """It waited for a retry when the clock was ahead for one run."""
    create_mailing(store, ada, ["bob@example.org", "eve@example.org", "sue@example.org"])
    with busy_server() as server:
        assert send(store, make_settings(server.port)).deferred == 3
        send(store, make_settings(server.port), later=7 * DAY)
    assert state_counts(store) == {"expired": 3}
    with store.write() as db:
        db.execute(update(Client).where(Client.__table__.c.email == "eve@example.org").values(bad_at=datetime.now(UTC)))
    accepted = clock.accept(store, OPERATOR)
    assert (accepted.requeued, only_mailing(store).status) == (3, MailingStatus.RUNNING)
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(store, make_settings(receiver.port)).sent == 2
    assert state_counts(store) == {"sent": 2, "cancelled": 1}
    assert only_mailing(store).status == MailingStatus.COMPLETED


def test_email_of_a_mailing_that_has_really_ended_stays_expired(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    with busy_server() as server:
        send(store, make_settings(server.port))
        send(store, make_settings(server.port), later=7 * DAY)
    with store.write() as db:
        db.get_one(Mailing, 1).end_at = datetime.now(UTC)
    assert clock.accept(store, OPERATOR).requeued == 0
    assert state_counts(store) == {"expired": 1}


def test_email_that_was_deferred_in_the_future_is_tried_at_once(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    with busy_server() as server:
        assert send(store, make_settings(server.port), later=DAY).deferred == 1
    clock.accept(store, OPERATOR)
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(store, make_settings(receiver.port)).sent == 1


def test_wait_for_a_canary_that_began_in_the_future_begins_again(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada)
    with store.write() as db:
        db.execute(update(Mailing.__table__).values(canary="1", canary_wait_s=1800))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        settings = make_settings(receiver.port)
        assert send(store, settings, later=DAY).sent == 1
        clock.accept(store, OPERATOR)

        assert send(store, settings).waiting == 1
        assert send(store, settings, later=timedelta(minutes=31)).sent == 1


def test_retry_that_was_planned_before_the_clock_was_wrong_keeps_its_time(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    with busy_server() as server:
        send(store, make_settings(server.port))
    (before,) = rows(store, Delivery)
    clock.accept(store, OPERATOR)
    assert [row.next_try_at for row in rows(store, Delivery)] == [before.next_try_at]


def test_digest_that_was_skipped_in_the_future_is_due_again(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    with store.write() as db:
        db.execute(update(Message).values(digest=True, body="{{ posts }}"))
    first = only_mailing(store).next_at
    run_at(store, datetime.now(UTC) + DAY)
    assert [row.state for row in rows(store, Occurrence)] == [OccurrenceState.MISSED, OccurrenceState.SKIPPED]
    assert clock.accept(store, OPERATOR).restored == 2
    assert only_mailing(store).next_at == first


def test_server_that_was_paused_in_the_future_is_probed_at_once(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    future = datetime.now(UTC) + 7 * DAY
    with CountingReceiver(tmp_path / "arrived") as receiver:
        settings = make_settings(receiver.port)
        relay, settings_hash = make_transport(settings, store.path).relay, ""
        with store.write() as db:
            relay_pauses.pause(db.connection(), relay, settings_hash, "certificate has expired", future)
        clock.accept(store, OPERATOR)
        (pause,) = rows(store, RelayState)
        assert max(pause.paused_at, pause.next_probe_at) <= datetime.now(UTC)
        assert send(store, settings).sent == 1


def test_only_maintainers_may_accept_the_clock(store: Store, ada: Actor, manager: Actor) -> None:
    for actor, refusal in ((ANONYMOUS, NotLoggedIn), (ada, Denied), (manager, Denied)):
        with pytest.raises(refusal):
            clock.accept(store, actor)
    clock.accept(store, create_user(store, "admin", Role.ADMIN))


def test_command_asks_and_needs_an_administrator(
    store: Store, home: Home, home_of: Callable[[Actor], Home], admin: Actor
) -> None:
    admins = home_of(admin)
    accept = ("doctor", "--accept-clock")
    assert [home.call(*accept, "--yes").status, admins.call(*accept).status] == [5, 2]
    guest = home.call(*accept, "--yes", environ={"SKYCHIMP_TOKEN": ""})
    assert (guest.status, "--operator" in guest.err) == (5, True)
    refused = home.call(*accept, "--operator")
    assert (refused.status, "as the right time for all mailings without confirmation" in refused.err) == (2, True)
    asked = admins.on_terminal(*accept, answers=[("[y/N]", "n\n")])
    assert (asked.status, "UTC as the right time for all mailings? [y/N]" in asked.out) == (1, True)
    assert [row.action for row in rows(store, AuditEntry)] == ["refused", "refused"]
    assert admins.call(*accept, "--yes").out.startswith("clock\taccepted\nmailings\t0\n")
    assert home.call(*accept, "--operator", "--yes").status == 0
    actors = [(row.action, row.actor_id) for row in rows(store, AuditEntry)][2:]
    assert actors == [("accept clock", admin.user_id), ("accept clock", None)]


def test_operator_option_is_only_for_the_clock(home: Home) -> None:
    refused = home.call("doctor", "--operator")
    assert (refused.status, "--operator requires --accept-clock" in refused.err) == (2, True)
