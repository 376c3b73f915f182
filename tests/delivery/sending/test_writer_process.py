"""Test the writer process: it writes, waits for locks, and ends with the run it writes for."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.queue_steps import claim, delivery_states, make_attempt, open_mailing

from skychimp.delivery.sending import writer_process
from skychimp.delivery.sending.writer_process import WriterProcess
from skychimp.errors import StoreFailed
from skychimp.models import DeliveryState, Outcome
from skychimp.permissions import Actor
from skychimp.store import ledger
from skychimp.store.database import Store

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def with_timeout() -> T:
        async with asyncio.timeout(30):
            return await coroutine

    return asyncio.run(with_timeout())


async def started(store: Store) -> WriterProcess:
    writer = await WriterProcess.start(store, 1)
    assert writer is not None
    return writer


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_writer_writes_until_it_is_closed(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "bob", "cid")
    first, second, third = claim(store)

    async def go() -> None:
        writer = await started(store)
        assert await writer.write(ledger.writer_rows([], [first, second])[0]) == 2
        rows, changes = ledger.writer_rows([make_attempt(first, Outcome.SENT)], [third])
        assert await writer.write(rows) == changes == 3
        assert await writer.write(rows) == 1  # the intent is renewed; the sent email no longer belongs to this run
        await writer.close()
        assert writer._process.pid not in children()

    run(go())
    assert delivery_states(store) == {
        "ann": DeliveryState.SENT,
        "bob": DeliveryState.SENDING,
        "cid": DeliveryState.SENDING,
    }


def test_writer_waits_for_a_lock(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    open_mailing(store, ada, "ann")
    claims = claim(store)
    monkeypatch.setattr("skychimp.store.database.BUSY_TIMEOUT_MS", 10)

    async def go() -> None:
        writer = await started(store)
        with store.connect() as other, other.begin():
            writing = writer.write(ledger.writer_rows([], claims)[0])
            await asyncio.sleep(0.2)
            assert not writing.done()
        assert await writing == 1
        await writer.close()

    run(go())


def test_writer_ignores_signals(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann")
    claims = claim(store)

    async def go() -> None:
        writer = await started(store)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(writer._process.pid, number)
        assert await writer.write(ledger.writer_rows([], claims)[0]) == 1
        await writer.close()

    run(go())


def test_killed_writer_fails_this_write_and_all_later_ones(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann")
    claims = claim(store)

    async def go() -> None:
        writer = await started(store)
        with store.connect() as other, other.begin():
            writing = writer.write(ledger.writer_rows([], claims)[0])
            os.kill(writer._process.pid, signal.SIGKILL)
            with pytest.raises(StoreFailed, match="has ended"):
                await writing
        with pytest.raises(StoreFailed, match="has ended"):
            await writer.write("[]")
        await writer.close()

    run(go())
    assert delivery_states(store) == {"ann": DeliveryState.CLAIMED}


def test_writer_reports_the_database_error(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    open_mailing(store, ada, "ann")
    orders = ledger.writer_setup

    def on_a_full_disk(store: Store, run_id: int) -> Any:
        return {
            **orders(store, run_id),
            "statement": "UPDATE message SET body = hex(randomblob(1000000)) WHERE ?1 = ?1 OR ?2",
        }

    monkeypatch.setattr(ledger, "writer_setup", on_a_full_disk)
    monkeypatch.setattr(
        "skychimp.store.database.connection_pragmas", lambda: {"busy_timeout": "10", "max_page_count": "1"}
    )

    async def go() -> None:
        writer = await started(store)
        with pytest.raises(StoreFailed, match="full") as failed:
            await writer.write("[]")
        assert "free some disk space" in str(failed.value.hint)
        await writer.close()

    run(go())


@pytest.mark.parametrize("program", ["/no/such/python", "false"])
def test_start_returns_none_if_the_process_cannot_start(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(writer_process, "_PROGRAM", (program,))
    before = children()
    assert run(WriterProcess.start(store, 1)) is None
    assert children() == before


def test_writer_ends_with_its_stdin(store: Store) -> None:
    """So it ends with the run it writes for, however that run ends."""
    with subprocess.Popen(writer_process._PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(ledger.writer_setup(store, 1)).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"0\n"
        process.stdin.close()
        assert process.wait(30) == 0


def test_writer_imports_nothing_from_the_current_folder(
    store: Store, ada: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)

    async def go() -> None:
        await (await started(store)).close()

    run(go())
