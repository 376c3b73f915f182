"""Create, change, delete and list messages."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Row, Select, delete, select, update
from sqlalchemy.exc import IntegrityError

from skychimp.delivery.attachments import listing
from skychimp.delivery.composing import variants
from skychimp.delivery.composing.compose import MessageContent
from skychimp.delivery.composing.variants import VariedContent
from skychimp.errors import Conflict, InvalidValue
from skychimp.fields import Field, checked_name, find_field
from skychimp.listed import Listed
from skychimp.models import EmailLanguage, Format, LayoutKind, tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit, paging
from skychimp.services.listing import ListOptions, apply, in_scope, is_valid_id, not_found
from skychimp.services.mailings import missing_values
from skychimp.services.messages import attachments, layouts
from skychimp.services.messages.attachments import NO_CHANGES, Attached, AttachmentChanges, AttachmentInfo
from skychimp.services.messages.contents import known_fields, open_occurrences, unfinished_occurrences, validate
from skychimp.services.messages.front_matter import FrontMatter, split_front_matter
from skychimp.services.messages.layouts import Choice
from skychimp.shell import run_hint
from skychimp.store.database import Store
from skychimp.store.occurrences import opening
from skychimp.store.occurrences.layouts import add_layout, read_variants
from skychimp.store.occurrences.opening import TakenFields
from skychimp.store.session import Session
from skychimp.text import folded
from skychimp.translation import tr

Value = TypeVar("Value")

_MSG = tables.message
_M = tables.mailing
_O = tables.occurrence
_V = tables.message_variant

SORTED_BY = {
    "id": _MSG.c.id,
    "subject": _MSG.c.subject,
    "created_at": _MSG.c.created_at,
    "updated_at": _MSG.c.updated_at,
}


@dataclass(frozen=True)
class MessageInfo:
    """A message as its owner sees it. `html` is None unless the format is HTML.

    `layout` is the name of its layout, `none`, or None if it is a plain text or was created by an older version.
    `attachments` has the attached files and the inline pictures. `variant_by` is the field of clients that chooses
    among its variants, None if all clients get the same.
    """

    id: int
    subject: str
    format: Format
    body: str
    html: str | None
    digest: bool
    layout: str | None
    preheader: str
    attachments: list[AttachmentInfo]
    created_at: datetime
    updated_at: datetime
    variant_by: str | None


class Written(Protocol):
    """A message or a variant as its owner wrote it."""

    @property
    def subject(self) -> str: ...
    @property
    def body(self) -> str: ...
    @property
    def format(self) -> Format: ...
    @property
    def html(self) -> str | None: ...


def create(
    store: Store,
    actor: Actor,
    content: MessageContent,
    *,
    digest: bool = False,
    layout: str | None = None,
    preheader: str | None = None,
    attached: AttachmentChanges = NO_CHANGES,
    variant_by: str | None = None,
) -> MessageInfo:
    """Create a message, after rendering it once to validate it. Raises InvalidValue, and NotFound for its layout.

    A digest is sent with the blog's new posts, which replace `{{ posts }}` or follow the body. The front matter of a
    Markdown body gives what is not given. The body of an HTML message is made from the HTML if it is empty. Without a
    layout, Markdown gets the built-in one, and HTML none. `variant_by` is the field that chooses among its variants.
    """
    from skychimp.models import Message

    authorize(actor, Action.CHANGE_MESSAGES)
    front_matter, body = split_body(content.body, content.format)
    content = content._replace(subject=content.subject or front_matter.subject or "", body=body or "")
    digest = digest or bool(front_matter.digest)
    with store.read() as db:
        fields = known_fields(db, actor.user_id)
        choice = layouts.choose(db, actor, given(layout, front_matter.layout), content.format)
    choice = layouts.with_preheader(choice, given(preheader, front_matter.preheader) or "")
    content = with_body(content, fields, is_digest=digest)
    content = validate(content, fields, choice.layout, is_digest=digest)
    done = _attach(content, attached, fields, choice, is_text_new=True, is_digest=digest)
    now = store.now()
    with store.write() as db:
        done.save(db.connection())
        values = done.content._asdict() | {"digest": digest, "variant_by": _checked_field(variant_by, fields)}
        message = Message(owner_id=actor.user_id, created_at=now, updated_at=now, **values)
        db.add(message)
        db.flush()
        layouts.store_choice(db, message.id or 0, choice)
        return get_message(db, actor, message.id or 0, Action.CHANGE_MESSAGES)


def show(store: Store, actor: Actor, message_id: int, *, action: Action = Action.SEE_MESSAGES) -> MessageInfo:
    """Return one message. Raises NotFound if it does not exist or the actor may not do this to it."""
    with store.read() as db:
        message = get_message(db, actor, message_id, action)
        owner_id = db.scalar(select(_MSG.c.owner_id).where(_MSG.c.id == message_id))
    if owner_id != actor.user_id:
        audit.record_view(store, actor, "message", message_id)
    return message


def list_messages(store: Store, actor: Actor, options: ListOptions) -> Listed[MessageInfo]:
    """Return the messages that the actor may see. Raises InvalidValue."""
    audit.record_list(store, actor, Action.SEE_MESSAGES, "message")
    rows = _select(actor)
    found = apply(rows, options, searched=(_MSG.c.subject, _MSG.c.body), sorted_by=SORTED_BY)
    return paging.read_list(store, rows, found, options, partial(map, _message_info), size=paging.SMALL_PAGE)


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
    layout: str | None = None,
    preheader: str | None = None,
    also_open: bool = False,
    attached: AttachmentChanges = NO_CHANGES,
    variant_by: str | None = None,
    no_variant_by: bool = False,
    language: EmailLanguage = EmailLanguage.EN,
    require_consent: bool = False,
) -> MessageInfo:
    """Change the values that are given. An occurrence that is already open keeps its content.

    With `also_open`, its emails change too that were not sent yet, except those that may have been. Any format but HTML
    removes the HTML part. Front matter gives what is not given, and an empty body is made from the HTML, as in
    `create`. A body that was made is made again from new HTML. With `no_variant_by`, all clients get the same, and the
    variants are kept. `language` is that of the words which layouts add. `require_consent` is the setting of that name.

    Raises NotFound, Conflict if an open occurrence cannot be changed, and InvalidValue, also if clients who get an
    active mailing with the message lack a field that it did not need before.
    """
    while True:
        old = show(store, actor, message_id, action=Action.CHANGE_MESSAGES)
        # Outside of the transaction, as this can take seconds, and nothing can be sent meanwhile.
        front_matter, new_body = split_body(body, format or old.format)
        with store.read() as db:
            fields = known_fields(db, actor.user_id)
            choice = _changed_choice(db, actor, old, format, given(layout, front_matter.layout))
        choice = layouts.with_preheader(choice, first(preheader, front_matter.preheader, choice.preheader))
        is_digest = first(digest, front_matter.digest, old.digest)
        before = stored_attachments(store, message_id)
        content = changed_content(
            old, before, fields, given(subject, front_matter.subject), new_body, format, html, is_digest
        )
        content = validate(content, fields, choice.layout, is_digest=is_digest)
        is_markdown_new = content.format == Format.MARKDOWN and not (body is None and format is None)
        is_text_new = html is not None or is_markdown_new
        done = _attach(content, attached, fields, choice, is_text_new=is_text_new, is_digest=is_digest)
        content = done.content
        field = None if no_variant_by else first(_checked_field(variant_by, fields), old.variant_by, "") or None
        with store.read() as db:
            rows = read_variants(db.connection(), message_id, field)
        is_checked_again = is_digest != old.digest or old.variant_by is None
        _check_variants(rows, content, fields if is_checked_again else None, attached, is_digest=is_digest)
        made = [variants.variant_of(row, language) for row in rows]
        no_posts = () if is_digest else None
        finished = variants.finish(content, choice.layout_in(language), made, field or "", no_posts)
        with store.read() as db:
            changed = missing_values.Change(missing_values.content_now(db, message_id), finished)
        prepared = _prepare_open(store, message_id, finished, fields) if also_open and not is_digest else {}
        with store.write() as db:
            if get_message(db, actor, message_id, Action.CHANGE_MESSAGES) == old:
                values = content._asdict() | {"digest": is_digest, "variant_by": field, "updated_at": store.now()}
                db.execute(update(_MSG).where(_MSG.c.id == message_id).values(values))
                layouts.store_choice(db, message_id, choice)
                done.save(db.connection(), before)
                missing_values.require_added_values(
                    db, actor.user_id, message_id, changed, store.now(), require_consent=require_consent
                )
                if also_open:
                    _change_open(db, message_id, finished, fields, prepared, language, is_digest=is_digest)
                return get_message(db, actor, message_id, Action.CHANGE_MESSAGES)


def open_mailings(store: Store, message_id: int, language: EmailLanguage = EmailLanguage.EN) -> list[int]:
    """Return the mailings that still have emails to send with the content that a message had before."""
    with store.read() as db:
        return sorted({row.mailing_id for row in open_occurrences(db, message_id, language)})


def remove(store: Store, actor: Actor, message_id: int) -> MessageInfo:
    """Delete a message and return it. Raises NotFound, and Conflict if a mailing uses it."""
    with store.write() as db:
        deleted = get_message(db, actor, message_id, Action.CHANGE_MESSAGES)
        lists = (
            select(_MSG.c.attachments).where(_MSG.c.id == message_id),
            select(_V.c.attachments).where(_V.c.message_id == message_id),
        )
        stored = [each for query in lists for each in db.scalars(query)]
        mailing_id = db.scalar(select(_M.c.id).where(_M.c.message_id == message_id).order_by(_M.c.id))
        try:
            db.execute(delete(_MSG).where(_MSG.c.id == message_id))
        except IntegrityError:
            hint = tr("{hint}, or give the mailing another message", hint=run_hint("mailings", "delete", mailing_id))
            raise Conflict(
                tr(
                    "message {message_id} is used by mailing {mailing_id}", message_id=message_id, mailing_id=mailing_id
                ),
                hint,
            ) from None
        attachments.remove(db.connection(), *stored)
        audit.record(db, actor, "delete", "message", message_id)
    return deleted


class _Prepared(NamedTuple):
    """What `change_content` gets for an occurrence, after what takes long was done."""

    fields: TakenFields
    looked_to: int | None


def _prepare_open(
    store: Store, message_id: int, content: VariedContent, fields: Collection[Field]
) -> Mapping[int, _Prepared]:
    """Do what takes long before the content of open occurrences changes. Return what was done for each."""
    names = _used_names(content, fields)
    with store.read() as db:
        unfinished = db.scalars(unfinished_occurrences(message_id).with_only_columns(_O.c.id)).all()
    return {
        each: _Prepared(opening.take_fields(store, each, names), opening.keep_sent_content(store, each))
        for each in unfinished
    }


def _used_names(content: VariedContent, fields: Collection[Field]) -> list[str]:
    """Return the names of the fields that a message uses, as they are kept."""
    used = set(map(folded, content.used_fields))
    return [field.name for field in fields if folded(field.name) in used]


def _change_open(
    db: Session,
    message_id: int,
    content: VariedContent,
    fields: Collection[Field],
    prepared: Mapping[int, _Prepared],
    language: EmailLanguage,
    *,
    is_digest: bool,
) -> None:
    for occurrence in open_occurrences(db, message_id, language):
        if is_digest:
            raise Conflict(tr("a digest that is open keeps its content"), tr("update it without --also-open"))
        done = prepared.get(occurrence.id)
        if done is None:  # it was opened meanwhile
            added = opening.find_added_fields(db.connection(), occurrence.id, _used_names(content, fields))
            done = _Prepared(added, None)
        if not opening.change_content(
            db.connection(), occurrence.id, done.looked_to, fields=done.fields, **content.columns()
        ):
            raise Conflict(
                tr("mailing {mailing_id} is being sent", mailing_id=occurrence.mailing_id),
                tr("{hint}, and update the message then", hint=run_hint("mailings", "disable", occurrence.mailing_id)),
            )


def has_made_body(message: Written) -> bool:
    """Return whether a message's body is empty, or what would be made from its HTML part."""
    if message.html is None or not message.body.strip():
        return not message.body.strip()
    from skychimp.delivery.composing import conversions

    try:
        return message.body == conversions.text_from_html(message.html)
    except InvalidValue:
        return False


