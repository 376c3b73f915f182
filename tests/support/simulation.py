"""Simulate several runs, a mail server and people, from one seed: with crashes, stops, lost replies and wrong clocks.

    python -m support.simulation TEMPLATE FOLDER FIRST LAST [BROKEN]

Dispatcher, recorder, ledger, transport and SQLite are the real ones. What happens when is drawn from the seed, so that
a seed that fails does so again. The command prints the broken promises by seed, as JSON. It replaces clocks in its
whole process, and dead runs would still clean up if they were collected: both end with it.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from skychimp.config.settings import Settings
from skychimp.delivery.sending import claims, dispatcher, outcomes, recorder
from skychimp.delivery.sending.dispatcher import Dispatcher
from skychimp.delivery.sending.pacing import rate_limiter
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.runner import registered_run, with_sender
from skychimp.delivery.sending.worker import Worker
from skychimp.errors import SkychimpError
from skychimp.store import holds, ledger, runs, sqlite
from skychimp.store.database import Driver
from skychimp.store.limits.connections import ConnectionSlots
from skychimp.store.queue import ClaimedDelivery, ClaimKey
from skychimp.store.runs import RunLock
from skychimp.store.sqlite import SqliteStore
from skychimp.translation import verbatim
from skychimp.transport import smtp_connection
from skychimp.transport.smtp import SmtpTransport
from support.harness import copy_store_files
from support.sending import make_settings
from support.simulated_loop import CURRENT, KilledError, SimulatedLoop, SimulatedProcess

CONNECTIONS = 3
LONGEST_S = 3600.0  # of the faults, in simulated time
LONGEST_COMMIT_S = 5.0
ATTEMPTS = "attempt JOIN delivery ON delivery.id = delivery_id"
TOO_LATE_S = 700.0  # for the reply to a final dot


_GRAVEYARD: list["asyncio.Task[Any]"] = []
"""Tasks of dead processes that wait for what never comes. If they were collected, they would still clean up."""


class Relay:
    """A mail server. `accepted` has the emails it took, by recipient."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.accepted: dict[str, list[bytes]] = defaultdict(list)
        self.rejected: set[str] = set()
        self.is_down = False
        self.is_healthy = False
        self.has_pipelining = world.random.random() < 0.7
        self.fault_rate = world.random.choice((0.0, 0.02, 0.1, 0.3))
        self.slowest_s = world.random.choice((0.01, 0.5, 10.0))

    def connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        if self.is_down:
            raise ConnectionRefusedError(111, "Connection refused")
        return Session(self, protocol)

    def has_fault(self) -> bool:
        return not self.is_healthy and self.world.random.random() < self.fault_rate


