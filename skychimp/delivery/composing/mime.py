"""Encode header values and text parts of an email in 7-bit ASCII; pure.

A header value is plain ASCII where possible, and encoded words (RFC 2047) otherwise. A text that only looks like an
encoded word is encoded too, so that a mail reader shows exactly this text, and no text can add another header.

What is encoded is quoted-printable ("Q" in a header), or base64 if most of its characters are not ASCII. Spam filters
count base64 against an email whose text hardly needs it, and any encoding of a header that is ASCII.
"""

import binascii
import re
import string
from collections.abc import Sequence
from functools import lru_cache

from skychimp import addresses
from skychimp.errors import InvalidValue
from skychimp.text import shortened
from skychimp.translation import tr

MAX_LINE_LENGTH = 998
"""Bytes of a line without its line end (RFC 5322, section 2.1.1)."""

_FOLD_LENGTH = 76  # RFC 2045, section 6.7, and RFC 2047, section 2
_FIRST_LINE_LENGTH = _FOLD_LENGTH - len("Subject: ")
_ENCODED_WORD_LENGTH = _FIRST_LINE_LENGTH - len("=?utf-8?q??=")
_UNENCODED = string.ascii_letters + string.digits + "!*+-/"
_FOLDING_SPACE = re.compile("(?<! ) (?! )")  # a line that ended with another space could lose it on its way
_PLAIN_HEADER = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_HEADER_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_FORBIDDEN_IN_ADDRESS = re.compile(r'[\x00-\x20\x7f-\xa0\u2028\u2029<>()\[\]\\,;:"]')
_7BIT_BYTES = bytes((*b"\t\n", *range(0x20, 0x7F)))


def one_line(text: str) -> str:
    """Return a text with each run of control characters and line breaks replaced by a space."""
    return (text if text.isprintable() else _HEADER_BREAKS.sub(" ", text)).strip()


def header_value(text: str) -> bytes:
    """Return a line of text as the folded value of a header."""
    if not text:
        return b""
    return (_folded(text) if _is_plain(text) else None) or _encoded_words(text)


def mailbox(name: str, address: str) -> bytes:
    """Return an address with a display name of one line (or "") as the value of a header.

    The domain is converted to ASCII, unless the local part is not ASCII either. Raises InvalidValue for an address
    with characters that have a meaning in a header.
    """
    if _FORBIDDEN_IN_ADDRESS.search(address) and not addresses.is_unusual(address):
        raise InvalidValue(
            tr("the address {address} cannot be used in a header", address=shortened(address, addresses.MAX_LENGTH))
        )
    if not address.isascii() and address.rpartition("@")[0].isascii():
        address = addresses.with_ascii_domain(address)
    encoded = addresses.in_protocol(address).encode()
    if not name:
        return encoded
    # The name as a quoted-string (RFC 5322, section 3.2.4), if possible.
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    phrase = (_folded(quoted) if _is_plain(name) else None) or _encoded_words(name)
    length = len(phrase) - (phrase.rfind(b"\n") + 1) + len(encoded) + len(" <>")
    fold = b"\r\n" if length > _FIRST_LINE_LENGTH else b""
    return b"%b%b <%b>" % (phrase, fold, encoded)


def sender_header(text: str) -> bytes:
    """Return `Name <address>` as the value of a header. Raises InvalidValue."""
    name, address = addresses.parse_sender(text)
    return mailbox(one_line(name), address)


def text_part(pieces: Sequence[str], subtype: str, avoid: bytes = b"") -> bytes:
    """Return a text, which is given in pieces, as a MIME part with its headers.

    The part is ASCII with CRLF line ends and lines of at most MAX_LINE_LENGTH bytes, and ends with a line end. `avoid`
    is a boundary that must not occur in it, and that begins with "=_": no encoding produces these characters.
    """
    text = "".join(pieces)
    if "\r" in text:
        pieces = (text := text.replace("\r\n", "\n").replace("\r", "\n"),)
    if not text.endswith("\n"):
        pieces, text = (*pieces, "\n"), text + "\n"
    data = text.encode()
    special = len(data.translate(None, _7BIT_BYTES))
    if not special and _has_short_lines(data) and not (avoid and avoid in data):
        encoding, data = b"7bit", data.replace(b"\n", b"\r\n")
    elif 2 * (len(data) - special) >= len(text):
        encoding, data = b"quoted-printable", _quoted_printable(pieces)
    else:
        encoding, data = b"base64", _base64(data)
    head = b"Content-Type: text/%b; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n\r\n"
    return head % (subtype.encode(), encoding) + data