def foreign_merge_tags(subject: str | None, body: str | None, html: str | None) -> list[str]:
    """Return the merge tags of other tools in the parts of a valid message, each once."""
    from skychimp.delivery.composing import conversions
    from skychimp.services.messages import merge_tags

    parts = [subject or "", body or ""]
    if html is not None:
        with suppress(InvalidValue):
            parts.append(conversions.text_from_html(html))  # which has no scripts and styles
    return merge_tags.foreign_merge_tags("\n".join(parts))


def _changed_choice(
    db: Session, actor: Actor, old: MessageInfo, new_format: Format | None, layout: str | None
) -> Choice:
    """Return the layout of a message with another format or layout."""
    had = layouts.read_choice(db, old.id)
    return layouts.choose(db, actor, layout, new_format or old.format, had, is_same=new_format in (None, old.format))


def changed_content(
    old: Written,
    attached: str,
    fields: Collection[Field],
    subject: str | None,
    body: str | None,
    new_format: Format | None,
    html: str | None,
    is_digest: bool,
) -> MessageContent:
    """Return the content of a message or a variant with the values that are given. Raises InvalidValue."""
    if body is None and html is not None and has_made_body(old):
        body = ""
    content = MessageContent(
        first(subject, old.subject),
        first(body, old.body),
        first(new_format, old.format),
        old.html if html is None else html,
        attached,
    )
    return content if body is None else with_body(content, fields, is_digest=is_digest)


