"""Test the outbox with the standard library's Maildir, and with file errors."""

import asyncio
import mailbox
import stat
from pathlib import Path

import pytest

from skychimp.errors import RelayUnavailable
from skychimp.transport.interfaces import OutgoingEmail, Phase, SendResult
from skychimp.transport.outbox import OutboxTransport

DATA = "Message-ID: <1@x>\r\nSubject: й\r\n\r\nMessage-ID: <2@x>\r\n.\r\nbye\r\n".encode()
EMAIL = OutgoingEmail("ada@example.org", "bob@example.net", DATA)


async def commit() -> bool:
    return True


def send(folder: Path, email: OutgoingEmail = EMAIL) -> SendResult:
    async def go() -> SendResult | None:
        return await (await OutboxTransport(folder).connect()).send(email, commit)

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

        return await connection.send(EMAIL, commit_intent)

    assert asyncio.run(go()) is None
    assert files(tmp_path) == []


def test_address_cannot_add_a_header(tmp_path: Path) -> None:
    send(tmp_path, EMAIL._replace(sender="a@b\nBcc: c@d", recipient="e@f\r\n\r\nboo"))
    (message,) = mailbox.Maildir(tmp_path, create=False)
    assert message.keys() == ["Return-Path", "Delivered-To", "Message-ID", "Subject"]


def test_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("a file")
    with pytest.raises(RelayUnavailable, match="cannot create the outbox"):
        asyncio.run(OutboxTransport(tmp_path / "outbox").connect())


@pytest.mark.parametrize("missing", ["tmp", "new"])
def test_email_that_cannot_be_written_is_not_sent(tmp_path: Path, missing: str) -> None:
    async def go() -> SendResult | None:
        connection = await OutboxTransport(tmp_path).connect()
        (tmp_path / missing).rmdir()
        return await connection.send(EMAIL, commit)

    result = asyncio.run(go())
    assert result is not None
    assert (result.phase, result.reply, result.dot_written) == (Phase.DATA, None, False)
    assert "cannot write to the outbox" in result.error
    assert files(tmp_path) == []
