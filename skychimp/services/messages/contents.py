"""Check the content of messages, and find the open occurrences that have another one."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, Select, and_, func, select

from skychimp.delivery.composing import compose, variants
from skychimp.delivery.composing.compose import MessageContent
from skychimp.delivery.composing.digest import PostSummary, has_posts_placeholder, insert_posts
from skychimp.delivery.composing.variants import VariedContent
from skychimp.errors import InvalidValue
from skychimp.fields import Field
from skychimp.models import EmailLanguage, Format, tables
from skychimp.store.clients import fields as store_fields
from skychimp.store.conditions import is_unfinished
from skychimp.store.occurrences.layouts import add_layout, read_variants
from skychimp.store.session import Session
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.delivery.composing.layouts.finishing import Layout

_M = tables.mailing
_MSG = tables.message
_O = tables.occurrence

SAMPLE_POSTS = (PostSummary("A post", "Its first paragraph.", "https://blog.example.org/posts/a-post.html"),)


def validate(
    content: MessageContent, fields: Collection[Field], layout: "Layout | None" = None, *, is_digest: bool
) -> MessageContent:
    """Return the content as it can be stored. Raises InvalidValue if it cannot be rendered, also in its layout.

    `fields` are those that there are.
    """
    if content.format != Format.HTML:
        content = content._replace(html=None)
    elif content.html is None or not content.html.strip():
        raise InvalidValue(tr("the HTML part is empty"), tr("use another --html-file, or none"))
    compose.require_sizes(content)
    if "\0" in "".join((content.subject, content.body, content.html or "")):
        raise InvalidValue(tr("the message contains a NUL character"), tr("delete it: no text has one"))
    if not is_digest and has_posts_placeholder(content.body + (content.html or "")):
        raise InvalidValue(tr("only a digest can contain {{ posts }}"), tr("use --digest"))
    if is_digest and content.html is not None and not has_posts_placeholder(content.html):
        raise InvalidValue(tr("the HTML part of the digest has no {{ posts }}"), tr("add {{ posts }} to the HTML part"))
    sample = insert_posts(content, SAMPLE_POSTS) if is_digest else content
    compose.check_content(sample, fields)
    if layout is not None:
        _check_layout(sample, layout, fields)
    return content


def read_content(
    db: Session,
    message_id: int | None,
    language: EmailLanguage = EmailLanguage.EN,
    posts: Sequence[PostSummary] = (),
) -> VariedContent:
    """Return what the emails of a message contain. `posts` are those of a digest. Raises InvalidValue."""
    row = db.execute(add_layout(select(_MSG).where(_MSG.c.id == message_id))).one()
    rows = read_variants(db.connection(), message_id, row.variant_by)
    return variants.finish_rows(row, rows, row.variant_by or "", language, posts if row.digest else None)


def known_fields(db: Session, owner_id: int) -> Collection[Field]:
    """Return the custom fields that a user's clients can have."""
    return store_fields.known_fields(db.connection(), owner_id).values()


def open_occurrences(db: Session, message_id: int, language: EmailLanguage = EmailLanguage.EN) -> Sequence[Row[Any]]:
    """Return id and mailing of a message's unfinished occurrences that have another content than it would have now."""
    unfinished = unfinished_occurrences(message_id)
    if not db.scalar(select(unfinished.exists())):
        return []
    content = read_content(db, message_id, language).columns()
    is_same = and_(*(func.coalesce(_O.c[name], "") == (value or "") for name, value in content.items()))
    return db.execute(unfinished.where(~is_same)).all()


def unfinished_occurrences(message_id: int) -> Select[Any]:
    """Return a query for id and mailing of a message's occurrences that still have emails to send."""
    query = select(_O.c.id, _O.c.mailing_id).join(_M, _M.c.id == _O.c.mailing_id)
    return query.where(_M.c.message_id == message_id, is_unfinished())


def _check_layout(content: MessageContent, layout: "Layout", fields: Collection[Field]) -> None:
    """Raise InvalidValue if content cannot be sent in a layout."""
    from skychimp.delivery.composing.layouts import finishing

    if layout.preheader:
        finishing.check_preheader(layout)
    finished = finishing.finish(content, layout)
    if finished != content:
        compose.check_content(finished, fields)
