"""Keep the custom fields of each user's clients: their names and types, and which clients have a value.

Names are the same if they differ only in case or in how Unicode composes their characters. A field keeps the name and
the type that it was given first. Part of the caller's transaction.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, func, literal, select, update

from skychimp.errors import InvalidValue
from skychimp.fields import MAX_FIELDS, Field, FieldValue, dump_fields, parse_fields
from skychimp.models import FieldType, tables
from skychimp.store.sql import insert_or, json_has, json_keys, json_part
from skychimp.text import folded
from skychimp.translation import tr

_C = tables.client
_F = tables.client_field


def known_fields(db: Connection, owner_id: int) -> dict[str, Field]:
    """Return the fields of a user's clients in order of their names, by their folded names."""
    rows = db.execute(select(_F.c.key, _F.c.name, _F.c.type).where(_F.c.owner_id == owner_id).order_by(_F.c.key))
    return {key: Field(name, FieldType(field_type)) for key, name, field_type in rows}


def resolve(known: Mapping[str, Field], fields: Iterable[Field]) -> list[Field]:
    """Return these fields with the names and types of those known already, by their folded names.

    Raises InvalidValue if there would be more than MAX_FIELDS.
    """
    resolved = {folded(field.name): known.get(folded(field.name), field) for field in fields}
    number = len(known.keys() | resolved.keys())
    if number > MAX_FIELDS:
        raise InvalidValue(
            tr("too many fields: {number}", number=number),
            tr("a user can have {max_fields}; leave some of them out", max_fields=MAX_FIELDS),
        )
    return list(resolved.values())


def register(db: Connection, owner_id: int, fields: Iterable[Field]) -> list[Field]:
    """Add those of these fields that a user does not have, and return them with the names and types that are kept.

    Raises InvalidValue if there would be more than MAX_FIELDS.
    """
    known = known_fields(db, owner_id)
    resolved = resolve(known, fields)
    new = [field for field in resolved if folded(field.name) not in known]
    if not new:
        return resolved
    rows = [{"owner_id": owner_id, "key": folded(name), "name": name, "type": kind} for name, kind in new]
    db.execute(insert_or(_F).values(rows).on_conflict_do_nothing(index_elements=["owner_id", "key"]))
    return resolve(known_fields(db, owner_id), resolved)  # another transaction may have added one of them


def names_of(db: Connection, owner_id: int, names: Iterable[str]) -> list[str]:
    """Return the names of a user's fields as they are kept. Unknown names are left out."""
    known = known_fields(db, owner_id)
    return [known[key].name for key in sorted({*map(folded, names)}) if key in known]


def count_values(db: Connection, owner_id: int) -> dict[str, int]:
    """Return how many of a user's clients have a value, by the names of the fields that have any."""
    keys = json_keys(_C.c.fields)
    counted = select(keys.c.key, func.count()).select_from(_C, keys).where(_C.c.owner_id == owner_id)
    return {row[0]: row[1] for row in db.execute(counted.group_by(keys.c.key))}


def count_missing(
    db: Connection, clients: Select[Any], names: Sequence[str], *, by: Sequence[str] = ()
) -> Iterator[tuple[Mapping[str, FieldValue], Mapping[str, int]]]:
    """Yield how many of the clients that a query selects by their ids have no value, by the names of the fields.

    There is one item for each combination of values of the fields `by`, with those fields. Without `by`, there is one
    item in all. Names of which all clients have a value are left out.
    """
    missing = [func.sum(case((json_has(_C.c.fields, name), 0), else_=1)) for name in names]
    for fields, *counted in db.execute(_by_value(by, *missing).where(_C.c.id.in_(clients))):
        yield parse_fields(fields), {name: number for name, number in zip(names, counted, strict=True) if number}


def count_by_value(db: Connection, owner_id: int, name: str) -> Iterator[tuple[Mapping[str, FieldValue], int]]:
    """Yield how many of a user's clients have each value of a field, with that field."""
    for fields, number in db.execute(_by_value([name] if name else (), func.count()).where(_C.c.owner_id == owner_id)):
        yield parse_fields(fields), number


def _by_value(names: Sequence[str], *counted: ColumnElement[Any]) -> Select[Any]:
    """Return a query over clients that counts for each combination of values of fields.

    Its first column has the fields as JSON.
    """
    if not names:
        return select(literal("{}"), *counted).select_from(_C)
    return select(json_part(_C.c.fields, names).label("chosen_part"), *counted).group_by("chosen_part")


def set_type(db: Connection, owner_id: int, name: str, field_type: FieldType) -> None:
    """Change the type of a field. Its values are not changed."""
    own = update(_F).where(_F.c.owner_id == owner_id, _F.c.key == folded(name))
    db.execute(own.values(type=field_type))


def values_after(db: Connection, owner_id: int, name: str, after: int, limit: int) -> list[tuple[int, str]]:
    """Return id and stored fields of the next clients that have a value of a field, in the order of their ids."""
    having = select(_C.c.id, _C.c.fields).where(_C.c.owner_id == owner_id, _C.c.id > after)
    rows = db.execute(having.where(json_has(_C.c.fields, name)).order_by(_C.c.id).limit(limit))
    return [(row[0], row[1]) for row in rows]


def store_values(db: Connection, client_id: int, values: Mapping[str, FieldValue | None]) -> None:
    """Replace all fields of a client."""
    db.execute(update(_C).where(_C.c.id == client_id).values(fields=dump_fields(values)))
