"""The outbox: write emails to a Maildir on this machine, for use without a mail server."""

import asyncio
import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from skychimp import files
from skychimp.errors import OutboxFailed
from skychimp.translation import tr
from skychimp.transport.interfaces import OUTBOX, EmailSource, OutgoingEmail, Phase, Reply, SendResult

_NAME = re.compile(r"[0-9a-f]{32}")
_MESSAGE_ID = re.compile(rb"^Message-ID: (.*)\r$", re.MULTILINE | re.IGNORECASE)


class OutboxTransport:
    """Writes each email to a file of its own.

    The file is named after the Message-ID, so an email that is written again replaces its file.
    """

    relay = OUTBOX

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def connect(self) -> "OutboxConnection":
        """Create the Maildir if it is missing, and open it. Raises OutboxFailed, also if others could change it."""
        with ExitStack() as opened:
            tmp, new, _ = self._open(opened)
            return OutboxConnection(tmp, new, opened.pop_all())

    def check(self) -> None:
        """Raise OutboxFailed if the outbox exists, but cannot be used."""
        if os.path.lexists(self._folder):
            with ExitStack() as opened:
                self._open(opened)

    def remove(self, names: Iterable[str]) -> None:
        """Remove emails by the names that they were written under. Raises OutboxFailed.

        It finds them also in "cur", where a mail program has moved them. A name that is none of ours is left out.
        """
        if not os.path.lexists(self._folder):
            return
        with ExitStack() as opened:
            _, new, cur = self._open(opened)
            try:
                moved = {name.partition(":")[0]: name for name in os.listdir(cur)}
                for name in filter(_NAME.fullmatch, names):
                    _unlink(name, new)
                    if name in moved:
                        _unlink(moved[name], cur)
                os.fsync(new)
                os.fsync(cur)
            except OSError as error:
                raise self._unusable(error) from None

    def _open(self, opened: ExitStack) -> tuple[int, int, int]:
        """Return the file descriptors of the folders "tmp", "new" and "cur". Raises OutboxFailed."""
        try:
            return self._open_folders(opened)
        except files.UnsafePlace as error:
            raise OutboxFailed(
                tr("cannot use the outbox {folder}: {reason}", folder=self._folder, reason=error.reason(self._folder)),
                error.remedy,
            ) from None
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> OutboxFailed:
        return OutboxFailed(
            tr("cannot use the outbox {folder}: {strerror}", folder=self._folder, strerror=error.strerror),
            tr("check the folder's permissions"),
        )

    def _open_folders(self, opened: ExitStack) -> tuple[int, int, int]:
        files.make_folder(self._folder)
        root = opened.enter_context(files.open_folder(self._folder))
        with suppress(PermissionError):  # it belongs to root
            os.fchmod(root, 0o700)
        for name in ("tmp", "new", "cur"):
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=root)
        tmp, new, cur = (opened.enter_context(files.open_folder(self._folder / name)) for name in ("tmp", "new", "cur"))
        return tmp, new, cur


class OutboxConnection:
    """A connection to the outbox. It is usable until an email cannot be written."""

    mail_limit = None

    def __init__(self, tmp: int, new: int, opened: ExitStack) -> None:
        self.is_usable = True
        self._tmp = tmp
        self._new = new
        self._opened = opened

    async def send(self, email: OutgoingEmail, source: EmailSource) -> None:
        """Write the email to "tmp", commit the intent, and only then move the file to "new".

        The result of any failure says that no dot was written, even after the move: the email is sent again, and then
        replaces its file.
        """
        name = _file_name(email)
        draft = f"{name}.{os.getpid()}"
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            signature = b"" if email.signature is None else await email.signature.made
            self._write(draft, _maildir_bytes(email, signature))
            source.commit_intent(partial(_set_answer, answered))
            if not await answered:
                return
            os.rename(draft, name, src_dir_fd=self._tmp, dst_dir_fd=self._new)
            os.fsync(self._new)
        except OSError as error:
            self.is_usable = False
            source.finish(SendResult(Phase.DATA, None, f"cannot write to the outbox: {error.strerror}"))
            return
        finally:
            with suppress(OSError):
                os.unlink(draft, dir_fd=self._tmp)
        reply = Reply(250, "2.0.0", f"250 2.0.0 written to the outbox as new/{name}")
        source.finish(SendResult(Phase.DOT, reply, dot_written=True))

    async def close(self) -> None:
        """Close the folders."""
        self._opened.close()

    def _write(self, name: str, data: bytes) -> None:
        with files.create_file(name, dir_fd=self._tmp) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _unlink(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _set_answer(answered: "asyncio.Future[bool]", is_granted: bool) -> None:
    if not answered.done():  # it was cancelled meanwhile
        answered.set_result(is_granted)


def _file_name(email: OutgoingEmail) -> str:
    headers = email.data.partition(b"\r\n\r\n")[0] + b"\r\n"
    message_id = _MESSAGE_ID.search(headers)
    return hashlib.sha256(message_id[1] if message_id else email.data).hexdigest()[:32]


def _maildir_bytes(email: OutgoingEmail, signature: bytes) -> bytes:
    """Return the email with LF line ends, after a header line each for the envelope's sender and recipient."""
    envelope = f"Return-Path: <{_on_one_line(email.sender)}>\nDelivered-To: {_on_one_line(email.recipient)}\n"
    pieces = (piece.replace(b"\r\n", b"\n") for piece in (signature, email.data, *email.tail))
    return b"".join((envelope.encode("utf-8", "backslashreplace"), *pieces))


def _on_one_line(address: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "?", address)
