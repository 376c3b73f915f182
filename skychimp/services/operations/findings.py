"""What a look at an installation finds."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: a problem keeps letters back, a warning does not."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


OK, WARNING, PROBLEM = Level.OK, Level.WARNING, Level.PROBLEM


@dataclass(frozen=True)
class Finding:
    """What one look found; `remedy` says what to do where it is not fine."""

    about: str
    level: Level
    found: str
    remedy: str | None = None