def _checked_field(name: str | None, fields: Collection[Field]) -> str | None:
    """Return the name of a field as it is kept, or as it would be. Raises InvalidValue if it is no valid name."""
    if name is None:
        return None
    known = find_field(name, fields)
    return checked_name(name) if known is None else known.name


def _check_variants(
    rows: Sequence[Row[Any]],
    content: MessageContent,
    fields: Collection[Field] | None,
    attached: AttachmentChanges,
    *,
    is_digest: bool,
) -> None:
    """Raise InvalidValue if a variant does not go with the new content of its message.

    Its own content is checked again only if the fields are given.
    """
    for row in rows:
        variant = variants.content_of(row)
        try:
            if fields is not None:
                validate(variant, fields, is_digest=is_digest)
            if attached.is_given:
                attachments.require_limits(variants.with_files(variant, content.attachments), attached.max_size)
        except InvalidValue as error:
            raise InvalidValue(
                tr("variant {value}: {message}", value=row.value, message=error.message), error.hint
            ) from None


def given(*values: Value | None) -> Value | None:
    """Return the first value that is given, None if there is none."""
    return next((value for value in values if value is not None), None)


def first(*values: Value | None) -> Value:
    """Return the first value that is given."""
    return next(value for value in values if value is not None)


def split_body(body: str | None, body_format: Format) -> tuple[FrontMatter, str | None]:
    """Return the front matter of a body, and the rest of it. Only Markdown has front matter."""
    return split_front_matter(body) if body and body_format == Format.MARKDOWN else (FrontMatter(), body)


