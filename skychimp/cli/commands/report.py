"""Show the results of a mailing (`skychimp report`)."""

from collections.abc import Iterator
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from skychimp.cli.context import Context, Json, MailingName, get_context
from skychimp.cli.display.outbox_note import show_outbox_note
from skychimp.cli.output_file import Force, open_output_file
from skychimp.cli.reporting import count_new_attempts, counting_deliveries, flatten_counts
from skychimp.errors import InvalidValue
from skychimp.shell import command
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.services.reporting.reports import Report

app = typer.Typer(rich_markup_mode="rich")

# The same as in services/reporting/reports.py, which is slow to import for --help.
_STATUSES = ("sent", "outbox", "deferred", "failed", "unknown", "queued", "expired", "cancelled")
TABLES = {
    "occurrences": (
        "due_at", "state", *_STATUSES, "attempts", "opened_at", "finished_at", "subject",
        "bounces", "bounce_rate", "complaints", "complaint_rate",
    ),
    "replies": ("outcome", "attempts", "code", "enhanced", "phase", "words", "meaning", "remedy"),
    "domains": ("domain", "deliveries", *_STATUSES),
    "rates": ("kind", "emails", "of", "rate", "advised", "limit", "publisher", "source"),
    "rate": ("due_at", "at", "seconds", "sent", "outbox", "deferred", "failed", "unknown", "given_back", "a_second"),
}  # fmt: skip
"""The tables that a pipe or CSV can get, with their columns."""
EMPTY = dict.fromkeys(TABLES, "no emails yet") | {"replies": "no replies yet", "rate": "no attempts yet"}
"""What is said on a terminal about a table without rows, although something was due."""


@app.command(epilog="skychimp report 1\nskychimp report 1 --html report.html\nskychimp report 1 --csv --table domains")
def report(
    ctx: typer.Context,
    mailing: MailingName,
    html: Annotated[
        str | None, typer.Option(help="Write a self-contained HTML page to this file, or - for stdout.", metavar="FILE")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Output as CSV, with a header.")] = False,
    table: Annotated[
        Literal["occurrences", "replies", "domains", "rates", "rate"] | None,
        typer.Option(help="The table to output to a pipe or as CSV.", show_default="occurrences"),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Show the results of a mailing: what happened to its emails, how fast they were sent, and the servers' replies."""
    from skychimp.services.reporting import reports

    context = get_context(ctx, json)
    if csv + json + (html is not None) > 1:
        raise InvalidValue(tr("--json, --csv and --html cannot be combined"), tr("use one of them"))
    mailing_id = context.find_mailing(mailing)
    count_new_attempts(context)
    with counting_deliveries(context) as progress:
        result = reports.mailing_report(context.store, context.actor, mailing_id, progress)
    if html is not None:
        _write_page(context, result, html, force=force)
    elif csv:
        context.out.csv(_rows(result, table or "occurrences"), TABLES[table or "occurrences"])
    elif json:
        context.out.record(_json_record(result))
    elif context.out.on_terminal and table is None:
        _draw(context, result)
    else:
        columns = {name: name.replace("_", " ").capitalize() for name in TABLES[table or "occurrences"]}
        empty = tr("nothing was due yet") if not result.occurrences else EMPTY[table or "occurrences"]
        context.out.rows(_rows(result, table or "occurrences"), columns, empty=empty)
    if not json:
        show_outbox_note(context, result.counts["outbox"], others_sent=result.counts["sent"] > 0)


def _draw(context: Context, report: "Report") -> None:
    from skychimp.cli.display import report_view

    context.out.draw(*report_view.draw_report(report, context.out.width))
    context.out.note(tr("for every reply: {command}", command=command("mailings", "log", report.id)))
    if report.counts["cancelled"]:
        context.out.note(
            tr(
                "for who is left out now, and why: {command}",
                command=command("mailings", "audience", report.id, "--left-out"),
            )
        )


def _write_page(context: Context, report: "Report", file: str, *, force: bool) -> None:
    from skychimp.site.reports import render_report

    page = render_report(report, context.settings.mail.read_timezone())
    if file == "-":
        context.out.raw(page)
        return
    with open_output_file(context, file, force=force) as opened:
        opened.write(page)
    context.out.note(tr("wrote {file}; open it in a browser", file=file))


def _json_record(report: "Report") -> dict[str, Any]:
    record = flatten_counts(asdict(report))
    for occurrence in record["occurrences"]:
        flatten_counts(occurrence)["rate"] = [flatten_counts(point) for point in occurrence["rate"]]
    for domain in record["domains"]:
        flatten_counts(domain)
    return record


def _rows(report: "Report", table: str) -> Iterator[Any]:
    """Yield the rows of one of the TABLES."""
    from skychimp.services.reporting.reports import counts_by_status

    if table == "replies":
        yield from report.replies
    elif table == "domains":
        for domain in report.domains:
            counts = counts_by_status(domain.counts)
            yield SimpleNamespace(domain=domain.domain or "(others)", deliveries=domain.deliveries, **counts)
    elif table == "rates":
        yield from report.rates
    elif table == "rate":
        for occurrence in report.occurrences:
            for point in occurrence.rate:
                more = {"due_at": occurrence.due_at, "a_second": round(point.per_second, 3)}
                yield SimpleNamespace(**vars(point), **point.counts, **more)
    else:
        for occurrence in report.occurrences:
            bounces, complaints = occurrence.rates
            returned = {"bounces": bounces.emails, "bounce_rate": bounces.rate}
            returned |= {"complaints": complaints.emails, "complaint_rate": complaints.rate}
            yield SimpleNamespace(**vars(occurrence) | counts_by_status(occurrence.counts) | returned)
