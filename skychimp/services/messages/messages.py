"""Create, change, delete, list and preview messages."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, Select, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from skychimp.delivery.composing import compose
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.composing.digest import PostSummary, has_posts_placeholder, insert_posts, summarize_post
from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.models import Format, Mailing, Message
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.blog import posts
from skychimp.services.clients import clients
from skychimp.services.listing import ListOptions, apply, in_scope, is_valid_id, not_found
from skychimp.shell import run_hint
from skychimp.store.database import Store

_MSG = Message.__table__
_M = Mailing.__table__

SORTED_BY = {
    "id": _MSG.c.id,
    "subject": _MSG.c.subject,
    "created_at": _MSG.c.created_at,
    "updated_at": _MSG.c.updated_at,
}
SAMPLE_RECIPIENT = Recipient("ada@example.org", "Ada Lovelace", "", ())
SAMPLE_POSTS = (PostSummary("A post", "Its first paragraph.", "https://blog.example.org/posts/a-post.html"),)
PREVIEWED_POSTS = 5
"""How many posts the preview of a digest shows. Which posts are new depends on the mailing."""


@dataclass(frozen=True)
class MessageInfo:
    """A message as its owner sees it. `html` is None unless the format is HTML."""

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
    """A message as one client would read it, with its templates rendered."""

    to: str
    subject: str
    text: str
    html: str | None


def create(store: Store, actor: Actor, content: MessageContent, *, digest: bool = False) -> MessageInfo:
    """Create a message, after rendering it once to validate it. Raises InvalidValue.

    A digest is sent with the blog's new posts, which replace `{{ posts }}` or follow the body.
    """
    authorize(actor, Action.CHANGE_MESSAGES)
    content = _validate(content, is_digest=digest)
    now = store.now()
    with store.write() as db:
        message = Message(owner_id=actor.user_id, created_at=now, updated_at=now, digest=digest, **content._asdict())
        db.add(message)
        db.flush()
        return _get(db, actor, message.id or 0, Action.CHANGE_MESSAGES)


def show(store: Store, actor: Actor, message_id: int, *, action: Action = Action.SEE_MESSAGES) -> MessageInfo:
    """Return one message. Raises NotFound if it does not exist or the actor may not do this to it."""
    with store.read() as db:
        message = _get(db, actor, message_id, action)
        owner_id = db.scalar(select(_MSG.c.owner_id).where(_MSG.c.id == message_id))
    if owner_id != actor.user_id:
        audit.record_view(store, actor, "message", message_id)
    return message


def list_messages(store: Store, actor: Actor, options: ListOptions) -> Iterator[MessageInfo]:
    """Yield the messages that the actor may see, while they are read. Raises InvalidValue."""
    audit.record_list(store, actor, Action.SEE_MESSAGES, "message")
    query = apply(_select(actor), options, searched=(_MSG.c.subject, _MSG.c.body), sorted_by=SORTED_BY)
    with store.read() as db:
        yield from map(_message_info, db.execute(query.execution_options(yield_per=100)))


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
    """Change the values that are given. An occurrence that is already open keeps its content.

    Any format but HTML removes the HTML part. Raises NotFound, InvalidValue.
    """
    with store.write() as db:
        old = _get(db, actor, message_id, Action.CHANGE_MESSAGES)
        content = MessageContent(
            old.subject if subject is None else subject,
            old.body if body is None else body,
            old.format if format is None else format,
            old.html if html is None else html,
        )
        digest = old.digest if digest is None else digest
        content = _validate(content, is_digest=digest)
        values = content._asdict() | {"digest": digest, "updated_at": store.now()}
        db.execute(update(_MSG).where(_MSG.c.id == message_id).values(values))
        return _get(db, actor, message_id, Action.CHANGE_MESSAGES)


def remove(store: Store, actor: Actor, message_id: int) -> MessageInfo:
    """Delete a message and return it. Raises NotFound, and Conflict if a mailing uses it."""
    with store.write() as db:
        deleted = _get(db, actor, message_id, Action.CHANGE_MESSAGES)
        mailing_id = db.scalar(select(_M.c.id).where(_M.c.message_id == message_id).order_by(_M.c.id))
        try:
            db.execute(delete(_MSG).where(_MSG.c.id == message_id))
        except IntegrityError:
            hint = f"{run_hint('mailings', 'delete', mailing_id)}, or give the mailing another message"
            raise Conflict(f"message {message_id} is used by mailing {mailing_id}", hint) from None
        audit.record(db, actor, "delete", "message", message_id)
    return deleted


def preview(
    store: Store, actor: Actor, message_id: int, client: str | None = None, *, blog_url: str | None = None
) -> Preview:
    """Render a message for one client, or for a sample client. A digest shows the latest posts.

    `blog_url` is the address of the blog, for the links to its posts. Raises NotFound, InvalidValue.
    """
    recipient = SAMPLE_RECIPIENT if client is None else _recipient(store, actor, client)
    message = show(store, actor, message_id)
    subject, text, html = _composer(store, message, "preview@localhost", blog_url).render(recipient)
    return Preview(recipient.email, subject, text, html)


def compose_test_email(
    store: Store,
    actor: Actor,
    message_id: int,
    *,
    sender: str,
    to: str,
    message_id_header: str,
    blog_url: str | None,
) -> bytes:
    """Compose one of the actor's messages for any address, which need not be a client's.

    Returns the whole email with CRLF line ends. Raises NotFound, InvalidValue.
    """
    message = show(store, actor, message_id, action=Action.CHANGE_MESSAGES)
    audit.record_if_possible(store, actor, "test", "message", message_id, f"to {to.rpartition('@')[2]}")
    try:
        recipient = _recipient(store, actor, to)
    except NotFound:
        recipient = SAMPLE_RECIPIENT._replace(email=to)
    return _composer(store, message, sender, blog_url).compose(recipient, message_id_header).data


def _validate(content: MessageContent, *, is_digest: bool) -> MessageContent:
    """Return the content as it can be stored. Raises InvalidValue if it cannot be rendered."""
    if content.format != Format.HTML:
        content = content._replace(html=None)
    elif content.html is None or not content.html.strip():
        raise InvalidValue("the HTML part is empty", "use another --html-file, or none")
    compose.require_sizes(content)
    if "\0" in "".join((content.subject, content.body, content.html or "")):
        raise InvalidValue("the message contains a NUL character", "delete it: no text has one")
    if not is_digest and has_posts_placeholder(content.body + (content.html or "")):
        raise InvalidValue("only a digest can contain {{ posts }}", "use --digest")
    if is_digest and content.html is not None and not has_posts_placeholder(content.html):
        raise InvalidValue("the HTML part of the digest has no {{ posts }}", "add {{ posts }} to the HTML part")
    compose.check_content(insert_posts(content, SAMPLE_POSTS) if is_digest else content)
    return content


def _recipient(store: Store, actor: Actor, client: str) -> Recipient:
    info = clients.show(store, actor, client)
    return Recipient(info.email, info.name, info.comment, tuple(info.tags))


def _composer(store: Store, message: MessageInfo, sender: str, blog_url: str | None) -> Composer:
    now = store.now()
    content = MessageContent(message.subject, message.body, message.format, message.html)
    if message.digest:
        latest = reversed(posts.published_posts(store, now)[:PREVIEWED_POSTS])
        summaries = [summarize_post(post.title, post.content, post.slug, blog_url) for post in latest]
        content = insert_posts(content, summaries)
    return Composer(content, sender=sender, date=now, mailing_id=0, due_at=now.astimezone())


def _select(actor: Actor, action: Action = Action.SEE_MESSAGES) -> Select[tuple[object, ...]]:
    return select(_MSG).where(in_scope(authorize(actor, action), actor, _MSG.c.owner_id))


def _get(db: Session, actor: Actor, message_id: int, action: Action) -> MessageInfo:
    query = _select(actor, action).where(_MSG.c.id == message_id)
    row = db.execute(query).one_or_none() if is_valid_id(message_id) else None
    if row is None:
        raise not_found("message", message_id)
    return _message_info(row)


def _message_info(row: Row[tuple[object, ...]]) -> MessageInfo:
    return MessageInfo(
        row.id, row.subject, Format(row.format), row.body, row.html, row.digest, row.created_at, row.updated_at
    )
