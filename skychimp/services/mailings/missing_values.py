"""Refuse a message for which some clients lack a value of a custom field."""

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from skychimp.delivery.composing import compose
from skychimp.errors import InvalidValue
from skychimp.models import tables
from skychimp.services.messages import contents
from skychimp.store.clients import audience
from skychimp.store.clients import fields as store_fields
from skychimp.store.session import Session
from skychimp.text import count_of
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.models import Mailing

_C = tables.client


def require_values(db: Session, mailing: "Mailing", now: datetime) -> None:
    """Raise InvalidValue if a client who gets the mailing has no value of a field that its message needs."""
    required = compose.required_fields(contents.read_content(db, mailing.message_id))
    if not required:
        return
    assert mailing.id is not None
    connection = db.connection()
    names = store_fields.names_of(connection, mailing.owner_id, required)
    chosen = audience.selection(connection, mailing.id, now)
    in_audience = audience.client_ids(chosen).subquery()
    recipients = select(_C.c.id).where(_C.c.id.in_(select(in_audience.c.id)), audience.can_receive(chosen))
    missing = store_fields.count_missing(connection, recipients, names)
    if missing:
        raise _missing_values(mailing.message_id, missing)


def _missing_values(message_id: int | None, missing: dict[str, int]) -> InvalidValue:
    (name, number), *others = missing.items()
    reason = f"{count_of(number, 'client')} {'has' if number == 1 else 'have'} no {name}"
    reason += "".join(f", {more:,} no {other}" for other, more in others)
    return InvalidValue(
        tr(
            "message {message_id} needs a value of each field for all clients: {reason}",
            message_id=message_id,
            reason=reason,
        ),
        tr(
            'use {{{{ client.fields.{name} | default("...") }}}} in the message, or set the field of these clients',
            name=name,
        ),
    )
