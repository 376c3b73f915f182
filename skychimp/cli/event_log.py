"""Log events to stderr, one line each, for people, as logfmt or as JSON."""

import json
import logging
import sys
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from skychimp import safe_json
from skychimp.cli.display.values import escape
from skychimp.cli.output import Output

TAIL_LINES = 100

_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({})))


def usual_format() -> str:
    """Return the format of the log of a program that runs for long: `human` on a terminal, otherwise `logfmt`."""
    return "human" if sys.stderr.isatty() else "logfmt"


def start(out: Output, log_format: str, level: int = logging.INFO) -> None:
    """Write all further events in this format: human, logfmt or json. With --quiet, only warnings and errors.

    As JSON, the command's messages are events, too: each line of stderr is an object.
    """
    handler = _Handler(out, {"human": _human, "logfmt": _logfmt, "json": _json}[log_format])
    logger = logging.getLogger("skychimp")
    logger.handlers = [handler, *(each for each in logger.handlers if isinstance(each, Tail))]
    logger.propagate = False
    logger.setLevel(max(level, logging.WARNING) if out.quiet else level)
    out.log = _log_message if log_format == "json" else None


def _log_message(level: str, text: str, fields: Mapping[str, object]) -> None:
    logging.getLogger("skychimp").log(logging.getLevelNamesMapping()[level.upper()], "%s", text, extra=dict(fields))


class Tail(logging.Handler):
    """Keeps the last lines of the log as logfmt, from when it is created until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        logging.getLogger("skychimp").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(_logfmt(record, _own_fields(record)))

    def read(self) -> str:
        """Return the lines."""
        return "\n".join(self._lines)

    def close(self) -> None:
        logging.getLogger("skychimp").removeHandler(self)
        super().close()


class _Handler(logging.Handler):
    """Writes each event's own fields (`extra`) that have a value."""

    def __init__(self, out: Output, render: Callable[[logging.LogRecord, dict[str, Any]], str]) -> None:
        super().__init__()
        self._out = out
        self._render = render

    def emit(self, record: logging.LogRecord) -> None:
        self._out.write_log_line(self._render(record, _own_fields(record)))


def _own_fields(record: logging.LogRecord) -> dict[str, Any]:
    values = vars(record).items()
    return {name: value for name, value in values if name not in _STANDARD_FIELDS and value not in (None, "")}


def _human(record: logging.LogRecord, fields: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
    pairs = "  ".join(f"{name}={value}" for name, value in fields.items())
    mark = {logging.WARNING: "! ", logging.ERROR: "!! "}.get(record.levelno, "")
    return f"{at}  {mark}{record.getMessage()}" + (f"  {pairs}" if pairs else "")


def _logfmt(record: logging.LogRecord, fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={_quote(str(value))}" for name, value in _all_fields(record, fields).items())


def _json(record: logging.LogRecord, fields: dict[str, Any]) -> str:
    return safe_json.dumps(_all_fields(record, fields), default=str)


def _all_fields(record: logging.LogRecord, fields: dict[str, Any]) -> dict[str, Any]:
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return {"at": at, "level": record.levelname.lower(), "event": record.getMessage()} | fields


def _quote(value: str) -> str:
    return value if value and value.isprintable() and not set(value) & set(' "=') else json.dumps(escape(value))
