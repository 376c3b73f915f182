"""Steps of setting something up or removing it: shown first, then performed one after the other."""

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skychimp import files
from skychimp.errors import SkychimpError
from skychimp.shell import command_line
from skychimp.translation import Phrase, tr

TIMEOUT_S = 120
"""How long a program may take: a service is ready only once its store is open."""


class Step(Protocol):
    """Something to do. As text, it says what: `write /etc/systemd/system/skychimp.service`."""

    def perform(self) -> None:
        """Do it. Raises SkychimpError."""


@dataclass(frozen=True)
class WriteFile:
    """Write a file that all accounts may read, and create its folder."""

    path: Path
    text: str

    def __str__(self) -> str:
        return f"write {self.path}"

    def perform(self) -> None:
        """Write it. Raises SkychimpError."""
        try:
            files.make_folder(self.path.parent, 0o755)
            with files.new_file(self.path, mode=0o644) as file:
                file.write(self.text.encode())
        except OSError as error:
            raise SkychimpError(
                tr("cannot write {path}: {strerror}", path=self.path, strerror=error.strerror),
                tr("check the folder's permissions"),
            ) from None


@dataclass(frozen=True)
class RemoveFile:
    """Remove a file."""

    path: Path

    def __str__(self) -> str:
        return f"remove {self.path}"

    def perform(self) -> None:
        """Remove it. Raises SkychimpError."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise SkychimpError(
                tr("cannot remove {path}: {strerror}", path=self.path, strerror=error.strerror),
                tr("remove the file yourself"),
            ) from None


@dataclass(frozen=True)
class RunProgram:
    """Run a program. `stdin` is what it reads, `shown` what is shown in place of its command line."""

    words: tuple[str, ...]
    hint: Phrase
    stdin: str = ""
    shown: str = ""

    def __str__(self) -> str:
        return self.shown or f"run {command_line(*self.words)}"

    def perform(self) -> None:
        """Run it. Raises SkychimpError if it fails."""
        done = run_program(*self.words, stdin=self.stdin)
        if done.returncode:
            reason = done.stderr.strip().partition("\n")[0] or tr(
                "it exited with status {returncode}", returncode=done.returncode
            )
            raise SkychimpError(
                tr("{command} failed: {reason}", command=command_line(*self.words), reason=reason), self.hint
            )


def perform(steps: Iterable[Step]) -> None:
    """Perform steps in order, until one fails. Raises SkychimpError."""
    for step in steps:
        step.perform()


def run_program(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program with English messages, and return what it wrote. Raises SkychimpError if it cannot be run."""
    try:
        return subprocess.run(  # noqa: S603
            words,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=TIMEOUT_S,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise SkychimpError(tr("{command} does not end", command=command_line(*words)), tr("run it yourself")) from None
    except OSError as error:
        raise SkychimpError(
            tr("cannot run {words}: {strerror}", words=words[0], strerror=error.strerror),
            tr("check that it is installed"),
        ) from None
