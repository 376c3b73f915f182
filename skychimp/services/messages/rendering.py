"""Render messages as clients read them, to show, check and test them."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import NamedTuple, cast

from sqlalchemy import select

from skychimp.delivery.attachments.folder import NO_ATTACHMENTS_FOLDER, AttachmentsFolder, FileUnavailable
from skychimp.delivery.composing import compose, mime
from skychimp.delivery.composing import variants as choosing
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.composing.digest import summarize_post
from skychimp.delivery.composing.extras import NO_EXTRAS, Extras
from skychimp.errors import InvalidValue, NotFound
from skychimp.fields import Field, FieldValue
from skychimp.models import EmailLanguage, tables
from skychimp.permissions import Action, Actor
from skychimp.services import audit
from skychimp.services.blog import posts
from skychimp.services.clients import clients
from skychimp.services.messages import attachments, contents, variants
from skychimp.services.messages.contents import known_fields
from skychimp.services.messages.messages import MessageInfo, show
from skychimp.store.database import Store
from skychimp.store.occurrences import stored_files
from skychimp.text import folded
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
    variant: str | None = None,
    blog_url: str | None = None,
    extras: Extras = NO_EXTRAS,
    language: EmailLanguage = EmailLanguage.EN,
) -> Preview:
    """Render a message for one client, or for a sample client. A digest shows the latest posts.

    It is the variant that the client gets, or the one that is named. A sample client gets the message itself.
    `blog_url` is the address of the blog, for the links to its posts. `extras` has the postal address and a sample of
    the link for unsubscribing. Raises NotFound, InvalidValue.
    """
    message = show(store, actor, message_id)
    recipient = _sample_recipient(store, message_id) if client is None else _recipient(store, actor, client)
    content = _content(store, message, blog_url, language, None if client is None else recipient, variant)
    composer = _composer(store, content, "preview@localhost", extras)
    subject, text, html = composer.render(recipient)
    names = [info.source or info.name for info in attachments.describe(content.attachments) if info.path is None]
    return Preview(recipient.email, subject, text, html, [*names, *composer.own_paths(recipient)])


def find_layout(
    store: Store, actor: Actor, message_id: int, client: str | None = None, *, variant: str | None = None
) -> str | None:
    """Return the name of the layout of what `preview` shows, as in a message. Raises what `preview` raises."""
    message = show(store, actor, message_id)
    if message.variant_by is None:
        return message.layout
    by_key = {each.id: each.layout for each in variants.list_variants(store, actor, message_id)}
    if variant is not None:
        return by_key[folded(variant)]
    fields = {} if client is None else clients.show(store, actor, client).fields
    return choosing.choose(by_key, choosing.value_of(fields, message.variant_by), message.layout)


def compose_test_email(
    store: Store,
    actor: Actor,
    message_id: int,
    *,
    sender: str,
    to: str,
    client: str | None = None,
    variant: str | None = None,
    message_id_header: str,
    blog_url: str | None,
    extras: Extras = NO_EXTRAS,
    folder: AttachmentsFolder = NO_ATTACHMENTS_FOLDER,
    language: EmailLanguage = EmailLanguage.EN,
) -> bytes:
    """Compose one of the actor's messages for any address, which need not be a client's.

    It is what `client` would read, or else the client with this address, or else a sample client. `variant` names the
    variant to send. `extras` are its further headers and links. `folder` has the clients' own files. Returns the whole
    email with CRLF line ends. Raises NotFound, InvalidValue.
    """
    message = show(store, actor, message_id, action=Action.CHANGE_MESSAGES)
    audit.record_if_possible(store, actor, "test", "message", message_id, f"to {to.rpartition('@')[2]}")
    known: Recipient | None = None
    with nullcontext() if client is not None else suppress(NotFound):
        known = _recipient(store, actor, to if client is None else client)
    recipient = known or _sample_recipient(store, message_id)._replace(email=to)
    content = _content(store, message, blog_url, language, known, variant)
    composer = _composer(store, content, sender, extras, with_files=True)
    email = _compose(composer, recipient, message_id_header, folder)
    return email if client is None else _address_to(email, recipient, to)


def compose_preview(
    store: Store,
    actor: Actor,
    message_id: int,
    client: str | None = None,
    *,
    variant: str | None = None,
    sender: str,
    blog_url: str | None,
    extras: Extras = NO_EXTRAS,
    folder: AttachmentsFolder = NO_ATTACHMENTS_FOLDER,
    language: EmailLanguage = EmailLanguage.EN,
) -> bytes:
    """Compose a message as one client, or a sample client, gets it. A sample client has no files of their own.

    Raises NotFound, InvalidValue.
    """
    message = show(store, actor, message_id)
    recipient = _sample_recipient(store, message_id) if client is None else _recipient(store, actor, client)
    content = _content(store, message, blog_url, language, None if client is None else recipient, variant)
    composer = _composer(store, content, sender, extras, with_files=True)
    if client is None:
        return composer.compose(recipient, "<preview@localhost>").whole
    return _compose(composer, recipient, "<preview@localhost>", folder)


def render_samples(
    store: Store,
    actor: Actor,
    message_id: int,
    variant: str | None = None,
    *,
    blog_url: str | None,
    extras: Extras = NO_EXTRAS,
    language: EmailLanguage = EmailLanguage.EN,
) -> Samples:
    """Render a message or a variant for the clients that it is checked for. Raises NotFound, InvalidValue."""
    content = _content(store, show(store, actor, message_id), blog_url, language, None, variant)
    composer = _composer(store, content, "check@localhost", extras)
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


def _content(
    store: Store,
    message: MessageInfo,
    blog_url: str | None,
    language: EmailLanguage,
    recipient: Recipient | None,
    variant: str | None,
) -> MessageContent:
    """Return the variant that is named, or else that of a client, or else the message itself.

    Raises NotFound, InvalidValue.
    """
    latest = posts.published_posts(store, store.now())[:PREVIEWED_POSTS] if message.digest else []
    summaries = [summarize_post(post.title, post.content, post.slug, blog_url) for post in reversed(latest)]
    with store.read() as db:
        content = contents.read_content(db, message.id, language, summaries)
    if variant is None:
        return content.content_for(cast("Mapping[str, FieldValue]", {} if recipient is None else recipient.fields))
    named = dict(content.variants).get(folded(variant))
    if named is None:
        raise variants.not_found(message.id, variant)
    return named


def _composer(
    store: Store, content: MessageContent, sender: str, extras: Extras, *, with_files: bool = False
) -> Composer:
    """Return the composer of a message, with its attachments and inline pictures if they are asked for."""
    files = None
    if with_files:
        hashes = {info.sha256 for info in attachments.describe(content.attachments) if info.sha256 is not None}
        with store.read() as db:
            files = stored_files.read(db.connection(), hashes)
    now = store.now()
    return Composer(content, sender=sender, date=now, mailing_id=0, due_at=now.astimezone(), extras=extras, files=files)


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
