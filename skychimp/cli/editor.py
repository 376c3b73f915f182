"""The person's own editor, for what is longer than an option."""

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from skychimp.cli.context import Context
from skychimp.errors import InvalidValue, SkychimpError

Kept = TypeVar("Kept")


def write(context: Context, text: str, suffix: str, keep: Callable[[str], Kept]) -> Kept:
    """Let the person at the terminal write, and again where `keep` raises InvalidValue, so that no work is lost.

    Raises InvalidValue where nobody is there, or nothing was written.
    """
    if not context.may_ask() or not context.out.on_terminal:
        raise InvalidValue("what does it say?", "give --body TEXT or --body-file FILE")
    while True:
        text = edit(text, suffix)
        if not text:
            raise InvalidValue("the text is empty; nothing was kept")
        try:
            return keep(text)
        except InvalidValue as error:
            context.out.error(error)
            if context.out.ask("Edit it again? [Y/n]").lower() in ("n", "no"):
                raise SkychimpError("not done") from None


def edit(text: str, suffix: str) -> str:
    """What the person makes of a text in $VISUAL or $EDITOR, in a file that only they can read; "" for nothing.

    Raises InvalidValue where the editor can't be run or what it leaves is not UTF-8, SkychimpError where it fails.
    """
    with tempfile.TemporaryDirectory(prefix="skychimp-") as folder:  # the editor's own copies stay in it, too
        path = Path(folder) / f"text{suffix}"
        path.touch(mode=0o600)
        path.write_bytes(text.encode())
        run(path)
        try:
            edited = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidValue("the text is not UTF-8", "save it as UTF-8") from None
        except OSError as error:
            raise SkychimpError(f"the editor left no text: {error.strerror}") from None
    return edited if edited.strip() else ""


def run(path: Path) -> None:
    """Let the person edit a file. Raises InvalidValue where the editor can't be run, SkychimpError where it fails."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    hint = "say which in $VISUAL or $EDITOR"
    try:
        program = shlex.split(editor)
        status = subprocess.run([*program, str(path)], check=False).returncode  # noqa: S603
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidValue(f"the editor {editor!r} can't be run: {reason}", hint) from None
    if status:
        raise SkychimpError(f"the editor {editor!r} left with {status}; nothing was changed", hint)
