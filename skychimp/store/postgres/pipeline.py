"""Execute the statements of a quick transaction in one round trip, by libpq's pipeline mode.

psycopg has a pipeline too, but sends each statement by itself. If this process were stopped between two of them, the
server would wait for the rest, without a time limit, and keep the lock. It also takes more CPU time.
"""

import hashlib
import re
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

_PARAMETER = re.compile(r"%s|%\((\w+)\)s")

Row = tuple[str | None, ...]
Parameters = Sequence[object] | dict[str, Any]


class Pipeline:
    """Statements of one transaction, which are sent when the first result is needed.

    `prepared` has the names of the statements that the server knows on this connection, and is kept with it.
    """

    def __init__(self, connection: Any, prepared: set[bytes]) -> None:
        self._pg = connection.pgconn
        self._prepared = prepared
        self._preparing: set[bytes] = set()
        self._queue: list[Callable[[PGresult], None]] = []

    def __enter__(self) -> Self:
        self._pg.enter_pipeline_mode()
        return self

    def __exit__(self, *_: object) -> None:
        from psycopg import Error, pq

        if self._queue:  # after an error
            with suppress(Error):
                self.read()
        if self._pg.status == pq.ConnStatus.OK:
            self._pg.exit_pipeline_mode()

    def execute(self, statement: str, parameters: Parameters = ()) -> "Result":
        """Queue a statement with parameters as psycopg has them. Its values are texts."""
        name, sql, names = _translate(statement)
        values = [parameters[each] for each in names] if isinstance(parameters, dict) else parameters
        if name not in self._prepared | self._preparing:
            self._preparing.add(name)
            self._pg.send_prepare(name, sql)
            self._queue.append(lambda _: self._prepared.add(name))
        self._pg.send_query_prepared(name, [None if value is None else str(value).encode() for value in values])
        result = Result(self)
        self._queue.append(result.take)
        return result

    def read(self) -> None:
        """Send what is queued, and read all results. Raises the first error of the server, or OperationalError."""
        from psycopg import errors, pq

        self._pg.pipeline_sync()
        self._send()
        queue, self._queue = self._queue, []
        self._preparing.clear()
        first_error: PGresult | None = None
        for take in queue:
            result = self._next_result()
            if result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                take(result)
            else:
                first_error = first_error or result
        self._next_result()  # of the sync
        if first_error is not None:
            raise errors.error_from_result(first_error)

    def _send(self) -> None:
        """Write what is queued. It is one write unless there is very much."""
        poll = select.poll()
        poll.register(self._pg.socket, select.POLLIN | select.POLLOUT)
        while self._pg.flush():
            poll.poll()
            self._pg.consume_input()  # or the server might wait for us, too

    def _next_result(self) -> "PGresult":
        from psycopg import OperationalError, pq

        poll = select.poll()
        poll.register(self._pg.socket, select.POLLIN)
        while True:
            while self._pg.is_busy():
                poll.poll()
                self._pg.consume_input()
            result: PGresult | None = self._pg.get_result()
            if self._pg.status == pq.ConnStatus.BAD:
                raise OperationalError(self._pg.error_message.decode("utf-8", "replace"))
            if result is not None:
                return result


class Result:
    """The rows of a statement. They are read when they are first needed."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._rows: list[Row] | None = None

    def take(self, result: "PGresult") -> None:
        """Take the rows from a result of libpq."""
        columns = range(result.nfields)
        values = ([result.get_value(row, column) for column in columns] for row in range(result.ntuples))
        self._rows = [tuple(None if value is None else value.decode() for value in row) for row in values]

    def fetchall(self) -> list[Row]:
        """Return all rows. Raises what `Pipeline.read` does."""
        if self._rows is None:
            self._pipeline.read()
        assert self._rows is not None
        return self._rows

    def fetchone(self) -> Row:
        """Return the first row."""
        return self.fetchall()[0]


class _Statement(NamedTuple):
    """A statement for libpq: its own name, the SQL, and the names of its parameters in order."""

    name: bytes
    sql: bytes
    parameters: Sequence[str]


@cache
def _translate(statement: str) -> _Statement:
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        name = match[1] or f"{len(names)}"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    sql = _PARAMETER.sub(number, statement).encode()
    return _Statement(b"skychimp_" + hashlib.sha256(sql).hexdigest()[:16].encode(), sql, names)
