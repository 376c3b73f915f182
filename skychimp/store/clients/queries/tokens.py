"""Split a query into words, numbers, texts and signs; pure."""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from skychimp.errors import InvalidQuery
from skychimp.store.clients.queries.syntax import MAX_BYTES
from skychimp.translation import tr

EXAMPLE = tr("write a query such as: fields.city = 'Riga' AND tag = 'vip'")

_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)"
    r"|(?P<word>[^\W\d]\w*(?:\.\w+)?)"
    r"|(?P<number>-?[0-9]+(?:\.[0-9]+)?(?![\w.]))"
    r"|(?P<text>'(?:[^']|'')*')"
    r"|(?P<sign><=|>=|<>|!=|=(?!=)|<|>|\(|\)|,)"
)


class Token(NamedTuple):
    """A part of a query, and where it begins. `kind` is word, number, text, sign, or end after the last one.

    The value of a text is what it stands for, without quotes.
    """

    kind: str
    value: str
    position: int

    @property
    def keyword(self) -> str:
        """The word in capital letters, or the sign. "" for numbers and texts."""
        return self.value.upper() if self.kind in ("word", "sign") else ""


def split(query: str) -> Iterator[Token]:
    """Yield the parts of a query, and one of the kind `end`. Raises InvalidQuery."""
    _require_text(query)
    position = 0
    while position < len(query):
        match = _TOKEN.match(query, position)
        if match is None:
            raise _unexpected(query, position)
        kind, value = str(match.lastgroup), match[0]
        if kind == "text":
            yield Token(kind, value[1:-1].replace("''", "'"), position)
        elif kind != "space":
            yield Token(kind, value, position)
        position = match.end()
    yield Token("end", "", len(query))


def _require_text(query: str) -> None:
    """Raise InvalidQuery for what no query contains: a query must be short, and its texts can be stored."""
    encoded = query.encode(errors="surrogatepass")
    if len(encoded) > MAX_BYTES:
        fitting = len(encoded[:MAX_BYTES].decode(errors="ignore"))
        raise InvalidQuery(
            tr("it is longer than {max_bytes:,} bytes", max_bytes=MAX_BYTES),
            tr("give the clients a tag instead"),
            query,
            fitting,
        )
    for position, character in enumerate(query):
        category = unicodedata.category(character)
        if category == "Cs" or (category == "Cc" and character not in "\t\r\n"):
            problem = tr("invalid UTF-8") if category == "Cs" else tr("a control character")
            raise InvalidQuery(tr("{problem} is not allowed", problem=problem), tr("remove it"), query, position)


def _unexpected(query: str, position: int) -> InvalidQuery:
    character = query[position]
    if character == "'":
        return InvalidQuery(tr("the text has no closing quote"), tr("add ' at its end"), query, position)
    if character in '"`‘’“”':
        return InvalidQuery(
            tr("a text must be in single quotes"), tr("write 'text', and '' for a quote"), query, position
        )
    if query.startswith("==", position):
        return InvalidQuery(tr("unknown operator =="), tr("use ="), query, position)
    if character.isdigit() or character == "-":
        return InvalidQuery(tr("invalid number"), tr("use a number such as 42, or a text in quotes"), query, position)
    if character.isspace():
        return InvalidQuery(
            tr("unusual space U+{ord:04X}", ord=ord(character)), tr("use an ordinary space"), query, position
        )
    return InvalidQuery(tr("unexpected {character}", character=character), EXAMPLE, query, position)
