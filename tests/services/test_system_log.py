"""Entries of the audit trail also go to the system log, which can neither fail nor delay a command."""

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import create_user
from sqlalchemy import func, select

from skychimp.models import AuditEntry, Role
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services import audit, system_log
from skychimp.services.clients import clients
from skychimp.store.database import Store

HOSTILE = [
    "a\nforged line", "a\r\nb", "\x1b[2J", "\x9b31m", "\u202egnp.exe", 'a" action="block', "\\", "a\x00b", "\x7f",
    "\u2028", "\udcff", "\ufeff", "\U000e0041", "é – 日本",
]  # fmt: skip


class Listener:
    """A system log at a socket."""

    def __init__(self, path: Path, kind: socket.SocketKind) -> None:
        self.socket = socket.socket(socket.AF_UNIX, kind)
        self.socket.bind(str(path))
        self.kind = kind
        if kind == socket.SOCK_STREAM:
            self.socket.listen()
        self.socket.settimeout(5)

    def read(self) -> str:
        if self.kind == socket.SOCK_DGRAM:
            return self.socket.recv(100_000).decode()
        with self.socket.accept()[0] as connection:
            return connection.recv(100_000).decode()

    def is_empty(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.read()
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Listener]]:
    listeners = []

    def listen(kind: socket.SocketKind = socket.SOCK_DGRAM) -> Listener:
        path = tmp_path / "log"
        monkeypatch.setattr(system_log, "SOCKET", path)
        listeners.append(Listener(path, kind))
        return listeners[-1]

    yield listen
    for listener in listeners:
        listener.socket.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_entry_is_written_with_its_actor(
    store: Store, ada: Actor, listen: Callable[..., Listener], kind: socket.SocketKind
) -> None:
    clients.create(store, ada, email="grace@example.org")
    log = listen(kind)
    clients.remove(store, ada, "1")
    line = log.read().rstrip("\0")
    assert re.match(r"<85>skychimp\[\d+\]: at=\"20\d\d-\d\d-\d\dT[\d:.]+\+00:00\" actor=", line), line
    assert line.endswith('actor="ada@skychimp.test" action="delete" object="client" object_id=1 detail=""')
    assert "grace" not in line


def test_entry_of_nobody_has_no_actor(store: Store, listen: Callable[..., Listener]) -> None:
    log = listen()
    audit.record_without_login(store, "reload", "config")
    assert " actor=" not in log.read()


def test_entry_that_is_rolled_back_is_not_written(store: Store, ada: Actor, listen: Callable[..., Listener]) -> None:
    log = listen()
    with contextlib.suppress(ZeroDivisionError), store.write() as db:
        audit.record(db, ada, "delete", "client", 1)
        _ = 1 / 0
    assert log.is_empty()


def test_each_entry_of_a_transaction_is_written_once(store: Store, ada: Actor, listen: Callable[..., Listener]) -> None:
    log = listen()
    with store.write() as db:
        audit.record(db, ada, "delete", "client", 1)
        audit.record(db, ada, "delete", "client", 2)
    with store.write() as db:
        audit.record(db, ada, "delete", "client", 3)
    assert [re.findall(r"object_id=(\d)", log.read()) for _ in range(3)] == [["1"], ["2"], ["3"]]
    assert log.is_empty()


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_line_cannot_be_forged(listen: Callable[..., Listener], text: str) -> None:
    log = listen()
    system_log.write(system_log.format_line(actor=text, action="delete", object=text, detail=text))
    (line,) = log.read().splitlines()
    assert line.count(' action="delete" ') == 1
    assert line.isprintable()


def test_long_line_is_cut(listen: Callable[..., Listener]) -> None:
    log = listen()
    system_log.write("é" * 100_000)
    assert len(log.socket.recv(100_000)) == 8192


def test_without_a_system_log_nothing_happens(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = create_user(store, "admin", Role.ADMIN)
    (tmp_path / "file").touch()
    for place in (tmp_path / "nothing", tmp_path / "file", tmp_path, tmp_path / ("x" * 200)):
        monkeypatch.setattr(system_log, "SOCKET", place)
        audit.record_if_possible(store, admin, "test", "message", 1)
    with store.read() as db:
        assert db.scalar(select(func.count()).select_from(AuditEntry)) == 4


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_log_that_reads_nothing_does_not_delay(listen: Callable[..., Listener], kind: socket.SocketKind) -> None:
    """Its queue is full after some lines. The others are lost, and nobody waits."""
    listen(kind)
    began = time.monotonic()
    for _ in range(2000):
        system_log.write("x" * 5000)
    assert time.monotonic() - began < 20


def test_refusal_without_a_writable_store_is_in_the_system_log(
    store: Store, ada: Actor, listen: Callable[..., Listener]
) -> None:
    log = listen()
    with store.connect() as db, db.begin():  # somebody else writes
        began = time.monotonic()
        audit.record_if_possible(store, ada, "refused", "command", None, "users list")
        assert time.monotonic() - began < 15
    assert 'action="refused"' in log.read()
    audit.record_in_log(ANONYMOUS, "refused", "command", None, "users list")
    assert 'detail="users list"' in log.read()
