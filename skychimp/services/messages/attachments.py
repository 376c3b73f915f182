"""Attach files and inline pictures to messages."""

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, select

from skychimp import markdown
from skychimp.config.types import ByteSize, parse_size
from skychimp.delivery.attachments import listing, parts, pictures
from skychimp.delivery.attachments.listing import AttachedFile, Attachments
from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import InvalidValue
from skychimp.models import Format, tables
from skychimp.services.blog import images
from skychimp.store.database import Store
from skychimp.store.occurrences import stored_files
from skychimp.text import count_of, shortened
from skychimp.translation import tr

_MSG = tables.message

MOST_ATTACHMENTS = 100
"""Files, inline pictures and paths of a message."""


@dataclass(frozen=True)
class AttachmentInfo:
    """A file of a message.

    An inline picture has a `source`, the name that it has in the text. A file of which each client has their own has a
    `path` with placeholders, and neither type nor size. `size` is in bytes.
    """

    name: str
    type: str | None = None
    size: int | None = None
    sha256: str | None = None
    source: str | None = None
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"{self.path} (each client's own)"
        return f"{self.name} ({self.type}, {count_of(self.size or 0, 'byte')}{', inline' if self.source else ''})"


class NewFile(NamedTuple):
    """A file to attach."""

    name: str
    data: bytes


@dataclass(frozen=True)
class AttachmentChanges:
    """What to attach to a message, and what to remove.

    `paths` are those of clients' own files, with placeholders. A file replaces one with the same name. With
    `removes_all`, what was attached before is removed, but not the pictures in the text. `read_picture` returns the
    content of a picture by its name in the text that is given; it raises InvalidValue. None: there is no folder to read
    it from. `max_size` is how many bytes all files may have, encoded.
    """

    files: Sequence[NewFile] = ()
    paths: Sequence[str] = ()
    removes_all: bool = False
    read_picture: Callable[[str], bytes] | None = None
    max_size: ByteSize = parse_size("10 MB")  # noqa: RUF009

    @property
    def is_given(self) -> bool:
        """Whether the attachments change."""
        return bool(self.files or self.paths or self.removes_all)


NO_CHANGES = AttachmentChanges()


class Attached(NamedTuple):
    """A message's content with its attachments, and the content of those that are new by their hashes."""

    content: MessageContent
    new: dict[str, bytes]

    def save(self, db: Connection, before: str = listing.NOTHING) -> None:
        """Keep the new files, and remove those of the list before that nobody uses now. Call it after the message."""
        stored_files.add(db, self.new)
        stored_files.remove_unused(db, _hashes(before) - _hashes(self.content.attachments))


def attach(content: MessageContent, changes: AttachmentChanges, *, is_text_new: bool) -> Attached:
    """Return a message's content with attachments and with the pictures in its text.

    `is_text_new` says whether the user gives the text that the HTML part is made from, so that its pictures are read.
    Raises InvalidValue.
    """
    old, new = listing.parse(content.attachments), dict[str, bytes]()
    given = [_keep(file, new) for file in changes.files]
    _require_different_names(given)
    names = {file.name for file in given}
    before = [] if changes.removes_all else [file for file in old.shared if file.name not in names]
    paths = dict.fromkeys((*(() if changes.removes_all else old.paths), *changes.paths))
    inline = list(_pictures(content, changes, old, new, is_text_new=is_text_new))
    attachments = Attachments((*before, *given, *inline), tuple(paths))
    if changes.is_given or new:
        _require_limits(attachments, changes.max_size)
    return Attached(content._replace(attachments=listing.dump(attachments)), new)


def describe(stored: str) -> list[AttachmentInfo]:
    """Return a message's attachments from the store, none if the list is damaged."""
    try:
        attachments = listing.parse(stored)
    except InvalidValue:
        return []
    files = [
        AttachmentInfo(file.name, file.type, file.size, file.sha256, file.source or None) for file in attachments.files
    ]
    return [*files, *(AttachmentInfo(parts.clean_name(path), path=path) for path in attachments.paths)]


