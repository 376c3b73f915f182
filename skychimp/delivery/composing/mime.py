"""Text as the bytes of a letter: header values and bodies, always in seven bits; pure.

A header value is plain ASCII where it can be, else encoded words (RFC 2047). What merely looks like an encoded word is
encoded too, so that a parser gives back the very words and can't be made to see another header in them.
"""

import binascii
import re
from collections.abc import Sequence
from functools import lru_cache

from skychimp import addresses
from skychimp.errors import InvalidValue

LONGEST_LINE = 998  # RFC 5322, section 2.1.1
_LINE = 76  # RFC 2045, section 6.7, and RFC 2047, section 2
_ROOM = _LINE - len("Subject: ")
_WORD_BYTES = (_ROOM - len("=?utf-8?b??=")) // 4 * 3
_PLAIN_HEADER = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_HEADER_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NOT_IN_ADDRESS = re.compile(r'[\x00-\x20\x7f-\xa0\u2028\u2029<>()\[\]\\,;:"]')
_SEVEN_BIT = bytes((*b"\t\n", *range(0x20, 0x7F)))


def one_line(text: str) -> str:
    """The text without control characters and line breaks: each run of them is one space."""
    return _HEADER_BREAKS.sub(" ", text).strip()


def header(text: str) -> bytes:
    """A header's value, folded; `text` is one line."""
    if not text:
        return b""
    if _is_plain(text):
        if len(text) <= _ROOM:
            return text.encode("ascii")
        if "  " not in text and max(map(len, text.split(" "))) <= _ROOM:
            return _folded(text)
    return _encoded_words(text)


def mailbox(name: str, address: str) -> bytes:
    """An address with its display name, which is one line. The domain is in ASCII, unless the local part is not.

    Raises InvalidValue for an address that can't stand in a header.
    """
    if _NOT_IN_ADDRESS.search(address):
        raise InvalidValue(f"{address!a} can't be written in a letter")
    if not address.isascii() and address.rpartition("@")[0].isascii():
        address = addresses.with_ascii_domain(address)
    place = address.encode()
    if not name:
        return place
    word = b'"%b"' % name.replace("\\", "\\\\").replace('"', '\\"').encode() if _is_plain(name) else b""
    if not word or len(word) > _ROOM:
        word = _encoded_words(name)
    fold = b"\r\n" if len(word) + len(place) + len(" <>") > _ROOM else b""
    return b"%b%b <%b>" % (word, fold, place)


def sender(text: str) -> bytes:
    """`Name <address>` as a header's value. Raises InvalidValue."""
    name, address = addresses.parse_sender(text)
    return mailbox(one_line(name), address)


def part(pieces: Sequence[str], subtype: str, avoid: bytes = b"") -> bytes:
    """A text part with its headers, of a text in pieces: line ends are CRLF, no line is longer than 998, all is ASCII.

    It ends with a line end. `avoid` is a boundary that begins with "=_", which must not occur in it.
    """
    text = "".join(pieces)
    if "\r" in text:
        pieces = (text := text.replace("\r\n", "\n").replace("\r", "\n"),)
    if not text.endswith("\n"):
        pieces, text = (*pieces, "\n"), text + "\n"
    data = text.encode()
    special = len(data.translate(None, _SEVEN_BIT))
    if not special and _has_short_lines(data) and not (avoid and avoid in data):
        encoding, data = b"7bit", data.replace(b"\n", b"\r\n")
    elif special * 6 <= len(data):  # about where the two are equally long
        encoding, data = b"quoted-printable", _quoted_printable(pieces)
    else:
        encoding, data = b"base64", _base64(data)
    head = b"Content-Type: text/%b; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n\r\n"
    return head % (subtype.encode(), encoding) + data


def _has_short_lines(data: bytes) -> bool:
    start = 0
    while len(data) - start > LONGEST_LINE:
        start = data.rfind(b"\n", start, start + LONGEST_LINE + 1) + 1
        if not start:
            return False
    return True


def _quoted_printable(pieces: Sequence[str]) -> bytes:
    """A line is encoded by itself, so that only those that a client's words stand in are encoded for every letter."""
    encoded: list[bytes] = []
    line = ""
    for piece in pieces:
        if len(piece) > _LINE and "\n" in piece:
            head, whole_lines, tail = _cut(piece)
            encoded += (_quoted(line + head), whole_lines)
            line = tail
        else:
            line += piece
    return b"".join((*encoded, _quoted(line)))


@lru_cache(maxsize=256)
def _cut(piece: str) -> tuple[str, bytes, str]:
    """The rest of a line that a piece begins with, its whole lines, encoded, and the beginning of a line at its end."""
    start, end = piece.index("\n") + 1, piece.rindex("\n") + 1
    return piece[:start], _quoted(piece[start:end]), piece[end:]


def _quoted(lines: str) -> bytes:
    return binascii.b2a_qp(lines.encode()).replace(b"\n", b"\r\n")


def _base64(data: bytes) -> bytes:
    whole = binascii.b2a_base64(data.replace(b"\n", b"\r\n"), newline=False)
    return b"\r\n".join([whole[start : start + _LINE] for start in range(0, len(whole), _LINE)]) + b"\r\n"


def _is_plain(text: str) -> bool:
    return text.isascii() and "=?" not in text and _PLAIN_HEADER.fullmatch(text) is not None


def _folded(text: str) -> bytes:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > _ROOM:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return "\r\n ".join(lines).encode("ascii")


def _encoded_words(text: str) -> bytes:
    words, chunk = [], b""
    for character in text:
        octets = character.encode()
        if len(chunk) + len(octets) > _WORD_BYTES:
            words.append(chunk)
            chunk = b""
        chunk += octets
    words.append(chunk)
    return b"\r\n ".join(b"=?utf-8?b?%b?=" % binascii.b2a_base64(word, newline=False) for word in words)
