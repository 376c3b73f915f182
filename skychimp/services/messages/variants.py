"""Write, delete and list the variants of messages, and count the clients who get each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from skychimp.delivery.attachments import listing
from skychimp.delivery.composing import variants
from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import InvalidValue, NotFound
from skychimp.fields import find_field, format_value, parse_value
from skychimp.models import Format, LayoutKind, tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.mailings import missing_values
from skychimp.services.messages import attachments, layouts, messages
from skychimp.services.messages.attachments import NO_CHANGES, AttachmentChanges, AttachmentInfo
from skychimp.services.messages.contents import known_fields, validate
from skychimp.services.messages.layouts import Choice
from skychimp.services.messages.messages import MessageInfo
from skychimp.shell import run_hint
from skychimp.store.clients import fields as store_fields
from skychimp.store.database import Store
from skychimp.store.occurrences.layouts import variants as select_variants
from skychimp.store.session import Session
from skychimp.store.sql import byte_length, total
from skychimp.text import count_of, did_you_mean, folded, nfc, one_line, shortened
from skychimp.translation import tr

_MSG = tables.message
_V = tables.message_variant

MOST_VARIANTS = 50
MAX_SIZE = 5_000_000
"""Bytes that all variants of a message can have together. An occurrence is read with all of them."""
MAX_VALUE_LENGTH = 100


@dataclass(frozen=True)
class VariantInfo:
    """A variant as its owner sees it. `clients` is how many clients get it now. The rest is as in a message."""

    value: str
    subject: str
    format: Format
    body: str
    html: str | None
    layout: str | None
    preheader: str
    attachments: list[AttachmentInfo]
    clients: int
    updated_at: datetime

    @property
    def id(self) -> str:
        """What no other variant of its message has."""
        return folded(self.value)


@dataclass(frozen=True)
class VariantCount:
    """A variant, and how many clients get it now."""

    value: str
    subject: str
    clients: int

    def __str__(self) -> str:
        clients = count_of(self.clients, "client")
        return tr("{value} ({clients}): {subject}", value=self.value, clients=clients, subject=self.subject)


@dataclass(frozen=True)
class VariantCounts:
    """The variants of a message, and how many clients get the message itself as no variant is for them."""

    variants: list[VariantCount]
    fallback_clients: int


@dataclass(frozen=True)
class VariantChanges:
    """What to change in a variant. None for what stays as it is."""

    subject: str | None = None
    body: str | None = None
    format: Format | None = None
    html: str | None = None
    layout: str | None = None
    preheader: str | None = None
    attached: AttachmentChanges = NO_CHANGES


def set_variant(
    store: Store,
    actor: Actor,
    message_id: int,
    value: str,
    changes: VariantChanges,
    *,
    require_consent: bool = False,
) -> VariantInfo:
    """Create a variant, or change what is given. Occurrences that are open already keep the old one.

    A new variant has the format and the layout of its message. It is checked as a message is. `require_consent` is the
    setting of that name. Raises NotFound, and InvalidValue also if no field of the message chooses its variants, or if
    clients who get an active mailing with the message lack a field that they did not need before.
    """
    while True:
        message = messages.show(store, actor, message_id, action=Action.CHANGE_MESSAGES)
        with store.read() as db:
            value = _checked_value(db, actor, message, value)
        written = _write(store, actor, message, value, changes)
        with store.write() as db:
            if messages.get_message(db, actor, message_id, Action.CHANGE_MESSAGES) == message:
                now = store.now()
                written.save(db, now)
                missing_values.require_added_values(
                    db, actor.user_id, message_id, written.change, now, require_consent=require_consent
                )
                break
    return show(store, actor, message_id, value)


def list_variants(store: Store, actor: Actor, message_id: int) -> list[VariantInfo]:
    """Return the variants of a message. Raises NotFound."""
    message = messages.show(store, actor, message_id)
    with store.read() as db:
        rows = _rows(db, message_id)
        counts = _count_clients(db, message, rows)
    return [_variant_info(row, counts.get(row.key, 0)) for row in rows]


def show(
    store: Store, actor: Actor, message_id: int, value: str, *, action: Action = Action.SEE_MESSAGES
) -> VariantInfo:
    """Return a variant by its value. Raises NotFound if there is none, or the actor may not do this to the message."""
    messages.show(store, actor, message_id, action=action)
    found = [each for each in list_variants(store, actor, message_id) if folded(each.value) == folded(value)]
    if not found:
        raise not_found(message_id, value)
    return found[0]


def values_in_use(store: Store, message_id: int) -> list[str]:
    """Return the values of the variants that clients can get."""
    is_used = _MSG.c.variant_by.is_not(None)
    values = select(_V.c.value).join(_MSG, _MSG.c.id == _V.c.message_id).where(_V.c.message_id == message_id, is_used)
    with store.read() as db:
        return list(db.scalars(values.order_by(_V.c.key)))


def count(store: Store, message: MessageInfo) -> VariantCounts | None:
    """Return how many clients of a message's owner get each variant, None if all get the message."""
    if message.variant_by is None:
        return None
    with store.read() as db:
        rows = _rows(db, message.id)
        counts = _count_clients(db, message, rows)
    shown = [VariantCount(row.value, row.subject, counts.get(row.key, 0)) for row in rows]
    return VariantCounts(shown, counts[""])


