"""Type commands into a shell in a window of tmux, and read the screen as a person does."""

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.cells import cell_len

PROMPT = re.compile(r"(\([\w.]+\) )?\$")
"""The prompt, with the name of the virtual environment after it is activated."""
HEIGHT = 24
CLEAR_SCREEN, CTRL_C = "C-l", "C-c"
_POLL_S = 0.03
_CONFIG = "set -g status off\nset -g history-limit 50000\nset -g default-terminal screen-256color\n"


@dataclass(frozen=True)
class Screen:
    """What was typed, and what the terminal shows when the command has ended.

    `shown` is the whole screen, where the terminal has wrapped long lines. `lines` are the output, not wrapped.
    """

    command: str
    status: int
    seconds: float
    width: int
    shown: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The output."""
        return "\n".join(self.lines)

    @property
    def next_command(self) -> str | None:
        """The command that the screen suggests as the next one."""
        suggested = [line.removeprefix("next: ") for line in self.lines if line.startswith("next: ")]
        return suggested[-1] if suggested else None

    @property
    def too_long(self) -> list[str]:
        """The lines that the terminal had to wrap."""
        return [line for line in self.lines if cell_len(line) > self.width]


class Window:
    """A shell in a window of tmux."""

    def __init__(self, socket: Path, statuses: Path, width: int) -> None:
        self.width = width
        self.last_screen: Screen | None = None
        self._socket = socket
        self._statuses = statuses
        """A file to which the shell appends the status of each command that has ended."""

    def run(self, command: str, *answers: tuple[str, str | Callable[[], str]], timeout_s: float = 60) -> Screen:
        """Type a command, and wait for the next prompt. Each answer, or what it returns, follows its question."""
        self._wait_for(self._is_ready, timeout_s)
        self._clear()
        before = len(self._read_statuses())
        start = time.monotonic()
        self._type(command)
        for question, answer in answers:
            self._wait_for(partial(self._is_asked, question), timeout_s)
            self._type(answer if isinstance(answer, str) else answer())
        self._wait_for(lambda: len(self._read_statuses()) > before and self._is_ready(), timeout_s)
        seconds = time.monotonic() - start
        shown, (typed, *lines) = (_without_last_prompt(self._capture(*options)) for options in ((), ("-J",)))
        _, prompt, rest = typed.partition(f"$ {command}")  # the rest is output if the command is as wide as the window
        assert prompt, typed
        status = int(self._read_statuses()[-1])
        self.last_screen = Screen(
            command, status, seconds, self.width, "\n".join(shown), (*filter(None, [rest]), *lines)
        )
        return self.last_screen

    def _type(self, text: str) -> None:
        if text == CTRL_C:
            self._tmux("send-keys", CTRL_C)
            return
        if text:
            self._tmux("send-keys", "-l", "--", text)
        self._tmux("send-keys", "Enter")

    def _clear(self) -> None:
        if self._is_clear():
            return
        self._tmux("send-keys", CLEAR_SCREEN)
        self._wait_for(self._is_clear, 10)
        self._tmux("clear-history")

    def _is_asked(self, question: str) -> bool:
        return question in self._last_line()

    def _is_ready(self) -> bool:
        return PROMPT.fullmatch(self._last_line()) is not None and self._statuses.exists()

    def _is_clear(self) -> bool:
        lines = [line for line in self._capture(visible=True) if line]
        return len(lines) == 1 and self._is_ready()

    def _last_line(self) -> str:
        lines = [line for line in self._capture("-J", visible=True) if line]
        return lines[-1] if lines else ""

    def _capture(self, *options: str, visible: bool = False) -> list[str]:
        everything = () if visible else ("-S", "-")
        return [line.rstrip() for line in self._tmux("capture-pane", "-p", *options, *everything).splitlines()]

    def _read_statuses(self) -> list[str]:
        return self._statuses.read_text(encoding="ascii").split()

    def _wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "\n".join(["the screen stays like this:", *self._capture()])
            time.sleep(_POLL_S)

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-S", str(self._socket), *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=60).stdout


@contextmanager
def open_window(environ: Mapping[str, str], folder: Path, width: int = 80) -> Iterator[Window]:
    """Open a window with bash in a folder, and with no other environment. It is closed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="tmux-") as name:  # the path of a socket must be short
        socket, config, statuses = (Path(name) / each for each in ("socket", "config", "statuses"))
        config.write_text(_CONFIG)
        prompt = {"PS1": "$ ", "PROMPT_COMMAND": f"echo $? >>{statuses}", "LANG": "C.UTF-8", "HISTFILE": ""}
        variables = [f"{name}={value}" for name, value in (dict(environ) | prompt).items()]
        shell = ["env", "-i", "TERM=screen-256color", *variables, "bash", "--norc", "--noprofile"]
        size = ["-x", str(width), "-y", str(HEIGHT)]
        server = ["tmux", "-u", "-S", str(socket), "-f", str(config)]
        subprocess.run([*server, "new-session", "-d", *size, "-c", str(folder), "--", *shell], check=True)
        try:
            yield Window(socket, statuses, width)
        finally:
            subprocess.run([*server, "kill-server"], check=False)


def _without_last_prompt(lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines.pop()
    return lines[:-1]
