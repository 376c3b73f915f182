"""Render messages as clients read them, to show, check and test them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import select

from skychimp.delivery.attachments.folder import NO_ATTACHMENTS_FOLDER, AttachmentsFolder, FileUnavailable
from skychimp.delivery.composing import compose, mime
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.composing.digest import insert_posts, summarize_post
from skychimp.delivery.composing.extras import NO_EXTRAS, Extras
from skychimp.errors import InvalidValue, NotFound
from skychimp.fields import Field
from skychimp.models import tables
from skychimp.permissions import Action, Actor
from skychimp.services import audit
from skychimp.services.blog import posts
from skychimp.services.clients import clients
from skychimp.services.messages import layouts
from skychimp.services.messages.contents import known_fields
from skychimp.services.messages.messages import MessageInfo, show, stored_attachments
from skychimp.store.database import Store
from skychimp.store.occurrences import stored_files
from skychimp.translation import tr

_MSG = tables.message

SAMPLE_RECIPIENT = Recipient("ada@example.org", "Ada Lovelace", "", ())
PREVIEWED_POSTS = 5
"""How many posts the preview of a digest shows. Which posts are new depends on the mailing."""


@dataclass(frozen=True)
class Preview:
    """A message as one client would read it, with its templates rendered. `attachments` are the names of the files."""

    to: str
    subject: str
    text: str
    html: str | None
    attachments: Sequence[str] = ()


class Samples(NamedTuple):
    """A message as clients read it: one with all values, one without optional ones, and those with the longest."""

    full: Preview
    minimal: Preview
    largest: Sequence[Preview]


def preview(
    store: Store,
    actor: Actor,
    message_id: int,
    client: str | None = None,
    *,
    blog_url: str | None = None,
    extras: Extras = NO_EXTRAS,
) -> Preview:
    """Render a message for one client, or for a sample client. A digest shows the latest posts.

    `blog_url` is the address of the blog, for the links to its posts. `extras` has the postal address and a sample of
    the link for unsubscribing. Raises NotFound, InvalidValue.
    """
    message = show(store, actor, message_id)
    recipient = _sample_recipient(store, message_id) if client is None else _recipient(store, actor, client)
    composer = _composer(store, message, "preview@localhost", blog_url, extras)
    subject, text, html = composer.render(recipient)
    names = [info.source or info.name for info in message.attachments if info.path is None]
    return Preview(recipient.email, subject, text, html, [*names, *composer.own_paths(recipient)])


def compose_test_email(
    store: Store,
    actor: Actor,
    message_id: int,
    *,
    sender: str,
    to: str,
    client: str | None = None,
    message_id_header: str,
    blog_url: str | None,
    extras: Extras = NO_EXTRAS,
    folder: AttachmentsFolder = NO_ATTACHMENTS_FOLDER,
) -> bytes:
    """Compose one of the actor's messages for any address, which need not be a client's.

    It is what `client` would read, or else the client with this address, or else a sample client. `extras` are its
    further headers and links. `folder` has the clients' own files. Returns the whole email with CRLF line ends. Raises
    NotFound, InvalidValue.
    """
    message = show(store, actor, message_id, action=Action.CHANGE_MESSAGES)
    audit.record_if_possible(store, actor, "test", "message", message_id, f"to {to.rpartition('@')[2]}")
    composer = _composer(store, message, sender, blog_url, extras, _read_files(store, message))
    if client is not None:
        recipient = _recipient(store, actor, client)
        return _address_to(_compose(composer, recipient, message_id_header, folder), recipient, to)
    try:
        recipient = _recipient(store, actor, to)
    except NotFound:
        recipient = _sample_recipient(store, message_id)._replace(email=to)
    return _compose(composer, recipient, message_id_header, folder)


def compose_preview(
    store: Store,
    actor: Actor,
    message_id: int,
    client: str | None = None,
    *,
    sender: str,
    blog_url: str | None,
    extras: Extras = NO_EXTRAS,
    folder: AttachmentsFolder = NO_ATTACHMENTS_FOLDER,
) -> bytes:
    """Compose a message as one client, or a sample client, gets it. A sample client has no files of their own.

    Raises NotFound, InvalidValue.
    """
    message = show(store, actor, message_id)
    recipient = _sample_recipient(store, message_id) if client is None else _recipient(store, actor, client)
    composer = _composer(store, message, sender, blog_url, extras, _read_files(store, message))
    if client is None:
        return composer.compose(recipient, "<preview@localhost>").whole
    return _compose(composer, recipient, "<preview@localhost>", folder)


def render_samples(
    store: Store, actor: Actor, message_id: int, *, blog_url: str | None, extras: Extras = NO_EXTRAS
) -> Samples:
    """Render a message for the clients that it is checked for. Raises NotFound, InvalidValue."""
    composer = _composer(store, show(store, actor, message_id), "check@localhost", blog_url, extras)
    samples = compose.sample_recipients(composer, _owner_fields(store, message_id))
    full, minimal = (Preview(each.email, *composer.render(each)) for each in samples.ordinary)
    return Samples(full, minimal, [Preview(each.email, *composer.render(each)) for each in samples.largest])


def _compose(composer: Composer, recipient: Recipient, message_id: str, folder: AttachmentsFolder) -> bytes:
    """Return an email with the client's own files. Raises InvalidValue."""
    try:
        own = [file.encode() for file in folder.read(composer.own_paths(recipient))]
    except FileUnavailable as error:
        hint = tr("choose a client who has the file")
        raise InvalidValue(error.message, error.hint or hint) from None
    return composer.compose(recipient, message_id, own_parts=own).whole


