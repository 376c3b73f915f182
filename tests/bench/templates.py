"""The emails that every program sends: the same content to the same recipients, each with a name filled in."""

from collections.abc import Iterator
from typing import NamedTuple

SENDER = "Skychimp Bench <bench@example.com>"
SUBJECT = "News for you, {name}"

_SENTENCES = (
    "the new timetable is out, and from Monday on we open at eight in the morning",
    "your last order has left the house and should be with you within three days",
    "if you would rather come by, our door is open, and the coffee is on us",
    "we read every answer to this email, and somebody will write back to you",
)


class EmailTemplate(NamedTuple):
    """A template for str.format, with {name} and {email}. It is ASCII, in lines of at most 78 characters."""

    text: str
    html: str | None

    def with_placeholders(self, name: str, email: str) -> "EmailTemplate":
        """Return the template with other placeholders than {name} and {email}, for another template engine."""

        def replaced(source: str) -> str:
            return source.replace("{name}", name).replace("{email}", email)

        return EmailTemplate(replaced(self.text), None if self.html is None else replaced(self.html))


def recipients(number: int) -> Iterator[tuple[str, str]]:
    """Yield the email address and the name of `number` recipients."""
    return ((f"client{index}@example.com", f"Ada Lovelace {index}") for index in range(1, number + 1))


def _text(paragraphs: int) -> str:
    lines = ["Dear {name},", ""]
    for index in range(paragraphs):
        lines += [f"{index + 1}.", *_SENTENCES, ""]
    return "\n".join([*lines, "You get this email at {email}.", ""])


def _html(paragraphs: int) -> str:
    lines = ["<!DOCTYPE html>", "<html><head><title>News</title></head><body>", "<h1>Dear {name},</h1>"]
    for index in range(paragraphs):
        lines += [f'<h2><a href="https://www.example.com/news/{index + 1}">Number {index + 1}</a></h2>', "<p>"]
        lines += [*_SENTENCES, "</p>", '<img src="https://www.example.com/line.png" width="600" height="1" alt="">']
    return "\n".join([*lines, "<p>You get this email at {email}.</p>", "</body></html>", ""])


SIZES = {
    "1k": EmailTemplate(_text(2), None),
    "10k": EmailTemplate(_text(12), _html(12)),
}
"""About 1 KB of text; about 10 KB of text and HTML."""
