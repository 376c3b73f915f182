"""The letters that every contender sends: the same words, to the same people, each with a name filled in."""

from collections.abc import Iterator
from typing import NamedTuple

SENDER = "Skychimp Bench <bench@example.com>"
SUBJECT = "News for you, {name}"

_SENTENCES = (
    "the new timetable is out, and from Monday on we open at eight in the morning",
    "your last order has left the house and should be with you within three days",
    "if you would rather come by, our door is open, and the coffee is on us",
    "we read every answer to this letter, and somebody will write back to you",
)


class Words(NamedTuple):
    """A letter as a template for str.format, with {name} and {email}; lines of at most 78 characters, all ASCII."""

    text: str
    html: str | None

    def marked(self, name: str, email: str) -> "Words":
        """The same words with other marks than {name} and {email}, for another template engine."""

        def marked(source: str) -> str:
            return source.replace("{name}", name).replace("{email}", email)

        return Words(marked(self.text), None if self.html is None else marked(self.html))


def people(number: int) -> Iterator[tuple[str, str]]:
    """E-mail and name of so many people."""
    return ((f"client{index}@example.com", f"Ada Lovelace {index}") for index in range(1, number + 1))


def _text(paragraphs: int) -> str:
    lines = ["Dear {name},", ""]
    for index in range(paragraphs):
        lines += [f"{index + 1}.", *_SENTENCES, ""]
    return "\n".join([*lines, "You get this letter at {email}.", ""])


def _html(paragraphs: int) -> str:
    lines = ["<!DOCTYPE html>", "<html><head><title>News</title></head><body>", "<h1>Dear {name},</h1>"]
    for index in range(paragraphs):
        lines += [f'<h2><a href="https://www.example.com/news/{index + 1}">Number {index + 1}</a></h2>', "<p>"]
        lines += [*_SENTENCES, "</p>", '<img src="https://www.example.com/line.png" width="600" height="1" alt="">']
    return "\n".join([*lines, "<p>You get this letter at {email}.</p>", "</body></html>", ""])


SIZES = {
    "1k": Words(_text(2), None),
    "10k": Words(_text(12), _html(12)),
}
"""About 1 KB of text; about 10 KB of text and HTML."""
