"""Draw the report of a mailing on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from skychimp.cli.display import charts
from skychimp.cli.display.values import escape
from skychimp.services.reporting.reports import counts_by_status, format_percent
from skychimp.text import count_of, thousands
from skychimp.translation import Phrase, joined, tr, translated, verbatim

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from skychimp.services.reporting.reports import DomainReport, OccurrenceReport, ReplyGroup, Report
    from skychimp.services.reporting.returns import RateReport

MAX_OCCURRENCES = 12
MAX_ROWS = 10
"""Reply groups and domains that are shown."""


def draw_report(report: "Report", width: int) -> "Iterator[RenderableType]":
    """Yield the parts of a report for a terminal of this width."""
    from rich.text import Text

    yield Text(escape(report.subject), "bold")
    yield Text(translated(_describe_mailing(report)), "dim")
    if not report.occurrences:
        yield Text(f"\n{translated(tr('nothing was due yet'))}")
        return
    yield charts.heading(joined(", ", (count_of(report.deliveries, "email"), count_of(report.attempts, "attempt"))))
    yield charts.bars(counts_by_status(report.counts), width - 40)
    if any(report.returned.values()):
        returned = tr("came back after sending: {counts}", counts=list_counts(report.returned))
        yield Text(translated(returned), "red")
    yield charts.heading(tr("Bounces and complaints"))
    yield from map(draw_rate, report.rates)
    if len(report.tries) > 1:
        yield charts.heading(tr("Attempts per email"))
        tries: dict[str, int] = {count_of(attempts, "attempt"): emails for attempts, emails in report.tries.items()}
        yield charts.bars(tries, width - 40)
    yield charts.heading(_limited(tr("Due times"), tr("latest"), MAX_OCCURRENCES, len(report.occurrences)))
    yield _draw_occurrences(report, width)
    if report.replies:
        yield charts.heading(_limited(tr("Server replies"), tr("most frequent"), MAX_ROWS, len(report.replies)))
        yield from map(draw_reply, report.replies[:MAX_ROWS])
    if report.domains:
        yield charts.heading(_limited(tr("Domains"), tr("largest"), MAX_ROWS, len(report.domains)))
        yield draw_domains(report.domains[:MAX_ROWS], width)


def draw_rate(rate: "RateReport") -> "Text":
    """Return a rate beside the published limits: `bounces     2.5 % (25 of 1,000 emails), keep it below 5 % ...`."""
    from rich.text import Text

    style = "green" if rate.is_good else "yellow" if (rate.rate or 0) < rate.limit else "red"
    kind, in_words, advice = map(translated, (rate.kind, rate.in_words, rate.advice))
    return Text.assemble(f"{kind:<12}", (in_words, style), (f", {advice}", "dim"))


def draw_reply(group: "ReplyGroup") -> "Table":
    """Return a group of replies: how many there were, what they mean, and what to do."""
    from rich.text import Text

    codes = " ".join(filter(None, (str(group.code or ""), group.enhanced)))
    reply = Text(escape(f"{codes} {group.words}".strip()))
    reply.append(f"\n{translated(group.meaning)}", "dim")
    if group.remedy:
        reply.append(f"\n→ {translated(group.remedy)}", "bold")
    table = charts.borderless_table(numbers=(0,), columns=3)
    table.columns[0].width, table.columns[1].width = 9, 10
    outcome = Text(group.outcome.replace("_", " "), charts.STYLES[group.outcome])
    table.add_row(Text(translated(thousands(group.attempts))), outcome, reply)
    return table


def draw_domains(domains: "Sequence[DomainReport]", width: int) -> "Table":
    """Return a table of domains, each with a bar of its share of sent emails, and the numbers of all others."""
    from rich.text import Text

    table = charts.borderless_table(numbers=(1, 2), columns=5)
    for domain in domains:
        table.add_row(
            Text(escape(domain.domain or translated(tr("(others)")))),
            Text(translated(thousands(domain.deliveries))),
            Text(translated(format_percent(domain.counts["sent"], domain.tried))),
            charts.bar(domain.share_sent, max((width - 60) // 2, 10)),
            Text(translated(list_counts(counts_by_status(domain.counts), leave_out="sent")), "dim"),
        )
    return table


def list_counts(counts: Mapping[str, int], *, leave_out: str = "") -> Phrase:
    """Return the counts above zero in a line: `998 sent, 2 failed`."""
    shown = {name.replace("_", " "): number for name, number in counts.items() if number and name != leave_out}
    return joined(", ", (tr("{number:,} {state}", number=number, state=state) for state, number in shown.items()))


def _describe_mailing(report: "Report") -> Phrase:
    about = {"id": report.id, "owner": escape(report.owner), "status": report.status}
    if report.disabled:
        return tr("mailing {id} of {owner}, {status}, disabled", **about)
    return tr("mailing {id} of {owner}, {status}", **about)


def _limited(title: Phrase, which: Phrase, most: int, number: int) -> Phrase:
    if number <= most:
        return title
    return tr("{title} ({most} {order} of {number:,})", title=title, most=most, order=which, number=number)


def _draw_occurrences(report: "Report", width: int) -> "Table":
    from rich.text import Text

    table = charts.borderless_table(numbers=(), columns=2)
    for occurrence in report.occurrences[-MAX_OCCURRENCES:]:
        about = _describe(occurrence, width - 24)
        if occurrence.subject and occurrence.subject != report.subject:
            about = Text(f"{escape(occurrence.subject)}\n").append_text(about)
        table.add_row(Text(occurrence.due_at.astimezone().strftime("%Y-%m-%d %H:%M")), about)
    return table


def _describe(occurrence: "OccurrenceReport", width: int) -> "Text":
    """Return an occurrence's counts, its state, and a sparkline of its sending rate."""
    from rich.text import Text

    counts = list_counts(counts_by_status(occurrence.counts)) or tr("no emails")
    state = verbatim(occurrence.state)
    if occurrence.duration is not None:
        state = tr("{state} in {duration}", state=state, duration=charts.format_elapsed(occurrence.duration))
    text = Text(f"{translated(counts)}\n{translated(state)}")
    if occurrence.peak is not None:
        rate = f"{occurrence.peak:,.{0 if occurrence.peak >= 10 else 1}f}"
        text.append(f"{translated(tr(', up to {rate} emails per second', rate=rate))}\n")
        text.append(charts.sparkline([point.per_second for point in occurrence.rate], width), "green")
    return text
