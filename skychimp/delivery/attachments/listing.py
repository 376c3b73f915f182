"""List what is attached to a message, as the store keeps it; pure."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from skychimp.errors import InvalidValue
from skychimp.translation import tr

NOTHING = "[]"
"""The list of a message without attachments."""


class AttachedFile(NamedTuple):
    """A file that all clients get. The store has its content, by its hash.

    `size` is in bytes. An inline picture has a `source`, the name that it has in the message. An attachment has "".
    """

    name: str
    type: str
    sha256: str
    size: int
    source: str = ""

    @property
    def content_id(self) -> str:
        """What an inline picture is called inside its email (RFC 2392). The same picture always has the same."""
        return f"{self.sha256[:32]}@inline"


class Attachments(NamedTuple):
    """What is attached to a message: files that all clients get, and templates of paths of files of their own."""

    files: Sequence[AttachedFile] = ()
    paths: Sequence[str] = ()

    @property
    def pictures(self) -> list[AttachedFile]:
        """The inline pictures."""
        return [file for file in self.files if file.source]

    @property
    def shared(self) -> list[AttachedFile]:
        """The files that are no inline pictures."""
        return [file for file in self.files if not file.source]


NO_ATTACHMENTS = Attachments()


def dump(attachments: Attachments) -> str:
    """Return a list as the store keeps it."""
    files = [file._asdict() for file in attachments.files]
    return json.dumps([*files, *({"path": path} for path in attachments.paths)], ensure_ascii=False)


def parse(text: str) -> Attachments:
    """Return a list from the store. Raises InvalidValue if it is damaged."""
    if text == NOTHING:
        return NO_ATTACHMENTS
    try:
        values = json.loads(text)
        if not isinstance(values, list):
            raise ValueError
        files = tuple(AttachedFile(**value) for value in values if "path" not in value)
        paths = tuple(value["path"] for value in values if "path" in value)
        if not all(map(_is_valid, files)) or not all(isinstance(path, str) for path in paths):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise InvalidValue(tr("the list of attachments is damaged")) from None
    return Attachments(files, paths)


def _is_valid(file: AttachedFile) -> bool:
    texts = (file.name, file.type, file.sha256, file.source)
    return isinstance(file.size, int) and all(isinstance(text, str) for text in texts)
