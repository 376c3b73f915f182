"""The scribe: it writes what it is told, waits for a lock, and ends with whoever it writes for, with nothing else."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.queue_steps import claim, entry, opened, states

from skychimp.delivery.sending import writer_process
from skychimp.delivery.sending.writer_process import WriterProcess
from skychimp.errors import StoreFailed
from skychimp.models import DeliveryState, Outcome
from skychimp.permissions import Actor
from skychimp.store import ledger
from skychimp.store.database import Store

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def within_reason() -> T:
        async with asyncio.timeout(30):
            return await coroutine

    return asyncio.run(within_reason())


async def hired(store: Store) -> WriterProcess:
    found = await WriterProcess.hire(store, 1)
    assert found is not None
    return found


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_it_writes_until_it_is_left(store: Store, ada: Actor) -> None:
    opened(store, ada, "ann", "bob", "cid")
    first, second, third = claim(store)

    async def go() -> None:
        writer = await hired(store)
        assert await writer.write(ledger.rows_at_once([], [first, second])[0]) == 2
        rows, changes = ledger.rows_at_once([entry(first, Outcome.SENT)], [third])
        assert await writer.write(rows) == changes == 3
        assert await writer.write(rows) == 1  # the intent is said again; the letter is not this run's any more
        await writer.leave()
        assert writer._process.pid not in children()

    run(go())
    assert states(store) == {"ann": DeliveryState.SENT, "bob": DeliveryState.SENDING, "cid": DeliveryState.SENDING}


def test_it_waits_for_a_lock(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(store, ada, "ann")
    claims = claim(store)
    monkeypatch.setattr("skychimp.store.database.BUSY_TIMEOUT_MS", 10)

    async def go() -> None:
        writer = await hired(store)
        with store.connect() as other, other.begin():
            writing = writer.write(ledger.rows_at_once([], claims)[0])
            await asyncio.sleep(0.2)
            assert not writing.done()
        assert await writing == 1
        await writer.leave()

    run(go())


def test_ctrl_c_is_not_for_it(store: Store, ada: Actor) -> None:
    opened(store, ada, "ann")
    claims = claim(store)

    async def go() -> None:
        writer = await hired(store)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(writer._process.pid, number)
        assert await writer.write(ledger.rows_at_once([], claims)[0]) == 1
        await writer.leave()

    run(go())


def test_its_end_is_an_error_for_what_it_writes_and_all_that_follows(store: Store, ada: Actor) -> None:
    opened(store, ada, "ann")
    claims = claim(store)

    async def go() -> None:
        writer = await hired(store)
        with store.connect() as other, other.begin():
            writing = writer.write(ledger.rows_at_once([], claims)[0])
            os.kill(writer._process.pid, signal.SIGKILL)
            with pytest.raises(StoreFailed, match="has ended"):
                await writing
        with pytest.raises(StoreFailed, match="has ended"):
            await writer.write("[]")
        await writer.leave()

    run(go())
    assert states(store) == {"ann": DeliveryState.CLAIMED}


def test_it_says_why_it_can_not_write(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(store, ada, "ann")
    orders = ledger.orders

    def on_a_full_disk(store: Store, run_id: int) -> Any:
        return {
            **orders(store, run_id),
            "statement": "UPDATE message SET body = hex(randomblob(1000000)) WHERE ?1 = ?1 OR ?2",
        }

    monkeypatch.setattr(ledger, "orders", on_a_full_disk)
    monkeypatch.setattr("skychimp.store.database._pragmas", lambda: {"busy_timeout": "10", "max_page_count": "1"})

    async def go() -> None:
        writer = await hired(store)
        with pytest.raises(StoreFailed, match="full") as failed:
            await writer.write("[]")
        assert "free some disk space" in str(failed.value.hint)
        await writer.leave()

    run(go())


@pytest.mark.parametrize("program", ["/no/such/python", "false"])
def test_where_it_can_not_be_hired_there_is_none(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(writer_process, "_PROGRAM", (program,))
    before = children()
    assert run(WriterProcess.hire(store, 1)) is None
    assert children() == before


def test_it_ends_with_its_stdin(store: Store) -> None:
    """And so with whoever it writes for, however that one ends."""
    with subprocess.Popen(writer_process._PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(ledger.orders(store, 1)).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"0\n"
        process.stdin.close()
        assert process.wait(30) == 0


def test_it_imports_nothing_of_the_folder_it_is_in(
    store: Store, ada: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)

    async def go() -> None:
        await (await hired(store)).leave()

    run(go())
