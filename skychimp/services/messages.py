"""Messages: what is said."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Row, Select, delete, select
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from skychimp.access import Actor, Reach, reach
from skychimp.delivery import compose
from skychimp.delivery.compose import Composer, Recipient, Words
from skychimp.errors import Conflict, NotFound
from skychimp.models import Format, Mailing, Message
from skychimp.services import clients
from skychimp.services.listing import Page, narrow
from skychimp.store.engine import Store

_MSG = Message.__table__
_M = Mailing.__table__

SORTED_BY = {
    "id": _MSG.c.id,
    "subject": _MSG.c.subject,
    "created_at": _MSG.c.created_at,
    "updated_at": _MSG.c.updated_at,
}
SAMPLE = Recipient("ada@example.org", "Ada Lovelace", "", ())


@dataclass(frozen=True)
class MessageInfo:
    id: int
    subject: str
    format: Format
    body: str
    html: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Preview:
    """A message as one client would read it."""

    to: str
    subject: str
    text: str
    html: str | None


def create(store: Store, actor: Actor, words: Words) -> MessageInfo:
    """Keep a message, once it has been checked by rendering it. Raises InvalidValue."""
    reach(actor, "change messages")
    compose.check(words)
    now = datetime.now(UTC)
    with store.write() as session:
        message = Message(owner_id=actor.user_id, created_at=now, updated_at=now, **words._asdict())
        session.add(message)
        session.flush()
        return _get(session, actor, message.id or 0)


def show(store: Store, actor: Actor, message_id: int) -> MessageInfo:
    """One message. Raises NotFound."""
    with store.read() as session:
        return _get(session, actor, message_id)


def list_messages(store: Store, actor: Actor, page: Page) -> Iterator[MessageInfo]:
    """The messages that the actor may see, as they are read."""
    query = narrow(_visible(actor), page, searched=(_MSG.c.subject, _MSG.c.body), sorted_by=SORTED_BY)
    with store.read() as session:
        yield from map(_info, session.execute(query.execution_options(yield_per=100)))


def change(
    store: Store,
    actor: Actor,
    message_id: int,
    *,
    subject: str | None = None,
    body: str | None = None,
    format: Format | None = None,  # noqa: A002
    html: str | None = None,
) -> MessageInfo:
    """Change what is given; an occurrence that is open keeps the words it was opened with. Raises NotFound, InvalidValue."""
    reach(actor, "change messages")
    with store.write() as session:
        message = session.get(Message, message_id)
        if message is None or message.owner_id != actor.user_id:
            raise _missing(message_id)
        words = Words(
            message.subject if subject is None else subject,
            message.body if body is None else body,
            message.format if format is None else format,
            message.html if html is None else html,
        )
        compose.check(words)
        message.subject, message.body, message.format, message.html = words
        message.updated_at = datetime.now(UTC)
        session.flush()
        return _get(session, actor, message_id)


def remove(store: Store, actor: Actor, message_id: int) -> MessageInfo:
    """Delete a message. Raises NotFound, and Conflict while a mailing uses it."""
    reach(actor, "change messages")
    with store.write() as session:
        gone = _get(session, actor, message_id)
        users = session.execute(select(_M.c.id).where(_M.c.message_id == message_id)).scalars().all()
        try:
            deleted = session.execute(delete(_MSG).where(_MSG.c.id == message_id, _MSG.c.owner_id == actor.user_id))
        except IntegrityError:
            named = ", ".join(map(str, users))
            raise Conflict(f"message {message_id} is used by mailing {named}", "delete the mailing first") from None
        if not deleted.rowcount:  # type: ignore[attr-defined]
            raise _missing(message_id)
    return gone


def preview(store: Store, actor: Actor, message_id: int, client: str | None = None) -> Preview:
    """A message as one client would get it, or a made-up one. Raises NotFound, InvalidValue."""
    recipient = SAMPLE
    if client is not None:
        chosen = clients.show(store, actor, client)
        recipient = Recipient(chosen.email, chosen.name, chosen.comment, tuple(chosen.tags))
    with store.read() as session:
        composer = _composer(_get(session, actor, message_id), "preview@localhost")
    subject, text, html = composer.render(recipient)
    return Preview(recipient.email, subject, text, html)


def test_letter(store: Store, actor: Actor, message_id: int, *, sender: str, to: str, name: str) -> bytes:
    """The letter of `messages test`: the whole message to one address, whether or not it is a client's."""
    with store.read() as session:
        composer = _composer(_get(session, actor, message_id), sender)
    return composer.compose(Recipient(to, SAMPLE.name, "", ()), name)


def _composer(message: MessageInfo, sender: str) -> Composer:
    now = datetime.now(UTC)
    words = Words(message.subject, message.body, message.format, message.html)
    return Composer(words, sender=sender, date=now, mailing_id=0, due_at=now.astimezone())


def _visible(actor: Actor) -> Select[tuple[object, ...]]:
    query = select(_MSG)
    if reach(actor, "see messages") == Reach.OWN:
        query = query.where(_MSG.c.owner_id == actor.user_id)
    return query


def _get(session: Session, actor: Actor, message_id: int) -> MessageInfo:
    row = session.execute(_visible(actor).where(_MSG.c.id == message_id)).one_or_none()
    if row is None:
        raise _missing(message_id)
    return _info(row)


def _missing(message_id: int) -> NotFound:
    return NotFound(f"there is no message {message_id}", "see them: skychimp messages list")


def _info(row: Row[tuple[object, ...]]) -> MessageInfo:
    return MessageInfo(row.id, row.subject, Format(row.format), row.body, row.html, row.created_at, row.updated_at)
