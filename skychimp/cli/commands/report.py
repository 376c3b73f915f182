"""`skychimp report`: what became of a mailing."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.errors import InvalidValue

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from skychimp.services.reporting.reports import DomainReport, ReplyGroup, Report

app = typer.Typer(rich_markup_mode="rich")

SHOWN = ("sent", "deferred", "failed", "unknown", "queued", "expired", "cancelled")
TABLES = {
    "occurrences": ("due_at", "state", *SHOWN, "attempts", "opened_at", "finished_at"),
    "replies": ("outcome", "attempts", "code", "enhanced", "phase", "words", "meaning", "remedy"),
    "domains": ("domain", "deliveries", *SHOWN),
    "rate": ("due_at", "at", "seconds", "sent", "deferred", "failed", "unknown", "given_back", "a_second"),
}
FEW, MANY = 12, 10
LONG = 50_000
"""Attempts, to count which takes so long that it is shown."""


@app.command(epilog="skychimp report 1\nskychimp report 1 --html report.html\nskychimp report 1 --csv --table domains")
def report(
    ctx: typer.Context,
    mailing: Annotated[int, typer.Argument(metavar="ID", help="A mailing's id.", show_default=False)],
    html: Annotated[
        str | None, typer.Option(help="Write a page with plots, whole in one file; - for stdout.", metavar="FILE")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    table: Annotated[
        Literal["occurrences", "replies", "domains", "rate"] | None,
        typer.Option(help="Which figures a pipe or CSV gets.", show_default="occurrences"),
    ] = None,
    json: Json = False,
) -> None:
    """Show what became of a mailing: where its letters are, how fast they went, and what servers said."""
    from skychimp.services.reporting import reports

    context = get_context(ctx, json)
    if csv + json + (html is not None) > 1:
        raise InvalidValue("--json, --csv and --html can't go together")
    count_up(context)
    found = reports.report(context.store, context.actor, mailing)
    if html is not None:
        _write_page(context, found, html)
    elif csv:
        context.out.csv(_rows(found, table or "occurrences"), TABLES[table or "occurrences"])
    elif json:
        context.out.one(_whole(found))
    elif context.out.on_terminal and table is None:
        context.out.draw(*draw(found, context.out.width))
        context.out.note(f"the server's words: skychimp mailings log {mailing}")
    else:
        columns = {name: name.replace("_", " ").capitalize() for name in TABLES[table or "occurrences"]}
        context.out.rows(_rows(found, table or "occurrences"), columns, empty="it has not been due yet")


def count_up(context: Context) -> None:
    """Count what nobody has counted yet, with progress where that takes long. Raises NotLoggedIn, Denied."""
    from skychimp.permissions import Action, authorize
    from skychimp.services.reporting import rollups

    authorize(context.actor, Action.SEE_REPORTS)
    left = rollups.left(context.store)
    if left > LONG:
        with context.out.progress("counting", left) as tell:
            rollups.add_up(context.store, lambda counted: tell(counted, "attempts"))


def _write_page(context: Context, found: "Report", file: str) -> None:
    from skychimp.cli.commands.clients import made_whole
    from skychimp.site.reports import page

    text = page(found, context.settings.mail.timezone)
    if file == "-":
        context.out.raw(text)
        return
    try:
        with made_whole(file) as opened:
            opened.write(text)
    except OSError as error:
        raise InvalidValue(f"{file} can't be written: {error.strerror}", "name another file, or - for stdout") from None
    context.out.note(f"{file} is written; open it in a browser, and print it from there")


# For scripts


def _whole(found: "Report") -> dict[str, Any]:
    whole = flat(asdict(found))
    for occurrence in whole["occurrences"]:
        flat(occurrence)["rate"] = [flat(point) for point in occurrence["rate"]]
    for domain in whole["domains"]:
        flat(domain)
    return whole


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """The counts beside the other fields."""
    record |= record.pop("counts")
    return record


def _rows(found: "Report", table: str) -> Iterator[Any]:
    from skychimp.services.reporting.reports import shown

    if table == "replies":
        yield from found.replies
    elif table == "domains":
        for domain in found.domains:
            yield SimpleNamespace(
                domain=domain.domain or "(others)", deliveries=domain.deliveries, **shown(domain.counts)
            )
    elif table == "rate":
        for occurrence in found.occurrences:
            for point in occurrence.rate:
                more = {"due_at": occurrence.due_at, "a_second": round(point.a_second, 3)}
                yield SimpleNamespace(**vars(point), **point.counts, **more)
    else:
        for occurrence in found.occurrences:
            yield SimpleNamespace(**vars(occurrence) | shown(occurrence.counts))


# For eyes


def draw(found: "Report", width: int) -> "Iterator[RenderableType]":
    """The report as a terminal of this width shows it."""
    from rich.text import Text

    from skychimp.cli import charts
    from skychimp.cli.output import escape
    from skychimp.services.reporting.reports import shown

    stopped = ", disabled" if found.disabled else ""
    yield Text(escape(found.subject), "bold")
    yield Text(f"mailing {found.id} of {escape(found.owner)}, {found.status}{stopped}", "dim")
    if not found.occurrences:
        yield Text("\nit has not been due yet")
        return
    yield charts.title(f"{charts.many(found.deliveries, 'letter')}, {charts.many(found.attempts, 'attempt')}")
    yield charts.bars(shown(found.counts), width - 40)
    if len(found.tries) > 1:
        yield charts.title("Attempts a letter")
        tries = {charts.many(number, "attempt"): letters for number, letters in found.tries.items()}
        yield charts.bars(tries, width - 40)
    yield charts.title("Due times" + _latest(len(found.occurrences), FEW))
    yield _occurrences(found, width)
    if found.replies:
        yield charts.title("What servers said" + _most(len(found.replies)))
        yield from (reply(group) for group in found.replies[:MANY])
    if found.domains:
        yield charts.title("By domain" + _most(len(found.domains)))
        yield domains(found.domains[:MANY], width)


def _latest(number: int, shown: int) -> str:
    return f": the latest {shown} of {number}" if number > shown else ""


def _most(number: int) -> str:
    return f": the {MANY} most frequent" if number > MANY else ""


def _occurrences(found: "Report", width: int) -> "Table":
    from rich.text import Text

    from skychimp.cli import charts
    from skychimp.services.reporting.reports import shown

    table = charts.grid(right=(), columns=2)
    for row in found.occurrences[-FEW:]:
        counts = {name: number for name, number in shown(row.counts).items() if number}
        became = ", ".join(f"{number:,} {name}" for name, number in counts.items()) or "no letters"
        said = Text(f"{became}\n{row.state}" + (f" in {charts.span(row.took)}" if row.took is not None else ""))
        if row.peak is not None:
            pace = charts.spark([point.a_second for point in row.rate], width - 24)
            said.append(f", up to {row.peak:,.{0 if row.peak >= 10 else 1}f} letters a second\n").append(pace, "green")
        table.add_row(Text(row.due_at.astimezone().strftime("%Y-%m-%d %H:%M")), said)
    return table


def reply(group: "ReplyGroup") -> "Table":
    """Answers that say the same, how often they came, what they mean and what to do."""
    from rich.text import Text

    from skychimp.cli import charts
    from skychimp.cli.output import escape

    code = " ".join(filter(None, (str(group.code or ""), group.enhanced)))
    words = Text(escape(f"{code} {group.words}".strip()))
    words.append(f"\n{group.meaning}", "dim")
    if group.remedy:
        words.append(f"\n→ {group.remedy}", "bold")
    table = charts.grid(right=(0,), columns=3)
    table.columns[0].width, table.columns[1].width = 9, 10
    table.add_row(
        Text(f"{group.attempts:,}"), Text(group.outcome.replace("_", " "), charts.STYLES[group.outcome]), words
    )
    return table


def domains(found: "Sequence[DomainReport]", width: int) -> "Table":
    """Domains with a bar of how much was sent, and what was not."""
    from rich.text import Text

    from skychimp.cli import charts
    from skychimp.cli.output import escape
    from skychimp.services.reporting.reports import percent, shown

    table = charts.grid(right=(1, 2), columns=5)
    for one in found:
        others = {name: number for name, number in shown(one.counts).items() if number and name != "sent"}
        table.add_row(
            Text(escape(one.domain or "(others)")),
            Text(f"{one.deliveries:,}"),
            Text(percent(one.counts["sent"], one.tried)),
            Text(charts.bar(one.share_sent, max((width - 60) // 2, 10)), "green"),
            Text(", ".join(f"{number:,} {name}" for name, number in others.items()), "dim"),
        )
    return table
