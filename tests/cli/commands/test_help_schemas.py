"""`help schemas` publishes the JSON Schema of each command. The schemas are checked by all tests that use --json."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from support.command import Home
from support.json_schemas import check_output, find_command

from skychimp.cli.commands import help_schemas
from skychimp.cli.help_pages import leaves
from skychimp.cli.registry import COMMANDS, load_command


def commands_with_json() -> list[str]:
    """Return the names of all commands that have the option --json."""
    names = []
    for name in COMMANDS:
        command: Any = load_command(name)
        found = {f"{name} {sub}".rstrip(): each for sub, each in leaves(command).items()}
        names += [leaf for leaf, each in found.items() if any("--json" in param.opts for param in each.params)]
    return names


def test_every_command_with_json_has_a_schema() -> None:
    assert sorted({*commands_with_json(), help_schemas.ERROR}) == sorted(help_schemas.names())


@pytest.mark.parametrize("name", help_schemas.names())
def test_schema_is_valid(name: str) -> None:
    schema = help_schemas.find(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert name in schema["title"]
    with pytest.raises(ValidationError):
        Draft202012Validator(schema).validate("no command prints only a text")


def test_schemas_are_listed_and_shown(tmp_path: Path) -> None:
    home = Home(tmp_path)
    listed = home.call("help", "schemas").out.splitlines()
    assert listed == help_schemas.names()
    assert home.call("help", "schemas", "clients", "list").json == help_schemas.find("clients list")
    assert home.call("help", "schemas", "clients list", "--json").json == help_schemas.find("clients list")
    assert home.call("help", "schemas", "--json").json == {
        name: help_schemas.find(name) for name in help_schemas.names()
    }
    missing = home.call("help", "schemas", "client", "list")
    assert missing.status == 4
    assert missing.err == 'error: no JSON Schema for "client list"\nhint: did you mean clients list?\n'


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--store", "status", "clients", "list", "--json"], "clients list"),
        (["--json", "-q", "run"], "run"),
        (["nothing", "--json"], None),
    ],
)
def test_command_is_found_in_a_command_line(arguments: list[str], name: str | None) -> None:
    assert find_command(arguments) == name


@pytest.mark.parametrize("out", ['{"email": "x"}', "[]", '{"email": "x", "verified": "yes"}', '{"verified": true}'])
def test_wrong_output_is_found(out: str) -> None:
    if out == '{"email": "x"}':
        check_output(["verify", "--json"], out, "")
        return
    with pytest.raises(AssertionError):
        check_output(["verify", "--json"], out, "")
