"""Find the clients whose emails would fail, because a file that only they get cannot be read. Changes nothing."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, select

from skychimp.delivery.attachments import listing
from skychimp.delivery.attachments.folder import NO_FOLDER_HINT, AttachmentsFolder
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.errors import ConfigError, InvalidValue
from skychimp.fields import parse_fields
from skychimp.models import Format, tables
from skychimp.store.clients import audience, tags
from skychimp.store.database import Store
from skychimp.store.occurrences import opening
from skychimp.store.sql import id_list
from skychimp.translation import Phrase

_C = tables.client
_M = tables.mailing
_MSG = tables.message


@dataclass(frozen=True)
class MissingFile:
    """A client of a mailing whose email would fail, and why."""

    email: str
    reason: Phrase


class FileCheck:
    """Tells whether the files of a client can be read that an occurrence attaches. Raises InvalidValue."""

    def __init__(self, attachments: str, folder: AttachmentsFolder, *, mailing_id: int, due_at: datetime) -> None:
        content = MessageContent("", "", Format.TEXT, attachments=attachments)
        self._composer = Composer(content, sender="check@localhost", date=due_at, mailing_id=mailing_id, due_at=due_at)
        self._folder = folder.beside(listing.parse(attachments).files)

    @property
    def folder_problem(self) -> Phrase | None:
        """Why none of the files can be read, None if they can be."""
        return self._folder.problem

    def problem(self, recipient: Recipient) -> Phrase | None:
        """Return why a client's email would fail, None if it would not."""
        try:
            self._folder.check(self._composer.own_paths(recipient))
        except InvalidValue as error:
            return error.message
        return None


def make_check(
    attachments: str, folder: AttachmentsFolder | None, *, mailing_id: int, due_at: datetime
) -> FileCheck | None:
    """Return what checks the files of an occurrence, None if it has no files of clients, or cannot be composed."""
    try:
        if folder is None or not listing.parse(attachments).paths:
            return None
        return FileCheck(attachments, folder, mailing_id=mailing_id, due_at=due_at)
    except InvalidValue:
        return None


def require_folder(store: Store, message_id: int, folder: AttachmentsFolder) -> None:
    """Raise ConfigError if a message has files of clients, and their folder is not set or cannot be used."""
    with store.read() as db:
        attachments = _attachments(db.connection(), message_id)
    check = make_check(attachments, folder, mailing_id=0, due_at=store.now())
    if check is not None and check.folder_problem is not None:
        raise ConfigError(check.folder_problem, NO_FOLDER_HINT)


def find_missing(
    store: Store, mailing_id: int, folder: AttachmentsFolder, *, require_consent: bool = False
) -> Iterator[MissingFile]:
    """Yield the clients who get a mailing and whose email would fail now, read in batches.

    `require_consent` is the setting of that name. Raises InvalidValue if the audience cannot be read.
    """
    now = store.now()
    with store.read() as db:
        message_id = db.scalar(select(_M.c.message_id).where(_M.c.id == mailing_id))
        attachments = _attachments(db.connection(), message_id)
    check = make_check(attachments, folder, mailing_id=mailing_id, due_at=now)
    after = 0
    while check is not None:
        with store.read() as session:
            connection = session.connection()
            chosen = audience.selection(connection, mailing_id, now, require_consent=require_consent)
            members = audience.members(connection, chosen, after=after, limit=opening.OPENING_BATCH)
            getting = [member.client_id for member in members if audience.why_left_out(member) is None]
            recipients = read_recipients(connection, getting)
        if not members:
            return
        after = members[-1].client_id
        for recipient in recipients.values():
            if (reason := check.problem(recipient)) is not None:
                yield MissingFile(recipient.email, reason)


def read_recipients(db: Connection, client_ids: Collection[int]) -> Mapping[int, Recipient]:
    """Return clients as templates see them, by their ids."""
    columns = (_C.c.email, _C.c.name, _C.c.comment, tags.client_tags().label("tags"), _C.c.fields)
    rows = db.execute(select(_C.c.id, *columns).where(_C.c.id.in_(id_list(list(client_ids)))).order_by(_C.c.id))
    return {row.id: recipient_of(row, row.email) for row in rows}


def recipient_of(row: Row[tuple[object, ...]], email: str) -> Recipient:
    """Return the client in a row with its name, comment, tags and fields."""
    return Recipient(email, row.name, row.comment, tuple(json.loads(row.tags)), parse_fields(row.fields or "{}"))


def _attachments(db: Connection, message_id: int | None) -> str:
    return db.scalar(select(_MSG.c.attachments).where(_MSG.c.id == message_id)) or listing.NOTHING
