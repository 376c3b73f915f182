"""Read the emails in an outbox, and the codes in them."""

import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

CODE = re.compile(r"^[A-Z0-9-]{8,}$", re.MULTILINE)


def read_outbox(outbox: Path) -> list[EmailMessage]:
    """Return the emails in an outbox, the oldest first."""
    paths = sorted((outbox / "new").glob("*"), key=lambda path: path.stat().st_mtime_ns)
    return [message_from_bytes(path.read_bytes(), policy=policy.default) for path in paths]


def body_of(email: EmailMessage, subtype: str = "plain") -> str:
    """Return the text of an email, or its HTML if the subtype is "html"."""
    part = email.get_body((subtype,))
    assert part is not None
    return str(part.get_content())


def code_in(email: EmailMessage) -> str:
    """Return the code in an email, which is alone on a line of the text."""
    (code,) = CODE.findall(body_of(email))
    return str(code)
