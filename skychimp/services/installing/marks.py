"""Mark files that we write in folders of others, to know later whether they are still as we wrote them."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from skychimp import files

_OUR_FIRST_LINE = "{comment} Written by Skychimp. Checksum of what follows: {checksum}"


def mark(text: str, comment: str) -> str:
    """Return a text with a first line that marks it as ours. `comment` begins a comment."""
    checksum = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{_OUR_FIRST_LINE.format(comment=comment, checksum=checksum)}\n{text}"


def is_ours(path: Path, comment: str) -> bool:
    """Return whether a file is as we wrote it, by its first line."""
    with suppress(OSError, UnicodeDecodeError), os.fdopen(files.open_file(path), encoding="utf-8", newline="") as file:
        text = file.read()
        return text == mark(text.partition("\n")[2], comment)
    return False
