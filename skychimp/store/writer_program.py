"""A program that writes for another process: one statement, again and again, each time with other rows.

    python -m skychimp.store.scribe

On stdin: a line that says where and what (`Orders`, as JSON), then a line of rows (JSON) for each time. On stdout: a
line for each, the number of changes that were committed (0 once it is ready), or `!` and why it can't go on.
It ends with its stdin, and with nothing else: who gives the orders hears Ctrl-C. It imports next to nothing, so that it
is there soon.
"""

import importlib
import json
import os
import signal
import sys
from typing import Any, TypedDict


class Orders(TypedDict):
    """What to open and what to do; `statement` has the rows as its last parameter, after `parameters`."""

    driver: str
    path: str
    pragmas: dict[str, str]
    script: str
    statement: str
    parameters: list[int]


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        orders: Orders = json.loads(sys.stdin.buffer.readline())
        driver = importlib.import_module(orders["driver"])
        connection = driver.connect(orders["path"], isolation_level=None)
        for name, value in orders["pragmas"].items():
            connection.execute(f"PRAGMA {name} = {value}")
        connection.executescript(orders["script"])
        _say(0)
        for line in sys.stdin.buffer:
            _say(_changes(connection, orders, line.decode()))
    except Exception as error:
        _say(f"!{error}")


def _changes(connection: Any, orders: Orders, rows: str) -> int:
    """Commit, however long another process holds the lock."""
    before = connection.total_changes
    while True:
        try:
            connection.execute(orders["statement"], (*orders["parameters"], rows))
        except Exception as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise
        else:
            return int(connection.total_changes - before)


def _say(what: object) -> None:
    os.write(sys.stdout.fileno(), f"{what}\n".encode())


if __name__ == "__main__":
    main()
