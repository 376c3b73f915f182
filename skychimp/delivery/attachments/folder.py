"""Read the files that only one client gets, from the folder that `mail.attachments_folder` names.

Paths are made of clients' data, so nothing leads out of the folder: no `..`, no absolute path and no link.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from skychimp import files
from skychimp.delivery.attachments import parts
from skychimp.delivery.attachments.listing import AttachedFile
from skychimp.errors import InvalidValue
from skychimp.text import has_control_character, shortened
from skychimp.translation import Phrase, tr

NO_FOLDER = tr("mail.attachments_folder is not set")
NO_FOLDER_HINT = tr("set mail.attachments_folder to the folder with the files")

_REASONS = {errno.ELOOP: "it is a link", errno.ENOTDIR: "its folder is a link or a file"}


class FileUnavailable(InvalidValue):
    """A client's own file cannot be read, or is not the one that was sent before."""


class OwnFile(NamedTuple):
    """A file of one client."""

    path: str
    data: bytes

    def encode(self) -> bytes:
        """Return the file as a part of an email."""
        return parts.encode(self.path, parts.media_type_of(parts.clean_name(self.path)), self.data)


class AttachmentsFolder:
    """The folder with the clients' own files. `max_size` is how many bytes an email's files may have, encoded."""

    def __init__(self, folder: Path | None = None, max_size: int = 0, used: int = 0) -> None:
        self._folder = folder
        self._max_size = max_size
        self._used = used

    def beside(self, shared: Sequence[AttachedFile]) -> "AttachmentsFolder":
        """Return the folder for emails that also have these files, which count too."""
        used = sum(parts.encoded_size(file.size) for file in shared)
        return AttachmentsFolder(self._folder, self._max_size, used)

    @property
    def problem(self) -> str | None:
        """Why no file in the folder can be read, None if files can be."""
        if self._folder is None:
            return NO_FOLDER
        try:
            with self._open():
                return None
        except OSError as error:
            return f"cannot use mail.attachments_folder: {_reason(error, self._folder)}"

    def read(self, paths: Sequence[str]) -> list[OwnFile]:
        """Return the files with these paths in the folder. Raises FileUnavailable."""
        read, size = [], self._used
        for path in paths:
            with self._open_file(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
                data = file.read(self._max_size + 1)
            size += parts.encoded_size(len(data))
            self._require_size(path, size)
            read.append(OwnFile(path, data))
        return read

    def check(self, paths: Sequence[str]) -> None:
        """Raise FileUnavailable if `read` would, without reading the files."""
        size = self._used
        for path in paths:
            with self._open_file(path) as descriptor:
                size += parts.encoded_size(os.fstat(descriptor).st_size)
            self._require_size(path, size)

    def _require_size(self, path: str, size: int) -> None:
        if size > self._max_size:
            limit = f"{self._max_size // 1000:,} kB (mail.max_attachment_size)"
            raise FileUnavailable(
                tr("cannot attach {path}: with it, the files have more than {limit}", path=shortened(path), limit=limit)
            )

    @contextmanager
    def _open_file(self, path: str) -> Iterator[int]:
        if self._folder is None:
            raise FileUnavailable(NO_FOLDER, NO_FOLDER_HINT)
        if has_control_character(path):
            raise FileUnavailable(tr("cannot attach {path}: the path has a control character", path=shortened(path)))
        try:
            with self._open() as folder:
                descriptor = files.open_below(path, dir_fd=folder, check=files.check_status)
        except UnicodeError:
            raise FileUnavailable(tr("cannot attach {path}: it is not valid Unicode", path=shortened(path))) from None
        except OSError as error:
            raise FileUnavailable(
                tr("cannot attach {path}: {reason}", path=shortened(path), reason=_reason(error, path))
            ) from None
        try:
            yield descriptor
        except OSError as error:
            raise FileUnavailable(
                tr("cannot attach {path}: {reason}", path=shortened(path), reason=_reason(error, path))
            ) from None
        finally:
            os.close(descriptor)

    @contextmanager
    def _open(self) -> Iterator[int]:
        assert self._folder is not None
        with files.open_folder(os.path.realpath(self._folder, strict=True)) as folder:
            yield folder


NO_ATTACHMENTS_FOLDER = AttachmentsFolder()


def hash_files(own: Sequence[OwnFile]) -> str:
    """Return a hash of an email's own files, by which a resend knows whether they are the same."""
    texts = (text for file in own for text in (os.fsencode(file.path), file.data))
    digests = (hashlib.sha256(text).hexdigest() for text in texts)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _reason(error: OSError, path: Path | str) -> Phrase:
    if isinstance(error, files.UnsafePlace):
        return str(error.reason(path))
    reason = _REASONS.get(error.errno or 0) or error.strerror or tr("unknown error")
    return reason[:1].lower() + reason[1:]
