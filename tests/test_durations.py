"""Durations: how they are written, and that every place where one can be written agrees."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import skychimp
from skychimp.config import sources
from skychimp.delivery.scheduling.time_input import parse_past, parse_when
from skychimp.durations import MAX_DURATION, format_ago, format_duration, parse_duration
from skychimp.errors import ConfigError, InvalidValue

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
INVALID = [
    "",
    "5",
    "m",
    "5 m",
    "5min",
    "-5m",
    "1.5h",
    "5M",
    "٣s",
    "5m\n",
    "999999999d",
    "1e9s",
    "1w",
    "36501d",
    "\ud800",
]


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from("smhd")), min_size=1, max_size=5))
def test_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    sizes = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
    total = sum((number * sizes[unit] for number, unit in parts), timedelta())
    assert parse_duration("".join(f"{number}{unit}" for number, unit in parts)) == total
    assert parse_duration(format_duration(total)) == total


@pytest.mark.parametrize("text", INVALID)
def test_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_duration(text)
    assert caught.value.message.isprintable()
    assert caught.value.hint is not None


def test_longest_duration_is_accepted() -> None:
    assert parse_duration("36500d") == MAX_DURATION


@pytest.mark.parametrize("text", ["0s", "30s", "5m", "2h", "3d", "1h30m", "1d12h", "5m5m", "007m"])
def test_settings_and_times_accept_the_same_durations(text: str) -> None:
    duration = parse_duration(text)
    assert by_setting(text) == duration
    assert parse_when(f"+{text}", "UTC", NOW) - NOW == duration
    assert NOW - parse_past(text, "UTC", NOW) == duration


@pytest.mark.parametrize("text", INVALID)
def test_settings_and_times_refuse_the_same_durations(text: str) -> None:
    if text != "":  # an empty variable counts as unset
        with pytest.raises(ConfigError):
            by_setting(text)
    if text != "5m\n":  # spaces around a time are ignored
        with pytest.raises(InvalidValue):
            parse_when(f"+{text}", "UTC", NOW)
        with pytest.raises(InvalidValue):
            parse_past(text, "UTC", NOW)


def by_setting(text: str) -> timedelta:
    return sources.load_settings(environ={"SKYCHIMP_DELIVERY__UNKNOWN_AFTER": text}).delivery.unknown_after


def test_only_one_module_knows_the_units() -> None:
    package = Path(skychimp.__file__).parent
    modules = [path for path in package.rglob("*.py") if re.search(r"\[[smhd]{4}\]", path.read_text(encoding="utf-8"))]
    assert [path.name for path in modules] == ["durations.py"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"), (0, "just now"), (59.9, "just now"), (60, "1 min ago"), (3599, "59 min ago"),
        (3600, "1 h ago"), (86_399, "23 h ago"), (86_400, "1 day ago"), (40 * 86_400, "40 days ago"),
    ],
)  # fmt: skip
def test_time_since_something_is_for_people(seconds: float, text: str) -> None:
    assert format_ago(timedelta(seconds=seconds)) == text
