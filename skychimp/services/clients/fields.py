"""List the custom fields of clients, and change their types."""

from collections.abc import Iterable
from dataclasses import dataclass

from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.fields import Field, convert_value, find_field, format_value, parse_fields
from skychimp.models import FieldType
from skychimp.permissions import Action, Actor, authorize
from skychimp.shell import run_hint
from skychimp.store.clients import fields as store_fields
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.text import count_of, did_you_mean, shortened
from skychimp.translation import tr

_BATCH = 10_000


@dataclass(frozen=True)
class FieldInfo:
    """A custom field, and how many clients have a value."""

    name: str
    type: FieldType
    clients: int


def list_fields(store: Store, actor: Actor) -> list[FieldInfo]:
    """Return the fields of the actor's clients in order of their names."""
    authorize(actor, Action.SEE_CLIENTS)
    with store.read() as db:
        known = store_fields.known_fields(db.connection(), actor.user_id).values()
        counts = store_fields.count_values(db.connection(), actor.user_id) if known else {}
    return [FieldInfo(name, field_type, counts.get(name, 0)) for name, field_type in known]


def show(store: Store, actor: Actor, name: str) -> FieldInfo:
    """Return one field. Case does not matter in its name. Raises NotFound."""
    listed = list_fields(store, actor)
    field = _find(name, [Field(each.name, each.type) for each in listed])
    return next(each for each in listed if each.name == field.name)


def change_type(store: Store, actor: Actor, name: str, field_type: FieldType) -> FieldInfo:
    """Change the type of a field and of all its values, or nothing.

    Raises NotFound, and Conflict if a value is not of the new type.
    """
    authorize(actor, Action.CHANGE_CLIENTS)
    with store.read() as session:  # this finds most of what does not fit, without keeping others from writing
        field = _find(name, store_fields.known_fields(session.connection(), actor.user_id).values())
        _convert_values(session, actor, field, field_type, is_written=False)
    with store.write() as session:
        field = _find(name, store_fields.known_fields(session.connection(), actor.user_id).values())
        store_fields.set_type(session.connection(), actor.user_id, field.name, field_type)
        _convert_values(session, actor, field, field_type, is_written=True)
    return show(store, actor, field.name)


def _convert_values(db: Session, actor: Actor, field: Field, field_type: FieldType, *, is_written: bool) -> None:
    """Convert all values of a field. Raises Conflict if some of them are not of the new type."""
    connection, after, misfits, example = db.connection(), 0, 0, ""
    while rows := store_fields.values_after(connection, actor.user_id, field.name, after, _BATCH):
        for client_id, stored in rows:
            values = parse_fields(stored)
            old = values[field.name]
            try:
                new = convert_value(old, field_type, field.name)
            except InvalidValue:
                misfits += 1
                example = example or format_value(old)
                continue
            if is_written and not misfits and (type(new), new) != (type(old), old):
                store_fields.store_values(connection, client_id, {**values, field.name: new})
        after = rows[-1][0]
    if misfits:
        raise Conflict(
            f"{count_of(misfits, 'value')} of the field {field.name} {'is' if misfits == 1 else 'are'} no "
            f"{field_type}, such as {shortened(example)}",
            tr("change these values first"),
        )


def _find(name: str, known: Iterable[Field]) -> Field:
    fields = list(known)
    if found := find_field(name, fields):
        return found
    suggestion = did_you_mean(name, [each.name for each in fields])
    raise NotFound(tr("field {name} not found", name=shortened(name)), suggestion or run_hint("clients", "fields"))
