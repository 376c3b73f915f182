"""Run one statement again and again for another process, each time with other rows.

    python -m skychimp.store.writer_program

Reads lines from stdin: first the setup (`WriterSetup` as JSON), then rows (JSON) for one run of the statement each.
Writes a line to stdout for each: the number of committed changes (0 for the setup), or `!`, an SQLite result code and
an error message. It ends when its stdin is closed, and ignores signals: the other process handles Ctrl-C.

It imports as little as possible, so that it starts quickly.
"""

import importlib
import json
import os
import signal
import sys
from typing import Any, TypedDict

from skychimp.store.sqlite_errors import is_busy, result_code


class WriterSetup(TypedDict):
    """What to open, and what to run. The rows are the statement's last parameter, after `parameters`."""

    driver: str
    path: str
    pragmas: dict[str, str]
    script: str
    statement: str
    parameters: list[int]


def main() -> None:
    """Serve until stdin is closed or an error occurs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        setup: WriterSetup = json.loads(sys.stdin.buffer.readline())
        connection = _connect(setup)
        _answer(0)
        for line in sys.stdin.buffer:
            _answer(_write(connection, setup, line.decode()))
    except Exception as error:
        _answer(f"!{result_code(error)} {error}")


def _connect(setup: WriterSetup) -> Any:
    driver = importlib.import_module(setup["driver"])
    connection = driver.connect(setup["path"], isolation_level=None)
    for name, value in setup["pragmas"].items():
        connection.execute(f"PRAGMA {name} = {value}")
    connection.executescript(setup["script"])
    return connection


def _write(connection: Any, setup: WriterSetup, rows: str) -> int:
    """Commit rows, however long another process holds the lock. Return the number of changes."""
    before = connection.total_changes
    while True:
        try:
            connection.execute(setup["statement"], (*setup["parameters"], rows))
        except Exception as error:
            if not is_busy(error):
                raise
        else:
            return int(connection.total_changes - before)


def _answer(line: object) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    main()
