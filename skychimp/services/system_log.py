"""Write lines to the system log: syslog, or the journal of systemd, whichever listens at /dev/log."""

import os
import socket
from contextlib import suppress
from pathlib import Path

from skychimp import safe_json

SOCKET = Path("/dev/log")

_FACILITY_AUTHPRIV, _SEVERITY_NOTICE = 10, 5
_PRIORITY = 8 * _FACILITY_AUTHPRIV + _SEVERITY_NOTICE  # RFC 3164, section 4.1.1
_MAX_BYTES = 8192
"""The longest line that all common system logs take as a whole."""


def write(line: str) -> None:
    """Write a line, if there is a system log. It never fails and never waits: a full log loses the line.

    The handler of the standard library waits until a stuck log reads again, so it is not used.
    """
    message = f"<{_PRIORITY}>skychimp[{os.getpid()}]: {line}".encode("utf-8", "backslashreplace")[:_MAX_BYTES]
    for kind, end in ((socket.SOCK_DGRAM, b""), (socket.SOCK_STREAM, b"\0")):
        with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as connection:
            connection.setblocking(False)
            connection.connect(str(SOCKET))
            connection.send(message + end)
            return


def format_line(**values: str | int | None) -> str:
    """Return `name=value` pairs as one line, without those that are None. Texts are in quotes, escaped as in JSON."""
    pairs = (f"{name}={safe_json.dumps(value)}" for name, value in values.items() if value is not None)
    return " ".join(pairs)
