"""Fill a client's values into the path of a file that only this client gets; pure."""

from typing import Any

from skychimp.delivery.composing.templates import TextTemplate, split_template
from skychimp.errors import InvalidValue
from skychimp.text import shortened
from skychimp.translation import tr

MAX_LENGTH = 1_000
"""Characters of a path, and of its template."""

_HINT = tr('run "skychimp help attachments"')


class OwnPath:
    """The template of a path. The caller changes `values` for each client. Raises InvalidValue if it is not valid."""

    def __init__(self, source: str, values: dict[str, Any]) -> None:
        if len(source) > MAX_LENGTH:
            raise InvalidValue(
                tr("the path of the attachment is longer than {max_length:,} characters", max_length=MAX_LENGTH), _HINT
            )
        self.template = TextTemplate(source, "path of the attachment", values, max_length=MAX_LENGTH)
        pieces = list(split_template(source))
        if any(not isinstance(piece, str) and not piece.is_output for piece in pieces):
            raise InvalidValue(
                tr("the path {source} has a {{% %}} tag", source=shortened(source)), tr("use only {{ }} in a path")
            )
        self._slashes = sum(piece.count("/") for piece in pieces if isinstance(piece, str))
        folders = source.split("/")
        if source.startswith("/") or ".." in folders:
            raise InvalidValue(
                tr("the path {source} leads out of mail.attachments_folder", source=shortened(source)),
                tr("use a path inside of that folder"),
            )

    def render(self) -> str:
        """Return the path for the current client. A client's value cannot lead to another folder.

        Raises InvalidValue.
        """
        path = self.template.render()
        if path.count("/") != self._slashes:
            raise InvalidValue(
                tr("the path {path} has a slash that is not in its template", path=shortened(path)), _HINT
            )
        return path
