"""Time zones: which names are valid, and that the config and the commands agree."""

from datetime import UTC, datetime

import pytest

from skychimp.config import sources
from skychimp.delivery.scheduling.time_input import parse_local, parse_when
from skychimp.errors import ConfigError, InvalidValue
from skychimp.timezones import is_time_zone, require_time_zone

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
HINT = "use an IANA time zone such as Europe/Berlin or UTC"
VALID = ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT-2", "CET"]
INVALID = [
    "", "Mars/Olympus", "Europe", "../etc/passwd", "../UTC", "/etc/localtime", "UTC\x00", "Zürich", "a" * 300,
    "\ud800", "tzdata.zi", "+03:00", "localtime", "posixrules", "Factory", "right/UTC", "posix/Europe/Berlin",
    "0" + "/00" * 20_000,
]  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_config_and_commands_accept_the_same_zones(name: str) -> None:
    assert is_time_zone(name)
    require_time_zone(name)
    assert by_setting(name) == name
    parse_when("now", name, NOW)
    parse_local("now", name, NOW)


@pytest.mark.parametrize("name", INVALID, ids=lambda name: ascii(name)[:40])
def test_config_and_commands_refuse_the_same_zones(name: str) -> None:
    assert not is_time_zone(name)
    with pytest.raises(ConfigError, match=r"invalid mail\.timezone") as refused:
        by_setting(name)
    assert refused.value.hint == HINT
    for parse in (parse_when, parse_local):
        with pytest.raises(InvalidValue, match="invalid time zone") as caught:
            parse("now", name, NOW)
        assert caught.value.message.isprintable()
        assert caught.value.hint == HINT


def by_setting(name: str) -> str:
    return sources.load_settings({"mail.timezone": name}, environ={}).mail.read_timezone()
