"""Check what commands print with --json against their JSON Schemas, with no field that the schema lacks."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from skychimp.cli.commands import help_schemas

_WITH_VALUE = ("--config", "--store")
"""The global options that a value follows."""


def check_output(arguments: Sequence[str], out: str, err: str) -> None:
    """Raise AssertionError unless the output of a command with --json is as its schema says."""
    if "--json" not in arguments or "--follow" in arguments:
        return
    for line in err.splitlines():
        if line.startswith('{"error"'):
            _check(help_schemas.ERROR, json.loads(line), arguments)
    name = find_command(arguments)
    if out and name is not None and not (name == "help" and not out.startswith(("{", "["))):
        _check(name, json.loads(out), arguments)


def find_command(arguments: Sequence[str]) -> str | None:
    """Return the name of the command in a command line."""
    words = [
        word
        for word, before in zip(arguments, ("", *arguments), strict=False)
        if not word.startswith("-") and before not in _WITH_VALUE
    ]
    for name in (" ".join(words[:3]), " ".join(words[:2]), *words[:1]):
        if name in help_schemas.SHAPES:
            return name
    return None


def _check(name: str, value: object, arguments: Sequence[str]) -> None:
    errors = sorted(_validator(name).iter_errors(value), key=lambda error: len(error.path))
    assert not errors, f"{arguments}: {errors[0].message[:2000]} at {list(errors[0].path)}"


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(_close(help_schemas.find(name)))


def _close(schema: Any) -> Any:
    """Return a schema whose objects have no other fields than those that it names."""
    if isinstance(schema, list):
        return [_close(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _close(value) for key, value in schema.items()}
    return {"additionalProperties": False} | closed if "properties" in closed and "required" in closed else closed
