"""The outbox: a Maildir on this machine, for before there is a server."""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from skychimp.errors import RelayUnavailable
from skychimp.transport.interfaces import CommitIntent, OutgoingEmail, Phase, Reply, SendResult

_MESSAGE_ID = re.compile(rb"^Message-ID: (.*)\r$", re.MULTILINE | re.IGNORECASE)


class OutboxTransport:
    """Keeps each letter as a file of its own. Written again it replaces itself: its name is its Message-ID's."""

    relay = "outbox"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def connect(self) -> "OutboxConnection":
        """Make the Maildir where it is missing. Raises RelayAway where that can't be done."""
        try:
            for name in ("tmp", "new", "cur"):
                (self._folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.chmod(0o700)
        except OSError as error:
            raise RelayUnavailable(
                f"the outbox {self._folder} can't be made: {error.strerror}", "mend its folder"
            ) from None
        return OutboxConnection(self._folder)


class OutboxConnection:
    usable = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def send(self, letter: OutgoingEmail, commit_intent: CommitIntent) -> SendResult | None:
        """Write the letter, ask, and only then show it under its name.

        A failure after the rename says "no dot", too: the letter is written again, and replaces itself.
        """
        name = _name(letter)
        draft = self._folder / "tmp" / f"{name}.{os.getpid()}"
        try:
            _write(draft, _with_trace(letter))
            if not await commit_intent():
                return None
            draft.rename(self._folder / "new" / name)
            _sync(self._folder / "new")
        except OSError as error:
            return SendResult(Phase.DATA, None, f"the outbox can't be written: {error.strerror}")
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        return SendResult(
            Phase.DOT, Reply(250, "2.0.0", f"250 2.0.0 kept in the outbox as new/{name}"), dot_written=True
        )

    async def close(self) -> None:
        """Nothing is open between two letters."""


def _name(letter: OutgoingEmail) -> str:
    headers = letter.data.partition(b"\r\n\r\n")[0] + b"\r\n"
    found = _MESSAGE_ID.search(headers)
    return hashlib.sha256(found[1] if found else letter.data).hexdigest()[:32]


def _with_trace(letter: OutgoingEmail) -> bytes:
    """The letter as a Maildir keeps it: LF line ends, and the envelope on top, in one line each whatever it holds."""
    trace = f"Return-Path: <{_one_line(letter.sender)}>\nDelivered-To: {_one_line(letter.recipient)}\n"
    return trace.encode("utf-8", "backslashreplace") + letter.data.replace(b"\r\n", b"\n")


def _one_line(address: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "?", address)


def _write(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(file, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(file)


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
