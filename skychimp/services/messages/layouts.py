"""Manage layouts: the HTML templates around the content of messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Row, Select, and_, delete, exists, insert, select

from skychimp.delivery.composing import variants
from skychimp.delivery.composing.compose import MessageContent
from skychimp.delivery.composing.digest import insert_posts
from skychimp.errors import Conflict, InvalidValue
from skychimp.listed import Listed
from skychimp.models import EmailLanguage, Format, LayoutKind, tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit, paging
from skychimp.services.listing import ListOptions, apply, in_scope, not_found
from skychimp.services.mailings import missing_values
from skychimp.services.messages import contents
from skychimp.shell import run_hint
from skychimp.store.database import Store
from skychimp.store.occurrences.layouts import add_layout
from skychimp.store.occurrences.layouts import variants as select_variants
from skychimp.store.session import Session
from skychimp.text import folded, nfc, one_line, shortened
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.delivery.composing.layouts.finishing import Layout
    from skychimp.models import Layout as LayoutRow

_L = tables.layout
_ML = tables.message_layout
_MSG = tables.message
_V = tables.message_variant

MAX_NAME_LENGTH = 100
DEFAULT, NONE = LayoutKind.DEFAULT.value, LayoutKind.NONE.value
"""Names that no layout of a user can have."""
_MAX_ID_DIGITS = 18
_SAMPLE = MessageContent("Subject", "Content", Format.MARKDOWN)

SORTED_BY = {"name": _L.c.key, "id": _L.c.id, "created_at": _L.c.created_at, "updated_at": _L.c.updated_at}


@dataclass(frozen=True)
class LayoutInfo:
    """A layout. The built-in one has no id and no times."""

    id: int | None
    name: str
    html: str
    created_at: datetime | None
    updated_at: datetime | None


class Choice(NamedTuple):
    """The layout of a message as it is stored. `kind` is None for content that is sent as older versions send it."""

    kind: LayoutKind | None = None
    layout_id: int | None = None
    html: str | None = None
    preheader: str = ""

    @property
    def layout(self) -> "Layout | None":
        """The layout that the content is put into."""
        return self.layout_in(EmailLanguage.EN)

    def layout_in(self, language: EmailLanguage) -> "Layout | None":
        """Return the layout with its words in a language."""
        from skychimp.delivery.composing.layouts import finishing

        return finishing.layout_of(self.kind, self.html, self.preheader, language)


def create(store: Store, actor: Actor, name: str, html: str) -> LayoutInfo:
    """Create a layout. Raises InvalidValue, and Conflict if the actor has a layout with this name."""
    from skychimp.models import Layout as LayoutRow

    authorize(actor, Action.CHANGE_MESSAGES)
    _check(store, actor, html)
    now = store.now()
    with store.write() as db:
        layout = LayoutRow(owner_id=actor.user_id, key="", name="", html=html, created_at=now, updated_at=now)
        _rename(db, layout, name)
        db.add(layout)
        db.flush()
        return _find(db, actor, str(layout.id), Action.CHANGE_MESSAGES)


def show(store: Store, actor: Actor, name: str, *, action: Action = Action.SEE_MESSAGES) -> LayoutInfo:
    """Return a layout by its id, or by its name if it is the actor's or the built-in one.

    Raises NotFound, and InvalidValue for another action on the built-in one.
    """
    authorize(actor, action)
    if folded(name) == DEFAULT:
        from skychimp.delivery.composing.layouts import finishing

        if action != Action.SEE_MESSAGES:
            show_it = run_hint("layouts", "show", DEFAULT, "--html")
            hint = tr("{hint}, and create a layout of your own", hint=show_it)
            raise InvalidValue(tr("the built-in layout cannot be changed or deleted"), hint)
        return LayoutInfo(None, DEFAULT, finishing.default_layout(), None, None)
    with store.read() as db:
        found = _find(db, actor, name, action)
        owner_id = db.scalar(select(_L.c.owner_id).where(_L.c.id == found.id))
    if owner_id != actor.user_id:
        audit.record_view(store, actor, "layout", found.id)
    return found


def list_layouts(store: Store, actor: Actor, options: ListOptions) -> Listed[LayoutInfo]:
    """Return the layouts that the actor may see, without the built-in one. Raises InvalidValue."""
    audit.record_list(store, actor, Action.SEE_MESSAGES, "layout")
    rows = _visible(actor, Action.SEE_MESSAGES)
    found = apply(rows, options, searched=(_L.c.name, _L.c.html), sorted_by=SORTED_BY)
    return paging.read_list(store, rows, found, options, partial(map, _layout_info), size=paging.SMALL_PAGE)


def change(
    store: Store,
    actor: Actor,
    name: str,
    *,
    new_name: str | None = None,
    html: str | None = None,
    require_consent: bool = False,
) -> LayoutInfo:
    """Change a layout. Occurrences that are open already keep the old one. `require_consent` is that setting.

    Raises NotFound, Conflict, and InvalidValue, also if a message that uses the layout could not be sent with it, or
    not to all clients of a mailing.
    """
    from skychimp.models import Layout as LayoutRow

    old = show(store, actor, name, action=Action.CHANGE_MESSAGES)
    changes: Mapping[int, missing_values.Change] = {}
    if html is not None:
        _check(store, actor, html)
        changes = _check_messages(store, actor, old.id, html)
    with store.write() as db:
        layout = db.get_one(LayoutRow, _find(db, actor, str(old.id), Action.CHANGE_MESSAGES).id)
        layout.html = layout.html if html is None else html
        if new_name is not None:
            _rename(db, layout, new_name)
        layout.updated_at = now = store.now()
        for message_id, changed in changes.items():
            missing_values.require_added_values(
                db, actor.user_id, message_id, changed, now, require_consent=require_consent
            )
        db.flush()
        return _find(db, actor, str(layout.id), Action.CHANGE_MESSAGES)


def remove(store: Store, actor: Actor, name: str) -> LayoutInfo:
    """Delete a layout and return it. Raises NotFound, and Conflict if a message uses it."""
    with store.write() as db:
        deleted = _find(db, actor, name, Action.CHANGE_MESSAGES)
        message_id = db.scalar(_used_by(deleted.id).with_only_columns(_MSG.c.id).limit(1))
        if message_id is not None:
            hint = run_hint("messages", "update", message_id, "--layout", DEFAULT)
            raise Conflict(
                tr("layout {name} is used by message {message_id}", name=deleted.name, message_id=message_id), hint
            )
        db.execute(delete(_L).where(_L.c.id == deleted.id))
        audit.record(db, actor, "delete", "layout", deleted.id)
    return deleted


def open_mailings(
    store: Store, layout_id: int | None, language: EmailLanguage = EmailLanguage.EN
) -> dict[int, Sequence[int]]:
    """Return the mailings that still send an older version of a layout, by the messages that use it."""
    with store.read() as db:
        message_ids = db.scalars(_used_by(layout_id).with_only_columns(_MSG.c.id).where(~_MSG.c.digest)).all()
        found = {
            each: {row.mailing_id for row in contents.open_occurrences(db, each, language)} for each in message_ids
        }
    return {message_id: sorted(mailings) for message_id, mailings in found.items() if mailings}


def choose(
    db: Session,
    actor: Actor,
    name: str | None,
    message_format: Format,
    old: Choice | None = None,
    *,
    is_same: bool = False,
) -> Choice:
    """Return the layout that a message gets: the named one, or else what it has, or what its format has by default.

    `is_same` says whether the message had this format before. Raises NotFound, and InvalidValue for a plain text.
    """
    if message_format == Format.TEXT:
        if name is not None and folded(name) != NONE:
            raise InvalidValue(tr("a plain text has no layout"), tr("use --markdown or --html-file, or --layout none"))
        return Choice()
    old = old or Choice()
    if name is None:
        has_layout = old.kind in (LayoutKind.DEFAULT, LayoutKind.OWN)
        if is_same or has_layout:
            return old
        return Choice(LayoutKind.DEFAULT if message_format == Format.MARKDOWN else LayoutKind.NONE)
    if folded(name) in (DEFAULT, NONE):
        return Choice(LayoutKind(folded(name)), preheader=old.preheader)
    found = _find(db, actor, name, Action.CHANGE_MESSAGES)
    return Choice(LayoutKind.OWN, found.id, found.html, old.preheader)


def read_choice(db: Session, message_id: int) -> Choice:
    """Return the layout that a message has."""
    query = select(_ML.c.kind, _ML.c.layout_id, _L.c.html, _ML.c.preheader)
    row = db.execute(
        query.outerjoin(_L, _L.c.id == _ML.c.layout_id).where(_ML.c.message_id == message_id)
    ).one_or_none()
    return Choice() if row is None else Choice(LayoutKind(row.kind), row.layout_id, row.html, row.preheader)


def with_preheader(choice: Choice, preheader: str) -> Choice:
    """Return a choice with a preheader. Raises InvalidValue if there is no layout that could show it."""
    if preheader and choice.kind is None:
        raise InvalidValue(tr("a preheader needs a layout"), tr("use --layout default with --markdown or --html-file"))
    return choice._replace(preheader=preheader)


def store_choice(db: Session, message_id: int, choice: Choice) -> None:
    """Give a message this layout."""
    db.execute(delete(_ML).where(_ML.c.message_id == message_id))
    kind, layout_id, _, preheader = choice
    if kind is not None:
        db.execute(insert(_ML).values(message_id=message_id, kind=kind, layout_id=layout_id, preheader=preheader))


def _check(store: Store, actor: Actor, html: str) -> None:
    """Raise InvalidValue if a layout is not valid for a message without anything special."""
    from skychimp.delivery.composing import compose
    from skychimp.delivery.composing.layouts import finishing

    with store.read() as db:
        fields = contents.known_fields(db, actor.user_id)
    finishing.check_layout(html, fields)
    compose.check_content(finishing.finish(_SAMPLE, finishing.Layout(html)), fields)


def _check_messages(
    store: Store, actor: Actor, layout_id: int | None, html: str
) -> Mapping[int, missing_values.Change]:
    """Return what the emails of messages contain now, and with the new HTML of their layout, by the messages' ids.

    Raises InvalidValue if a message could not be sent.
    """
    from skychimp.delivery.composing.layouts import finishing

    new: dict[int, dict[str, MessageContent]] = {}
    with store.read() as db:
        fields = contents.known_fields(db, actor.user_id)
        messages = db.execute(add_layout(select(_MSG)).where(_ML.c.layout_id == layout_id)).all()
        of_messages = select_variants().add_columns(_MSG.c.digest).join(_MSG, _MSG.c.id == _V.c.message_id)
        messages = [*messages, *db.execute(of_messages.where(_V.c.layout_id == layout_id))]
    for message in messages:
        layout, message_id = finishing.Layout(html, message.preheader), message._mapping.get("message_id", message.id)
        try:
            content = contents.validate(variants.content_of(message), fields, layout, is_digest=message.digest)
        except InvalidValue as error:
            raise InvalidValue(
                tr("message {id} cannot use this layout: {reason}", id=message_id, reason=error.message), error.hint
            ) from None
        finished = finishing.finish(insert_posts(content, ()) if message.digest else content, layout)
        new.setdefault(message_id, {})[message._mapping.get("key", "")] = finished
    with store.read() as db:
        now = {each: missing_values.content_now(db, each) for each in new}
    return {
        each: missing_values.Change(content, content and content.replaced(new[each])) for each, content in now.items()
    }


def _rename(db: Session, layout: "LayoutRow", name: str) -> None:
    """Give a layout a name that no other of its owner's has. Raises InvalidValue and Conflict."""
    name = one_line(nfc(name), tr("name"), MAX_NAME_LENGTH)
    if not name or name.isdecimal():
        raise InvalidValue(
            tr("invalid name {name}", name=shortened(name)), tr("use a name that is not a number, such as newsletter")
        )
    if folded(name) in (DEFAULT, NONE):
        raise InvalidValue(
            tr("the name {name} has a meaning of its own", name=name), tr("use another name, such as newsletter")
        )
    is_other = (_L.c.owner_id == layout.owner_id) & (_L.c.key == folded(name)) & (_L.c.id != (layout.id or 0))
    if db.scalar(select(exists().where(is_other))):
        raise Conflict(tr("layout {name} already exists", name=name), tr("use another name"))
    layout.name, layout.key = name, folded(name)


