"""Run the command line in a home folder of its own: in this process, as the installed command, or on a terminal."""

import gc
import io
import json
import os
import pty
import select
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from skychimp.cli import registry
from skychimp.cli.main import main
from skychimp.translation import current_language, use_language
from support import forks
from support.json_schemas import check_output

PROGRAM = Path(sys.executable).with_name("skychimp")
TIMEOUT_S = 60
PATIENCE_S = 5
CTRL_C = "\x03"


# Typer builds the command line from its functions. To do that for each command took half of the time of `Home.call`.
_build_line, _build_command = registry.command_line, registry.load_command
_built_line = cache(lambda _language: _build_line())
_built_command = cache(lambda name, _language: _build_command(name))


def command_line() -> Any:
    """Do what `registry.command_line` does, and build it only once in each language."""
    return _built_line(current_language())


def load_command(name: str, *, completing: bool = False) -> Any:
    """Do what `registry.load_command` does, and build a command only once, unless its values are completed."""
    return _build_command(name, completing=True) if completing else _built_command(name, current_language())


@dataclass(frozen=True)
class CommandResult:
    """The exit status of a command and everything that it wrote."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON value on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The JSON error on stderr."""
        return json.loads(self.err)["error"]


class FakeTerminal(io.TextIOWrapper):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Home:
    """A folder that is the working directory and the home of every command that is run in it."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "TZ")}
        self.environ = inherited | {"HOME": str(folder), "PAGER": "", "LC_ALL": "C.UTF-8"} | environ

    def call(
        self,
        *arguments: str,
        stdin: str = "",
        environ: Mapping[str, str] | None = None,
        width: int | None = None,
        reader: io.BytesIO | None = None,
    ) -> CommandResult:
        """Run a command in this process. With a width, its streams are a terminal that wide.

        `reader` gets each line of its output as soon as it is written.
        """
        stream = io.TextIOWrapper if width is None else FakeTerminal
        out, err = (stream(raw, encoding="utf-8", write_through=True) for raw in (reader or io.BytesIO(), io.BytesIO()))
        terminal = {} if width is None else {"COLUMNS": str(width), "LINES": "24", "TERM": "xterm-256color"}
        with (
            patch.dict(os.environ, self.environ | terminal | dict(environ or {}), clear=True),
            patch.object(sys, "argv", ["skychimp", *arguments]),
            patch.object(sys, "stdin", stream(io.BytesIO(stdin.encode()), encoding="utf-8")),
            patch.object(registry, "command_line", command_line),
            patch.object(registry, "load_command", load_command),
            redirect_stdout(out),
            redirect_stderr(err),
            chdir(self.folder),
        ):
            try:
                main()
            except SystemExit as leaving:
                status = leaving.code
            finally:
                use_language("en")
                gc.unfreeze()
                gc.enable()
        assert isinstance(status, int)
        result = CommandResult(status, *(_written_text(stream) for stream in (out, err)))
        check_output(arguments, result.out, result.err)
        return result

    def run(self, *arguments: str, stdin: bytes = b"", within: Sequence[str] = (), **popen: Any) -> CommandResult:
        """Run the installed command, `within` another command if that is given."""
        environ = self.environ | popen.pop("environ", {})
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.folder} | popen
        done = subprocess.run(
            [*within, PROGRAM, *arguments], input=stdin, env=environ, timeout=TIMEOUT_S, check=False, **options
        )
        result = CommandResult(done.returncode, (done.stdout or b"").decode(), (done.stderr or b"").decode())
        check_output(arguments, result.out, result.err)
        return result

    def on_terminal(
        self,
        *arguments: str,
        answers: Sequence[tuple[str, str | Callable[[], str]]] = (),
        environ: Mapping[str, str] | None = None,
    ) -> CommandResult:
        """Run a command on a terminal. Each answer, or what it returns, is typed after its question.

        It is forked, because that takes a tenth of the time that the installed command takes to start.
        """
        terminal, command_side = pty.openpty()
        termios.tcsetwinsize(command_side, (24, 80))
        variables = self.environ | {"TERM": "xterm-256color"} | dict(environ or {})
        process = forks.start_on_terminal(arguments, variables, self.folder, command_side)
        os.close(command_side)
        output, unanswered, typed = b"", list(answers), ""
        try:
            while chunk := _read(terminal, typed):
                output += chunk
                if unanswered and unanswered[0][0].encode() in output.rpartition(b"\n")[2]:
                    answer = unanswered.pop(0)[1]
                    typed = answer if isinstance(answer, str) else answer()
                    os.write(terminal, typed.encode())
        finally:
            status = forks.end(process, TIMEOUT_S)
        os.close(terminal)
        assert not unanswered, f"never asked: {unanswered}; output: {output.decode()}"
        return CommandResult(status, output.decode().replace("\r\n", "\n"), "")


def _written_text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def _read(terminal: int, typed: str) -> bytes:
    if typed.endswith(CTRL_C) and not _is_ready(terminal, PATIENCE_S):
        # Python misses a signal that comes just before it waits for input. A person presses the keys again.
        os.write(terminal, CTRL_C.encode())
    assert _is_ready(terminal, TIMEOUT_S), "the command writes nothing and does not end"
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports a closed terminal as an error
        return b""


def _is_ready(terminal: int, within_s: float) -> bool:
    return bool(select.select([terminal], [], [], within_s)[0])
