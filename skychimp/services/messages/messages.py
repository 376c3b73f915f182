"""Messages: what is said."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Row, Select, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from skychimp.delivery.composing import compose
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.composing.digest import News, names_posts, news, with_posts
from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.models import Format, Mailing, Message
from skychimp.permissions import Action, Actor, Scope, authorize
from skychimp.services import audit
from skychimp.services.blog import posts
from skychimp.services.clients import clients
from skychimp.services.listing import ListOptions, apply, is_id
from skychimp.store.database import Store

_MSG = Message.__table__
_M = Mailing.__table__

SORTED_BY = {
    "id": _MSG.c.id,
    "subject": _MSG.c.subject,
    "created_at": _MSG.c.created_at,
    "updated_at": _MSG.c.updated_at,
}
SAMPLE = Recipient("ada@example.org", "Ada Lovelace", "", ())
SAMPLE_POSTS = (News("A post", "What it begins with.", "https://blog.example.org/posts/a-post.html"),)
PREVIEWED_POSTS = 5  # of a digest, where no mailing says which are new


@dataclass(frozen=True)
class MessageInfo:
    id: int
    subject: str
    format: Format
    body: str
    html: str | None
    digest: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Preview:
    """A message as one client would read it."""

    to: str
    subject: str
    text: str
    html: str | None


def create(store: Store, actor: Actor, words: MessageContent, *, digest: bool = False) -> MessageInfo:
    """Keep a message, once it has been checked by rendering it. Raises InvalidValue.

    A digest's words go with the new posts, at `{{ posts }}` or after the body.
    """
    authorize(actor, Action.CHANGE_MESSAGES)
    words = _checked(words, digest)
    now = datetime.now(UTC)
    with store.write() as db:
        message = Message(owner_id=actor.user_id, created_at=now, updated_at=now, digest=digest, **words._asdict())
        db.add(message)
        db.flush()
        return _get(db, actor, message.id or 0)


def show(store: Store, actor: Actor, message_id: int, *, to: Action = Action.SEE_MESSAGES) -> MessageInfo:
    """One message, if the actor may do that to it. Raises NotFound."""
    with store.read() as db:
        return _only(db, _visible(actor, to), message_id)


def list_messages(store: Store, actor: Actor, page: ListOptions) -> Iterator[MessageInfo]:
    """The messages that the actor may see, as they are read."""
    query = apply(_visible(actor), page, searched=(_MSG.c.subject, _MSG.c.body), sorted_by=SORTED_BY)
    with store.read() as db:
        yield from map(_info, db.execute(query.execution_options(yield_per=100)))


def change(
    store: Store,
    actor: Actor,
    message_id: int,
    *,
    subject: str | None = None,
    body: str | None = None,
    format: Format | None = None,  # noqa: A002
    html: str | None = None,
    digest: bool | None = None,
) -> MessageInfo:
    """Change what is given; an occurrence that is open keeps the words it was opened with.

    Another format than HTML drops the HTML part. Raises NotFound, InvalidValue.
    """
    authorize(actor, Action.CHANGE_MESSAGES)
    with store.write() as db:
        old = _own(db, actor, message_id)
        words = MessageContent(
            old.subject if subject is None else subject,
            old.body if body is None else body,
            old.format if format is None else format,
            old.html if html is None else html,
        )
        digest = old.digest if digest is None else digest
        values = _checked(words, digest)._asdict() | {"digest": digest, "updated_at": datetime.now(UTC)}
        db.execute(update(_MSG).where(_MSG.c.id == message_id).values(values))
        return _get(db, actor, message_id)


def remove(store: Store, actor: Actor, message_id: int) -> MessageInfo:
    """Delete a message. Raises NotFound, and Conflict while a mailing uses it."""
    authorize(actor, Action.CHANGE_MESSAGES)
    with store.write() as db:
        gone = _own(db, actor, message_id)
        user = db.scalar(select(_M.c.id).where(_M.c.message_id == message_id).order_by(_M.c.id))
        try:
            db.execute(delete(_MSG).where(_MSG.c.id == message_id))
        except IntegrityError:
            hint = f"give it another message, or delete it: skychimp mailings delete {user}"
            raise Conflict(f"message {message_id} is used by mailing {user}", hint) from None
        audit.record(db, actor, "delete", "message", message_id)
    return gone


def preview(
    store: Store, actor: Actor, message_id: int, client: str | None = None, *, blog_url: str | None = None
) -> Preview:
    """A message as one client would get it, or a made-up one; a digest with the latest posts.

    Raises NotFound, InvalidValue.
    """
    recipient = SAMPLE if client is None else _recipient(store, actor, client)
    with store.read() as db:
        message = _get(db, actor, message_id)
    composer = _composer(store, message, "preview@localhost", blog_url)
    subject, text, html = composer.render(recipient)
    return Preview(recipient.email, subject, text, html)


def test_letter(
    store: Store, actor: Actor, message_id: int, *, sender: str, to: str, name: str, blog_url: str | None
) -> bytes:
    """The letter of `messages test`: one's own message, whole, to an address that need not be a client's.

    Raises NotFound, InvalidValue.
    """
    authorize(actor, Action.CHANGE_MESSAGES)
    with store.read() as db:
        message = _own(db, actor, message_id)
    composer = _composer(store, message, sender, blog_url)
    try:
        recipient = _recipient(store, actor, to)
    except NotFound:
        recipient = SAMPLE._replace(email=to)
    return composer.compose(recipient, name)


def _checked(words: MessageContent, is_digest: bool) -> MessageContent:
    if words.format != Format.HTML:
        words = words._replace(html=None)
    elif words.html is None or not words.html.strip():
        raise InvalidValue("the HTML part is empty", "give --html-file FILE, or leave it out")
    if not is_digest and names_posts(words.body + (words.html or "")):
        raise InvalidValue("only a digest has posts: {{ posts }}", "make it one: --digest")
    if is_digest and words.html is not None and not names_posts(words.html):
        raise InvalidValue("the HTML part of a digest says nowhere where its posts go", "write {{ posts }} there")
    compose.check(with_posts(words, SAMPLE_POSTS) if is_digest else words)
    return words


def _recipient(store: Store, actor: Actor, client: str) -> Recipient:
    chosen = clients.show(store, actor, client)
    return Recipient(chosen.email, chosen.name, chosen.comment, tuple(chosen.tags))


def _composer(store: Store, message: MessageInfo, sender: str, blog_url: str | None) -> Composer:
    now = datetime.now(UTC)
    words = MessageContent(message.subject, message.body, message.format, message.html)
    if message.digest:
        latest = reversed(posts.published(store, now)[:PREVIEWED_POSTS])
        told = [news(post.title, post.content, post.slug, blog_url) for post in latest]
        words = with_posts(words, told)
    return Composer(words, sender=sender, date=now, mailing_id=0, due_at=now.astimezone())


def _visible(actor: Actor, action: Action = Action.SEE_MESSAGES) -> Select[tuple[object, ...]]:
    query = select(_MSG)
    if authorize(actor, action) == Scope.OWN:
        query = query.where(_MSG.c.owner_id == actor.user_id)
    return query


def _get(db: Session, actor: Actor, message_id: int) -> MessageInfo:
    return _only(db, _visible(actor), message_id)


def _own(db: Session, actor: Actor, message_id: int) -> MessageInfo:
    return _only(db, select(_MSG).where(_MSG.c.owner_id == actor.user_id), message_id)


def _only(db: Session, chosen: Select[tuple[object, ...]], message_id: int) -> MessageInfo:
    row = db.execute(chosen.where(_MSG.c.id == message_id)).one_or_none() if is_id(message_id) else None
    if row is None:
        raise NotFound(f"there is no message {message_id}", "see them: skychimp messages list")
    return _info(row)


def _info(row: Row[tuple[object, ...]]) -> MessageInfo:
    return MessageInfo(
        row.id, row.subject, Format(row.format), row.body, row.html, row.digest, row.created_at, row.updated_at
    )
