"""The command line in a home of its own: within this process, as the installed command, or on a terminal."""

import fcntl
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
from pathlib import Path
from typing import Any
from unittest.mock import patch

from skychimp.cli.main import main

PROGRAM = Path(sys.executable).with_name("skychimp")


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status, and all it wrote."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The JSON error on stderr."""
        return json.loads(self.err)["error"]


class Screen(io.TextIOWrapper):
    """What says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Home:
    """A folder that is working folder and home of every command that is run in it."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL", "TZ")}
        self.environ = kept | {"HOME": str(folder)} | environ

    def call(
        self, *arguments: str, stdin: str = "", environ: Mapping[str, str] | None = None, width: int | None = None
    ) -> Done:
        """Run a command in this process; where a width is given, its streams are a terminal that wide."""
        stream = io.TextIOWrapper if width is None else Screen
        out, err = (stream(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        screen = {} if width is None else {"COLUMNS": str(width), "LINES": "24", "TERM": "xterm-256color"}
        with (
            patch.dict(os.environ, self.environ | screen | dict(environ or {}), clear=True),
            patch.object(sys, "argv", ["skychimp", *arguments]),
            patch.object(sys, "stdin", stream(io.BytesIO(stdin.encode()), encoding="utf-8")),
            redirect_stdout(out),
            redirect_stderr(err),
            chdir(self.folder),
        ):
            try:
                main()
            except SystemExit as leaving:
                status = leaving.code
            finally:
                gc.unfreeze()
                gc.enable()
        assert isinstance(status, int)
        return Done(status, *(_written(stream) for stream in (out, err)))

    def run(self, *arguments: str, stdin: bytes = b"", **popen: Any) -> Done:
        """Run the installed command."""
        environ = self.environ | popen.pop("environ", {})
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.folder} | popen
        done = subprocess.run([PROGRAM, *arguments], input=stdin, env=environ, timeout=60, check=False, **options)
        return Done(done.returncode, (done.stdout or b"").decode(), (done.stderr or b"").decode())

    def on_terminal(
        self,
        *arguments: str,
        answers: Sequence[tuple[str, str | Callable[[], str]]] = (),
        environ: Mapping[str, str] | None = None,
    ) -> Done:
        """Run the installed command on a terminal; each answer is typed, and found, once its question stands there."""
        here, there = pty.openpty()
        termios.tcsetwinsize(there, (24, 80))

        def take_the_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        process = subprocess.Popen(
            [PROGRAM, *arguments],
            stdin=there,
            stdout=there,
            stderr=there,
            cwd=self.folder,
            env=self.environ | {"TERM": "xterm-256color"} | dict(environ or {}),
            start_new_session=True,
            preexec_fn=take_the_terminal,
        )
        os.close(there)
        shown, left = b"", list(answers)
        with process:
            while chunk := _read(here):
                shown += chunk
                if left and left[0][0].encode() in shown.rpartition(b"\n")[2]:
                    answer = left.pop(0)[1]
                    os.write(here, (answer if isinstance(answer, str) else answer()).encode())
        os.close(here)
        assert not left, f"never asked: {left}; shown: {shown.decode()}"
        return Done(process.returncode, shown.decode().replace("\r\n", "\n"), "")


def _written(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def _read(terminal: int) -> bytes:
    ready, _, _ = select.select([terminal], [], [], 60)
    assert ready, "the command says nothing more, and does not end"
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux: the other side is closed
        return b""
