"""Split an email into its parts (RFC 2045, RFC 2046), however it is made; pure.

Anybody can send us an email, so all work has a limit. What is over a limit is left out, and nothing is an error. The
email package of the standard library has no such limits: it takes minutes for some headers of 1 MB.
"""

import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

MAX_SIZE = 1_000_000
"""Bytes of an email that are looked at."""
MAX_TEXT = 100_000
"""Characters of a text."""

_MAX_HEADERS = 200
_MAX_HEADER_LENGTH = 4_000
_MAX_HEAD_SIZE = 200_000
_MAX_PARTS = 40
_MAX_DEPTH = 5

_BOUNDARY = re.compile(r'\bboundary\s*=\s*(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_DELIMITER = re.compile(rb"^--([^\n]{1,200})\ncontent-", re.IGNORECASE | re.MULTILINE)
_CHARSET = re.compile(r'\bcharset\s*=\s*"?([\w-]{1,40})', re.IGNORECASE)
_CHARSETS = re.compile(
    r"(?:iso-8859-\d{1,2}|windows-12\d\d|koi8-[ru]|iso-2022-jp|shift_jis|euc-(?:jp|kr)|gb2312|gbk|gb18030|big5)"
)
_ISO_2022_JP = re.compile(rb"\x1b\$[@B]")
_TAG = re.compile(r"<[^<>]{0,1000}>")


class Part(NamedTuple):
    """An email, or a part of one: its headers by their lower-case names, its content type, body and parts."""

    headers: Mapping[str, Sequence[str]]
    content_type: str
    body: bytes
    parts: Sequence["Part"] = ()

    def header(self, name: str) -> str:
        """Return the first header with a lower-case name, "" without any."""
        return next(iter(self.headers.get(name, ())), "")

    def walk(self) -> Iterator["Part"]:
        """Yield the part itself, and then all parts in it."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def text(self) -> str:
        """Return the decoded body as text with LF line ends. HTML loses its tags."""
        text = _decode(
            _decode_transfer(self.body, self.header("content-transfer-encoding")), self.header("content-type")
        )
        return _TAG.sub(" ", text) if self.content_type == "text/html" else text


def parse(data: bytes) -> Part:
    """Return an email as a tree of parts. Only the first MAX_SIZE bytes count."""
    data = data[:MAX_SIZE].replace(b"\r\n", b"\n").replace(b"\r", b"\n").lstrip(b"\n")
    if data.startswith(b"From "):  # the first line of a message in an mbox
        data = data.partition(b"\n")[2]
    return _parse(data, 0, iter(range(_MAX_PARTS)))


def read_headers(text: str) -> Mapping[str, Sequence[str]]:
    """Return the headers at the beginning of a text, or the fields of a block, by their lower-case names."""
    headers: dict[str, list[str]] = {}
    lines: list[list[str]] = []
    for line in text[:_MAX_HEAD_SIZE].split("\n"):
        if line[:1] in (" ", "\t") and lines:
            lines[-1].append(line.strip())
        elif len(lines) < _MAX_HEADERS:
            lines.append([line])
    for name, colon, value in (" ".join(unfolded).partition(":") for unfolded in lines):
        if colon:
            headers.setdefault(name.strip().lower(), []).append(value.strip()[:_MAX_HEADER_LENGTH])
    return headers


def _parse(data: bytes, depth: int, budget: Iterator[int]) -> Part:
    head, body = (b"", data[1:]) if data.startswith(b"\n") else data.partition(b"\n\n")[::2]
    headers = read_headers(_decode(head[:_MAX_HEAD_SIZE], ""))
    value = next(iter(headers.get("content-type", ())), "")
    content_type = value.partition(";")[0].strip().lower() or "text/plain"
    boundary = _BOUNDARY.search(value)
    if not content_type.startswith("multipart/") or depth == _MAX_DEPTH:
        return Part(headers, content_type, body)
    named = list(_split(body, (boundary[1] or boundary[2]).encode("utf-8", "replace"))) if boundary else []
    pieces = named or list(_split(body, _first_delimiter(body)))
    parts = [_parse(piece, depth + 1, budget) for piece, _ in zip(pieces, budget, strict=False)]
    return Part(headers, content_type, body, parts) if parts else Part(headers, "text/plain", body)


def _split(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """Yield what is between the delimiters (RFC 2046, section 5.1.1)."""
    pieces = (b"\n" + body).split(b"\n--" + boundary, _MAX_PARTS + 1)
    for piece in pieces[1:]:
        rest_of_line, _, content = piece.partition(b"\n")
        if rest_of_line.startswith(b"--"):
            return
        if not rest_of_line.strip():  # otherwise it is the delimiter of an inner part, which begins alike
            yield content


def _first_delimiter(body: bytes) -> bytes:
    """Return the delimiter that a body really has. Some servers name another one in the header, or none."""
    found = _DELIMITER.search(body)
    return found[1] if found else b"\0"


def _decode_transfer(body: bytes, encoding: str) -> bytes:
    encoding = encoding.strip().lower()
    try:
        if encoding == "base64":
            return binascii.a2b_base64(body[: 2 * MAX_TEXT])
        if encoding == "quoted-printable":
            return binascii.a2b_qp(body[: 4 * MAX_TEXT])
    except binascii.Error:
        pass
    return body


def _decode(data: bytes, content_type: str) -> str:
    """Decode text: as UTF-8 if possible, else as it says, if that is a usual character set, else as Latin-1.

    Japanese servers write ISO-2022-JP, which is ASCII with escape sequences, also where they name no character set.
    """
    data = data[: 4 * MAX_TEXT]
    named = _CHARSET.search(content_type)
    charset = named[1].lower() if named else ""
    if charset == "iso-2022-jp" or _ISO_2022_JP.search(data):
        return data.decode("iso-2022-jp", "replace")[:MAX_TEXT]
    try:
        return data.decode()[:MAX_TEXT]
    except UnicodeDecodeError:
        return data.decode(charset if _CHARSETS.fullmatch(charset) else "latin-1", "replace")[:MAX_TEXT]
