"""Test the outbox with the standard library's Maildir, and with file errors."""

import asyncio
import mailbox
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.accounts import NOBODY, needs_root
from support.email_source import send_email

from skychimp.errors import OutboxFailed, RelayUnavailable
from skychimp.transport.interfaces import OutgoingEmail, Phase, SendResult
from skychimp.transport.outbox import OutboxTransport

DATA = "Message-ID: <1@x>\r\nSubject: й\r\n\r\nMessage-ID: <2@x>\r\n.\r\nbye\r\n".encode()
EMAIL = OutgoingEmail("ada@example.org", "bob@example.net", DATA)


def send(folder: Path, email: OutgoingEmail = EMAIL) -> SendResult:
    async def go() -> SendResult | None:
        return await send_email(await OutboxTransport(folder).connect(), email)

    result = asyncio.run(go())
    assert result is not None
    return result


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_email_is_written_completely(tmp_path: Path) -> None:
    result = send(tmp_path / "outbox")
    (path,) = files(tmp_path)
    assert path.parent == tmp_path / "outbox" / "new"
    assert result.reply is not None
    assert (result.phase, result.dot_written, result.reply[:2]) == (Phase.DOT, True, (250, "2.0.0"))
    assert result.reply.text == f"250 2.0.0 written to the outbox as new/{path.name}"
    envelope = b"Return-Path: <ada@example.org>\nDelivered-To: bob@example.net\n"
    assert path.read_bytes() == envelope + DATA.replace(b"\r\n", b"\n")
    (message,) = mailbox.Maildir(tmp_path / "outbox", create=False)
    assert (message["Delivered-To"], message["Message-ID"]) == ("bob@example.net", "<1@x>")


def test_only_the_owner_can_read_the_outbox(tmp_path: Path) -> None:
    send(tmp_path / "outbox")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "outbox").rglob("*") if path.is_dir()}
    assert modes | {stat.S_IMODE((tmp_path / "outbox").stat().st_mode)} == {0o700}
    assert stat.S_IMODE(files(tmp_path)[0].stat().st_mode) == 0o600


def test_same_message_id_replaces_the_file(tmp_path: Path) -> None:
    assert send(tmp_path) == send(tmp_path)
    send(tmp_path, EMAIL._replace(data=DATA.replace(b"<1@x>", b"<3@x>")))
    assert len(files(tmp_path)) == 2


def test_only_a_header_names_a_letter(tmp_path: Path) -> None:
    for subject in (b"one", b"two"):
        send(tmp_path, EMAIL._replace(data=b"Subject: " + subject + b"\r\n\r\nMessage-ID: <2@x>\r\n"))
    assert len(files(tmp_path)) == 2


def test_refused_intent_leaves_no_file(tmp_path: Path) -> None:
    async def go() -> SendResult | None:
        connection = await OutboxTransport(tmp_path).connect()

        async def commit_intent() -> bool:
            assert [path.parent.name for path in files(tmp_path)] == ["tmp"]  # not yet in the folder "new"
            return False

        return await send_email(connection, EMAIL, commit_intent)

    assert asyncio.run(go()) is None
    assert files(tmp_path) == []


def test_address_cannot_add_a_header(tmp_path: Path) -> None:
    send(tmp_path, EMAIL._replace(sender="a@b\nBcc: c@d", recipient="e@f\r\n\r\nboo"))
    (message,) = mailbox.Maildir(tmp_path, create=False)
    assert message.keys() == ["Return-Path", "Delivered-To", "Message-ID", "Subject"]


NO_FOLDERS: dict[str, Callable[[Path], object]] = {
    "a file": Path.touch,
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("name", ["outbox", "outbox/tmp"])
@pytest.mark.parametrize("kind", NO_FOLDERS)
def test_something_else_in_place_of_a_folder(tmp_path: Path, kind: str, name: str) -> None:
    outbox = OutboxTransport(tmp_path / "outbox")
    outbox.check()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / name).parent.mkdir(exist_ok=True)
    NO_FOLDERS[kind](tmp_path / name)

    error = f"^cannot use the outbox {tmp_path}/outbox: .*is (not a folder|a link)$"
    for use in (outbox.check, lambda: asyncio.run(outbox.connect())):
        with pytest.raises(OutboxFailed, match=error):
            use()


def move_away(folder: Path) -> None:
    folder.rename(folder.with_name("docs"))
    folder.symlink_to("docs")


UNSAFE_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link": (move_away, "is a link"),
    "writable by others": (lambda folder: folder.chmod(0o777), "can be changed by others"),
    "of another account": (lambda folder: os.chown(folder, NOBODY, NOBODY), "belongs to nobody"),
}


@needs_root
@pytest.mark.parametrize("name", ["", "tmp", "new"])
@pytest.mark.parametrize("kind", UNSAFE_FOLDERS)
def test_unsafe_folder_is_refused_and_unchanged(tmp_path: Path, kind: str, name: str) -> None:
    send(tmp_path / "outbox")
    make, fault = UNSAFE_FOLDERS[kind]
    make(tmp_path / "outbox" / name)
    before = {path: (path.lstat().st_mode, path.lstat().st_uid) for path in tmp_path.rglob("*")}

    with pytest.raises(RelayUnavailable, match=fault) as refused:
        send(tmp_path / "outbox", EMAIL._replace(data=b"Subject: other\r\n\r\n"))

    assert str(tmp_path / "outbox") in refused.value.message
    assert refused.value.hint
    assert {path: (path.lstat().st_mode, path.lstat().st_uid) for path in tmp_path.rglob("*")} == before


def test_link_in_the_outbox_is_replaced_not_followed(tmp_path: Path) -> None:
    """Also one with the name of our draft."""
    send(tmp_path / "outbox")
    (path,) = files(tmp_path)
    (tmp_path / "precious").write_text("precious")
    path.unlink()
    path.symlink_to(tmp_path / "precious")
    (tmp_path / "outbox/tmp" / f"{path.name}.{os.getpid()}").symlink_to(tmp_path / "precious")
    send(tmp_path / "outbox")
    assert (tmp_path / "precious").read_text() == "precious"
    assert path.read_bytes().startswith(b"Return-Path")
    assert list((tmp_path / "outbox/tmp").iterdir()) == []


@pytest.mark.parametrize("umask", [0, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        send(tmp_path / "new" / "outbox")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}
    assert stat.S_IMODE(files(tmp_path)[0].stat().st_mode) == 0o600


@pytest.mark.parametrize("missing", ["tmp", "new"])
def test_email_that_cannot_be_written_is_not_sent(tmp_path: Path, missing: str) -> None:
    async def go() -> SendResult | None:
        connection = await OutboxTransport(tmp_path).connect()
        (tmp_path / missing).rmdir()
        return await send_email(connection, EMAIL)

    result = asyncio.run(go())
    assert result is not None
    assert (result.phase, result.reply, result.dot_written) == (Phase.DATA, None, False)
    assert "cannot write to the outbox" in result.error
    assert files(tmp_path) == []
