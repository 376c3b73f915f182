"""Make JSON Schemas (draft 2020-12) from the types of what commands print.

https://json-schema.org/draft/2020-12
"""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

DRAFT = "https://json-schema.org/draft/2020-12/schema"

OPTIONAL = "?"
"""Ends the name of a field that is not always there."""


class Merged(tuple[Any, ...]):
    """The fields of several shapes in one object. A later one replaces those of the same name."""


class Either(tuple[Any, ...]):
    """One of several shapes, depending on the command's options."""


class Flattened:
    """A type whose field `counts` is printed as a field for each of its keys."""

    def __init__(self, kind: type) -> None:
        self.kind = kind


Shape = Any
"""A type, `[shape]` for a list, `{"name": shape}` for an object, Merged, Either or Flattened."""


def make_schema(shape: Shape, title: str) -> dict[str, Any]:
    """Return the schema of a shape."""
    definitions: dict[str, Any] = {}
    schema = {"$schema": DRAFT, "title": ""} | _schema_of(shape, definitions) | {"title": title}
    return schema | ({"$defs": definitions} if definitions else {})


def _schema_of(shape: Shape, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a shape. Put what it refers to into the definitions."""
    match shape:
        case Mapping():
            properties = {name.removesuffix(OPTIONAL): _schema_of(part, definitions) for name, part in shape.items()}
            required = [name for name in shape if not name.endswith(OPTIONAL)]
            return {"type": "object", "properties": properties, "required": required}
        case Either():
            return {"anyOf": [_schema_of(part, definitions) for part in shape]}
        case Flattened():
            schema = _resolve(_schema_of(shape.kind, definitions), definitions)
            properties = {name: part for name, part in schema["properties"].items() if name != "counts"}
            more = {"additionalProperties": {"type": "integer"}}
            return {"type": "object", "properties": properties, "required": list(properties)} | more
        case Merged():
            return _merge([_resolve(_schema_of(part, definitions), definitions) for part in shape])
        case [item]:
            return {"type": "array", "items": _schema_of(item, definitions)}
    schema = TypeAdapter(shape).json_schema(mode="serialization", schema_generator=_Generator)
    definitions |= schema.pop("$defs", {})
    return schema


def _merge(objects: list[dict[str, Any]]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: set[str] = set()
    for each in objects:
        properties |= each["properties"]
        required = (required - set(each["properties"])) | set(each["required"])
    more = [each["additionalProperties"] for each in objects if "additionalProperties" in each]
    merged = {"type": "object", "properties": properties, "required": [name for name in properties if name in required]}
    return merged | ({"additionalProperties": more[0]} if more else {})


def _resolve(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return what a schema refers to, or the schema itself."""
    reference = schema.get("$ref")
    return schema if reference is None else definitions[reference.rpartition("/")[2]]


class _Generator(GenerateJsonSchema):
    """Takes all fields for required, as they are always printed, and durations for text such as 12h."""

    def field_is_required(self, *_: Any, **__: Any) -> bool:
        return True

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False

    def timedelta_schema(self, _schema: Any) -> dict[str, Any]:
        return {"type": "string"}
