"""The dispatcher over a real store and a real server: its clock, its permits, what nobody expects, looking again."""

import asyncio
import itertools
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
    addresses,
    attempts,
    deliveries,
    disabled,
    log,
    mailing,
    paused,
    rows,
    send,
    sent_to,
    settings,
    states,
)
from support.servers import GREETING, CountingReceiver, ScriptedServer, obey

from skychimp.config.settings import Settings
from skychimp.delivery.sending import dispatcher as module
from skychimp.delivery.sending.dispatcher import Dispatcher, RunOptions, RunStats, policy
from skychimp.delivery.sending.runner import registered_run, with_sender
from skychimp.errors import StoreFailed
from skychimp.models import DeliveryState, Every, Mailing, Outcome, Run
from skychimp.permissions import Actor
from skychimp.store import queue
from skychimp.store.database import Store
from skychimp.transport import make_transport
from skychimp.transport.interfaces import CommitIntent, Connection, OutgoingEmail, SendResult, Transport

HEALTHY = (GREETING, obey())


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[CountingReceiver]:
    with CountingReceiver(tmp_path / "arrived") as running:
        yield running


class Clock:
    """The wall clock, put forward by hand."""

    ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def send_with(
    store: Store,
    chosen: Settings,
    *,
    transport: Transport | None = None,
    clockwork: Callable[[Dispatcher], Awaitable[None]] | None = None,
    **more: Any,
) -> RunStats:
    """A run, made as these say."""

    async def go() -> RunStats:
        dispatcher = Dispatcher(store, ours, transport or make_transport(ours, store.path), lock, **more)
        async with asyncio.timeout(30):
            return await dispatcher.send(None if clockwork is None else lambda: clockwork(dispatcher))

    ours = with_sender(chosen)
    with registered_run(store) as lock:
        return asyncio.run(go())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def test_the_policy_is_what_the_settings_say() -> None:
    usual = policy(settings(25))
    assert [wait.total_seconds() / 60 for wait in usual.retry_after] == [5, 15, 45, 120, 240]
    assert (usual.unknown_after, usual.disable_failures, usual.disable_failure_rate) == (
        timedelta(minutes=15),
        100,
        0.5,
    )
    held = policy(settings(25, delivery__unknown="hold", delivery__retry_after=["1s"], delivery__disable_failures=3))
    assert (held.retry_after, held.unknown_after, held.disable_failures) == ((timedelta(seconds=1),), None, 3)


def test_where_nothing_is_due_nothing_is_connected_to(store: Store, ada: Actor) -> None:
    with ScriptedServer(HEALTHY) as server:
        assert send(store, settings(server.port)) == RunStats()
    assert server.conversations == []


def test_a_run_leaves_its_row_with_what_it_did(store: Store, ada: Actor) -> None:
    mailing(store, ada, addresses(7))
    replies = {"client1@example.org": b"550 5.7.1 no\r\n", "client2@example.org": b"450 4.2.0 later\r\n"}

    with ScriptedServer([GREETING, obey(lambda heard, to: replies.get(to) if heard == "RCPT" else None)]) as server:
        stats = send(store, settings(server.port))

    assert (stats.opened, stats.sent, stats.failed, stats.deferred) == (1, 5, 1, 1)
    (run,) = rows(store, Run)
    assert (run.sent, run.failed, run.deferred, run.unknown) == (5, 1, 1, 0)
    assert run.ended_at is not None
    assert not list(store.path.parent.glob("*.run-*"))


