"""The outbox against the standard library's Maildir, and against a disk that says no."""

import asyncio
import mailbox
import stat
from pathlib import Path

import pytest

from skychimp.errors import RelayUnavailable
from skychimp.transport.interfaces import OutgoingEmail, Phase, SendResult
from skychimp.transport.outbox import OutboxTransport

DATA = "Message-ID: <1@x>\r\nSubject: й\r\n\r\nMessage-ID: <2@x>\r\n.\r\nbye\r\n".encode()
LETTER = OutgoingEmail("ada@example.org", "bob@example.net", DATA)


async def yes() -> bool:
    return True


def send(folder: Path, letter: OutgoingEmail = LETTER) -> SendResult:
    async def go() -> SendResult | None:
        return await (await OutboxTransport(folder).connect()).send(letter, yes)

    answer = asyncio.run(go())
    assert answer is not None
    return answer


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_letter_is_kept_whole(tmp_path: Path) -> None:
    answer = send(tmp_path / "outbox")
    (path,) = files(tmp_path)
    assert path.parent == tmp_path / "outbox" / "new"
    assert answer.reply is not None
    assert (answer.phase, answer.dot_written, answer.reply[:2]) == (Phase.DOT, True, (250, "2.0.0"))
    assert answer.reply.text == f"250 2.0.0 kept in the outbox as new/{path.name}"
    trace = b"Return-Path: <ada@example.org>\nDelivered-To: bob@example.net\n"
    assert path.read_bytes() == trace + DATA.replace(b"\r\n", b"\n")
    (message,) = mailbox.Maildir(tmp_path / "outbox", create=False)
    assert (message["Delivered-To"], message["Message-ID"]) == ("bob@example.net", "<1@x>")


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    send(tmp_path / "outbox")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "outbox").rglob("*") if path.is_dir()}
    assert modes | {stat.S_IMODE((tmp_path / "outbox").stat().st_mode)} == {0o700}
    assert stat.S_IMODE(files(tmp_path)[0].stat().st_mode) == 0o600


def test_written_again_it_replaces_itself(tmp_path: Path) -> None:
    assert send(tmp_path) == send(tmp_path)
    send(tmp_path, LETTER._replace(data=DATA.replace(b"<1@x>", b"<3@x>")))
    assert len(files(tmp_path)) == 2


def test_only_a_header_names_a_letter(tmp_path: Path) -> None:
    for subject in (b"one", b"two"):
        send(tmp_path, LETTER._replace(data=b"Subject: " + subject + b"\r\n\r\nMessage-ID: <2@x>\r\n"))
    assert len(files(tmp_path)) == 2


def test_without_permit_nothing_stays(tmp_path: Path) -> None:
    async def go() -> SendResult | None:
        connection = await OutboxTransport(tmp_path).connect()

        async def commit_intent() -> bool:
            assert [path.parent.name for path in files(tmp_path)] == ["tmp"]  # not shown yet
            return False

        return await connection.send(LETTER, commit_intent)

    assert asyncio.run(go()) is None
    assert files(tmp_path) == []


def test_an_address_can_not_add_a_header(tmp_path: Path) -> None:
    send(tmp_path, LETTER._replace(sender="a@b\nBcc: c@d", recipient="e@f\r\n\r\nboo"))
    (message,) = mailbox.Maildir(tmp_path, create=False)
    assert message.keys() == ["Return-Path", "Delivered-To", "Message-ID", "Subject"]


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("a file")
    with pytest.raises(RelayUnavailable, match="can't be made"):
        asyncio.run(OutboxTransport(tmp_path / "outbox").connect())


@pytest.mark.parametrize("missing", ["tmp", "new"])
def test_a_letter_that_can_not_be_written_did_not_go(tmp_path: Path, missing: str) -> None:
    async def go() -> SendResult | None:
        connection = await OutboxTransport(tmp_path).connect()
        (tmp_path / missing).rmdir()
        return await connection.send(LETTER, yes)

    answer = asyncio.run(go())
    assert answer is not None
    assert (answer.phase, answer.reply, answer.dot_written) == (Phase.DATA, None, False)
    assert "can't be written" in answer.fault
    assert files(tmp_path) == []
