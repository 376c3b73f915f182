"""Open a file or a pipe as text, in the encoding that is given, or else found in a sample of the file."""

import codecs
import io
import locale
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import BinaryIO, NamedTuple, TextIO, TypeVar

from skychimp.errors import InvalidValue
from skychimp.services.clients.files import character_sets
from skychimp.services.clients.files.character_sets import Reading
from skychimp.text import did_you_mean, with_or
from skychimp.translation import tr

UTF8, UTF8_ERRORS, NEWLINE = "utf-8-sig", "surrogateescape", ""
"""How a file in UTF-8 is opened: bytes that are not valid become lone surrogates, so that only their row is refused."""

_MARK_ERRORS = "skychimp.mark"
"""The same for other encodings, some of which have invalid bytes that surrogateescape does not take."""
_CHUNK = 1_000_000  # bytes that are read at once, and the most that are kept of a pipe
_ENOUGH = 100_000  # bytes of lines that are not ASCII
_ENOUGH_FOR_NORMALIZER = 20_000  # bytes; it is slow
_MAX_CONTROLS = 0.05  # share of the bytes of a text
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1a\x1b"))
_SHOWN = 40  # characters of each reading
_OTHER_CODECS = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape"}
_SUGGESTED = ("utf-8", "utf-16", "windows-1251", "windows-1252", "koi8-r", "iso-8859-1", "iso-8859-15", "cp866")
_HINT = tr("pass --encoding NAME, such as {names}; or save the file as UTF-8", names=", ".join(_SUGGESTED[2:5]))


_T = TypeVar("_T")


class OpenedText(NamedTuple):
    """A file that is open as text. `guess` is its encoding if its words were judged to find it, and "" otherwise."""

    file: TextIOWrapper
    guess: str = ""


def open_text(binary: BinaryIO, encoding: str | None = None) -> OpenedText:
    """Open a file or pipe as text. Without `encoding`, it is found in the lines that are not ASCII.

    Raises InvalidValue if the encoding is unknown, if it could be one or another, and if the file is no text.
    """
    if encoding is not None:
        return OpenedText(_wrap(binary, _require_encoding(encoding)))
    start, lines, binary = _read_sample(binary)
    known = character_sets.find_byte_order_mark(start)
    if known is None:
        _require_text(start)
        known = UTF8 if _is_utf8(lines) else None
    guess = "" if known else _judge(lines)
    return OpenedText(_wrap(binary, known or guess), guess)


def make_seekable(opened: TextIO) -> TextIO:
    """Return the text, or a copy of its rest if it can be read only once.

    The copy is on the disk. It has no name, and goes when it is closed. Raises InvalidValue if there is no room.
    """
    if opened.seekable():
        return opened
    try:
        copy = tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogatepass", newline="")  # noqa: SIM115
        shutil.copyfileobj(opened, copy)
        copy.seek(0)
    except OSError as error:
        raise InvalidValue(
            tr("cannot copy it to {folder}: {reason}", folder=tempfile.gettempdir(), reason=error.strerror),
            tr("import a file"),
        ) from None
    return copy


def close_after(rows: Iterator[_T], source: TextIO) -> Iterator[_T]:
    """Yield rows that are read from a text, and close it after them."""
    with source:
        yield from rows


def _wrap(binary: BinaryIO, encoding: str) -> TextIOWrapper:
    if codecs.lookup(encoding).name in ("utf-8", UTF8):
        return TextIOWrapper(binary, encoding=UTF8, errors=UTF8_ERRORS, newline=NEWLINE)
    codecs.register_error(_MARK_ERRORS, _mark_invalid)
    return TextIOWrapper(binary, encoding=encoding, errors=_MARK_ERRORS, newline=NEWLINE)


