"""Everything that can go wrong: one class for each thing a person can act on.

SkychimpError (1)
├── InvalidValue (2)          a value that can't be used
├── ConfigError (3)           the config says something that can't be meant
├── StoreNotReady (3)         there is no store, or it is not ours, too new or damaged
│   └── StoreHeld (3)         it was restored, and waits for a person
├── ClockBehind (3)           this machine's clock is far behind the last run's
├── NotFound (4)              no such object, or not yours
├── Denied (5)                your role may not do this
│   └── NotLoggedIn (5)
├── Conflict (6)              something else stands in the way
├── StoreFailed (1)           the disk is full, or the store can't be written
├── Interrupted (130)         the person at the terminal stopped it
└── RelayError (75)           the mail can't go out now; it stays where it is
    ├── RelayAway             nobody answers, or says "later"
    └── RelayRefuses          it answers, and a person has to change something
"""

from typing import ClassVar


class SkychimpError(Exception):
    """An error that a person sees: one line of message and, where there is one, a hint.

    `code` is the stable name for scripts, `exit_status` the process's.
    """

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidValue(SkychimpError):
    code = "invalid_value"
    exit_status = 2


class ConfigError(SkychimpError):
    code = "config"
    exit_status = 3


class StoreNotReady(SkychimpError):
    code = "store_not_ready"
    exit_status = 3


class StoreHeld(StoreNotReady):
    code = "store_held"


class ClockBehind(SkychimpError):
    code = "clock_behind"
    exit_status = 3


class NotFound(SkychimpError):
    code = "not_found"
    exit_status = 4


class Denied(SkychimpError):
    code = "denied"
    exit_status = 5


class NotLoggedIn(Denied):
    code = "not_logged_in"


class Conflict(SkychimpError):
    code = "conflict"
    exit_status = 6


class StoreFailed(SkychimpError):
    code = "store_failed"


class Interrupted(SkychimpError):
    code = "interrupted"
    exit_status = 130


class RelayError(SkychimpError):
    code = "relay"
    exit_status = 75


class RelayUnavailable(RelayError):
    code = "relay_away"


class RelayRefused(RelayError):
    code = "relay_refuses"
