"""A range of days, for `skychimp stats --range`: what was sent and what was not, why, and to which domains."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from skychimp.cli.commands.report import MANY, count_up, domains, flat, reply
from skychimp.cli.context import Context

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skychimp.services.reporting.reports import RangeReport

COLUMNS = dict.fromkeys(("day", "sent", "deferred", "failed", "unknown", "given_back"), "")
LONGEST = 62
"""Days, above which weeks are drawn."""


def show(context: Context, wanted: str) -> None:
    """Show the days that a person asked for. Raises InvalidValue."""
    from skychimp.services.reporting import reports

    zone = context.settings.mail.timezone
    since, until = reports.parse_range(wanted, datetime.now(UTC).astimezone(ZoneInfo(zone)).date())
    count_up(context)
    found = reports.range_report(context.store, context.actor, since, until, zone)
    if context.out.json:
        context.out.one(_whole(found))
    elif context.out.on_terminal:
        context.out.draw(*_page(found, context.out.width))
    else:
        context.out.lines((SimpleNamespace(day=one.day.isoformat(), **one.counts) for one in found.days), COLUMNS)


def _whole(found: "RangeReport") -> dict[str, Any]:
    whole = asdict(found) | {"since": found.since.isoformat(), "until": found.until.isoformat()}
    for part in ("days", "best", "worst"):
        whole[part] = [flat(one) for one in whole[part]]
    for day in whole["days"]:
        day["day"] = day["day"].isoformat()
    return whole


def _page(found: "RangeReport", width: int) -> "Iterator[RenderableType]":
    from rich.text import Text

    from skychimp.cli import charts

    yield Text(f"{found.since} to {found.until}", "bold")
    yield _days(found, width)
    if found.failures:
        yield charts.title("What was not sent, by cause")
        yield from (reply(group) for group in found.failures[:MANY])
    for title, some in (("Worst domains", found.worst), ("Best domains", found.best)):
        if some:
            yield charts.title(title)
            yield domains(some[:MANY], width)


def _days(found: "RangeReport", width: int) -> "RenderableType":
    from rich.text import Text

    from skychimp.cli import charts

    step = 1 if len(found.days) <= LONGEST else 7
    table = charts.grid(right=(1,), columns=4)
    some = [found.days[start : start + step] for start in range(0, len(found.days), step)]
    most = max(max(sum(day.counts["sent"] for day in days) for days in some), 1)
    for days in some:
        counts = {name: sum(day.counts[name] for day in days) for name in list(COLUMNS)[1:]}
        others = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number and name != "sent")
        table.add_row(
            Text(f"{days[0].day:%a %Y-%m-%d}"),
            Text(f"{counts['sent']:,} sent"),
            Text(charts.bar(counts["sent"] / most, max(width // 3 - 6, 10)), "green"),
            Text(others.replace("_", " "), "dim"),
        )
    return table
