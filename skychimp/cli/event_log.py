"""What a long-running command says, one line an event: for a person, as logfmt, or as JSON; always on stderr."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from skychimp.cli.output import Output, escape

FORMATS = ("human", "logfmt", "json")
_OWN = frozenset(vars(logging.makeLogRecord({})))


def start(out: Output, form: str, level: int = logging.INFO) -> None:
    """From here on, events are said in this form."""
    handler = _Handler(out, {"human": _human, "logfmt": _logfmt, "json": _json}[form])
    logger = logging.getLogger("skychimp")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)


class _Handler(logging.Handler):
    def __init__(self, out: Output, write: Callable[[logging.LogRecord, dict[str, Any]], str]) -> None:
        super().__init__()
        self._out = out
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: value for name, value in vars(record).items() if name not in _OWN and value not in (None, "")}
        self._out.warn(self._write(record, fields))


def _human(record: logging.LogRecord, fields: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
    said = "  ".join(f"{name}={value}" for name, value in fields.items())
    mark = {logging.WARNING: "! ", logging.ERROR: "!! "}.get(record.levelno, "")
    return f"{at}  {mark}{record.getMessage()}" + (f"  {said}" if said else "")


def _logfmt(record: logging.LogRecord, fields: dict[str, Any]) -> str:
    pairs = {"at": _at(record), "level": record.levelname.lower(), "event": record.getMessage()} | fields
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in pairs.items())


def _json(record: logging.LogRecord, fields: dict[str, Any]) -> str:
    pairs = {"at": _at(record), "level": record.levelname.lower(), "event": record.getMessage()} | fields
    return json.dumps(pairs, default=str)


def _at(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _quoted(value: str) -> str:
    return value if value and value.isprintable() and not set(value) & set(' "=') else json.dumps(escape(value))