def find_draft(store: Store, actor: Actor, message_id: int, value: str) -> MessageContent:
    """Return what a variant says now, or the body and the format of its message if it is new.

    Raises NotFound, and InvalidValue if there can be no such variant.
    """
    message = messages.show(store, actor, message_id, action=Action.CHANGE_MESSAGES)
    with store.read() as db:
        key = folded(_checked_value(db, actor, message, value))
        row = next((row for row in _rows(db, message_id) if row.key == key), None)
    return MessageContent("", "", message.format) if row is None else variants.content_of(row)


def remove(store: Store, actor: Actor, message_id: int, value: str, *, require_consent: bool = False) -> VariantInfo:
    """Delete a variant and return it. Occurrences that are open already keep it.

    Raises NotFound, and InvalidValue as `set_variant` does.
    """
    deleted = show(store, actor, message_id, value, action=Action.CHANGE_MESSAGES)
    key = folded(deleted.value)
    with store.read() as db:
        before = missing_values.content_now(db, message_id)
    change = missing_values.Change(before, before and before.without(key))
    with store.write() as db:
        now = store.now()
        is_it = (_V.c.message_id == message_id) & (_V.c.key == key)
        stored = db.scalars(select(_V.c.attachments).where(is_it)).all()
        db.execute(delete(_V).where(is_it))
        missing_values.require_added_values(db, actor.user_id, message_id, change, now, require_consent=require_consent)
        _touch(db, message_id, now)
        attachments.remove(db.connection(), *stored)
        audit.record(db, actor, "delete", "message", message_id, "variant")
    return deleted


def export(store: Store, actor: Actor) -> Iterator[dict[str, Any]]:
    """Yield the variants of the actor's own messages with the ids of the messages, one message at a time."""
    authorize(actor, Action.SEE_MESSAGES)
    with store.read() as db:
        ids = db.scalars(
            select(_V.c.message_id)
            .join(_MSG, _MSG.c.id == _V.c.message_id)
            .where(_MSG.c.owner_id == actor.user_id)
            .distinct()
            .order_by(_V.c.message_id)
        ).all()
    for message_id in ids:
        with store.read() as db:
            rows = _rows(db, message_id)
        for row in rows:
            values = vars(_variant_info(row, 0))
            yield {"message_id": message_id} | {name: each for name, each in values.items() if name != "clients"}


def find_unknown_field(store: Store, actor: Actor, name: str) -> str | None:
    """Return what a field that no client has may have been meant as, "" for nothing. None if clients have it."""
    authorize(actor, Action.SEE_CLIENTS)
    with store.read() as db:
        known = known_fields(db, actor.user_id)
    return None if find_field(name, known) else did_you_mean(name, [field.name for field in known])


def not_found(message_id: int, value: str) -> NotFound:
    """Return the error that a message has no such variant."""
    hint = run_hint("messages", "variants", "list", message_id)
    return NotFound(
        tr("message {message_id} has no variant {value}", message_id=message_id, value=shortened(value)), hint
    )


@dataclass(frozen=True)
class _Written:
    """A variant that was checked, how to save it, and what it changes in the emails of its message."""

    message_id: int
    value: str
    choice: Choice
    done: attachments.Attached
    before: str
    change: missing_values.Change

    def save(self, db: Session, now: datetime) -> None:
        """Keep the variant, and mark the message as changed."""
        key = folded(self.value)
        values = self.done.content._asdict() | {
            "value": self.value,
            "layout_kind": self.choice.kind,
            "layout_id": self.choice.layout_id,
            "preheader": self.choice.preheader,
            "updated_at": now,
        }
        changed = update(_V).where(_V.c.message_id == self.message_id, _V.c.key == key)
        if not db.execute(changed.values(values)).rowcount:  # type: ignore[attr-defined]
            db.execute(insert(_V).values(values | {"message_id": self.message_id, "key": key}))
        self.done.save(db.connection(), self.before)
        _touch(db, self.message_id, now)
        _require_limits(db, self.message_id)


def _write(store: Store, actor: Actor, message: MessageInfo, value: str, changes: VariantChanges) -> _Written:
    """Return a variant with the values that are given, checked. It takes seconds at most. Raises InvalidValue."""
    with store.read() as db:
        row = next((row for row in _rows(db, message.id) if row.key == folded(value)), None)
        fields = known_fields(db, actor.user_id)
        of_message = layouts.read_choice(db, message.id)._replace(preheader="")
    before = listing.NOTHING if row is None else row.attachments
    old = MessageContent("", "", message.format) if row is None else variants.content_of(row)
    had = of_message if row is None else Choice(row.layout_kind, row.layout_id, row.layout_html, row.preheader)
    front_matter, body = messages.split_body(changes.body, changes.format or old.format)
    if front_matter.digest not in (None, message.digest):
        raise InvalidValue(
            tr("a variant cannot say whether it is a digest"), tr('remove "digest" from the front matter')
        )
    subject = messages.given(changes.subject, front_matter.subject)
    content = messages.changed_content(old, before, fields, subject, body, changes.format, changes.html, message.digest)
    with store.read() as db:
        named = messages.given(changes.layout, front_matter.layout)
        choice = layouts.choose(db, actor, named, content.format, had, is_same=content.format == old.format)
    preheader = messages.given(changes.preheader, front_matter.preheader)
    choice = layouts.with_preheader(choice, choice.preheader if preheader is None else preheader)
    content = validate(content, fields, choice.layout, is_digest=message.digest)
    done = _attach(store, message, content, changes)
    change = _change(store, message, folded(value), done.content, choice)
    return _Written(message.id, value, choice, done, before, change)


