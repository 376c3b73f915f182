"""Recognise SQLite's errors by their result codes (sqlite.org/rescode.html)."""

from skychimp.translation import Phrase, tr

ERROR, BUSY, LOCKED, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB = 1, 5, 6, 8, 10, 11, 13, 14, 26

DAMAGE = (ERROR, CORRUPT, NOTADB)
"""The codes of reading a damaged file: a missing table is an ERROR."""

UNWRITABLE = (READONLY, IOERR, FULL, CANTOPEN)
"""The codes of a disk that cannot be written. Without space, the files beside a store cannot be opened either."""

_TEXTS = {
    "locked": BUSY,
    "busy": BUSY,
    "readonly": READONLY,
    "disk I/O": IOERR,
    "unable to open": CANTOPEN,
    "is full": FULL,
    "no such table": ERROR,
    "malformed": CORRUPT,
    "not a database": NOTADB,
}
"""Parts of the messages, for a driver that gives no codes."""


def result_code(error: BaseException) -> int:
    """Return the primary result code of a driver's error, 0 if it is unknown.

    The driver raises UnicodeDecodeError for a name or a message that is not UTF-8, as in a damaged file.
    """
    if isinstance(error, UnicodeDecodeError):
        return CORRUPT
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF  # without the extended part
    return next((code for text, code in _TEXTS.items() if text in str(error)), 0)


def reason(error: BaseException) -> Phrase:
    """Return what a driver's error says, in one line. In a damaged file a name may contain anything."""
    if isinstance(error, UnicodeDecodeError):
        return tr("text that is not UTF-8")
    line = str(error).partition("\n")[0][:200]
    return line if line.isprintable() else ascii(line)


def is_busy(error: BaseException) -> bool:
    """Return whether another connection holds a lock, so that waiting helps."""
    return result_code(error) in (BUSY, LOCKED)