def test_a_run_for_one_mailing_leaves_the_others(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    mailing(store, ada, addresses(3))
    chosen = mailing(store, ada, ["eve@example.org"])

    stats = send_with(store, settings(receiver.port), options=RunOptions(chosen))

    assert (stats.opened, stats.sent, stats.queued) == (1, 1, 0)
    assert [address for address, _ in receiver.arrived()] == ["eve@example.org"]


def test_a_long_run_sees_the_end_come(store: Store, ada: Actor) -> None:
    mailing_id = mailing(store, ada, addresses(300), every=Every.DAY)
    with store.write() as db:
        db.execute(update(Mailing.__table__).values(end_at=datetime.now(UTC) + timedelta(hours=1)))
    clock, letters = Clock(), itertools.count()

    def answer(heard: str, _address: str) -> None:
        if heard == "." and next(letters) == 5:
            clock.ahead = timedelta(hours=2)

    with ScriptedServer([GREETING, obey(answer)]) as server:
        stats = send_with(store, settings(server.port), now=clock)

    found = states(store)
    assert set(found) == {"sent", "expired"}
    assert 6 <= found["sent"] < 300
    assert (stats.queued, len(server.letters)) == (0, found["sent"])
    assert {row.status for row in rows(store, Mailing) if row.id == mailing_id} == {"completed"}


# The permit


def test_a_process_that_slept_between_intent_and_dot_asks_again(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine is suspended; meanwhile another run takes it for dead. It must not write the dot."""
    mailing(store, ada, addresses(3))
    asleep = 0.0
    awake = module._boottime
    monkeypatch.setattr(module, "_boottime", lambda: awake() + asleep)

    def answer(heard: str, address: str) -> None:
        nonlocal asleep
        if heard == "DATA" and address == "client1@example.org" and not asleep:
            while {row.address: row.state for row in deliveries(store)}[address] != DeliveryState.SENDING:
                time.sleep(0.001)  # until its intent is committed
            with store.connect() as db, db.begin():
                queue.rescue(db, 1, datetime.now(UTC), None, "other")
            asleep = module.INTENT_AGE + 1

    with ScriptedServer([GREETING, obey(answer)]) as server:
        send(store, settings(server.port, delivery__unknown="hold"))

    assert sent_to(store) >= {"client0@example.org"}
    by_address = {row.address: row.state for row in deliveries(store)}
    assert by_address["client1@example.org"] == DeliveryState.UNKNOWN
    assert not [letter for letter in server.letters if b"client1@example.org" in letter]
    assert [tried.outcome for tried in attempts(store)].count(Outcome.UNKNOWN) == 1


def test_a_process_that_slept_goes_on_where_its_intent_still_stands(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailing(store, ada, addresses(3))
    naps = itertools.count(step=int(module.INTENT_AGE / 2))
    monkeypatch.setattr(module, "_boottime", lambda: float(next(naps)))

    with ScriptedServer(HEALTHY) as server:
        assert send(store, settings(server.port)).sent == 3
    assert len(server.letters) == 3


def test_what_was_taken_away_before_its_dot_is_not_sent(store: Store, ada: Actor) -> None:
    mailing(store, ada, addresses(30))
    taken = False

    def answer(heard: str, address: str) -> None:
        nonlocal taken
        if heard == "DATA" and not taken:
            taken = True
            with store.connect() as db, db.begin():
                queue.disable(db, 1, "by hand", datetime.now(UTC))

    with ScriptedServer([GREETING, obey(answer)]) as server:
        stats = send(store, settings(server.port))

    assert len(server.letters) == stats.sent <= 1
    assert states(store)["queued"] == 30 - stats.sent
    assert len(server.conversations) <= 2
    assert [outcome for outcome, *_ in log(store)] == ["sent"] * stats.sent


# What nobody expects


class Faulty:
    """A transport with a defect of its own: letters to some raise, before the permit or after it."""

    def __init__(self, inner: Transport, before: str, after: str) -> None:
        self._inner = inner
        self.relay = inner.relay
        self.before, self.after = before, after

    async def connect(self) -> Connection:
        return _Faulty(await self._inner.connect(), self)


class _Faulty:
    def __init__(self, inner: Connection, faulty: Faulty) -> None:
        self._inner = inner
        self._faulty = faulty

    @property
    def usable(self) -> bool:
        return self._inner.usable

    async def send(self, letter: OutgoingEmail, commit_intent: CommitIntent) -> SendResult | None:
        if letter.recipient == self._faulty.after:
            assert await commit_intent()
        if letter.recipient in (self._faulty.before, self._faulty.after):
            raise RuntimeError("a defect")
        return await self._inner.send(letter, commit_intent)

    async def close(self) -> None:
        await self._inner.close()


def test_an_unexpected_error_is_deferred_before_the_dot_and_unknown_after_it(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    mailing(store, ada, addresses(10))
    ours = settings(receiver.port)
    faulty = Faulty(make_transport(ours, store.path), "client3@example.org", "client5@example.org")

    stats = send_with(store, ours, transport=faulty)

    assert (stats.sent, stats.deferred, stats.unknown, stats.stopped) == (8, 1, 1, "")
    found = {row.address: (row.state, row.next_try_at is not None) for row in deliveries(store)}
    assert found["client3@example.org"] == ("deferred", True)
    assert found["client5@example.org"] == ("unknown", True)
    assert {reply for outcome, *_, reply in log(store) if outcome != "sent"} == {"unexpected: RuntimeError('a defect')"}


@pytest.mark.parametrize("state", ["sending", "sent"])
def test_where_the_ledger_fails_no_dot_is_written_any_more(
    store: Store, ada: Actor, receiver: CountingReceiver, state: str
) -> None:
    """Either the intent or the outcome can't be kept, once ten have been."""
    mailing(store, ada, addresses(60))
    with breaking(store, state), pytest.raises(StoreFailed):
        send(store, settings(receiver.port, smtp__connections=3))

    found = states(store)
    assert found["sent"] <= 10
    assert len(receiver.arrived()) <= found["sent"] + 3
    send(store, settings(receiver.port), later=timedelta(minutes=1))
    unknown = states(store)["unknown"]
    assert unknown <= 3
    send(store, settings(receiver.port), later=timedelta(hours=1))
    assert states(store) == {"sent": 60}
    came = Counter(address for address, _ in receiver.arrived().elements())
    assert set(came) == set(addresses(60))
    assert sum(came.values()) <= 60 + unknown


@contextmanager
def breaking(store: Store, state: str) -> Iterator[None]:
    """Let the ledger fail for the length of the block, once ten letters are sent."""
    with store.write() as db:
        db.connection().exec_driver_sql(
            f"CREATE TRIGGER broken BEFORE UPDATE ON delivery WHEN new.state = '{state}'"
            " AND (SELECT count(*) FROM delivery WHERE state = 'sent') >= 10"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    yield
    with store.write() as db:
        db.connection().exec_driver_sql("DROP TRIGGER broken")


def test_a_mailing_whose_schedule_cant_be_read_is_disabled_and_the_others_go(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    unreadable = mailing(store, ada, ["bob@example.org"])
    mailing(store, ada, ["eve@example.org"])
    with store.write() as db:
        db.execute(
            update(Mailing.__table__).where(Mailing.__table__.c.id == unreadable).values(timezone="Mars/Olympus_Mons")
        )

    stats = send(store, settings(receiver.port))

    assert (stats.sent, sent_to(store)) == (1, {"eve@example.org"})
    assert list(disabled(store)) == [unreadable]
    assert "Mars/Olympus_Mons" in str(disabled(store)[unreadable])


@pytest.mark.parametrize(
    "values", [{"timezone": "Mars/Olympus_Mons"}, {"sender": ""}, {"sender": "a@"}, {"return_path": "a b@x"}]
)
def test_an_occurrence_that_cant_be_used_fails_and_the_others_go(
    store: Store, ada: Actor, receiver: CountingReceiver, values: dict[str, str]
) -> None:
    mailing(store, ada, ["bob@example.org"])
    send(store, settings(1))
    with store.write() as db:
        db.connection().exec_driver_sql(f"UPDATE occurrence SET {next(iter(values))} = ?", tuple(values.values()))
    mailing(store, ada, ["eve@example.org"])

    stats = send(store, settings(receiver.port))

    assert (stats.sent, stats.failed, sent_to(store)) == (1, 1, {"eve@example.org"})
    assert all(reply for outcome, *_, reply in log(store) if outcome == "failed")


# Looking again and again, as the daemon does


def test_one_that_keeps_looking_finds_what_falls_due(store: Store, ada: Actor) -> None:
    clock, seen = Clock(), []
    greylisted = iter([b"450 4.2.0 later\r\n"])

    async def clockwork(dispatcher: Dispatcher) -> None:
        await dispatcher.poll()
        mailing(store, ada, ["bob@example.org"])
        await dispatcher.poll()
        await until(lambda: states(store) == {"deferred": 1})
        await dispatcher.poll()  # it is not due yet
        seen.append(len(attempts(store)))
        clock.ahead += timedelta(minutes=7)
        mailing(store, ada, ["eve@example.org"])
        await dispatcher.poll()
        await until(lambda: states(store) == {"sent": 2})
        dispatcher.stop("enough")

    with ScriptedServer(
        [GREETING, obey(lambda heard, _: next(greylisted, None) if heard == "RCPT" else None)]
    ) as server:
        stats = send_with(store, settings(server.port), clockwork=clockwork, keeps_looking=True, now=clock)

    assert seen == [1]
    assert (stats.opened, stats.sent, stats.stopped) == (2, 2, "enough")


def test_one_that_keeps_looking_waits_for_a_person_and_probes_in_time(store: Store, ada: Actor) -> None:
    clock = Clock()
    conversations: list[int] = []
    mailing(store, ada, addresses(5))

    async def clockwork(dispatcher: Dispatcher) -> None:
        for minutes in (0, 1, 14):
            clock.ahead = timedelta(minutes=minutes)
            await dispatcher.poll()
            await until(lambda: bool(paused(store)) and states(store) == {"queued": 5})
            await asyncio.sleep(0.05)
            conversations.append(len(server.conversations))
        clock.ahead = timedelta(minutes=16)
        await dispatcher.poll()
        await until(lambda: states(store) == {"sent": 5})

    with ScriptedServer([b"554 5.3.2 who are you?\r\n"], HEALTHY) as server:
        stats = send_with(store, settings(server.port), clockwork=clockwork, keeps_looking=True, now=clock)

    assert conversations == [1, 1, 1]
    assert (stats.sent, stats.stopped, paused(store)) == (5, "", {})
    assert [outcome for outcome, *_ in log(store)] == ["sent"] * 5
