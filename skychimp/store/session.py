"""Run SQL in a transaction, and make objects of rows for callers who want them.

SQLModel makes the objects. To import it, with SQLAlchemy's ORM, takes an eighth of the start-up time of a command, and
most commands only run SQL. So a transaction does without it as long as it is not imported.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, Engine

if TYPE_CHECKING:
    from sqlmodel import Session as Session
else:
    Session = Any


@contextmanager
def transaction(bind: Engine | Connection) -> Iterator["Session"]:
    """Open a transaction, which begins when it is first used. It is committed at the end, unless there is an error."""
    db = _Transaction(bind)
    try:
        yield cast("Session", db)
        db.commit()
    finally:
        db.close()


def call_after_commit(db: "Session", action: Callable[[], None]) -> None:
    """Call a function as soon as a transaction is committed."""
    cast("_Transaction", db).actions.append(action)


class _Transaction:
    """Act as a SQLModel session. SQL goes to the connection, and to a real session once SQLModel is imported."""

    def __init__(self, bind: Engine | Connection) -> None:
        self._bind = bind
        self._connection: Connection | None = None
        self._session: Session | None = None
        self.actions: list[Callable[[], None]] = []

    def connection(self) -> Connection:
        """Return the connection, in its transaction."""
        if self._session is not None:
            return self._session.connection()
        if self._connection is None:
            self._connection = self._bind.connect() if isinstance(self._bind, Engine) else self._bind
            self._connection.begin()
        return self._connection

    def execute(self, *arguments: Any, **options: Any) -> Any:
        """Execute a statement."""
        return self._executor().execute(*arguments, **options)

    def scalar(self, *arguments: Any, **options: Any) -> Any:
        """Return the first value of a statement's result, or None."""
        return self._executor().scalar(*arguments, **options)

    def scalars(self, *arguments: Any, **options: Any) -> Any:
        """Return the first column of a statement's result."""
        return self._executor().scalars(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        """Return another method of a session, such as `add`."""
        return getattr(self._as_session(), name)

    def commit(self) -> None:
        """Write the changes of objects, and commit."""
        if self._session is not None:
            self._session.commit()
        elif self._connection is not None:
            self._connection.commit()
        for action in self.actions:
            action()

    def rollback(self) -> None:
        """Undo the changes."""
        (self._session or self.connection()).rollback()
        self.actions.clear()

    def close(self) -> None:
        """Roll back what was not committed, and give the connection back."""
        if self._session is not None:
            self._session.close()
        if self._connection is not None:
            self._connection.rollback()
            if self._connection is not self._bind:
                self._connection.close()

    def _executor(self) -> "Session | Connection":
        """Return what executes a statement. One that selects objects needs a session, and exists only with SQLModel."""
        return self._as_session() if "sqlmodel" in sys.modules else self.connection()

    def _as_session(self) -> "Session":
        if self._session is None:
            from sqlmodel import Session

            session = Session(self.connection(), expire_on_commit=False, join_transaction_mode="control_fully")
            session.connection()  # it controls the transaction from here on
            self._session = session
        return self._session
