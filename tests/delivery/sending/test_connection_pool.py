"""Test the connection pool: its limit, pauses and probes."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
from sqlalchemy import text
from support.sending import make_settings, rows
from support.servers import GREETING, ScriptedServer, Step, accept_mail, hang

from skychimp.config import checked_files
from skychimp.config.settings import Settings
from skychimp.delivery.sending import connection_pool as module
from skychimp.delivery.sending.connection_pool import ConnectionPool
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.runner import registered_run
from skychimp.models import RelayState
from skychimp.store.database import Store
from skychimp.store.limits.connections import ConnectionSlots
from skychimp.translation import verbatim
from skychimp.transport.smtp import SmtpTransport

T = TypeVar("T")
HEALTHY = (GREETING, accept_mail())
BUSY = (b"421 4.7.0 too many connections\r\n",)
SECRET = b"secret of the store"


class Harness:
    """A connection pool, and the reasons and hints with which it gave up."""

    def __init__(self, store: Store, recorder: Recorder, settings: Settings, *, waits_forever: bool) -> None:
        self.give_ups: list[tuple[str, str]] = []
        self.later = timedelta()
        self.recorder = recorder
        self.pool = ConnectionPool(
            SmtpTransport(settings.smtp),
            settings,
            recorder,
            ConnectionSlots(store.path, settings.smtp.connections),
            now=lambda: datetime.now(UTC) + self.later,
            give_up=lambda reason, hint: self.give_ups.append((reason, hint)),
            waits_forever=waits_forever,
        )

    async def may_send(self, secret: bytes = SECRET) -> bool:
        """Read and apply a pause, as a run does before it sends."""
        self.pool.read_settings()
        pause = await self.recorder.submit(lambda db: self.pool.read_pause(db, secret))
        self.pool.apply_pause(pause)
        return pause is None


@asynccontextmanager
async def open_pool(store: Store, settings: Settings, *, waits_forever: bool = False) -> AsyncIterator[Harness]:
    with registered_run(store) as lock:
        recorder = Recorder(store, lock.run_id, now=lambda: datetime.now(UTC))
        harness = Harness(store, recorder, settings, waits_forever=waits_forever)
        await harness.may_send()
        yield harness
        await recorder.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def with_timeout() -> T:
        async with asyncio.timeout(30):
            return await coroutine

    return asyncio.run(with_timeout())


def test_pool_opens_no_more_connections_than_its_limit(store: Store) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port, smtp__connections=3)) as harness:
            connections = await asyncio.gather(*(harness.pool.replace(None) for _ in range(5)))
            opened = [connection for connection in connections if connection is not None]
            assert len(opened) == 3
            assert not harness.pool.is_over_limit
            again = await harness.pool.replace(opened[0])
            assert again is not None
            assert await harness.pool.replace(None) is None
            for connection in [again, *opened[1:]]:
                await harness.pool.close(connection)

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))
    assert len(server.conversations) == 4


@contextmanager
def slots_of_others(store: Store, number: int, limit: int) -> Iterator[ConnectionSlots]:
    """Hold this many connections as another process does."""
    with closing(ConnectionSlots(store.path, limit)) as slots:
        assert all(slots.take() for _ in range(number))
        yield slots


def test_pool_opens_what_other_processes_leave_and_later_what_they_free(store: Store) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port, smtp__connections=3)) as harness:
            with slots_of_others(store, 2, limit=3) as others:
                first = await harness.pool.replace(None)
                assert first is not None
                assert await harness.pool.replace(None) is None
                others.release()
                second = await harness.pool.replace(None)
                assert second is not None
            assert harness.give_ups == []
            for connection in (first, second):
                await harness.pool.close(connection)
            with slots_of_others(store, 3, limit=3):
                pass  # all are free again

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))


def test_slot_of_a_connection_that_could_not_be_opened_is_free(store: Store) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port)) as harness:
            assert await harness.pool.replace(None) is None
            with slots_of_others(store, 1, limit=1):
                pass

    with ScriptedServer(BUSY) as server:
        run(go(server.port))


@pytest.mark.parametrize("patience", ["0s", "1s"])
def test_run_gives_up_after_its_patience_if_others_use_all_connections(store: Store, patience: str) -> None:
    async def go(port: int) -> None:
        settings = make_settings(port, run__patience=patience)
        async with open_pool(store, settings) as harness:
            with slots_of_others(store, 1, limit=1):
                began_at = time.monotonic()
                assert await harness.pool.replace(None) is None
                assert time.monotonic() - began_at >= settings.run.patience.total_seconds()
            ((reason, hint),) = harness.give_ups
            assert "smtp.connections" in reason
            assert "smtp.connections" in hint

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))
    assert server.conversations == []


def test_daemon_waits_until_another_process_frees_a_connection(store: Store) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port), waits_forever=True) as harness:
            with slots_of_others(store, 1, limit=1):
                waiting = asyncio.create_task(harness.pool.replace(None))
                await asyncio.sleep(0.6)
                assert not waiting.done()
            connection = await waiting
            assert connection is not None
            await harness.pool.close(connection)

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))


def test_stop_ends_the_wait_for_a_connection_of_another_process(store: Store) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port), waits_forever=True) as harness:
            with slots_of_others(store, 1, limit=1):
                waiting = asyncio.create_task(harness.pool.replace(None))
                await asyncio.sleep(0.1)
                harness.pool.stop()
                assert await waiting is None

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))


def test_limit_is_reduced_step_by_step_to_one_connection(store: Store) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port, smtp__connections=3)) as harness:
            opened = [await harness.pool.replace(None) for _ in range(3)]
            seen = []
            for connection in opened:
                harness.pool.reduce_limit()
                seen.append((harness.pool.limit, harness.pool.is_over_limit))
                await harness.pool.close(connection)
            assert seen == [(2, True), (1, True), (1, False)]
            harness.pool.reduce_limit()
            assert harness.pool.limit == 1

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))


def test_limit_grows_again_step_by_step(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port, smtp__connections=4)) as harness:
            harness.pool.reduce_limit()
            harness.pool.grow()
            assert harness.pool.limit == 1  # the growth interval is not yet over
            monkeypatch.setattr(module, "GROWTH_INTERVAL_S", 0.0)
            seen = []
            for _ in range(5):
                harness.pool.grow()
                seen.append(harness.pool.limit)
            assert seen == [2, 3, 4, 4, 4]

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))


def test_emails_per_connection_are_learned_and_grow_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port)) as harness:
            pool, connection = harness.pool, await harness.pool.replace(None)
            assert connection is not None
            assert not pool.is_used_up(connection, 1_000_000)
            pool.reduce_limit()
            for refused_after, limit in [(20, 20), (25, 20), (10, 10), (0, 10)]:  # 0: there are too many connections
                pool.limit_emails_per_connection(refused_after)
                assert [pool.is_used_up(connection, number) for number in (limit - 1, limit)] == [False, True]
            assert pool.limit == 1  # the first limit allowed all again, and the last refusal was one for itself
            pool.grow()
            assert pool.is_used_up(connection, 10)  # the growth interval is not yet over
            monkeypatch.setattr(module, "GROWTH_INTERVAL_S", 0.0)
            pool.grow()
            assert [pool.is_used_up(connection, number) for number in (10, 11)] == [False, True]
            await pool.close(connection)

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))


def test_number_of_emails_that_the_server_announces_is_the_limit(store: Store) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port)) as harness:
            connection = await harness.pool.replace(None)
            assert connection is not None
            assert [harness.pool.is_used_up(connection, number) for number in (4, 5)] == [False, True]
            harness.pool.limit_emails_per_connection(3)
            assert harness.pool.is_used_up(connection, 3)
            await harness.pool.close(connection)

    ehlo = b"250-test\r\n250 LIMITS RCPTMAX=100 MAILMAX=5\r\n"
    with ScriptedServer([GREETING, accept_mail(lambda command, _: ehlo if command == "EHLO" else None)]) as server:
        run(go(server.port))


def test_run_loses_patience_with_a_server_that_refuses_everything_for_its_rate(store: Store) -> None:
    async def go(port: int, *, waits_forever: bool) -> list[tuple[str, str]]:
        settings = make_settings(port, run__patience="1m")
        async with open_pool(store, settings, waits_forever=waits_forever) as harness:
            harness.pool.lose_patience(59, verbatim("454 4.7.0 slow down"), verbatim("send more slowly"))
            assert harness.give_ups == []
            harness.pool.lose_patience(61, verbatim("454 4.7.0 slow down"), verbatim("send more slowly"))
            return harness.give_ups

    with ScriptedServer(HEALTHY) as server:
        words = "the mail server takes no more email for now: 454 4.7.0 slow down"
        assert run(go(server.port, waits_forever=False)) == [(words, "send more slowly")]
        assert run(go(server.port, waits_forever=True)) == []


def test_refused_connection_limits_the_pool_to_those_already_open(store: Store) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port, smtp__connections=9)) as harness:
            opened = [await harness.pool.replace(None) for _ in range(5)]
            assert [connection is not None for connection in opened] == [True, True, False, False, False]
            assert (harness.pool.limit, harness.give_ups) == (2, [])
            for connection in opened[:2]:
                await harness.pool.close(connection)

    with ScriptedServer(HEALTHY, HEALTHY, BUSY) as server:
        run(go(server.port))
    assert len(server.conversations) == 3


@pytest.mark.parametrize("reply", [*BUSY, b"554 5.7.0 too many connections\r\n"], ids=["for now", "finally"])
def test_connection_refused_while_others_open_does_not_count_those_as_refused(store: Store, reply: bytes) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port, smtp__connections=9)) as harness:
            first = await harness.pool.replace(None)
            others = await asyncio.gather(harness.pool.replace(None), harness.pool.replace(None))
            assert (harness.pool.limit, harness.pool.is_over_limit, harness.give_ups) == (2, False, [])
            for connection in (first, *others):
                await harness.pool.close(connection)

    with ScriptedServer(HEALTHY, [lambda _: time.sleep(0.2), *HEALTHY], [reply]) as server:
        run(go(server.port))


def test_single_connection_probes_a_server_that_all_have_lost(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port, smtp__connections=3), waits_forever=True) as harness:
            opened = [await harness.pool.replace(None) for _ in range(3)]
            replacing = []
            for connection in opened:  # the server refuses each after the next one is lost
                replacing.append(asyncio.create_task(harness.pool.replace(connection)))
                await asyncio.sleep(0.05)
            for connection in await asyncio.gather(*replacing):
                assert connection is not None
                await harness.pool.close(connection)

    slowly_busy: list[Step] = [lambda _: time.sleep(0.2), *BUSY]
    with ScriptedServer(*[HEALTHY] * 3, *[slowly_busy] * 3, HEALTHY) as server:
        run(go(server.port))
    assert [record.getMessage() for record in caplog.records] == ["mail server unavailable", "mail server available"]


def test_pool_without_any_connection_waits_for_the_configured_patience(store: Store) -> None:
    async def go(port: int, **overrides: str) -> list[tuple[str, str]]:
        async with open_pool(store, make_settings(port, **overrides)) as harness:
            connection = await harness.pool.replace(None)
            assert (connection is None) == bool(harness.give_ups)
            await harness.pool.close(connection)
            return harness.give_ups

    with ScriptedServer(BUSY, BUSY, HEALTHY) as server:
        ((reason, hint),) = run(go(server.port))
        assert "421 4.7.0 too many connections" in reason
        assert hint
        assert run(go(server.port, run__patience="20s")) == []
    assert len(server.conversations) == 3


def test_stop_ends_all_waiting(store: Store) -> None:
    async def go(port: int) -> None:
        for waits_forever in (True, False):
            async with open_pool(
                store, make_settings(port, run__patience="1h", smtp__timeout="1h"), waits_forever=waits_forever
            ) as harness:
                waiting = [asyncio.ensure_future(harness.pool.replace(None)) for _ in range(3)]
                sleeping = asyncio.ensure_future(harness.pool.sleep(3600))
                await asyncio.wait(waiting, timeout=0.1)
                harness.pool.stop()
                assert await asyncio.gather(*waiting) == [None] * 3
                await sleeping
                assert await harness.pool.replace(None) is None
                assert harness.give_ups == []

    with ScriptedServer([hang]) as silent:
        run(go(silent.port))
    with ScriptedServer(BUSY) as busy:
        run(go(busy.port))


def test_relay_is_paused_once_and_probed_later(store: Store) -> None:
    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port, smtp__connections=3)) as harness:
            for _ in range(3):  # each connection gets the same refusal
                harness.pool.pause(verbatim("535 5.7.8 wrong"), verbatim("check it"))
            assert harness.give_ups == [("the mail server is paused: 535 5.7.8 wrong", "check it")]
            assert await harness.pool.replace(None) is None
            seen = []
            for minutes in (0, 14, 16):
                harness.later = timedelta(minutes=minutes)
                seen.append((await harness.may_send(), harness.pool.limit))
            assert seen == [(False, 0), (False, 0), (True, 1)]  # the probe is one connection
            assert len(harness.give_ups) == 1
        async with open_pool(store, make_settings(port)) as later_run:
            assert [reason for reason, _ in later_run.give_ups] == ["the mail server is paused: 535 5.7.8 wrong"]

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))
    assert server.conversations == []
    assert [state.probes for state in rows(store, RelayState)] == [1]


FIXED_SETTINGS: list[dict[str, Any]] = [
    {"smtp__password": "open sesame"},
    {"smtp__username": "bob"},
    {"smtp__security": "starttls"},
    {"smtp__ca_file": "/other.pem"},
]


@pytest.mark.parametrize("fixed", FIXED_SETTINGS, ids=[next(iter(change)) for change in FIXED_SETTINGS])
def test_only_changed_login_settings_end_a_pause(store: Store, fixed: dict[str, Any]) -> None:
    usual = {"smtp__username": "ada", "smtp__password": "sesame"}

    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port, **usual)) as harness:
            harness.pool.pause(verbatim("no"), verbatim("hint"))
        async with open_pool(store, make_settings(port, **usual, smtp__connections=7, smtp__timeout="1s")) as same:
            assert not await same.may_send()
        async with open_pool(store, make_settings(port, **usual | fixed)) as changed:
            assert await changed.may_send()
            assert changed.give_ups == []

    run(go(2525))


def test_changed_password_file_ends_a_pause(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "password"

    async def go() -> list[bool]:
        seen = []
        for password in ("sesame\n", "sesame", "open sesame\n"):
            file.write_text(password)
            async with open_pool(
                store, make_settings(2525, smtp__username="ada", smtp__password_file=str(file))
            ) as harness:
                seen.append(await harness.may_send())
                harness.pool.pause(verbatim("no"), verbatim("hint"))
        return seen

    assert run(go()) == [True, False, True]


@pytest.mark.parametrize("setting", ["smtp__password_file", "smtp__ca_file"])
def test_file_that_cannot_be_used_pauses_the_relay_until_it_is_fixed(
    store: Store, tmp_path: Path, setting: str
) -> None:
    file = tmp_path / "named"
    trustme.CA().cert_pem.write_to_path(file)
    values = {setting: str(file), "smtp__security": "tls" if setting == "smtp__ca_file" else "none"}
    if setting == "smtp__password_file":
        file.write_text("sesame")
        values["smtp__username"] = "ada"

    async def go(port: int) -> None:
        async with open_pool(store, make_settings(port, **values), waits_forever=True) as harness:
            file.chmod(0o666)
            assert await harness.may_send()
            assert await harness.pool.replace(None) is None
            assert not await harness.may_send()
            file.chmod(0o600)
            assert await harness.may_send()
            (give_up,) = harness.give_ups
        reason, hint = give_up
        assert reason == f"the mail server is paused: cannot use {file}: it can be changed by others"
        assert hint == f'run "chmod go-w {file}"'

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))


def test_files_are_not_read_in_a_transaction(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("sesame")

    async def go() -> None:
        settings = make_settings(2525, smtp__username="ada", smtp__password_file=str(file))
        async with open_pool(store, settings) as harness:
            monkeypatch.setattr(checked_files, "read_bytes", None)
            with store.connect() as db, db.begin():
                assert harness.pool.read_pause(db, SECRET) is None

    run(go())


def test_store_contains_only_a_keyed_hash_of_the_password(store: Store) -> None:
    async def go(secret: bytes) -> str:
        async with open_pool(store, make_settings(2525, smtp__username="ada", smtp__password="sesame")) as harness:
            await harness.may_send(secret)
            harness.pool.pause(verbatim("no"), verbatim("hint"))
        (state,) = rows(store, RelayState)
        with store.write() as db:
            db.execute(text("DELETE FROM relay_state"))
        return state.settings_hash

    first, second = run(go(b"first")), run(go(b"second"))
    assert first != second  # the same password has another hash in another store
    assert "sesame" not in first


def test_accepted_email_ends_a_pause_unless_it_was_already_in_flight(store: Store) -> None:
    async def go() -> None:
        async with open_pool(store, make_settings(2525)) as harness:
            harness.pool.pause(verbatim("no"), verbatim("hint"))
            harness.pool.record_success()  # the reply to an email that was already in flight
            assert not await harness.may_send()
            harness.pool.apply_pause(None)  # the next probe is due
            harness.pool.record_success()

    run(go())
    assert rows(store, RelayState) == []
