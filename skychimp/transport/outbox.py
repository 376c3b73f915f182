"""The outbox: write emails to a Maildir on this machine, for use without a mail server."""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from skychimp import files
from skychimp.errors import RelayUnavailable
from skychimp.transport.interfaces import CommitIntent, OutgoingEmail, Phase, Reply, SendResult

_MESSAGE_ID = re.compile(rb"^Message-ID: (.*)\r$", re.MULTILINE | re.IGNORECASE)


class OutboxTransport:
    """Writes each email to a file of its own.

    The file is named after the Message-ID, so an email that is written again replaces its file.
    """

    relay = "outbox"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def connect(self) -> "OutboxConnection":
        """Create the Maildir if it is missing. Raises RelayUnavailable if that fails."""
        try:
            for name in ("tmp", "new", "cur"):
                (self._folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.chmod(0o700)
        except OSError as error:
            message = f"cannot create the outbox {self._folder}: {error.strerror}"
            raise RelayUnavailable(message, "check the folder's permissions") from None
        return OutboxConnection(self._folder)


class OutboxConnection:
    """A connection to the outbox, which is always usable."""

    is_usable = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def send(self, email: OutgoingEmail, commit_intent: CommitIntent) -> SendResult | None:
        """Write the email to "tmp", commit the intent, and only then move the file to "new".

        The result of any failure says that no dot was written, even after the move: the email is sent again, and then
        replaces its file.
        """
        name = _file_name(email)
        draft = self._folder / "tmp" / f"{name}.{os.getpid()}"
        try:
            _write(draft, _maildir_bytes(email))
            if not await commit_intent():
                return None
            files.publish(draft, self._folder / "new" / name, replace=True)
        except OSError as error:
            return SendResult(Phase.DATA, None, f"cannot write to the outbox: {error.strerror}")
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        reply = Reply(250, "2.0.0", f"250 2.0.0 written to the outbox as new/{name}")
        return SendResult(Phase.DOT, reply, dot_written=True)

    async def close(self) -> None:
        """Do nothing: no file stays open between two emails."""


def _file_name(email: OutgoingEmail) -> str:
    headers = email.data.partition(b"\r\n\r\n")[0] + b"\r\n"
    message_id = _MESSAGE_ID.search(headers)
    return hashlib.sha256(message_id[1] if message_id else email.data).hexdigest()[:32]


def _maildir_bytes(email: OutgoingEmail) -> bytes:
    """Return the email with LF line ends, after a header line each for the envelope's sender and recipient."""
    envelope = f"Return-Path: <{_on_one_line(email.sender)}>\nDelivered-To: {_on_one_line(email.recipient)}\n"
    return envelope.encode("utf-8", "backslashreplace") + email.data.replace(b"\r\n", b"\n")


def _on_one_line(address: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "?", address)


def _write(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(file, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(file)
