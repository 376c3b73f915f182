"""Errors that a person can act on. Each class has a process exit status and a stable code for scripts.

SkychimpError (1)
├── InvalidValue (2)             an option, argument or value is invalid
│   └── InvalidQuery (2)         a query over clients is invalid
├── ConfigError (3)              the configuration is invalid or cannot be read
├── StoreNotReady (3)            the store is missing, damaged, too new or not ours
│   └── StoreHeld (3)            the store was restored and waits for a person's decision
├── ClockBehind (3)              this machine's clock is far behind the last run's
├── NotFound (4)                 the object does not exist, or belongs to somebody else
├── Denied (5)                   the role does not allow this
│   └── NotLoggedIn (5)          nobody is logged in
├── Conflict (6)                 the current state does not allow this
├── StoreFailed (1)              the store cannot be written, for example because the disk is full
├── Interrupted (130)            the user pressed Ctrl-C
└── RelayError (75)              the mail server did not take the mail, which stays queued
    ├── RelayUnavailable (75)    there was no answer, or a temporary error
    │   └── OutboxFailed (75)    the outbox cannot be used, and waiting does not help
    └── RelayRefused (75)        a person has to change something before it works
"""

from typing import ClassVar

from skychimp.translation import Phrase


class SkychimpError(Exception):
    """The base of all errors that are shown to the user: a one-line message and an optional hint.

    `code` is the stable name for scripts, `exit_status` the exit status of the process.
    """

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, hint: Phrase | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidValue(SkychimpError):
    """An option, argument or value is invalid."""

    code = "invalid_value"
    exit_status = 2


class InvalidQuery(InvalidValue):
    """A query over clients is invalid. `problem` says what is wrong at a `position` of the query, from 0."""

    def __init__(self, problem: Phrase, hint: Phrase | None, query: str, position: int) -> None:
        line = query.count("\n", 0, position)
        column = position - (query.rfind("\n", 0, position) + 1) + 1
        place = f"line {line + 1}, column {column}" if line else f"column {column}"
        super().__init__(f"the query, {place}: {problem}", hint)
        self.problem = problem
        self.query = query
        self.position = position


class ConfigError(SkychimpError):
    """The configuration is invalid or cannot be read."""

    code = "config"
    exit_status = 3


class StoreNotReady(SkychimpError):
    """The store is missing, damaged, too new, or not a Skychimp store."""

    code = "store_not_ready"
    exit_status = 3


class StoreHeld(StoreNotReady):
    """The store was restored from a backup and sends nothing until a person decides."""

    code = "store_held"


class ClockBehind(SkychimpError):
    """This machine's clock is far behind the time of the last run."""

    code = "clock_behind"
    exit_status = 3


class NotFound(SkychimpError):
    """The object does not exist, or belongs to somebody else. Callers cannot tell which.

    `kind` is what it is, such as "mailing", and `name` its id or address. They are None if nobody owns such objects.
    """

    code = "not_found"
    exit_status = 4

    def __init__(
        self, message: str, hint: Phrase | None = None, *, kind: str | None = None, name: str | None = None
    ) -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.name = name


class Denied(SkychimpError):
    """The role of the user does not allow this."""

    code = "denied"
    exit_status = 5


class NotLoggedIn(Denied):
    """This needs a login, and there is no valid session."""

    code = "not_logged_in"


class Conflict(SkychimpError):
    """The current state does not allow this, for example because the object exists or is in use."""

    code = "conflict"
    exit_status = 6


class StoreFailed(SkychimpError):
    """The store cannot be read or written, for example because the disk is full."""

    code = "store_failed"


class StoreUnwritable(StoreFailed):
    """The disk is full or fails, or the store is read-only for now: a person can fix it."""


class Interrupted(SkychimpError):
    """The user stopped the command, for example with Ctrl-C."""

    code = "interrupted"
    exit_status = 130


class RelayError(SkychimpError):
    """The mail server did not take the mail. It stays queued."""

    code = "relay"
    exit_status = 75


class RelayUnavailable(RelayError):
    """The mail server did not answer, or reported a temporary error."""

    code = "relay_away"


class OutboxFailed(RelayUnavailable):
    """The outbox on this machine cannot be used. Unlike a mail server, it does not come back by itself."""


class RelayRefused(RelayError):
    """The mail server refused, and a person has to change something before it works."""

    code = "relay_refuses"
