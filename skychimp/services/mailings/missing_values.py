"""Refuse a message for which some clients lack a value of a custom field."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select

from skychimp.delivery.composing import compose
from skychimp.delivery.composing.compose import MessageContent
from skychimp.delivery.composing.variants import VariedContent
from skychimp.errors import InvalidValue
from skychimp.fields import FieldValue
from skychimp.models import tables
from skychimp.permissions import Action, Actor
from skychimp.services.mailings.queries import get_mailing
from skychimp.services.messages import contents
from skychimp.store.clients import audience
from skychimp.store.clients import fields as store_fields
from skychimp.store.conditions import is_active
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.text import folded
from skychimp.translation import Phrase, joined, tr, trn

if TYPE_CHECKING:
    from skychimp.models import Mailing

_C = tables.client
_M = tables.mailing


class Change(NamedTuple):
    """What the emails of a message contain before a change and after it, None if they cannot be sent."""

    before: VariedContent | None
    after: VariedContent | None


def require_values(db: Session, mailing: "Mailing", now: datetime, *, require_consent: bool) -> None:
    """Raise InvalidValue if a client who gets the mailing has no value of a field that its message needs.

    A client who gets a variant needs only what that needs. `require_consent` is the setting of that name.
    """
    assert mailing.id is not None
    if missing := _find_missing(db, mailing.id, now, require_consent=require_consent):
        reason = tr(
            "message {message_id} needs a value of each field for all clients: {missing}",
            message_id=mailing.message_id,
            missing=_in_words(missing),
        )
        raise InvalidValue(reason, _hint(missing))


def find_missing(store: Store, actor: Actor, mailing_id: int, *, require_consent: bool = False) -> Phrase | None:
    """Return which values clients lack who would get a mailing if it were enabled, such as `2 clients have no city`.

    None if they lack nothing, or nothing can be sent. `require_consent` is the setting of that name. Raises NotFound.
    """
    with store.read() as db:
        missing: Mapping[str, int] = {}
        if get_mailing(db, actor, mailing_id, Action.DISABLE_MAILINGS).next_at is None:
            return None  # what waits keeps the content and the values that it has
        with suppress(InvalidValue):
            missing = _find_missing(db, mailing_id, store.now(), require_consent=require_consent)
    return _in_words(missing) if missing else None


def content_now(db: Session, message_id: int) -> VariedContent | None:
    """Return what the emails of a message contain, None if it cannot be sent any more."""
    with suppress(InvalidValue):
        return contents.read_content(db, message_id)
    return None


def require_added_values(
    db: Session, owner_id: int, message_id: int, change: Change, now: datetime, *, require_consent: bool
) -> None:
    """Raise InvalidValue if a client gets an active mailing with a message, and lacks a field due to a change of it.

    What a client lacked before is no reason. `require_consent` is the setting of that name. A mailing whose audience
    cannot be read has no clients now.
    """
    active = select(_M.c.id).where(_M.c.message_id == message_id, is_active(now)).order_by(_M.c.id)
    for mailing_id in db.scalars(active).all():
        missing: Mapping[str, int] = {}
        with suppress(InvalidValue):
            missing = _count_missing(db, owner_id, mailing_id, change, now, require_consent=require_consent)
        if missing:
            reason = tr(
                "mailing {mailing_id} needs a value of each field for all clients: {missing}",
                mailing_id=mailing_id,
                missing=_in_words(missing),
            )
            raise InvalidValue(reason, _hint(missing))


def _find_missing(db: Session, mailing_id: int, now: datetime, *, require_consent: bool) -> Mapping[str, int]:
    """Return how many clients lack a value that the mailing's message needs, by the names of the fields.

    Raises InvalidValue if the message or the audience cannot be read.
    """
    message_id, owner_id = db.execute(select(_M.c.message_id, _M.c.owner_id).where(_M.c.id == mailing_id)).one()
    change = Change(None, contents.read_content(db, message_id))
    return _count_missing(db, owner_id, mailing_id, change, now, require_consent=require_consent)


def _count_missing(
    db: Session, owner_id: int, mailing_id: int, change: Change, now: datetime, *, require_consent: bool
) -> Mapping[str, int]:
    """Return how many clients who get a mailing lack a value due to a change, by the names of the fields.

    Raises InvalidValue.
    """
    connection = db.connection()
    needs, needed_before = _needs(change.after), _needs(change.before)
    added = frozenset().union(*needs.values()) - frozenset.intersection(*needed_before.values())
    names = store_fields.names_of(connection, owner_id, added)
    if not names:
        return {}
    choosing = [content.field for content in change if content is not None]
    by = store_fields.names_of(connection, owner_id, choosing)
    chosen = audience.selection(connection, mailing_id, now, require_consent=require_consent)
    in_audience = audience.client_ids(chosen).subquery()
    recipients = select(_C.c.id).where(_C.c.id.in_(select(in_audience.c.id)), audience.can_receive(chosen))
    missing: Counter[str] = Counter()
    for fields, lacking in store_fields.count_missing(connection, recipients, names, by=by):
        of_client = needs[_content_for(change.after, fields)] - needed_before[_content_for(change.before, fields)]
        missing.update({name: number for name, number in lacking.items() if folded(name) in of_client})
    return missing


def _needs(content: VariedContent | None) -> Mapping[MessageContent | None, frozenset[str]]:
    """Return the folded names of the fields that each content needs. Nothing needs none."""
    if content is None:
        return {None: frozenset()}
    return {each: frozenset(compose.required_fields(each)) for each in content.all}


def _content_for(content: VariedContent | None, fields: Mapping[str, FieldValue]) -> MessageContent | None:
    return None if content is None else content.content_for(fields)


def _in_words(missing: Mapping[str, int]) -> Phrase:
    (name, number), *others = missing.items()
    first = trn("{number:,} client has no {field}", "{number:,} clients have no {field}", number, field=name)
    return joined(", ", (first, *(tr("{number:,} no {field}", number=more, field=other) for other, more in others)))


def _hint(missing: Mapping[str, int]) -> Phrase:
    name = next(iter(missing))
    return tr(
        'use {{{{ client.fields.{name} | default("...") }}}} in the message, or set the field of these clients',
        name=name,
    )
