"""Text as the bytes of a letter: header values and bodies, always in seven bits; pure.

A header value is plain ASCII where it can be, else encoded words (RFC 2047). What merely looks like an encoded word is
encoded too, so that a parser gives back the very words and can't be made to see another header in them.
"""

import binascii
import re

from skychimp import addresses

LONGEST_LINE = 998  # RFC 5322, section 2.1.1
_LINE = 76
_WORD_BYTES = 42  # 56 characters of base64, within the 75 of an encoded word
_PLAIN_HEADER = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_NOT_SEVEN_BIT = re.compile(r"[^\t\n\x20-\x7e]")
_HEADER_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def one_line(text: str) -> str:
    """The text without control characters and line breaks: each run of them is one space."""
    return _HEADER_BREAKS.sub(" ", text).strip()


def header(text: str) -> bytes:
    """A header's value, folded; `text` is one line."""
    if len(text) <= _LINE - 10 and _is_plain(text):
        return text.encode("ascii")
    if _is_plain(text) and "  " not in text and max(map(len, text.split(" "))) < _LINE - 10:
        return _folded(text)
    return _encoded_words(text)


def mailbox(name: str, address: str) -> bytes:
    """An address with its display name. The domain is in ASCII, unless the local part needs SMTPUTF8 anyway."""
    written = (
        addresses.with_ascii_domain(address)
        if not address.isascii() and address.rpartition("@")[0].isascii()
        else address
    )
    place = written.encode()
    if not name:
        return place
    if len(name) <= _LINE - 14 and _is_plain(name):
        quoted = name.replace("\\", "\\\\").replace('"', '\\"').encode()
        return (
            b'"%b"\r\n <%b>' % (quoted, place)
            if len(quoted) + len(place) > _LINE - 14
            else b'"%b" <%b>' % (quoted, place)
        )
    return _encoded_words(name) + b"\r\n <" + place + b">"


def sender(text: str) -> bytes:
    """`Name <address>` as a header's value."""
    name, address = addresses.parse_sender(text)
    return mailbox(one_line(name), address)


def part(text: str, subtype: str, avoid: bytes = b"") -> bytes:
    """A text part with its headers: line ends are CRLF, no line is longer than 998, all is ASCII.

    It ends with a line end. `avoid` is a boundary that must not occur in it.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    if not lines.endswith("\n"):
        lines += "\n"
    encoding, data = _encoded(lines)
    if avoid and avoid in data:
        encoding, data = b"base64", _base64(lines)
    head = b"Content-Type: text/%b; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n\r\n"
    return head % (subtype.encode(), encoding) + data


def _encoded(lines: str) -> tuple[bytes, bytes]:
    if _NOT_SEVEN_BIT.search(lines) is None:
        if len(lines) <= LONGEST_LINE or max(map(len, lines.split("\n"))) <= LONGEST_LINE:
            return b"7bit", lines.replace("\n", "\r\n").encode("ascii")
        return b"quoted-printable", _quoted_printable(lines.encode())
    data = lines.encode()
    if len(data) - len(lines) <= len(lines) // 6:
        return b"quoted-printable", _quoted_printable(data)
    return b"base64", _base64(lines)


def _quoted_printable(data: bytes) -> bytes:
    return binascii.b2a_qp(data, quotetabs=False, istext=True, header=False).replace(b"\n", b"\r\n")


def _base64(lines: str) -> bytes:
    whole = binascii.b2a_base64(lines.replace("\n", "\r\n").encode(), newline=False)
    return b"".join(whole[start : start + _LINE] + b"\r\n" for start in range(0, len(whole), _LINE))


def _is_plain(text: str) -> bool:
    return text.isascii() and "=?" not in text and _PLAIN_HEADER.fullmatch(text) is not None


def _folded(text: str) -> bytes:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > _LINE - 10 and lines[-1]:
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
