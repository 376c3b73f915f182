"""Define the findings of `skychimp doctor`."""

from dataclasses import dataclass
from enum import StrEnum

from skychimp.translation import Phrase, tr, verbatim


class Level(StrEnum):
    """The severity of a finding: a problem keeps emails from being sent, a warning does not."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


OK, WARNING, PROBLEM = Level.OK, Level.WARNING, Level.PROBLEM

CONFIG, STORE, DISK, GROWTH = tr("config"), tr("store"), tr("disk"), tr("growth")
CLOCK, TIME_ZONE, CONSENT, STANDBY = tr("clock"), tr("time zone"), tr("consent"), tr("standby")
RELAY, SENDER, ALIGNMENT = tr("relay"), tr("sender"), tr("alignment")
SPF, DKIM, DMARC = verbatim("SPF"), verbatim("DKIM"), verbatim("DMARC")
"""What findings are about."""


@dataclass(frozen=True)
class Finding:
    """The result of one check. `remedy` says what to do, and is None if nothing has to be done."""

    about: Phrase
    level: Level
    found: Phrase
    remedy: Phrase | None = None