def _read_files(store: Store, message: MessageInfo) -> Mapping[str, bytes]:
    """Return the content of a message's attachments and inline pictures, by its hash."""
    hashes = {info.sha256 for info in message.attachments if info.sha256 is not None}
    with store.read() as db:
        return stored_files.read(db.connection(), hashes)


def _composer(
    store: Store,
    message: MessageInfo,
    sender: str,
    blog_url: str | None,
    extras: Extras,
    files: Mapping[str, bytes] | None = None,
) -> Composer:
    """Return the composer of a message. Without `files`, its emails have no attachments."""
    from skychimp.delivery.composing.layouts import finishing

    now = store.now()
    attached = stored_attachments(store, message.id)
    content = MessageContent(message.subject, message.body, message.format, message.html, attached)
    if message.digest:
        latest = reversed(posts.published_posts(store, now)[:PREVIEWED_POSTS])
        summaries = [summarize_post(post.title, post.content, post.slug, blog_url) for post in latest]
        content = insert_posts(content, summaries)
    with store.read() as db:
        choice = layouts.read_choice(db, message.id)
    content = finishing.finish(content, choice.layout)
    local = now.astimezone()
    return Composer(content, sender=sender, date=now, mailing_id=0, due_at=local, extras=extras, files=files)


def _recipient(store: Store, actor: Actor, client: str) -> Recipient:
    info = clients.show(store, actor, client)
    return Recipient(info.email, info.name, info.comment, tuple(info.tags), info.fields)


def _sample_recipient(store: Store, message_id: int) -> Recipient:
    """Return a sample client who has a value of each field that the message's owner has."""
    return compose.with_samples(SAMPLE_RECIPIENT, _owner_fields(store, message_id))


def _owner_fields(store: Store, message_id: int) -> Collection[Field]:
    with store.read() as db:
        owner_id = db.scalar(select(_MSG.c.owner_id).where(_MSG.c.id == message_id)) or 0
        return known_fields(db, owner_id)


def _address_to(email: bytes, recipient: Recipient, to: str) -> bytes:
    """Return an email that is addressed to somebody else than its client."""
    old = b"\r\nTo: " + mime.mailbox(mime.one_line(recipient.name), recipient.email)
    assert old in email
    return email.replace(old, b"\r\nTo: " + mime.mailbox("", to), 1)
