"""Define the findings of `skychimp messages check`."""

from dataclasses import dataclass

from skychimp.services.operations.findings import Finding


@dataclass(frozen=True)
class MessageFinding(Finding):
    """The result of one check of a message. A problem is what clients would see, a warning is what may be intended.

    `where` is a part and its line as `skychimp messages preview` shows it, such as "HTML line 3".
    """

    where: str = ""
    variant: str | None = None
    """The variant that it is about, None for the message itself."""
