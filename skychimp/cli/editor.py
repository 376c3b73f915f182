"""Edit a text in the user's own editor. What was typed is never lost."""

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from skychimp.cli.context import Context
from skychimp.config import shared
from skychimp.errors import InvalidValue, SkychimpError
from skychimp.translation import Phrase, tr

Saved = TypeVar("Saved")

_DEFAULT_EDITOR = "vi"
_EDITOR_HINT = tr("set VISUAL or EDITOR to your editor")


def edit_and_save(
    context: Context, text: str, save: Callable[[str], Saved], *, suffix: str, missing: str, hint: Phrase
) -> Saved:
    """Let the user edit a text until `save` accepts it, and return what `save` returns.

    The editor opens again if `save` raises InvalidValue and the user agrees. If the text cannot be saved, its file is
    kept and named. Raises InvalidValue with the message `missing` and the hint if there is no terminal or no text, and
    what `edit_file` and `save` raise. Raises Denied to whoever runs a shared installation with sudo: the editor could
    open any file of the account.
    """
    if not context.can_prompt() or not context.out.on_terminal:
        raise InvalidValue(missing, hint)
    shared.require_operator(tr("start an editor as this account"), hint)
    with _draft(context, text, suffix) as path:
        while True:
            edited = edit_file(path)
            if not edited.strip():
                raise InvalidValue(missing, hint)
            try:
                return save(edited)
            except InvalidValue as error:
                context.out.error(error)
                if context.out.ask(tr("Edit it again? [Y/n]")).lower() in ("n", "no"):
                    raise SkychimpError(tr("cancelled")) from None


def edit_file(path: Path) -> str:
    """Open a file in the editor, wait until it is closed, and return its text.

    The editor is $VISUAL, $EDITOR or vi. Raises InvalidValue if it cannot be run or the text is not valid UTF-8, and
    SkychimpError if it fails or removes the file.
    """
    _run_editor(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidValue(tr("the text is not valid UTF-8"), tr("save it as UTF-8")) from None
    except OSError as error:
        raise SkychimpError(tr("cannot read the edited text: {strerror}", strerror=error.strerror)) from None


def _run_editor(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or _DEFAULT_EDITOR
    try:
        status = subprocess.run([*shlex.split(editor), str(path)], check=False).returncode  # noqa: S603
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidValue(
            tr('cannot run the editor "{editor}": {reason}', editor=editor, reason=reason), _EDITOR_HINT
        ) from None
    if status:
        raise SkychimpError(
            tr('the editor "{editor}" exited with status {status}', editor=editor, status=status), _EDITOR_HINT
        )


@contextlib.contextmanager
def _draft(context: Context, text: str, suffix: str) -> Iterator[Path]:
    """Write a text to a file that only its owner can read, and remove it after the block.

    If the block fails, a text that was changed stays there.
    """
    folder = Path(tempfile.mkdtemp(prefix="skychimp-"))  # private, as are the editor's own copies in it
    path = folder / f"text{suffix}"
    path.touch(mode=0o600)
    path.write_bytes(text.encode())
    try:
        yield path
    except BaseException:
        if _is_worth_keeping(path, text):
            context.out.warn(tr("your text is saved in {path}", path=path))
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _is_worth_keeping(path: Path, text: str) -> bool:
    try:
        edited = path.read_bytes()
    except OSError:
        return False
    return edited != text.encode() and bool(edited.strip())