def _used_by(layout_id: int | None) -> Select[Any]:
    """Return a query for the messages that use a layout."""
    of_messages = select(_ML.c.message_id).where(_ML.c.layout_id == layout_id)
    of_variants = select(_V.c.message_id).where(_V.c.layout_id == layout_id)
    return select(_MSG).where(_MSG.c.id.in_(of_messages.union(of_variants))).order_by(_MSG.c.id)


def _visible(actor: Actor, action: Action) -> Select[Any]:
    return select(_L).where(in_scope(authorize(actor, action), actor, _L.c.owner_id))


def _find(db: Session, actor: Actor, name: str, action: Action) -> LayoutInfo:
    """Return a layout by its id, or by its name if it is the actor's own. Raises NotFound."""
    if name.isascii() and name.isdecimal() and len(name) <= _MAX_ID_DIGITS:
        is_named = _L.c.id == int(name)
    else:
        key = folded(name.strip()) if "\0" not in name and name.isprintable() else ""
        is_named = and_(_L.c.key == key, _L.c.owner_id == actor.user_id)
    row = db.execute(_visible(actor, action).where(is_named)).one_or_none()
    if row is None:
        raise not_found("layout", name)
    return _layout_info(row)


def _layout_info(row: Row[Any]) -> LayoutInfo:
    return LayoutInfo(row.id, row.name, row.html, row.created_at, row.updated_at)