def is_seven_bit(part: bytes) -> bool:
    """Return whether a part, as `text_part` returns it, contains its text as it is."""
    return part.partition(b"\r\n\r\n")[0].endswith(b" 7bit")


def _has_short_lines(data: bytes) -> bool:
    start = 0
    while len(data) - start > MAX_LINE_LENGTH:
        start = data.rfind(b"\n", start, start + MAX_LINE_LENGTH + 1) + 1
        if not start:
            return False
    return True


def _quoted_printable(pieces: Sequence[str]) -> bytes:
    """Encode a text line by line. Only the lines with a client's data are encoded again for each email."""
    encoded: list[bytes] = []
    line = ""
    for piece in pieces:
        if len(piece) > _FOLD_LENGTH and "\n" in piece:
            head, whole_lines, tail = _split_and_encode(piece)
            encoded += (_quote(line + head), whole_lines)
            line = tail
        else:
            line += piece
    return b"".join((*encoded, _quote(line)))


@lru_cache(maxsize=256)
def _split_and_encode(piece: str) -> tuple[str, bytes, str]:
    """Split a piece into the end of a line, whole lines, which are encoded, and the start of a line."""
    start, end = piece.index("\n") + 1, piece.rindex("\n") + 1
    return piece[:start], _quote(piece[start:end]), piece[end:]


def _quote(lines: str) -> bytes:
    return binascii.b2a_qp(lines.encode()).replace(b"\n", b"\r\n")


def _base64(data: bytes) -> bytes:
    encoded = binascii.b2a_base64(data.replace(b"\n", b"\r\n"), newline=False)
    lines = [encoded[start : start + _FOLD_LENGTH] for start in range(0, len(encoded), _FOLD_LENGTH)]
    return b"\r\n".join(lines) + b"\r\n"


def _is_plain(text: str) -> bool:
    return text.isascii() and "=?" not in text and _PLAIN_HEADER.fullmatch(text) is not None


def _folded(text: str) -> bytes | None:
    """Return an ASCII text in lines that are folded at single spaces, or None if a line would be too long."""
    if len(text) <= _FIRST_LINE_LENGTH:
        return text.encode("ascii")
    lines = [""]
    for words in _FOLDING_SPACE.split(text):
        if len(words) > _FIRST_LINE_LENGTH:
            return None
        if lines[-1] and len(lines[-1]) + 1 + len(words) > _FIRST_LINE_LENGTH:
            lines.append(words)
        else:
            lines[-1] = f"{lines[-1]} {words}" if lines[-1] else words
    return "\r\n ".join(lines).encode("ascii")


def _encoded_words(text: str) -> bytes:
    """Return a text as encoded words (RFC 2047). None of them ends inside a character."""
    if 2 * len(text.encode("ascii", "ignore")) >= len(text):
        kind, words = b"q", _joined(list(map(_Q_ENCODED.__getitem__, text)), _ENCODED_WORD_LENGTH)
    else:
        chunks = _joined(list(map(str.encode, text)), _ENCODED_WORD_LENGTH // 4 * 3)
        kind, words = b"b", [binascii.b2a_base64(chunk, newline=False) for chunk in chunks]
    return b"\r\n ".join([b"=?utf-8?%b?%b?=" % (kind, word) for word in words])


def _joined(characters: list[bytes], max_length: int) -> list[bytes]:
    """Join encoded characters to chunks of at most `max_length` bytes."""
    whole = b"".join(characters)
    if len(whole) <= max_length:
        return [whole]
    chunks, chunk = [], b""
    for character in characters:
        if len(chunk) + len(character) > max_length:
            chunks.append(chunk)
            chunk = b""
        chunk += character
    return [*chunks, chunk]


class _QEncoded(dict[str, bytes]):
    """Each character as the encoding "Q" writes it in a phrase (RFC 2047, section 5, rule 3)."""

    def __missing__(self, character: str) -> bytes:
        return self.setdefault(character, b"".join(b"=%02X" % byte for byte in character.encode()))


_Q_ENCODED = _QEncoded({character: character.encode() for character in _UNENCODED} | {" ": b"_"})