def with_body(content: MessageContent, fields: Collection[Field], *, is_digest: bool) -> MessageContent:
    """Return the content with a body that is made from its HTML, if it has HTML and no body. Raises InvalidValue."""
    if content.format != Format.HTML or content.body.strip():
        return content
    from skychimp.delivery.composing import conversions

    html = validate(content, fields, is_digest=is_digest).html or ""
    try:
        content = content._replace(body=conversions.text_from_html(html))
        if not content.body.strip():
            raise InvalidValue(tr("it has no text"))
        return validate(content, fields, is_digest=is_digest)
    except InvalidValue as error:
        reason = tr("no text part can be made from the HTML part: {reason}", reason=error.message)
        raise InvalidValue(reason, tr("use --body or --body-file")) from None


def _attach(
    content: MessageContent,
    changes: AttachmentChanges,
    fields: Collection[Field],
    choice: Choice,
    *,
    is_text_new: bool,
    is_digest: bool,
) -> Attached:
    """Return a valid message's content with its attachments. Raises InvalidValue."""
    done = attachments.attach(content, changes, is_text_new=is_text_new)
    if changes.paths:
        validate(done.content, fields, choice.layout, is_digest=is_digest)
    return done


def stored_attachments(store: Store, message_id: int) -> str:
    """Return the list of a message's attachments and inline pictures, as it is stored."""
    with store.read() as db:
        return db.scalar(select(_MSG.c.attachments).where(_MSG.c.id == message_id)) or listing.NOTHING


def _select(actor: Actor, action: Action = Action.SEE_MESSAGES) -> Select[tuple[object, ...]]:
    is_visible = in_scope(authorize(actor, action), actor, _MSG.c.owner_id)
    return add_layout(select(_MSG).where(is_visible), with_html=False)


def get_message(db: Session, actor: Actor, message_id: int, action: Action) -> MessageInfo:
    """Return one message. Raises NotFound if it does not exist or the actor may not do this to it."""
    query = _select(actor, action).where(_MSG.c.id == message_id)
    row = db.execute(query).one_or_none() if is_valid_id(message_id) else None
    if row is None:
        raise not_found("message", message_id)
    return _message_info(row)


def _message_info(row: Row[tuple[object, ...]]) -> MessageInfo:
    layout = row.layout_name if row.layout_kind == LayoutKind.OWN else row.layout_kind
    return MessageInfo(
        row.id,
        row.subject,
        Format(row.format),
        row.body,
        row.html,
        row.digest,
        layout and str(layout),
        row.preheader or "",
        attachments.describe(row.attachments),
        row.created_at,
        row.updated_at,
        row.variant_by,
    )
