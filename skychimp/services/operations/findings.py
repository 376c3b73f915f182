"""Define the findings of `skychimp doctor`."""

from dataclasses import dataclass
from enum import StrEnum

from skychimp.translation import Phrase


class Level(StrEnum):
    """The severity of a finding: a problem keeps emails from being sent, a warning does not."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


OK, WARNING, PROBLEM = Level.OK, Level.WARNING, Level.PROBLEM


@dataclass(frozen=True)
class Finding:
    """The result of one check. `remedy` says what to do, and is None if nothing has to be done."""

    about: str
    level: Level
    found: str
    remedy: Phrase | None = None
