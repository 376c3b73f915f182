"""Options for the files of a message, and how their files are read."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context
from skychimp.errors import ConfigError, InvalidValue
from skychimp.text import count_of
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.config.types import ByteSize
    from skychimp.delivery.attachments.folder import AttachmentsFolder
    from skychimp.services.messages.attachments import AttachmentChanges, NewFile

Attach = Annotated[
    list[str] | None,
    typer.Option(
        help="Attach a file (repeatable). With {{ }} in its path, each client gets another file.",
        metavar="FILE",
        show_default=False,
    ),
]
SHOWN_MISSING = 5
"""How many emails with missing files are named."""

NoAttachments = Annotated[bool, typer.Option("--no-attachments", help="Remove the attachments.")]


def read_attachments(
    context: Context, attach: Sequence[str] | None, *, text_file: str | None, removes_all: bool = False
) -> "AttachmentChanges":
    """Read the files to attach. Pictures are read from the folder of the file with the text, if there is one.

    Raises InvalidValue, and ConfigError if clients have files of their own and their folder is not set.
    """
    from skychimp.delivery.attachments.folder import NO_FOLDER, NO_FOLDER_HINT
    from skychimp.services.messages.attachments import AttachmentChanges

    mail = context.settings.mail
    paths = [name for name in attach or () if "{{" in name or "{%" in name]
    if paths and mail.attachments_folder is None:
        raise ConfigError(NO_FOLDER, NO_FOLDER_HINT)
    read_picture = None
    if text_file is not None and text_file != "-":
        read_picture = partial(_read_picture, text_file, mail.max_attachment_size)
    return AttachmentChanges(
        files=[_read_file(name, mail.max_attachment_size) for name in attach or () if name not in paths],
        paths=paths,
        removes_all=removes_all,
        read_picture=read_picture,
        max_size=mail.max_attachment_size,
    )


def _read_file(name: str, max_size: "ByteSize") -> "NewFile":
    from skychimp.config.named_files import open_input_file
    from skychimp.services.messages.attachments import NewFile

    try:
        with open_input_file(name) as file:
            data = file.read(max_size + 1)
    except OSError as error:
        raise InvalidValue(
            tr("cannot read {name}: {strerror}", name=name, strerror=error.strerror),
            tr("use the path of a readable file"),
        ) from None
    _require_size(name, data, max_size)
    return NewFile(name, data)


def _read_picture(text_file: str, max_size: "ByteSize", source: str) -> bytes:
    """Return a picture beside the file with the text that names it. Raises InvalidValue."""
    from skychimp.config.named_files import open_beside

    try:
        with open_beside(text_file, source) as file:
            data = file.read(max_size + 1)
    except OSError as error:
        hint = tr("put it into the folder of {text_file}, or use the https URL of the picture", text_file=text_file)
        raise InvalidValue(
            tr("cannot read the picture {source}: {strerror}", source=source, strerror=error.strerror), hint
        ) from None
    _require_size(source, data, max_size)
    return data


def _require_size(name: str, data: bytes, max_size: "ByteSize") -> None:
    if len(data) > max_size:
        raise InvalidValue(
            tr("{name} is larger than {max_size}", name=name, max_size=max_size),
            tr("use a smaller file, or set mail.max_attachment_size"),
        )


def attachments_folder(context: Context) -> "AttachmentsFolder":
    """Return the folder with the files that only one client gets."""
    from skychimp.delivery.attachments.folder import AttachmentsFolder

    mail = context.settings.mail
    return AttachmentsFolder(mail.attachments_folder, mail.max_attachment_size)


def warn_of_missing_files(context: Context, mailing_id: int) -> None:
    """Tell which emails of a mailing would fail, as a file that only one client gets is missing."""
    from skychimp.services.mailings.missing_files import find_missing

    settings = context.settings
    require_consent = settings.delivery.require_consent
    missing = list(
        find_missing(context.store, mailing_id, attachments_folder(context), require_consent=require_consent)
    )
    if not missing:
        return
    context.out.warn(
        tr(
            "warning: {emails} of mailing {mailing_id} would fail",
            emails=count_of(len(missing), "email"),
            mailing_id=mailing_id,
        )
    )
    for each in missing[:SHOWN_MISSING]:
        context.out.warn(f"  {each.email}: {each.reason}")
    if len(missing) > SHOWN_MISSING:
        context.out.warn(tr("  and {number:,} more", number=len(missing) - SHOWN_MISSING))
    context.out.note(
        tr("hint: add the files to {attachments_folder}", attachments_folder=settings.mail.attachments_folder)
    )
