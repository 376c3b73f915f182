"""Test the dispatcher with a real store and server: its clock, intents, defects and repeated polls."""

import asyncio
import itertools
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from support.sending import (
    attempt_log,
    attempts,
    create_mailing,
    deliveries,
    disabled_mailings,
    make_addresses,
    make_settings,
    paused_relays,
    rows,
    send,
    sent_addresses,
    state_counts,
)
from support.servers import (
    EHLO,
    ENVELOPE_ACCEPTED,
    GREETING,
    SENT,
    CountingReceiver,
    ScriptedServer,
    Step,
    accept_mail,
    hang,
    read_body,
    read_envelope,
    read_line,
)

from skychimp.config.settings import Settings
from skychimp.delivery.scheduling import planner
from skychimp.delivery.sending import recorder as module
from skychimp.delivery.sending.dispatcher import Dispatcher, RunOptions, retry_policy_from
from skychimp.delivery.sending.event_loop import run_in_event_loop
from skychimp.delivery.sending.outcomes import RunStats
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.runner import registered_run, send_due, with_sender
from skychimp.errors import ConfigError, SkychimpError, StoreFailed
from skychimp.models import DeliveryState, Every, Intent, Lease, Mailing, Occurrence, Outcome, Run
from skychimp.permissions import Actor
from skychimp.services.mailings import mailings
from skychimp.store import holds, queue
from skychimp.store.database import SQLITE, Store, boot_time_s
from skychimp.store.occurrences import opening, sweeping
from skychimp.translation import verbatim
from skychimp.transport import make_transport
from skychimp.transport.interfaces import Connection, EmailSource, OutgoingEmail, Transport

HEALTHY = (GREETING, accept_mail())


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[CountingReceiver]:
    with CountingReceiver(tmp_path / "arrived") as running:
        yield running


class Clock:
    """A wall clock that a test can move forward."""

    ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def send_with(
    store: Store,
    settings: Settings,
    *,
    transport: Transport | None = None,
    keep_polling: Callable[[Dispatcher], Awaitable[None]] | None = None,
    **options: Any,
) -> RunStats:
    """Send in one run, with a transport and options of the test."""

    async def go() -> RunStats:
        dispatcher = Dispatcher(store, ours, transport or make_transport(ours, store.path), lock, **options)
        async with asyncio.timeout(30):
            return await dispatcher.send(None if keep_polling is None else lambda: keep_polling(dispatcher))

    ours = with_sender(settings)
    with registered_run(store) as lock:
        return asyncio.run(go())


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_retry_policy_from_settings() -> None:
    default = retry_policy_from(make_settings(25))
    assert [wait.total_seconds() / 60 for wait in default.retry_after] == [6, 15, 45, 120, 240]
    assert (default.unknown_after, default.disable_failures, default.disable_failure_rate) == (
        timedelta(minutes=15),
        100,
        0.5,
    )
    changed = retry_policy_from(
        make_settings(25, delivery__unknown="hold", delivery__retry_after=["1s"], delivery__disable_failures=3)
    )
    assert (changed.retry_after, changed.unknown_after, changed.disable_failures) == ((timedelta(seconds=1),), None, 3)


def test_nothing_due_opens_no_connection(store: Store, ada: Actor) -> None:
    with ScriptedServer(HEALTHY) as server:
        assert send(store, make_settings(server.port)) == RunStats()
    assert server.conversations == []


def test_run_row_has_the_counts(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(7))
    replies = {"client1@example.org": b"550 5.7.1 no\r\n", "client2@example.org": b"450 4.2.0 later\r\n"}

    with ScriptedServer(
        [GREETING, accept_mail(lambda command, to: replies.get(to) if command == "RCPT" else None)]
    ) as server:
        stats = send(store, make_settings(server.port))

    assert (stats.opened, stats.sent, stats.failed, stats.deferred) == (1, 5, 1, 1)
    (run,) = rows(store, Run)
    assert (run.sent, run.failed, run.deferred, run.unknown) == (5, 1, 1, 0)
    assert run.ended_at is not None
    assert not list(store.path.parent.glob("*.run-*"))


