"""Decide which names are time zones; pure."""

from zoneinfo import ZoneInfo

from skychimp.errors import InvalidValue
from skychimp.text import shortened
from skychimp.translation import tr

TIME_ZONE_HINT = tr("use an IANA time zone such as Europe/Berlin or UTC")

_NOT_ZONES = {"Factory", "localtime", "posixrules"}
_NOT_ZONE_FOLDERS = ("right/", "posix/")
_LONGEST_NAME = 64  # twice as long as any; Python fails in many ways at a name of thousands of parts


def is_time_zone(name: str) -> bool:
    """Return whether this is the name of an IANA time zone.

    `localtime`, `right/UTC` and the like are files that may mean something else, or be missing, on another machine.
    """
    if len(name) > _LONGEST_NAME:
        return False
    try:
        return ZoneInfo(name).key not in _NOT_ZONES and not name.startswith(_NOT_ZONE_FOLDERS)
    except (OSError, ValueError, KeyError):
        return False


def require_time_zone(name: str) -> None:
    """Raise InvalidValue unless this is the name of an IANA time zone."""
    if not is_time_zone(name):
        raise InvalidValue(tr("invalid time zone {name}", name=shortened(name)), TIME_ZONE_HINT)
