"""Define the options that record a consent, and read what they say."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context
from skychimp.errors import InvalidValue
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.services.clients.consents import GivenConsent

Consent = Annotated[
    str | None, typer.Option("--consent", help="What the client agreed to, or the name of that text.", metavar="WORDS")
]
ConsentAt = Annotated[
    str | None, typer.Option("--consent-at", help="When the client agreed (default: now).", metavar="WHEN")
]
ConsentProof = Annotated[
    str | None, typer.Option("--consent-proof", help="File or URL that proves it. Its name is kept.", metavar="PROOF")
]


def read_consent(context: Context, wording: str | None, at: str | None, proof: str | None) -> "GivenConsent | None":
    """Return the consent that the options describe, or None without any. Raises InvalidValue."""
    from skychimp.services.clients.consents import checked_consent

    if wording is None:
        given = {"--consent-at": at, "--consent-proof": proof}
        if option := next((name for name, value in given.items() if value is not None), None):
            raise InvalidValue(
                tr("{option} needs --consent", option=option), tr("add --consent with what the client agreed to")
            )
        return None
    given_at = context.parse_past(at)
    return checked_consent(wording, given_at, proof or "", datetime.now(UTC))
