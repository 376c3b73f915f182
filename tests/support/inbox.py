"""What came into the outbox, and the codes in it."""

import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

CODE = re.compile(r"^[A-Z0-9-]{8,}$", re.MULTILINE)


def letters(outbox: Path) -> list[EmailMessage]:
    """The letters of an outbox, in the order in which they came."""
    kept = sorted((outbox / "new").glob("*"), key=lambda path: path.stat().st_mtime_ns)
    return [message_from_bytes(path.read_bytes(), policy=policy.default) for path in kept]


def text_of(letter: EmailMessage, form: str = "plain") -> str:
    part = letter.get_body((form,))
    assert part is not None
    return str(part.get_content())


def code_in(letter: EmailMessage) -> str:
    """The code, which stands alone on a line of the text."""
    (code,) = CODE.findall(text_of(letter))
    return str(code)