def _mark_invalid(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


def _require_encoding(encoding: str) -> str:
    """Return the encoding. Raises InvalidValue if Python does not know it as one of text."""
    with suppress(LookupError, ValueError):
        TextIOWrapper(io.BytesIO(), encoding=encoding)  # raises LookupError for base64 and the like
        if codecs.lookup(encoding).name.replace("_", "-") not in _OTHER_CODECS:
            return encoding
    suggestion = did_you_mean(encoding.lower(), _SUGGESTED)
    raise InvalidValue(
        tr('unknown encoding "{encoding}"', encoding=encoding),
        suggestion or tr("use for example {names}", names=", ".join(_SUGGESTED)),
    )


# Sample


def _read_sample(binary: BinaryIO) -> tuple[bytes, bytes, BinaryIO]:
    """Return the start of a file, lines of it that are not ASCII, and the file as it was before.

    A file is read until there are enough such lines. Of a pipe, only the start is read.
    """
    if not binary.seekable():
        start = next(_chunks(binary), b"")
        is_whole = len(start) < _CHUNK  # then it must not be read again: a terminal would want another Ctrl-D
        whole = io.BytesIO(start) if is_whole else io.BufferedReader(_Rejoined(start, binary))
        return start, _lines_beyond_ascii(start), whole
    position = binary.tell()
    start, lines = b"", b""
    for chunk in _chunks(binary):
        start = start or chunk
        lines += _lines_beyond_ascii(chunk)
        if len(lines) > _ENOUGH or b"\0" in chunk:
            break
    binary.seek(position)
    return start, lines, binary


def _chunks(binary: BinaryIO) -> Iterator[bytes]:
    """Yield a file in pieces of whole lines, as far as the lines are not very long."""
    while chunk := binary.read(_CHUNK):
        yield chunk + binary.readline(_CHUNK) if len(chunk) == _CHUNK else chunk


def _lines_beyond_ascii(chunk: bytes) -> bytes:
    if chunk.isascii():
        return b""
    return b"".join(line for line in chunk.splitlines(keepends=True) if not line.isascii())


class _Rejoined(io.RawIOBase):
    """A pipe, with what was read of it in front again."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start = io.BytesIO(start)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._start.read(len(buffer)) or self._rest.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


# Judgement


def _require_text(start: bytes) -> None:
    """Raise InvalidValue if a file begins like a spreadsheet, UTF-16 without a byte order mark, or no text at all."""
    if start.startswith(b"PK\3\4"):
        raise InvalidValue(tr("it is a spreadsheet or ZIP file"), tr("save the sheet as CSV"))
    if len(start) - len(start.translate(None, _CONTROLS)) <= _MAX_CONTROLS * len(start):
        return
    for parity, encoding in enumerate(("utf-16-be", "utf-16-le")):
        if start[:8][parity::2] == b"\0\0\0\0" and b"\0" not in start[:8][1 - parity :: 2]:  # four ASCII characters
            raise InvalidValue(
                tr("it looks like UTF-16 without a byte order mark"),
                tr("pass --encoding {encoding}", encoding=encoding),
            )
    raise InvalidValue(tr("it is not a text file"), tr("use a file in CSV or JSON lines"))


def _is_utf8(lines: bytes) -> bool:
    """Return whether a text is UTF-8, perhaps with some lines that are not valid."""
    with suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(lines)  # it may end within a character
        return True
    valid = sum(map(_is_valid_utf8, lines.splitlines()))
    return valid > 0 and 2 * valid >= len(lines.splitlines())


def _is_valid_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _judge(lines: bytes) -> str:
    """Return the encoding in which the lines have plausible words. Raises InvalidValue if that is not certain."""
    judged = [*character_sets.COMMON, *_find_locale_encoding()]
    readings = character_sets.likely_readings(lines[: 2 * _ENOUGH], [*judged, *_ask_normalizer(lines)])
    if not readings:
        raise InvalidValue(tr("it is not UTF-8, and its encoding was not recognised"), _HINT)
    if len(readings) == 1 and readings[0].encoding in judged:
        return readings[0].encoding
    names = with_or(reading.encoding for reading in readings)
    samples = ", ".join(f'{encoding}: "{line}"' for encoding, line in _differing_lines(readings))
    raise InvalidValue(
        tr("its encoding could be {names}", names=names),
        tr("pass --encoding with the one that reads right; {samples}", samples=samples),
    )


def _find_locale_encoding() -> Iterator[str]:
    with suppress(LookupError):
        yield codecs.lookup(locale.getencoding()).name


def _ask_normalizer(lines: bytes) -> Iterator[str]:
    """Yield the encoding that charset-normalizer takes for the best. It is often wrong about short texts."""
    from charset_normalizer import from_bytes

    best = from_bytes(lines[:_ENOUGH_FOR_NORMALIZER]).best()
    if best and b"@,;".decode(best.encoding, errors="replace") == "@,;":  # not EBCDIC
        yield best.encoding


def _differing_lines(readings: Sequence[Reading]) -> Iterator[tuple[str, str]]:
    """Yield each encoding with how a line of the file is read in it, the first one that differs between them."""
    texts = [reading.text.splitlines() for reading in readings]
    lines = next((lines for lines in zip(*texts, strict=False) if len(set(lines)) > 1), [text[0] for text in texts])
    start = max(0, min(map(_first_beyond_ascii, lines)) - _SHOWN // 2)
    for reading, line in zip(readings, lines, strict=True):
        shown = line[start : start + _SHOWN]
        yield reading.encoding, "".join(character if character.isprintable() else "?" for character in shown)


def _first_beyond_ascii(line: str) -> int:
    return next((index for index, character in enumerate(line) if not character.isascii()), 0)
