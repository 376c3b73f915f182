"""Fill a client's values into a body that is encoded once for all clients; pure."""

import re
from collections.abc import Sequence

from markupsafe import escape

from skychimp.delivery.composing import mime
from skychimp.delivery.composing.templates import texts_reader

_LAST_OF_BOUNDARY = re.compile("=(?:[_ ]|$)")
"""An equals sign that "_" may follow. One inside a link, as in `?subject=unsubscribe`, is harmless."""

BodyPart = tuple[bytes, str]
"""Bytes of a body, and the subtype of the text in it: plain, html, or "" if it is not a text."""


def gap_text(mark: str, number: int) -> str:
    """Return the text that stands in each gap of the client's text with this number, from 0."""
    return f"{mark}x{number}x"


def prepare(parts: Sequence[BodyPart], mark: str, names: Sequence[str]) -> "PreparedBody | None":
    """Return a body that can be filled in, or None if a value may change how a part is encoded.

    The parts have `gap_text` in each gap. `names` are those of the client's texts, by their numbers.
    """
    gap = re.compile(rf"{mark}x(\d+)x".encode())
    # A text with the beginning of a boundary could be completed to a whole one.
    is_simple = all(mime.is_seven_bit(part) and b"=_" not in gap.sub(b"", part) for part, kind in parts if kind)
    return PreparedBody(parts, gap, names) if is_simple else None


class PreparedBody:
    """A body in the encoding 7bit, with gaps for a client's texts. Made by `prepare`."""

    def __init__(self, parts: Sequence[BodyPart], gap: re.Pattern[bytes], names: Sequence[str]) -> None:
        body = b"".join(part for part, _ in parts)
        self._pieces = [piece.decode() for piece in gap.split(body)]
        gaps = [(kind == "html", names[int(number)]) for part, kind in parts for number in gap.findall(part)]
        kinds = sorted(set(gaps))
        self._gaps = [kinds.index(each) for each in gaps]
        self._values_of = texts_reader([name for _, name in kinds])
        self._text_kinds = sum(not is_html for is_html, _ in kinds)
        constant = "".join(self._pieces[::2])
        self._constant_size = len(constant)
        self._room = mime.MAX_LINE_LENGTH - max(map(len, body.split(b"\r\n")))
        self.has_dots = "\r\n." in constant
        """Whether a line may begin with a dot."""

    def fill(self, client: object) -> bytes | None:
        """Return the body with the client's texts, or None if one of them may need another encoding."""
        values = self._values_of(client)
        joined = " ".join(("", *values))
        # With "=" or "_" a value might complete the boundary, and with "." a line might begin with a dot.
        if not (joined.isascii() and joined.isprintable()) or " _" in joined or " ." in joined:
            return None
        if "=" in joined and _LAST_OF_BOUNDARY.search(joined):
            return None
        texts, htmls = values[: self._text_kinds], values[self._text_kinds :]
        pieces = self._pieces.copy()
        pieces[1::2] = map((*texts, *map(escape, htmls)).__getitem__, self._gaps)
        body = "".join(pieces).encode("ascii")
        return body if len(body) - self._constant_size <= self._room else None
