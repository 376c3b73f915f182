"""Count for reports, and show what was sent in a range of days (`skychimp stats --range`)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from skychimp.cli.context import Context
from skychimp.translation import tr

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skychimp.services.reporting.reports import RangeReport

OUTCOMES = ("sent", "outbox", "deferred", "failed", "unknown", "given_back")
MAX_DAYS = 62
"""A longer range is drawn by week."""
SLOW_TO_COUNT = 50_000
"""A number of attempts that takes so long to count that progress is shown."""


def show_range(context: Context, text: str) -> None:
    """Show a range of days such as `7d` or `2026-01`. Raises InvalidValue, NotLoggedIn and Denied."""
    from skychimp.services.reporting import reports

    timezone = context.settings.mail.read_timezone()
    since, until = reports.parse_range(text, datetime.now(UTC).astimezone(ZoneInfo(timezone)).date())
    count_new_attempts(context)
    with counting_deliveries(context) as progress:
        report = reports.range_report(context.store, context.actor, since, until, timezone, progress)
    if context.out.json:
        context.out.record(_json_record(report))
    elif context.out.on_terminal:
        context.out.draw(*_draw(report, context.out.width))
    else:
        rows = (SimpleNamespace(day=day.day.isoformat(), **day.counts) for day in report.days)
        context.out.lines(rows, dict.fromkeys(("day", *OUTCOMES), ""))


def count_new_attempts(context: Context) -> None:
    """Add up the attempts that are not counted yet, and show progress if that takes long.

    Raises NotLoggedIn and Denied.
    """
    from skychimp.permissions import Action, authorize
    from skychimp.services.reporting import rollups

    authorize(context.actor, Action.SEE_REPORTS)
    total = rollups.uncounted_attempts(context.store)
    if total > SLOW_TO_COUNT:
        with context.out.progress("counting", total) as report_progress:
            rollups.count_new_attempts(context.store, lambda counted: report_progress(counted, "attempts"))


@contextmanager
def counting_deliveries(context: Context) -> "Iterator[Callable[[int], None]]":
    """Yield a function to call with the number of deliveries counted so far. It shows progress if that takes long."""
    with context.out.progress("counting", delay_s=1) as report_progress:
        yield lambda counted: report_progress(counted, "deliveries")


def flatten_counts(record: dict[str, Any]) -> dict[str, Any]:
    """Move a record's counts up, next to its other fields."""
    record |= record.pop("counts")
    return record


def _json_record(report: "RangeReport") -> dict[str, Any]:
    record = asdict(report) | {"since": report.since.isoformat(), "until": report.until.isoformat()}
    for part in ("days", "best", "worst"):
        record[part] = [flatten_counts(item) for item in record[part]]
    for day in record["days"]:
        day["day"] = day["day"].isoformat()
    return record


def _draw(report: "RangeReport", width: int) -> "Iterator[RenderableType]":
    from rich.text import Text

    from skychimp.cli.display import charts
    from skychimp.cli.display.report_view import MAX_ROWS, draw_domains, draw_reply

    yield Text(f"{report.since} to {report.until}", "bold")
    yield _draw_days(report, width)
    if report.failures:
        yield charts.heading(tr("Not sent, by reply"))
        yield from map(draw_reply, report.failures[:MAX_ROWS])
    for title, domains in (("Worst domains", report.worst), ("Best domains", report.best)):
        if domains:
            yield charts.heading(title)
            yield draw_domains(domains[:MAX_ROWS], width)


def _draw_days(report: "RangeReport", width: int) -> "RenderableType":
    """Return a table of days, or of weeks if the range is long, each with a bar of the emails sent."""
    from rich.text import Text

    from skychimp.cli.display import charts
    from skychimp.cli.display.report_view import list_counts

    step = 1 if len(report.days) <= MAX_DAYS else 7
    periods = [report.days[start : start + step] for start in range(0, len(report.days), step)]
    totals = [{name: sum(day.counts[name] for day in days) for name in OUTCOMES} for days in periods]
    most = max(1, *(counts["sent"] for counts in totals))
    table = charts.borderless_table(numbers=(1,), columns=4)
    for days, counts in zip(periods, totals, strict=True):
        table.add_row(
            Text(f"{days[0].day:%a %Y-%m-%d}"),
            Text(f"{counts['sent']:,} sent"),
            charts.bar(counts["sent"] / most, max(width // 3 - 6, 10)),
            Text(list_counts(counts, leave_out="sent"), "dim"),
        )
    return table
