"""The relay as a run sees it: how many connections it gets, when it is paused, when it is tried again."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import text
from support.sending import rows, settings
from support.servers import GREETING, ScriptedServer, hang, obey

from skychimp.config.settings import Settings
from skychimp.delivery.sending import connection_pool as module
from skychimp.delivery.sending.connection_pool import ConnectionPool
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.runner import registered_run
from skychimp.models import RelayState
from skychimp.store.database import Store
from skychimp.transport.smtp import SmtpTransport

T = TypeVar("T")
HEALTHY = (GREETING, obey())
BUSY = (b"421 4.7.0 too many connections\r\n",)
SECRET = b"secret of the store"


class Stage:
    """A relay, and what it has told the run."""

    def __init__(self, store: Store, recorder: Recorder, chosen: Settings, *, waits: bool) -> None:
        self.told: list[tuple[str, str]] = []
        self.later = timedelta()
        self.store = store
        self.relay = ConnectionPool(
            SmtpTransport(chosen.smtp),
            chosen,
            recorder,
            now=lambda: datetime.now(UTC) + self.later,
            give_up=lambda reason, hint: self.told.append((reason, hint)),
            waits=waits,
        )

    def may_send(self, secret: bytes = SECRET) -> bool:
        """Look into the store, as a run does before it sends."""
        with self.store.connect() as db, db.begin():
            pause = self.relay.read_pause(db, secret)
        self.relay.apply_pause(pause)
        return pause is None


@asynccontextmanager
async def stage(store: Store, chosen: Settings, *, waits: bool = False) -> AsyncIterator[Stage]:
    with registered_run(store) as lock:
        recorder = Recorder(store, lock.run_id)
        made = Stage(store, recorder, chosen, waits=waits)
        made.may_send()
        yield made
        await recorder.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def within_reason() -> T:
        async with asyncio.timeout(30):
            return await coroutine

    return asyncio.run(within_reason())


def test_it_has_as_many_connections_as_are_allowed_and_no_more(store: Store) -> None:
    async def go(port: int) -> None:
        async with stage(store, settings(port, smtp__connections=3)) as on:
            connections = await asyncio.gather(*(on.relay.exchange(None) for _ in range(5)))
            taken = [connection for connection in connections if connection is not None]
            assert len(taken) == 3
            assert not on.relay.is_crowded
            again = await on.relay.exchange(taken[0])
            assert again is not None
            assert await on.relay.exchange(None) is None
            for connection in [again, *taken[1:]]:
                await on.relay.hang_up(connection)

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))
    assert len(server.conversations) == 4


def test_too_much_costs_a_connection_each_time_but_never_the_last(store: Store) -> None:
    async def go(port: int) -> None:
        async with stage(store, settings(port, smtp__connections=3)) as on:
            taken = [await on.relay.exchange(None) for _ in range(3)]
            seen = []
            for connection in taken:
                on.relay.take_fewer()
                seen.append((on.relay.allowed, on.relay.is_crowded))
                await on.relay.hang_up(connection)
            assert seen == [(2, True), (1, True), (1, False)]
            on.relay.take_fewer()
            assert on.relay.allowed == 1

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))


def test_it_is_tried_with_more_again_one_by_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go(port: int) -> None:
        async with stage(store, settings(port, smtp__connections=4)) as on:
            on.relay.take_fewer()
            on.relay.grow()
            assert on.relay.allowed == 1  # it has not borne with these for a minute
            monkeypatch.setattr(module, "GROWS_EVERY", 0.0)
            seen = []
            for _ in range(5):
                on.relay.grow()
                seen.append(on.relay.allowed)
            assert seen == [2, 3, 4, 4, 4]

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))


def test_a_connection_that_cant_be_had_beside_others_means_no_more_than_those(store: Store) -> None:
    async def go(port: int) -> None:
        async with stage(store, settings(port, smtp__connections=9)) as on:
            taken = [await on.relay.exchange(None) for _ in range(5)]
            assert [connection is not None for connection in taken] == [True, True, False, False, False]
            assert (on.relay.allowed, on.told) == (2, [])
            for connection in taken[:2]:
                await on.relay.hang_up(connection)

    with ScriptedServer(HEALTHY, HEALTHY, BUSY) as server:
        run(go(server.port))
    assert len(server.conversations) == 3


def test_without_any_connection_its_patience_decides(store: Store) -> None:
    async def go(port: int, **more: str) -> list[tuple[str, str]]:
        async with stage(store, settings(port, **more)) as on:
            connection = await on.relay.exchange(None)
            assert (connection is None) == bool(on.told)
            await on.relay.hang_up(connection)
            return on.told

    with ScriptedServer(BUSY, BUSY, HEALTHY) as server:
        ((reason, hint),) = run(go(server.port))
        assert "421 4.7.0 too many connections" in reason
        assert hint
        assert run(go(server.port, run__patience="20s")) == []
    assert len(server.conversations) == 3


def test_a_stop_ends_every_wait(store: Store) -> None:
    async def go(port: int) -> None:
        for waits in (True, False):
            async with stage(store, settings(port, run__patience="1h", smtp__timeout="1h"), waits=waits) as on:
                waiting = [asyncio.ensure_future(on.relay.exchange(None)) for _ in range(3)]
                sleeping = asyncio.ensure_future(on.relay.sleep(3600))
                await asyncio.wait(waiting, timeout=0.1)
                on.relay.stop()
                assert await asyncio.gather(*waiting) == [None] * 3
                await sleeping
                assert await on.relay.exchange(None) is None
                assert on.told == []

    with ScriptedServer([hang]) as silent:
        run(go(silent.port))
    with ScriptedServer(BUSY) as busy:
        run(go(busy.port))


def test_it_is_paused_once_and_probed_after_its_time(store: Store) -> None:
    async def go(port: int) -> None:
        async with stage(store, settings(port, smtp__connections=3)) as on:
            for _ in range(3):  # as many connections hear of it
                await on.relay.pause("535 5.7.8 wrong", "check it")
            assert on.told == [("the relay is paused: 535 5.7.8 wrong", "check it")]
            assert await on.relay.exchange(None) is None
            seen = []
            for minutes in (0, 14, 16):
                on.later = timedelta(minutes=minutes)
                seen.append((on.may_send(), on.relay.allowed))
            assert seen == [(False, 0), (False, 0), (True, 1)]  # the probe is one connection
            assert len(on.told) == 1
        async with stage(store, settings(port)) as anew:
            assert [reason for reason, _ in anew.told] == ["the relay is paused: 535 5.7.8 wrong"]

    with ScriptedServer(HEALTHY) as server:
        run(go(server.port))
    assert server.conversations == []
    assert [state.probes for state in rows(store, RelayState)] == [1]


MENDED: list[dict[str, Any]] = [
    {"smtp__password": "open sesame"},
    {"smtp__username": "bob"},
    {"smtp__security": "starttls"},
    {"smtp__ca_file": "/other.pem"},
]


@pytest.mark.parametrize("mended", MENDED, ids=[next(iter(change)) for change in MENDED])
def test_mended_settings_end_a_pause_and_others_do_not(store: Store, mended: dict[str, Any]) -> None:
    usual = {"smtp__username": "ada", "smtp__password": "sesame"}

    async def go(port: int) -> None:
        async with stage(store, settings(port, **usual)) as on:
            await on.relay.pause("no", "hint")
        async with stage(store, settings(port, **usual, smtp__connections=7, smtp__timeout="1s")) as same:
            assert not same.may_send()
        async with stage(store, settings(port, **usual | mended)) as changed:
            assert changed.may_send()
            assert changed.told == []

    run(go(2525))


def test_a_password_file_is_read_for_what_it_holds(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "password"

    async def go() -> list[bool]:
        seen = []
        for password in ("sesame\n", "sesame", "open sesame\n"):
            file.write_text(password)
            async with stage(store, settings(2525, smtp__username="ada", smtp__password_file=str(file))) as on:
                seen.append(on.may_send())
                await on.relay.pause("no", "hint")
        return seen

    assert run(go()) == [True, False, True]


def test_the_store_learns_nothing_of_the_password(store: Store) -> None:
    async def go(secret: bytes) -> str:
        async with stage(store, settings(2525, smtp__username="ada", smtp__password="sesame")) as on:
            on.may_send(secret)
            await on.relay.pause("no", "hint")
        (state,) = rows(store, RelayState)
        with store.write() as db:
            db.execute(text("DELETE FROM relay_state"))
        return state.settings_hash

    one, other = run(go(b"one")), run(go(b"other"))
    assert one != other  # it is keyed: the same password in another store looks different
    assert "sesame" not in one


def test_mail_that_it_takes_ends_a_pause_but_not_what_was_in_flight(store: Store) -> None:
    async def go() -> None:
        async with stage(store, settings(2525)) as on:
            await on.relay.pause("no", "hint")
            on.relay.took_mail()  # an answer to a letter that was on the wire already
            assert not on.may_send()
            on.relay.apply_pause(None)  # its next probe is due
            on.relay.took_mail()

    run(go())
    assert rows(store, RelayState) == []
