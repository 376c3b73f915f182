"""Record how a person walks through the program: what they typed, what they saw, and how long it took."""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.storing_server import StoringHandler
from support.tmux import Screen, Window

MESSAGE = re.compile(r'(error|hint|next|stopped|warning): |\{"error": |\d\d:\d\d:\d\d  ')
COMMAND_OR_PATH = re.compile(r'run "skychimp |\* \* \* \* \* | /\w+/')

needs_tmux = pytest.mark.skipif(
    shutil.which("tmux") is None or shutil.which("bash") is None, reason="needs tmux and bash, as .ci/run installs them"
)


class Walk:
    """The screens of a walk, in order, and when the first email arrived at the mail server."""

    def __init__(self, name: str, window: Window, mail: StoringHandler, installing: Screen | None = None) -> None:
        self.name = name
        self.screens: list[Screen] = []
        self.first_email: tuple[int, float] | None = None
        """The number of commands after installing, and their seconds, until the first email arrived."""
        self._window = window
        self._mail = mail
        self._installing = installing

    def run(
        self,
        command: str,
        *answers: tuple[str, str | Callable[[], str]],
        status: int = 0,
        window: Window | None = None,
        is_own_idea: bool = False,
    ) -> Screen:
        """Run a command in a window (default: the first one), and check its screen.

        It must be the command that the last screen of this window suggests, if any, or the person's own idea.
        """
        window = window or self._window
        suggested = window.last_screen.next_command if window.last_screen and not is_own_idea else None
        assert suggested is None or follows(command, suggested), f'"{suggested}" is suggested, not "{command}"'
        screen = window.run(command, *answers)
        self.screens.append(screen)
        assert screen.status == status, screen.text
        check_screen(screen)
        if self._mail.emails and self.first_email is None:
            self.first_email = len(self.screens), self._seconds
        return screen

    @property
    def summary(self) -> str:
        """One line: the number of commands, and the seconds to the first email."""
        total = f"{len(self.screens)} commands in {self._seconds:.1f} s"
        if self.first_email is None:
            return f"{self.name}: {total}"
        commands, seconds = self.first_email
        installing = self._installing
        with_installing = f" ({installing.seconds + seconds:.0f} s with installing)" if installing else ""
        return f"{self.name}: {commands} commands and {seconds:.1f} s to the first email{with_installing}; {total}"

    @contextmanager
    def recorded(self, folder: Path) -> Iterator[None]:
        """Write the record, a Markdown file, at the end of the block, and print its path."""
        try:
            yield
        finally:
            self._write(folder)

    def _write(self, folder: Path) -> None:
        path = folder / f"{self.name.replace(',', '').replace(' ', '-')}.md"
        screens = [self._installing, *self.screens] if self._installing else self.screens
        parts = [self.summary, *map(_shown, screens)]
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        print(f"{self.summary}\nrecord: {path}")

    @property
    def _seconds(self) -> float:
        return sum(screen.seconds for screen in self.screens)


def server_settings(port: int) -> str:
    """Return the variables for a mail server on this machine, as they are typed before a command."""
    values = {"MAIL__TRANSPORT": "smtp", "SMTP__HOST": "127.0.0.1", "SMTP__PORT": port, "SMTP__SECURITY": "none"}
    return " ".join(f"SKYCHIMP_{name}={value}" for name, value in values.items())


def follows(command: str, suggested: str) -> bool:
    """Return whether a command is the suggested one. Words in capitals stand for any word, and more may come after."""
    words, pattern = shlex.split(command), shlex.split(suggested)
    return len(words) >= len(pattern) and all(
        want == word or want.isupper() for word, want in zip(words, pattern, strict=False)
    )


def check_screen(screen: Screen) -> None:
    """Raise AssertionError if a line is cut off or longer than the terminal, or there is a traceback.

    Lines that a person may copy are not broken by the program, as the terminal does it better.
    """
    assert "Traceback" not in screen.text, screen.text
    sums_up = "skychimp report" in screen.command  # there it stands for the parts that differ between replies
    assert "…" not in screen.text or sums_up, screen.text
    assert [line for line in screen.too_long if not is_to_be_copied(line)] == [], screen.text


def is_to_be_copied(line: str) -> bool:
    """Return whether a line is a message or a line of the log, or has a command or a path."""
    return MESSAGE.match(line) is not None or COMMAND_OR_PATH.search(line) is not None


def _shown(screen: Screen) -> str:
    status = f", exit status {screen.status}" if screen.status else ""
    return f"{screen.seconds:.1f} s{status}:\n\n```text\n{screen.shown}\n```"