def _change(
    store: Store, message: MessageInfo, key: str, content: MessageContent, choice: Choice
) -> missing_values.Change:
    """Return what the emails of a message contain now, and with a variant."""
    merged = variants.with_files(content, messages.stored_attachments(store, message.id))
    finished = variants.finish(merged, choice.layout, posts=() if message.digest else None).fallback
    with store.read() as db:
        before = missing_values.content_now(db, message.id)
    return missing_values.Change(before, before and before.with_variant(key, finished, message.variant_by or ""))


def _attach(
    store: Store, message: MessageInfo, content: MessageContent, changes: VariantChanges
) -> attachments.Attached:
    """Return a variant with its own files. Raises InvalidValue."""
    if changes.attached.paths:
        hint = run_hint("messages", "update", message.id, "--attach", changes.attached.paths[0])
        raise InvalidValue(
            tr("a variant cannot attach a file of each client"), tr("attach it to the message: {hint}", hint=hint)
        )
    is_markdown_new = content.format == Format.MARKDOWN and not (changes.body is None and changes.format is None)
    done = attachments.attach(content, changes.attached, is_text_new=changes.html is not None or is_markdown_new)
    merged = variants.with_files(done.content, messages.stored_attachments(store, message.id))
    attachments.require_limits(merged, changes.attached.max_size)
    return done


def _require_limits(db: Session, message_id: int) -> None:
    """Raise InvalidValue if a message has too many variants, or too large ones."""
    size = byte_length(_V.c.body) + byte_length(func.coalesce(_V.c.html, ""))
    number, total_size = db.execute(select(func.count(), total(size)).where(_V.c.message_id == message_id)).one()
    if number > MOST_VARIANTS:
        raise InvalidValue(
            tr("a message has at most {most_variants} variants", most_variants=MOST_VARIANTS),
            tr("delete some, or use another message"),
        )
    if total_size > MAX_SIZE:
        raise InvalidValue(
            tr("the variants are larger than {max_size} MB together", max_size=MAX_SIZE // 1_000_000),
            tr("make them shorter"),
        )


def _checked_value(db: Session, actor: Actor, message: MessageInfo, value: str) -> str:
    """Return a value in NFC, as a client's is printed. Raises InvalidValue if the field could not have it."""
    if message.variant_by is None:
        hint = run_hint("messages", "update", message.id, "--variant-by", "lang")
        raise InvalidValue(
            tr("message {message_id} has no field that chooses its variants", message_id=message.id), hint
        )
    value = one_line(nfc(value.strip()), tr("value"), MAX_VALUE_LENGTH)
    if not value:
        raise InvalidValue(tr("the value is empty"), tr("clients without a value get the message itself"))
    field = find_field(message.variant_by, known_fields(db, actor.user_id))
    parsed = None if field is None else parse_value(value, field.type, field.name)
    return value if parsed is None else format_value(parsed)


def _rows(db: Session, message_id: int) -> Sequence[Row[Any]]:
    return db.execute(select_variants().where(_V.c.message_id == message_id)).all()


def _count_clients(db: Session, message: MessageInfo, rows: Sequence[Row[Any]]) -> dict[str, int]:
    """Return how many clients get each variant, by its key, and the message itself, by ""."""
    counts = dict.fromkeys((row.key for row in rows), 0) | {"": 0}
    if message.variant_by is None:
        return counts
    connection = db.connection()
    owner_id = db.scalar(select(_MSG.c.owner_id).where(_MSG.c.id == message.id)) or 0
    name = "".join(store_fields.names_of(connection, owner_id, [message.variant_by]))
    keys = {row.key: row.key for row in rows}
    for fields, number in store_fields.count_by_value(connection, owner_id, name):
        counts[variants.choose(keys, fields.get(name), "")] += number
    return counts


def _touch(db: Session, message_id: int, now: datetime) -> None:
    """Mark a message as changed. Who changes it at the same time looks at it again."""
    db.execute(update(_MSG).where(_MSG.c.id == message_id).values(updated_at=now))


def _variant_info(row: Row[Any], clients: int) -> VariantInfo:
    layout = row.layout_name if row.layout_kind == LayoutKind.OWN else row.layout_kind
    return VariantInfo(
        row.value,
        row.subject,
        Format(row.format),
        row.body,
        row.html,
        layout and str(layout),
        row.preheader,
        attachments.describe(row.attachments),
        clients,
        row.updated_at,
    )