def remove(db: Connection, stored: str) -> None:
    """Remove the files of a message that was deleted, unless somebody else uses them."""
    stored_files.remove_unused(db, _hashes(stored))


def export(store: Store, owner_id: int) -> Iterator[dict[str, str]]:
    """Yield the files of a user's messages by their hashes, in base64, one at a time."""
    with store.read() as db:
        listed = db.scalars(select(_MSG.c.attachments).where(_MSG.c.owner_id == owner_id)).all()
    for sha256 in sorted(set().union(*map(_hashes, listed))):
        with store.read() as db:
            found = stored_files.read(db.connection(), [sha256])
        for content in found.values():
            yield {"sha256": sha256, "content": base64.b64encode(content).decode()}


def _hashes(stored: str) -> set[str]:
    return {info.sha256 for info in describe(stored) if info.sha256 is not None}


def _keep(file: NewFile, new: dict[str, bytes], source: str = "", media_type: str | None = None) -> AttachedFile:
    name, sha256 = parts.clean_name(file.name), hashlib.sha256(file.data).hexdigest()
    new[sha256] = file.data
    return AttachedFile(name, media_type or parts.media_type_of(name), sha256, len(file.data), source)


def _require_different_names(files: Sequence[AttachedFile]) -> None:
    names = [file.name for file in files]
    for name in names:
        if names.count(name) > 1:
            raise InvalidValue(
                tr("two attachments have the name {name}", name=shortened(name)), tr("rename one of the files")
            )


def _require_limits(attachments: Attachments, max_size: ByteSize) -> None:
    if len(attachments.files) + len(attachments.paths) > MOST_ATTACHMENTS:
        raise InvalidValue(
            tr("the message has more than {most_attachments} attachments", most_attachments=MOST_ATTACHMENTS),
            tr("attach fewer files"),
        )
    size = sum(parts.encoded_size(file.size) for file in attachments.files)
    if size > max_size:
        raise InvalidValue(
            tr(
                "the attachments have {size:,} kB in an email, more than {max_size}",
                size=size // 1_000,
                max_size=max_size,
            ),
            tr("attach smaller files, or set mail.max_attachment_size"),
        )


# Inline pictures


def _pictures(
    content: MessageContent, changes: AttachmentChanges, old: Attachments, new: dict[str, bytes], *, is_text_new: bool
) -> Iterator[AttachedFile]:
    """Yield the pictures in the HTML part: from the folder of a new text, and otherwise those that are there already.

    The message keeps its text as it is. Only in an email does a picture get another address.
    """
    known = {picture.source: picture for picture in old.pictures}
    for source in _local_pictures(content):
        if is_text_new and changes.read_picture is not None:
            yield _read_picture(source, changes.read_picture, new)
        elif source in known:
            yield known[source]
        elif is_text_new:
            raise InvalidValue(
                tr("the picture {source} has no folder", source=shortened(source)),
                tr("use --body-file with the picture in the same folder, or the https URL of the picture"),
            )


def _local_pictures(content: MessageContent) -> list[str]:
    if content.format == Format.HTML:
        return pictures.local_pictures(content.html or "")
    if content.format != Format.MARKDOWN or "![" not in content.body:
        return []
    from skychimp.delivery.composing import conversions

    markdown.require_little_markup(content.body, "body")
    return pictures.local_pictures(conversions.html_from_markdown(content.body))


def _read_picture(source: str, read: Callable[[str], bytes], new: dict[str, bytes]) -> AttachedFile:
    data = read(source)
    try:
        media_type = images.media_type(data)
    except InvalidValue as error:
        raise InvalidValue(
            tr("cannot use the picture {source}: {message}", source=shortened(source), message=error.message),
            error.hint,
        ) from None
    return _keep(NewFile(source, data), new, source, media_type)
