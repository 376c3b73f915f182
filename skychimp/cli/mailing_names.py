"""Find the mailing that a person names on the command line: by its id or its name."""

from typing import Annotated

import typer

from skychimp.cli.context import Context

MailingName = Annotated[str, typer.Argument(metavar="MAILING", help="Mailing ID or name.", show_default=False)]


def find_mailing(context: Context, name: str) -> int:
    """Return the id of a mailing that the user may see. Raises NotFound. An id is returned unchecked."""
    from skychimp.services.mailings import mailings

    return mailings.find_id(context.store, context.actor, name)
