"""Read the option that chooses the columns of a list."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

import typer

from skychimp.cli.context import Context
from skychimp.errors import InvalidValue
from skychimp.text import did_you_mean, shortened
from skychimp.translation import tr

Columns = Annotated[
    str | None, typer.Option(help="Show these columns, such as id,email (not with --json).", metavar="NAMES")
]


def choose_columns(context: Context, chosen: str | None, default: Mapping[str, str], record: Any) -> Mapping[str, str]:
    """Return the columns to show, with their headings: those that --columns names, or else the default ones.

    `record` is the dataclass of the rows. All its fields can be chosen. Raises InvalidValue.
    """
    if chosen is None:
        return default
    if context.out.json:
        raise InvalidValue(tr("--columns and --json cannot be combined"), tr("JSON has all fields"))
    known = dict(default) | {
        field.name: field.name.replace("_", " ").capitalize() for field in fields(record) if field.name not in default
    }
    names = [name.strip().lower() for name in chosen.split(",")]
    for name in names:
        if name not in known:
            hint = tr("choose from: {known}", known=", ".join(known))
            raise InvalidValue(tr("unknown column {name}", name=shortened(name)), did_you_mean(name, known) or hint)
    return {name: known[name] for name in names}