def test_run_for_one_mailing_sends_no_other(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    create_mailing(store, ada, make_addresses(3))
    mailing_id = create_mailing(store, ada, ["eve@example.org"])

    stats = send_with(store, make_settings(receiver.port), options=RunOptions(mailing_id))

    assert (stats.opened, stats.sent, stats.queued) == (1, 1, 0)
    assert [address for address, _ in receiver.email_counts()] == ["eve@example.org"]


def test_run_stops_at_the_end_of_a_mailing(store: Store, ada: Actor) -> None:
    mailing_id = create_mailing(store, ada, make_addresses(300), every=Every.DAY)
    with store.write() as db:
        db.execute(update(Mailing.__table__).values(end_at=datetime.now(UTC) + timedelta(hours=1)))
    clock, emails = Clock(), itertools.count()

    def answer(command: str, _address: str) -> None:
        if command == "." and next(emails) == 5:
            clock.ahead = timedelta(hours=2)

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        stats = send_with(store, make_settings(server.port), now=clock)

    counts = state_counts(store)
    assert set(counts) == {"sent", "expired"}
    assert 6 <= counts["sent"] < 300
    assert (stats.queued, len(server.emails)) == (0, counts["sent"])
    assert {row.status for row in rows(store, Mailing) if row.id == mailing_id} == {"completed"}


def test_run_expires_more_than_one_batch(store: Store, ada: Actor) -> None:
    """What expired is counted, and the mailing is completed, when the run ends. A newer one is sent meanwhile."""
    number = 2 * sweeping.SWEEP_BATCH + 3
    create_mailing(store, ada, make_addresses(number))
    with store.connect() as db, db.begin():
        planner.open_due(db, datetime.now(UTC), sender="a@x.org", return_path="a@x.org")
        while not opening.create_deliveries(db, 1):
            pass
    with store.write() as session:
        session.get_one(Mailing, 1).end_at = datetime.now(UTC)

    stats = send_with(store, make_settings(1))

    assert (stats.expired, stats.queued, state_counts(store)) == (number, 0, {"expired": number})
    assert [row.status for row in rows(store, Mailing)] == ["completed"]


# Intents


def test_process_suspended_before_the_dot_renews_its_intent(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile another run recovered its deliveries, so it must not write the dot."""
    create_mailing(store, ada, make_addresses(3))
    asleep = 0.0
    awake, finish = boot_time_s, Recorder._finish
    monkeypatch.setattr(module, "boot_time_s", lambda: awake() + asleep)

    def suspend_after_commit(recorder: Recorder, batch: Any, results: Any, began_at: float) -> None:
        nonlocal asleep
        if not asleep and any(claimed.address == "client1@example.org" for claimed in batch.claims):
            with store.connect() as other, other.begin():
                queue.rescue(other, 1, datetime.now(UTC), None, "other")
            asleep = module.MAX_INTENT_AGE_S + 1
        finish(recorder, batch, results, began_at)

    monkeypatch.setattr(Recorder, "_finish", suspend_after_commit)
    with ScriptedServer(HEALTHY) as server:
        send(store, make_settings(server.port, delivery__unknown="hold"))

    assert sent_addresses(store) >= {"client0@example.org"}
    by_address = {row.address: row.state for row in deliveries(store)}
    assert by_address["client1@example.org"] == DeliveryState.UNKNOWN
    assert not [email for email in server.emails if b"client1@example.org" in email]
    assert [tried.outcome for tried in attempts(store)].count(Outcome.UNKNOWN) == 1


def test_process_suspended_before_the_dot_continues_if_its_intent_is_renewed(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_mailing(store, ada, make_addresses(3))
    naps = itertools.count(step=int(module.MAX_INTENT_AGE_S) + 1)
    times = (float(nap) for nap in naps for _ in range(3))  # every other commit takes too long
    monkeypatch.setattr(module, "boot_time_s", lambda: next(times))

    with ScriptedServer(HEALTHY) as server:
        assert send(store, make_settings(server.port)).sent == 3
    assert len(server.emails) == 3


def test_intent_that_is_refused_when_it_is_renewed_leaves_nothing(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mailing is disabled meanwhile. The email was certainly not sent, so it waits for its next try."""
    create_mailing(store, ada, make_addresses(5))
    asleep, awake, finish = 0.0, boot_time_s, Recorder._finish
    monkeypatch.setattr(module, "boot_time_s", lambda: awake() + asleep)

    def suspend_after_commit(recorder: Recorder, batch: Any, results: Any, began_at: float) -> None:
        nonlocal asleep
        if not asleep and batch.claims:
            with store.connect() as other, other.begin():
                holds.disable_mailing(other, 1, "by hand", datetime.now(UTC))
            asleep = module.MAX_INTENT_AGE_S + 1
        finish(recorder, batch, results, began_at)

    monkeypatch.setattr(Recorder, "_finish", suspend_after_commit)
    with ScriptedServer(HEALTHY) as server:
        assert send(store, make_settings(server.port)).sent == 0

    assert state_counts(store) == {"queued": 5}
    assert attempts(store) == []
    assert (rows(store, Lease), rows(store, Intent)) == ([], [])


def test_mailing_disabled_before_the_dot_is_not_sent(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(30))
    taken = False

    def answer(command: str, address: str) -> None:
        nonlocal taken
        if command == "DATA" and not taken:
            taken = True
            with store.connect() as db, db.begin():
                holds.disable_mailing(db, 1, "by hand", datetime.now(UTC))

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        stats = send(store, make_settings(server.port))

    assert len(server.emails) == stats.sent <= 1
    assert state_counts(store)["queued"] == 30 - stats.sent
    assert len(server.conversations) <= 2
    assert [outcome for outcome, *_ in attempt_log(store)] == ["sent"] * stats.sent


# Defects


class FaultyTransport:
    """A transport that raises for two recipients, before or after the intent is committed."""

    def __init__(self, inner: Transport, before: str, after: str) -> None:
        self._inner = inner
        self.relay = inner.relay
        self.before, self.after = before, after

    async def connect(self) -> Connection:
        return _FaultyConnection(await self._inner.connect(), self)


class _OneAtATime:
    """A source of emails of which each is sent on its own."""

    def __init__(self, inner: EmailSource) -> None:
        self.commit_intent = inner.commit_intent
        self.finish = inner.finish

    def take_next(self) -> None:
        return None


class _FaultyConnection:
    mail_limit = None

    def __init__(self, inner: Connection, faulty: FaultyTransport) -> None:
        self._inner = inner
        self._faulty = faulty

    @property
    def is_usable(self) -> bool:
        return self._inner.is_usable

    async def send(self, email: OutgoingEmail, source: EmailSource) -> None:
        if email.recipient == self._faulty.after:
            answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            source.commit_intent(answer.set_result)
            assert await answer
        if email.recipient in (self._faulty.before, self._faulty.after):
            raise RuntimeError("a defect")
        await self._inner.send(email, _OneAtATime(source))

    async def close(self) -> None:
        await self._inner.close()


def test_defect_is_deferred_before_the_dot_and_unknown_after_it(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    create_mailing(store, ada, make_addresses(10))
    ours = make_settings(receiver.port)
    faulty = FaultyTransport(make_transport(ours, store.path), "client3@example.org", "client5@example.org")

    stats = send_with(store, ours, transport=faulty)

    assert (stats.sent, stats.deferred, stats.unknown, stats.stopped) == (8, 1, 1, "")
    by_address = {row.address: (row.state, row.next_try_at is not None) for row in deliveries(store)}
    assert by_address["client3@example.org"] == ("deferred", True)
    assert by_address["client5@example.org"] == ("unknown", True)
    assert {reply for outcome, *_, reply in attempt_log(store) if outcome != "sent"} == {
        "unexpected error: RuntimeError('a defect')"
    }


@pytest.mark.parametrize("table", ["intent", "attempt"])
def test_no_dot_is_written_after_the_ledger_failed(
    store: Store, ada: Actor, receiver: CountingReceiver, table: str
) -> None:
    """After ten sent emails, either intents or outcomes cannot be recorded."""
    create_mailing(store, ada, make_addresses(60))
    with failing_ledger(store, table), pytest.raises(StoreFailed):
        send(store, make_settings(receiver.port, smtp__connections=3))

    counts = state_counts(store)
    assert counts["sent"] <= 10
    assert len(receiver.email_counts()) <= counts["sent"] + 3
    send(store, make_settings(receiver.port), later=timedelta(minutes=1))
    unknown = state_counts(store)["unknown"]
    assert unknown <= 3
    send(store, make_settings(receiver.port), later=timedelta(hours=1))
    assert state_counts(store) == {"sent": 60}
    came = Counter(address for address, _ in receiver.email_counts().elements())
    assert set(came) == set(make_addresses(60))
    assert sum(came.values()) <= 60 + unknown


@contextmanager
def failing_ledger(store: Store, table: str) -> Iterator[None]:
    """Let the ledger fail until the end of the block, once ten emails are sent."""
    condition, error = "(SELECT count(*) FROM attempt WHERE outcome = 'sent') >= 10", "database or disk is full"
    create, drop = f"CREATE TRIGGER broken BEFORE INSERT ON {table}", "DROP TRIGGER broken"
    if store.dialect == SQLITE:
        create += f" WHEN {condition} BEGIN SELECT RAISE(ABORT, '{error}'); END"
    else:
        function = f"BEGIN IF {condition} THEN RAISE EXCEPTION '{error}'; END IF; RETURN NEW; END"
        create += " FOR EACH ROW EXECUTE FUNCTION broken()"
        create = f"CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ {function} $$; {create}"
        drop += f" ON {table}; DROP FUNCTION broken"
    with store.write() as db:
        db.connection().exec_driver_sql(create)
    yield
    with store.write() as db:
        db.connection().exec_driver_sql(drop)


def test_unreadable_schedule_disables_the_mailing_and_others_are_sent(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    unreadable = create_mailing(store, ada, ["bob@example.org"])
    create_mailing(store, ada, ["eve@example.org"])
    with store.write() as db:
        db.execute(
            update(Mailing.__table__).where(Mailing.__table__.c.id == unreadable).values(timezone="Mars/Olympus_Mons")
        )

    stats = send(store, make_settings(receiver.port))

    assert (stats.sent, sent_addresses(store)) == (1, {"eve@example.org"})
    assert list(disabled_mailings(store)) == [unreadable]
    assert "Mars/Olympus_Mons" in str(disabled_mailings(store)[unreadable])


@pytest.mark.parametrize("values", [{"timezone": "Mars/Olympus_Mons"}, {"body": "{% if"}])
def test_unusable_occurrence_fails_and_others_are_sent(
    store: Store, ada: Actor, receiver: CountingReceiver, values: dict[str, str]
) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    send(store, make_settings(1))
    with store.write() as db:
        db.execute(update(Occurrence.__table__).values(values))
    create_mailing(store, ada, ["eve@example.org"])

    stats = send(store, make_settings(receiver.port))

    assert (stats.sent, stats.failed, sent_addresses(store)) == (1, 1, {"eve@example.org"})
    assert all(reply for outcome, *_, reply in attempt_log(store) if outcome == "failed")


def test_run_with_a_file_that_cannot_be_used_does_nothing(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada)
    with pytest.raises(ConfigError, match=r"cannot read .*missing: No such file"):
        send(store, make_settings(1, smtp__username="ada", smtp__password_file=str(tmp_path / "missing")))
    assert not rows(store, Run)
    assert not deliveries(store)


# Repeated polls, as in a daemon


def test_file_that_cannot_be_used_does_not_end_one_that_keeps_polling(store: Store, ada: Actor, tmp_path: Path) -> None:
    file = tmp_path / "password"
    create_mailing(store, ada, ["bob@example.org"])

    def log_in(command: str, _address: str) -> bytes | None:
        return {"EHLO": b"250-x\r\n250 AUTH PLAIN\r\n", "AUTH": b"235 2.7.0 ok\r\n"}.get(command)

    async def keep_polling(dispatcher: Dispatcher) -> None:
        await dispatcher.poll()
        await wait_until(lambda: bool(paused_relays(store)))
        file.write_text("sesame")
        await dispatcher.poll()
        await wait_until(lambda: state_counts(store) == {"sent": 1})

    with ScriptedServer([GREETING, accept_mail(log_in)]) as server:
        settings = make_settings(server.port, smtp__username="ada", smtp__password_file=str(file))
        stats = send_with(store, settings, keep_polling=keep_polling, keeps_polling=True)
    assert (stats.sent, stats.stopped, paused_relays(store)) == (1, "", {})


def test_one_that_keeps_polling_finds_what_falls_due(store: Store, ada: Actor) -> None:
    clock, seen = Clock(), []
    greylisted = iter([b"450 4.2.0 later\r\n"])

    async def keep_polling(dispatcher: Dispatcher) -> None:
        await dispatcher.poll()
        create_mailing(store, ada, ["bob@example.org"])
        await dispatcher.poll()
        await wait_until(lambda: state_counts(store) == {"deferred": 1})
        await dispatcher.poll()  # the retry is not yet due
        seen.append(len(attempts(store)))
        clock.ahead += timedelta(minutes=8)
        create_mailing(store, ada, ["eve@example.org"])
        await dispatcher.poll()
        await wait_until(lambda: state_counts(store) == {"sent": 2})
        dispatcher.stop(verbatim("enough"))

    with ScriptedServer(
        [GREETING, accept_mail(lambda command, _: next(greylisted, None) if command == "RCPT" else None)]
    ) as server:
        stats = send_with(store, make_settings(server.port), keep_polling=keep_polling, keeps_polling=True, now=clock)

    assert seen == [1]
    assert (stats.opened, stats.sent, stats.stopped) == (2, 2, "enough")


def test_one_that_keeps_polling_waits_for_a_person_and_probes_in_time(store: Store, ada: Actor) -> None:
    clock = Clock()
    conversations: list[int] = []
    create_mailing(store, ada, make_addresses(5))

    async def keep_polling(dispatcher: Dispatcher) -> None:
        for minutes in (0, 1, 14):
            clock.ahead = timedelta(minutes=minutes)
            await dispatcher.poll()
            await wait_until(lambda: bool(paused_relays(store)) and state_counts(store) == {"queued": 5})
            await asyncio.sleep(0.05)
            conversations.append(len(server.conversations))
        clock.ahead = timedelta(minutes=16)
        await dispatcher.poll()
        await wait_until(lambda: state_counts(store) == {"sent": 5})

    with ScriptedServer([b"554 5.3.2 who are you?\r\n"], HEALTHY) as server:
        stats = send_with(store, make_settings(server.port), keep_polling=keep_polling, keeps_polling=True, now=clock)

    assert conversations == [1, 1, 1]
    assert (stats.sent, stats.stopped, paused_relays(store)) == (5, "", {})
    assert [outcome for outcome, *_ in attempt_log(store)] == ["sent"] * 5


def test_one_that_keeps_polling_holds_a_mailing_as_often_as_its_sender_is_refused(store: Store, ada: Actor) -> None:
    mailing_id = create_mailing(store, ada, make_addresses(20))
    is_fixed = False
    refusals: list[int] = []

    def answer(command: str, _address: str) -> bytes | None:
        return b"553 5.7.1 not owned by user\r\n" if command == "MAIL" and not is_fixed else None

    async def keep_polling(dispatcher: Dispatcher) -> None:
        nonlocal is_fixed
        for _ in range(3):
            await dispatcher.poll()
            await wait_until(lambda: mailings.show(store, ada, mailing_id).held is not None)
            await wait_until(lambda: state_counts(store) == {"queued": 20})
            refusals.append(len(attempts(store)))
            await dispatcher.poll()
            await asyncio.sleep(0.05)
            assert len(attempts(store)) == refusals[-1]
            mailings.enable(store, ada, mailing_id)
        is_fixed = True
        await dispatcher.poll()
        await wait_until(lambda: state_counts(store) == {"sent": 20})

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        settings = make_settings(server.port, smtp__connections=4)
        stats = send_with(store, settings, keep_polling=keep_polling, keeps_polling=True)

    assert (stats.sent, stats.deferred, stats.failed, stats.stopped) == (20, 0, 0, "")
    assert len(set(refusals)) == 3


# Faults of this machine


def test_run_does_not_wait_for_an_outbox_that_cannot_be_used(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    outbox = store.path.with_name("outbox")
    outbox.parent.mkdir(parents=True, exist_ok=True)
    outbox.touch()
    settings = make_settings(1, mail__transport="outbox", run__patience="1m")

    started = time.monotonic()
    stats = send(store, settings)

    assert time.monotonic() - started < 20
    assert (stats.stopped, stats.queued) == (f"cannot use the outbox {outbox}: it is not a folder", 1)
    outbox.unlink()
    assert send(store, settings).outbox == 1


@pytest.mark.filterwarnings("error")
def test_few_open_files_are_an_error_before_anything_is_recorded(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 8 the event loop would abort the process."""
    create_mailing(store, ada, ["bob@example.org"])
    settings = make_settings(1, mail__transport="outbox")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (31, 1024))
    with pytest.raises(SkychimpError, match="at most 31 files may be open at once"):
        send_due(store, settings)
    assert rows(store, Run) == []
    with pytest.raises(SkychimpError, match="at most 31 files may be open at once"):
        run_in_event_loop(asyncio.sleep(0))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    run_in_event_loop(asyncio.sleep(0))


# Emails that are started behind the last one


def test_server_that_closes_after_each_email_gets_each_once(store: Store, ada: Actor) -> None:
    """Each connection has started a further email by then. That is no try of it."""
    create_mailing(store, ada, make_addresses(30))
    email: list[Step] = [read_envelope, ENVELOPE_ACCEPTED, read_body, SENT]

    with ScriptedServer([GREETING, read_line, EHLO, *email]) as server:
        stats = send(store, make_settings(server.port, smtp__connections=1))

    assert (stats.sent, state_counts(store)) == (30, {"sent": 30})
    assert len(server.emails) == 30
    not_sent = [outcome for outcome, *_ in attempt_log(store) if outcome != "sent"]
    assert not_sent in ([], ["given_back"])  # nothing was started behind the last but one


def test_server_that_stalls_behind_a_dot_gets_each_email_once(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skychimp.transport.smtp_connection.STALL_TIMEOUT_S", 0.2)
    create_mailing(store, ada, make_addresses(30))
    email: list[Step] = [read_envelope, ENVELOPE_ACCEPTED, read_body, SENT]

    with ScriptedServer([GREETING, read_line, EHLO, *email, hang], HEALTHY) as server:
        stats = send(store, make_settings(server.port, smtp__connections=1))

    assert (stats.sent, state_counts(store)) == (30, {"sent": 30})
    assert len(server.conversations) == 2
    assert [outcome for outcome, *_ in attempt_log(store)] == ["sent"] * 30


def test_refusals_of_emails_that_were_started_are_recorded(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(60))
    refused = {f"client{number}@example.org" for number in range(0, 60, 7)}
    refuse = accept_mail(lambda command, to: b"550 5.1.1 no\r\n" if command == "RCPT" and to in refused else None)

    with ScriptedServer([GREETING, refuse]) as server:
        stats = send(store, make_settings(server.port, smtp__connections=3))

    assert (stats.sent, stats.failed) == (51, 9)
    assert {row.address for row in deliveries(store) if row.state == "failed"} == refused