class Session(asyncio.Transport):
    """The server's side of one connection."""

    def __init__(self, relay: Relay, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._relay = relay
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._recipient = ""
        self._has_sender = self._is_in_body = self._is_ending = self._is_closed = False
        self._reply_at = 0.0
        protocol.connection_made(self)
        self._reply(b"220 ready\r\n")

    def write(self, data: Any) -> None:
        self._buffer += data
        while not self._is_ending and self._take_one():
            pass

    def is_closing(self) -> bool:
        return self._is_closed

    def abort(self) -> None:
        if not self._is_closed:
            self._is_ending = self._is_closed = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 25)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def _take_one(self) -> bool:
        """Take one command or body. Return False if none is complete."""
        if self._is_in_body:
            end = 0 if self._buffer.startswith(b".\r\n") else self._buffer.find(b"\r\n.\r\n") + 2
            if end == 1:
                return False
            body, self._buffer, self._is_in_body = self._buffer[:end], self._buffer[end + 3 :], False
            self._end_body(body)
            return True
        line, separator, rest = self._buffer.partition(b"\r\n")
        if separator:
            self._buffer = rest
            self._take_command(line)
        return bool(separator)

    def _take_command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"EHLO":
            self._reply(b"250-sim\r\n250-PIPELINING\r\n250 SIZE\r\n" if self._relay.has_pipelining else b"250 sim\r\n")
        elif verb in (b"MAIL", b"RSET"):
            self._has_sender, self._recipient = verb == b"MAIL" and not self._is_refused(), ""
        elif verb == b"RCPT":
            if not self._has_sender:
                self._reply(b"503 5.5.1 no sender\r\n")
            elif not self._is_refused():
                self._recipient = line[9:-1].decode()
        elif verb == b"DATA":
            self._is_in_body = bool(self._recipient)
            self._reply(b"354 go\r\n" if self._recipient else b"503 5.5.1 no recipient\r\n")
        else:
            self._reply(b"221 bye\r\n")

    def _is_refused(self) -> bool:
        """Reply to MAIL or RCPT, and return whether the reply is a refusal."""
        kind = self._relay.world.random.randrange(5) if self._relay.has_fault() else 5
        if kind == 5:
            self._reply(b"250 ok\r\n")
        elif kind == 1:
            self._reply(b"421 4.3.2 closing\r\n")
        elif kind > 1:
            self._reply(b"450 4.2.0 later\r\n")
        if kind < 2:
            self._close()
        return kind < 5

    def _end_body(self, body: bytes) -> None:
        random, relay = self._relay.world.random, self._relay
        relay.world.check_dot(self._recipient)
        kind = random.randrange(7) if relay.has_fault() else 7
        if kind == 0:
            self._close()
        elif kind == 1:
            self._reply(b"451 4.3.0 later\r\n")
        elif kind == 2:
            relay.rejected.add(self._recipient)
            self._reply(b"554 5.6.0 no\r\n")
        else:
            relay.accepted[self._recipient].append(body)
        if kind == 3:
            self._close()
        elif kind == 4:
            self._reply(b"nonsense\r\n")
        elif kind == 5:
            self._reply(b"250 2.0.0 at last\r\n", TOO_LATE_S)
        elif kind >= 6:
            self._reply(b"250 2.0.0 taken\r\n")

    def _reply(self, data: bytes, delay_s: float = 0.0) -> None:
        """Send a reply some time later, after those before it."""
        relay = self._relay
        delay_s = delay_s or relay.world.random.choice((0.0, 0.001, 0.02, 1.0)) * relay.slowest_s
        self._reply_at = max(self._reply_at + 0.000_001, self._loop.time() + delay_s)
        self._loop.call_at(self._reply_at, self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        if not self._is_closed:
            self._protocol.data_received(data)

    def _close(self) -> None:
        """Close the connection after the last reply, and take nothing more."""
        self._is_ending = True
        self._loop.call_at(max(self._reply_at, self._loop.time()) + 0.000_001, self.abort)


class SimulatedRun(SimulatedProcess):
    """A run, or a daemon that polls each minute."""

    def __init__(self, world: "World", *, is_daemon: bool) -> None:
        super().__init__()
        self._world = world
        self._is_daemon = is_daemon
        self.lock: RunLock | None = None
        context = copy_context()
        context.run(CURRENT.set, self)
        self.task = world.loop.create_task(self._send(), context=context)

    async def _send(self) -> None:
        world = self._world
        with (
            contextlib.closing(SqliteStore(world.path)) as store,
            contextlib.suppress(SkychimpError),
            registered_run(store, world.now) as self.lock,
        ):
            transport = SmtpTransport(world.settings.smtp, "client.example.com")
            sender = Dispatcher(store, world.settings, transport, self.lock, now=world.now)
            sender.keeps_polling = self._is_daemon
            await sender.send(partial(self._poll, sender) if self._is_daemon else None)

    async def _poll(self, sender: Dispatcher) -> None:
        while not self._world.relay.is_healthy:
            await sender.poll()
            await sender.sleep(60)
        sender.stop(verbatim("the simulation ends"))

    def declare_dead(self) -> None:
        """Let other runs take this one for dead, as its lock is gone."""
        if self.lock is not None:
            runs._own_locks.discard(self.lock.path)
            self.lock.path.unlink(missing_ok=True)

    def kill(self) -> None:
        self.is_dead = True
        self.declare_dead()


class World:
    """All that happens with one seed. `problems` are the broken promises."""

    def __init__(self, seed: int, template: Path, folder: Path) -> None:
        self.random = Random(seed)
        self.path = copy_store_files(template, folder / f"{seed}.db")
        self.problems: list[str] = []
        self.settings: Settings = with_sender(
            make_settings(25, smtp__connections=CONNECTIONS, delivery__disable_failures=1000)
        )
        self.loop = SimulatedLoop(self.random)
        self.relay = Relay(self)
        self.loop.connect = self.relay.connect
        self.runs: list[SimulatedRun] = []
        self._started_at = datetime.now(UTC) + timedelta(seconds=1)
        self._clock_error = timedelta()
        self._intents_when_stopped: set[str] | None = None
        self._successes: dict[str, float] = {}
        self._db = sqlite.connect_file(self.path)
        self._store = SqliteStore(self.path)

    def now(self) -> datetime:
        return self._started_at + timedelta(seconds=self.loop.time() - 1000.0) + self._clock_error

    def play(self) -> list[str]:
        """Let everything happen, and return the broken promises."""
        asyncio.events._set_running_loop(None)
        try:
            with _patched(self):
                self.loop.run_until_complete(self._play())
        finally:
            self._store.close()
            self._db.close()
            self.loop.close()
        return self.problems

    async def _play(self) -> None:
        faults = [self.loop.create_task(self._make_faults(kind)) for kind in self._kinds_of_faults()]
        starting = self.loop.create_task(self._start_runs())
        await asyncio.gather(starting, *faults)
        await self._heal()
        await self._finish_mailing()
        self._check_end()
        _GRAVEYARD.extend(task for task in asyncio.all_tasks() if task is not asyncio.current_task())

    def _kinds_of_faults(self) -> list[Callable[[], Awaitable[None]]]:
        kinds = [self._kill_one, self._suspend_one, self._stop_mailing, self._take_relay_down, self._set_clock_wrong]
        return self.random.sample(kinds, self.random.randrange(len(kinds) + 1))

    async def _start_runs(self) -> None:
        for _ in range(self.random.randrange(1, 4)):
            self.runs.append(SimulatedRun(self, is_daemon=self.random.random() < 0.3))
            await asyncio.sleep(self.random.choice((0.0, 0.3, 30.0, 400.0)))

    async def _make_faults(self, make_one: Callable[[], Awaitable[None]]) -> None:
        for _ in range(self.random.randrange(1, 6)):
            await asyncio.sleep(self.random.expovariate(1 / self.random.choice((0.2, 2.0, 20.0))))
            if self.loop.time() > LONGEST_S:
                return
            await make_one()

    # Faults

    def _living(self) -> list[SimulatedRun]:
        return [run for run in self.runs if not (run.is_dead or run.task.done())]

    async def _kill_one(self) -> None:
        if living := self._living():
            self.random.choice(living).kill()
            await asyncio.sleep(self.random.choice((0.0, 0.5, 5.0)))
            self.runs.append(SimulatedRun(self, is_daemon=False))

    async def _suspend_one(self) -> None:
        if not (living := [run for run in self._living() if not run.is_suspended]):
            return
        run = self.random.choice(living)
        run.is_suspended = True
        if self.random.random() < 0.5:
            run.declare_dead()
            self.runs.append(SimulatedRun(self, is_daemon=False))
        await asyncio.sleep(self.random.choice((40.0, 300.0)))
        run.resume(self.loop)

    async def _stop_mailing(self) -> None:
        with self._store.connect() as db, db.begin():
            holds.disable_mailing(db, 1, "by hand", self.now())
        self._intents_when_stopped = self._intended()
        await asyncio.sleep(self.random.choice((0.1, 2.0, 100.0)))
        self._intents_when_stopped = None
        with self._store.connect() as db, db.begin():
            db.exec_driver_sql("UPDATE mailing SET disabled_at = NULL, disabled_reason = NULL, disabled_by_id = NULL")

    async def _take_relay_down(self) -> None:
        self.relay.is_down = True
        await asyncio.sleep(self.random.choice((0.5, 20.0, 200.0)))
        self.relay.is_down = False

    async def _set_clock_wrong(self) -> None:
        self._clock_error = timedelta(seconds=self.random.choice((-240, 240)))
        await asyncio.sleep(self.random.choice((1.0, 60.0)))
        self._clock_error = timedelta()

    def may_be_killed(self, write: Callable[..., Any], *args: Any) -> Any:
        """Write a batch. Sometimes the process is killed just before or just after the commit."""
        process = CURRENT.get()
        chance = 0.0 if self.relay.is_healthy or not isinstance(process, SimulatedRun) else self.random.random()
        if isinstance(process, SimulatedRun) and 0 < chance < 0.002:
            process.kill()
            raise KilledError
        results = write(*args)
        if isinstance(process, SimulatedRun) and chance > 0.998:
            process.kill()
            raise KilledError
        return results

    # Promises

    def check_dot(self, recipient: str) -> None:
        """Check that an email may be sent at the moment when its final dot is written."""
        intended = self._intended()
        if recipient not in intended:
            self.problems.append(f"{recipient}: dot without an intent")
        now = self.loop.time()
        if now - self._successes.get(recipient, now) > LONGEST_COMMIT_S:
            self.problems.append(f"{recipient}: sent again although a success was recorded")
        for (address,) in self._db.execute(f"SELECT DISTINCT address FROM {ATTEMPTS} WHERE outcome = 'sent'"):
            self._successes.setdefault(address, now)
        if self._intents_when_stopped is not None and recipient not in self._intents_when_stopped:
            self.problems.append(f"{recipient}: sent although its mailing is disabled")

    def _intended(self) -> set[str]:
        rows = self._db.execute("SELECT address FROM intent JOIN delivery ON delivery.id = delivery_id")
        return {address for (address,) in rows}

    def _check_end(self) -> None:
        unknown: Counter[str] = Counter()
        rescues: Counter[str] = Counter()
        sql = f"SELECT address, attempt.started_at, phase FROM {ATTEMPTS} WHERE outcome = 'unknown'"
        for address, at, phase in self._db.execute(sql):
            unknown[address] += 1
            rescues[at] += phase == "dot"
        for address, state in self._db.execute("SELECT address, state FROM delivery"):
            copies = self.relay.accepted[address]
            if state != "sent" and not (state == "failed" and address in self.relay.rejected):
                self.problems.append(f"{address}: {state} at the end")
            if state == "sent" and not copies:
                self.problems.append(f"{address}: lost")
            if len(copies) > 1 + unknown[address]:
                self.problems.append(f"{address}: {len(copies)} copies, {unknown[address]} unknown")
            if len(set(copies)) > 1:
                self.problems.append(f"{address}: the copies differ")
        self.problems += [f"{number} unknown in one rescue" for number in rescues.values() if number > CONNECTIONS]
        for table in ("lease", "intent"):
            (number,) = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()
            if number:
                self.problems.append(f"{table}: {number} rows are left")

    # The end

    async def _heal(self) -> None:
        self.relay.is_down, self.relay.is_healthy = False, True
        for run in self._living():
            run.resume(self.loop)
        await asyncio.sleep(TOO_LATE_S + 120)
        await asyncio.gather(*(run.task for run in self._living()))

    async def _finish_mailing(self) -> None:
        for _ in range(30):
            if self._db.execute("SELECT 1 FROM mailing WHERE status = 'completed'").fetchone():
                return
            run = SimulatedRun(self, is_daemon=False)
            self.runs.append(run)
            await run.task
            await asyncio.sleep(3600)
        self.problems.append("the mailing is not completed")


@contextlib.contextmanager
def _patched(world: World) -> Iterator[None]:
    """Replace the clocks and the chance of the modules that send, and make commits cheap."""
    time = SimpleNamespace(monotonic=world.loop.time)
    write_quickly, write = Recorder._write_quickly, Recorder._write
    pragmas = sqlite.connection_pragmas() | {"synchronous": "OFF"}
    with contextlib.ExitStack() as patches:
        for module in (claims, dispatcher, rate_limiter, smtp_connection):
            patches.enter_context(patch.object(module, "time", time))
        patches.enter_context(patch.object(outcomes, "random", world.random))
        patches.enter_context(patch.object(recorder, "boot_time_s", world.loop.time))
        # A killed run of this process would keep its connections.
        patches.enter_context(patch.object(ConnectionSlots, "take", lambda slots: True))
        patches.enter_context(patch.object(ConnectionSlots, "release", lambda slots: None))
        patches.enter_context(patch.object(sqlite, "connection_pragmas", lambda: pragmas))
        patches.enter_context(patch.object(sqlite, "make_engine", _make_engine))
        patches.enter_context(patch.object(Recorder, "_write_quickly", _may_be_killed(world, write_quickly)))
        patches.enter_context(patch.object(Recorder, "_write", _may_be_killed(world, write)))
        yield


def _make_engine(*args: Any, make_engine: Callable[..., Any] = sqlite.make_engine, **pragmas: str) -> Any:
    """Make an engine that shares what is compiled with all others, which takes half of the time."""
    engine = make_engine(*args, **pragmas)
    engine.dialect = _SHARED.setdefault("dialect", engine.dialect)  # it is a part of the keys
    engine._compiled_cache = _SHARED.setdefault("cache", {})
    return engine


_SHARED: dict[str, Any] = {}


def _may_be_killed(world: World, write: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: world.may_be_killed(write, *args)


# Broken variants, which the simulation must catch


def _answer_before_the_commit(worker: Worker, answer: Callable[[bool], None]) -> None:
    assert worker._current is not None
    worker._recorder.commit_intent(worker._current.claimed, lambda is_ours: None)
    answer(True)


def _intend_without_a_lease(
    driver: Driver, run_id: int, claims: Sequence[ClaimedDelivery], now: datetime
) -> set[ClaimKey]:
    for claimed in claims:
        driver.execute("INSERT OR REPLACE INTO intent (delivery_id, lease_id) VALUES (?, ?)", claimed.key)
    return {claimed.key for claimed in claims}


BROKEN: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "dot before commit": (Worker, "commit_intent", _answer_before_the_commit),
    "fold without fence": (ledger, "_existing_leases", lambda driver, run_id, lease_ids: set(lease_ids)),
    "rescue without token": (ledger, "record_intents", _intend_without_a_lease),
}


def main(template: str, folder: str, first: str, last: str, broken: str = "") -> None:
    logging.disable()
    problems = {}
    with patch.object(*BROKEN[broken]) if broken else contextlib.nullcontext():
        for seed in range(int(first), int(last)):
            problems[seed] = World(seed, Path(template), Path(folder)).play()
            if broken and problems[seed]:
                break
    print(json.dumps(problems), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
