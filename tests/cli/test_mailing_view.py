"""Test how a person sees the next due time of a mailing, and its audience."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from skychimp.cli.display.mailing_view import audience_in_words, relative_time
from skychimp.cli.display.weekdays import with_weekday
from skychimp.translation import in_language, translated

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


def test_times_in_russian() -> None:
    tuesday = datetime(2026, 12, 1, 9, 0, tzinfo=UTC)
    with in_language("ru"):
        assert translated(relative_time(tuesday, "UTC", "UTC", NOW)) == "вторник 09:00"
        assert translated(relative_time(NOW, "UTC", "Europe/Moscow", NOW)) == "сегодня 22:30 UTC"
        assert translated(with_weekday(tuesday, "2026-12-01")) == "вт 2026-12-01"
    assert with_weekday(tuesday, f"{tuesday:%Y-%m-%d}") == f"{tuesday:%a %Y-%m-%d}"


@pytest.mark.parametrize(
    ("audience", "text", "in_russian"),
    [
        ({"all_clients": True}, "all clients", "все клиенты"),
        (
            {"tags": ["vip"], "client_ids": [1, 2]},
            "clients with the tag vip, and 2 named clients",
            "клиенты с тегом vip, а также 2 указанных клиента",
        ),
        (
            {"tags": ["a", "b"], "segments": ["riga"], "where": "name IS NULL"},
            "clients with one of the tags a, b, and clients in segment riga, and clients where name IS NULL",
            "клиенты с одним из тегов a, b, а также клиенты сегмента riga, а также клиенты по условию name IS NULL",
        ),
        (
            {"all_clients": True, "except_tags": ["old"], "except_segments": ["x", "y"], "except_where": "id = 1"},
            "all clients except those with the tag old, and those in one of the segments x, y, and those where id = 1",
            "все клиенты, кроме тех, у кого есть тег old, а также тех, кто есть в одном из сегментов x, y, "
            "а также тех, кто подходит под условие id = 1",
        ),
    ],
)
def test_audience_in_words(audience: dict[str, Any], text: str, in_russian: str) -> None:
    nothing: dict[str, Any] = {"all_clients": False, "where": None, "except_where": None}
    nothing |= {name: [] for name in ("tags", "segments", "client_ids", "except_tags", "except_segments")}
    words = audience_in_words(SimpleNamespace(**nothing | audience))  # type: ignore[arg-type]
    assert words == text
    with in_language("ru"):
        assert translated(words) == in_russian
