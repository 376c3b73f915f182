"""A Maildir is processed file by file: nothing is deleted, a kill repeats nothing, and odd files stop nothing."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.queue_steps import get_row, rows
from support.returned import bounce, return_path, send_mailing, unsubscribe_address

from skychimp.config.settings import InboundSettings
from skychimp.errors import ConfigError
from skychimp.models import Client, ReturnedMail, Suppression
from skychimp.permissions import Actor
from skychimp.services.inbound import maildir
from skychimp.services.inbound.processing import Summary
from skychimp.store.database import Store

NO_USER = "550 5.1.1 no such user"
Deliver = Callable[[str, bytes], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("new", "cur", "tmp"):
        (tmp_path / "Maildir" / name).mkdir(parents=True, mode=0o700)
    return tmp_path / "Maildir"


@pytest.fixture
def deliver(folder: Path) -> Deliver:
    def deliver(name: str, data: bytes) -> None:
        (folder / "new" / name).write_bytes(data)

    return deliver


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "new")) + sorted(f"cur/{name}" for name in os.listdir(folder / "cur"))


def process(store: Store, folder: Path) -> Summary:
    return maildir.process_new(store, InboundSettings(), folder)


def addressed(address: str, data: bytes) -> bytes:
    return f"Delivered-To: {address}\n".encode() + data


def test_mail_has_its_effect_and_is_kept(store: Store, ada: Actor, folder: Path, deliver: Deliver) -> None:
    first, second = send_mailing(store, ada, "grace", "eve")
    deliver("1.host", addressed(return_path(store, first), bounce("grace@example.org", NO_USER)))
    deliver("2.host:2,", addressed(unsubscribe_address(store, second), b"Subject: unsubscribe\n\n"))
    deliver("3.host", b"From: somebody\n\nHello")
    deliver("4.host", b"")

    assert process(store, folder) == Summary(bounces=1, unsubscribes=1, ignored=2, marked_bad=1)

    assert names(folder) == ["cur/1.host:2,S", "cur/2.host:2,S", "cur/3.host:2,", "cur/4.host:2,"]
    assert get_row(store, Client, 1).bad_at is not None
    assert {each.address for each in rows(store, Suppression)} == {"grace@example.org", "eve@example.org"}
    assert process(store, folder) == Summary()


def test_mail_is_processed_once_after_a_kill(
    store: Store, ada: Actor, folder: Path, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sent,) = send_mailing(store, ada, "grace")
    deliver("1", addressed(return_path(store, sent), bounce("grace@example.org", NO_USER)))

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(maildir, "_keep", killed)
        with pytest.raises(KeyboardInterrupt):
            process(store, folder)
    assert names(folder) == ["1"]

    assert process(store, folder) == Summary(repeated=1)
    assert len(rows(store, ReturnedMail)) == 1


def test_odd_files_are_left_alone(store: Store, folder: Path, deliver: Deliver, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("From: x\n\n")
    (folder / "new" / "link").symlink_to(tmp_path / "secret")
    (folder / "new" / "folder").mkdir()
    os.mkfifo(folder / "new" / "pipe")
    deliver(".hidden", b"x")
    deliver("z", b"From: x\n\n")

    assert process(store, folder) == Summary(ignored=1)
    assert names(folder) == [".hidden", "folder", "link", "pipe", "cur/z:2,"]


def test_large_mail_is_read_in_part(store: Store, folder: Path, deliver: Deliver) -> None:
    deliver("1", b"From: x\n\n" + b"x" * 3_000_000)
    assert process(store, folder) == Summary(ignored=1)


def test_large_mail_makes_small_batches(
    store: Store, folder: Path, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maildir, "BATCH_SIZE", 1_000)
    for number in range(3):
        deliver(str(number), b"From: x\n\n" + b"x" * 600)
    assert maildir.process_new(store, InboundSettings(), folder, lambda: False) == Summary(ignored=2)


def test_batches_stop_when_told(store: Store, folder: Path, deliver: Deliver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildir, "BATCH", 2)
    for number in range(5):
        deliver(str(number), b"From: x\n\n")
    assert maildir.process_new(store, InboundSettings(), folder, lambda: False) == Summary(ignored=2)
    assert process(store, folder) == Summary(ignored=3)


def test_missing_and_unsafe_maildirs_are_refused(store: Store, folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot use the Maildir"):
        process(store, folder / "none")
    (folder / "new").chmod(0o777)
    with pytest.raises(ConfigError, match="cannot use the Maildir"):
        process(store, folder)


def test_nothing_of_a_batch_holds_if_it_cannot_be_written(
    store: Store, ada: Actor, folder: Path, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sent,) = send_mailing(store, ada, "grace")
    deliver("1", addressed(return_path(store, sent), bounce("grace@example.org", NO_USER)))

    def failed(*arguments: object, **more: object) -> bool:
        raise OSError("disk")

    with monkeypatch.context() as patch:
        patch.setattr("skychimp.store.clients.bad_addresses.mark", failed)
        with pytest.raises(ConfigError):
            process(store, folder)
    assert rows(store, ReturnedMail) == []
    assert process(store, folder) == Summary(bounces=1, marked_bad=1)
