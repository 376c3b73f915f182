"""Name whose fault a refusal can be; pure."""

from enum import StrEnum
from typing import NamedTuple

from skychimp.translation import Phrase


class Fault(StrEnum):
    """Whose fault a reply of 4xx or 5xx is."""

    ADDRESS = "address"
    """The address is wrong. Final, and the client is marked as bad."""
    MAILBOX = "mailbox"
    """The recipient's mailbox cannot take it: full, over its own limit, or greylisting."""
    SESSION_LIMIT = "session_limit"
    """Too many emails over one connection."""
    CONNECTION_LIMIT = "connection_limit"
    """Too many connections at once."""
    RATE_LIMIT = "rate_limit"
    """Too much email in a short time."""
    QUOTA = "quota"
    """The account has used up what it may send in an hour, a day or a month."""
    LOGIN = "login"
    """The relay requires a login, or refuses this one or its account."""
    RELAY = "relay"
    """The relay refuses this computer, whatever the email."""
    SENDER = "sender"
    """The sender's address or domain is refused, or SPF, DKIM or DMARC fails for it."""
    MESSAGE = "message"
    """The email is too large, or its content is refused."""
    REFUSED = "refused"
    """Final, and in doubt whose fault it is."""
    TEMPORARY = "temporary"
    """A temporary error for this recipient, or in the server itself."""


class Verdict(NamedTuple):
    """Whose fault a reply is, what it means, and what a person can do about it ("" if nothing needs to be done)."""

    fault: Fault
    meaning: str
    remedy: Phrase
