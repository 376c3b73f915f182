"""Test how a person sees the next due time of a mailing."""

from datetime import UTC, datetime

import pytest

from skychimp.cli.display.mailing_view import relative_time

NOW = datetime(2026, 11, 25, 22, 30, tzinfo=UTC)  # a Wednesday; 01:30 on Thursday in Moscow


@pytest.mark.parametrize(
    ("at", "timezone", "text"),
    [
        (datetime(2026, 11, 25, 23, 0, tzinfo=UTC), "UTC", "today 23:00"),
        (datetime(2026, 11, 26, 9, 0, tzinfo=UTC), "UTC", "tomorrow 09:00"),
        (datetime(2026, 11, 26, 6, 0, tzinfo=UTC), "Europe/Moscow", "today 09:00 Europe/Moscow"),
        (datetime(2026, 11, 27, 6, 0, tzinfo=UTC), "Europe/Moscow", "tomorrow 09:00 Europe/Moscow"),
        (datetime(2026, 11, 27, 9, 0, tzinfo=UTC), "UTC", "Friday 09:00"),
        (datetime(2026, 12, 1, 9, 0, tzinfo=UTC), "UTC", "Tuesday 09:00"),
        (datetime(2026, 12, 2, 9, 0, tzinfo=UTC), "UTC", "2026-12-02 09:00"),
        (datetime(2026, 11, 24, 9, 0, tzinfo=UTC), "UTC", "yesterday 09:00"),
    ],
)
def test_time_is_shown_relative_to_today(at: datetime, timezone: str, text: str) -> None:
    assert relative_time(at, timezone, "UTC", NOW) == text
