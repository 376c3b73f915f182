"""Encode files as parts of an email (RFC 2045, RFC 2183, RFC 2231, RFC 2387); pure.

    multipart/mixed
        multipart/related
            the body: text, or multipart/alternative
            inline pictures
        attachments

Each level is there only if it has something. What all emails have in common is encoded once.
"""

import binascii
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from skychimp.delivery.attachments.listing import AttachedFile, Attachments
from skychimp.errors import InvalidValue
from skychimp.translation import tr

if TYPE_CHECKING:
    from mimetypes import MimeTypes

MAX_NAME_BYTES = 200
DEFAULT_NAME = "attachment"
DEFAULT_TYPE = "application/octet-stream"

_LINE_LENGTH = 76  # RFC 2045, section 6.8
_PIECE_LENGTH = 50  # of a file name that needs several lines
_LONGEST_PLAIN_NAME = 50
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of characters that are removed from a file name: some of them would show it in another order."""
_RESERVED = re.compile(r'["*:<>?|]')  # names of files on Windows cannot have these
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,80}")
_COMPOSITE = ("message/", "multipart/")  # RFC 2046, section 5: they must not be in base64
_COMPRESSED = {"gzip": "application/gzip"}
_MORE_TYPES = {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".epub": "application/epub+zip",
    ".ics": "text/calendar",
    ".webp": "image/webp",
}


class Frame(NamedTuple):
    """What stands around the body of an email, and is the same for all clients.

    `head` comes before the headers of the body, `tail` behind the body, and `end` behind the client's own files.
    `next_part` separates these. Without attachments, all are empty.
    """

    head: bytes = b""
    tail: bytes = b""
    next_part: bytes = b""
    end: bytes = b""

    def close(self, own_parts: Sequence[bytes]) -> tuple[bytes, ...]:
        """Return the pieces behind the body of an email with these files of its client."""
        own = [piece for part in own_parts for piece in (self.next_part, part)]
        return tuple(piece for piece in (self.tail, *own, self.end) if piece)


NO_FRAME = Frame()


def make_frame(attachments: Attachments, contents: Mapping[str, bytes], mark: bytes) -> Frame:
    """Encode what all emails have in common. `contents` has the files by their hashes.

    `mark` is a hash that the body does not contain, for the boundaries. Raises InvalidValue if a file is missing.
    """
    head, tail = b"", []
    related, mixed = b"=_r" + mark, b"=_m" + mark
    if attachments.pictures:
        head = _opening(b"related", related, b';\r\n type="multipart/alternative"')
        tail += _joined_parts(attachments.pictures, contents, related)
        tail.append(b"\r\n--%b--\r\n" % related)
    if not attachments.shared and not attachments.paths:
        return Frame(head, b"".join(tail))
    head = _opening(b"mixed", mixed) + head
    tail += _joined_parts(attachments.shared, contents, mixed)
    return Frame(head, b"".join(tail), b"\r\n--%b\r\n" % mixed, b"\r\n--%b--\r\n" % mixed)


def encode(name: str, media_type: str, data: bytes, *, content_id: str = "") -> bytes:
    """Return a file as a part with its headers. With a `content_id` it is an inline picture.

    Whatever the name and the type are, they cannot add a header.
    """
    media_type = media_type if _TYPE.fullmatch(media_type) and not media_type.startswith(_COMPOSITE) else DEFAULT_TYPE
    disposition = b"inline" if content_id else b"attachment"
    head = b"Content-Type: %b\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: %b;%b\r\n" % (
        media_type.encode("ascii"),
        disposition,
        _file_name(clean_name(name)),
    )
    if content_id:
        head += b"Content-ID: <%b>\r\n" % quote(content_id, safe="@").encode("ascii")
    return b"%b\r\n%b" % (head, _base64(data))


def encoded_size(size: int) -> int:
    """Return how many bytes a file of this size has in an email, without its headers."""
    in_base64 = (size + 2) // 3 * 4
    return in_base64 + -(-in_base64 // _LINE_LENGTH) * 2


def clean_name(path: str) -> str:
    """Return the name that a file gets in an email, without folders and characters that hide something."""
    name = unicodedata.normalize("NFC", re.split(r"[/\\]", path)[-1])
    name = "".join(character for character in name if unicodedata.category(character) not in _HIDDEN)
    name = _RESERVED.sub("_", " ".join(name.split())).strip(" .")
    stem, dot, suffix = name.rpartition(".")
    if dot and len(suffix.encode()) < MAX_NAME_BYTES // 2:
        return (_cut(stem, MAX_NAME_BYTES - 1 - len(suffix.encode())) or DEFAULT_NAME) + dot + suffix
    return _cut(name, MAX_NAME_BYTES) or DEFAULT_NAME


def media_type_of(name: str) -> str:
    """Return the type of a file by the suffix of its name. The content does not matter."""
    found, encoding = _types().guess_type(f"x/{name}")
    if encoding is not None:
        return _COMPRESSED.get(encoding, DEFAULT_TYPE)
    return DEFAULT_TYPE if found is None or found.startswith(_COMPOSITE) else found


@cache
def _types() -> "MimeTypes":
    """Return Python's own table, which is the same on each machine, and what it lacks."""
    import mimetypes

    types = mimetypes.MimeTypes()
    for suffix, media_type in _MORE_TYPES.items():
        types.add_type(media_type, suffix)
    return types


def _opening(subtype: bytes, boundary: bytes, more: bytes = b"") -> bytes:
    return b'Content-Type: multipart/%b;\r\n boundary="%b"%b\r\n\r\n--%b\r\n' % (subtype, boundary, more, boundary)


def _joined_parts(files: Sequence[AttachedFile], contents: Mapping[str, bytes], boundary: bytes) -> list[bytes]:
    pieces = []
    for file in files:
        content = contents.get(file.sha256)
        if content is None:
            raise InvalidValue(
                tr("the content of {name} is missing or damaged", name=file.name), tr("attach the file again")
            )
        content_id = file.content_id if file.source else ""
        pieces += [b"\r\n--%b\r\n" % boundary, encode(file.name, file.type, content, content_id=content_id)]
    return pieces


def _file_name(name: str) -> bytes:
    """Return the parameter with a file's name: in quotes, or encoded and in several lines (RFC 2231, section 4.1)."""
    if name.isascii() and name.isprintable() and "\\" not in name and len(name) <= _LONGEST_PLAIN_NAME:
        return b'\r\n filename="%b"' % name.encode()
    encoded = "utf-8''" + quote(name, safe="")
    if len(encoded) <= _PIECE_LENGTH:
        return b"\r\n filename*=%b" % encoded.encode()
    pieces = re.findall(rf"(?:%..|[^%]){{1,{_PIECE_LENGTH // 3}}}", encoded)
    return b";".join(b"\r\n filename*%d*=%b" % (number, piece.encode()) for number, piece in enumerate(pieces))


def _base64(data: bytes) -> bytes:
    encoded = binascii.b2a_base64(data, newline=False)
    lines = [encoded[start : start + _LINE_LENGTH] for start in range(0, len(encoded), _LINE_LENGTH)]
    return b"\r\n".join((*lines, b""))


def _cut(text: str, size: int) -> str:
    """Return as much of a text as fits into this many bytes."""
    return text.encode()[:size].decode("utf-8", "ignore").strip()
