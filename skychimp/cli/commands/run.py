"""`skychimp run`: send all due mailings once."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.display.progress import ProgressReporter
from skychimp.errors import InvalidValue

if TYPE_CHECKING:
    from skychimp.delivery.sending.dispatcher import RunOptions
    from skychimp.delivery.sending.outcomes import RunStats
    from skychimp.services.mailings.forecast import Forecast

app = typer.Typer(rich_markup_mode="rich")

MAIL_LEFT = 75
INTERRUPTED = 130
SHOWN = ("sent", "deferred", "failed", "unknown", "queued", "stopped")
FORECAST_COLUMNS = {"mailing_id": "Mailing", "due_at": "Due", "email": "Email"}
LEFT_OUT_COLUMNS = FORECAST_COLUMNS | {"left_out": "Reason"}


@app.command(epilog="skychimp run --dry-run")
def run(
    ctx: typer.Context,
    mailing: Annotated[int | None, typer.Option(help="Send only this mailing.", metavar="ID")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing. List the clients who would get an email.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Send nothing. List the clients who would be left out, and why.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Send at most N emails.", metavar="N")] = None,
    json: Json = False,
) -> None:
    """Send all due mailings once, then exit. No login required.

    Exits with status 75 if due mail is still queued or deferred.
    """
    from skychimp.delivery.sending.outcomes import RunStats
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    context.is_unattended = True
    if dry_run and plan:
        raise InvalidValue("--dry-run and --plan cannot be combined", "use one of them")
    if mailing is not None:
        mailings.require_mailing(context.store, mailing)
    if dry_run or plan:
        _show_forecast(context, mailing, shows_left_out=plan, limit=limit)
        return
    stats = send(context, mailing, limit)
    context.out.record(summary(stats), SHOWN if stats.stopped else SHOWN[:-1])
    if stats == RunStats():
        context.out.note("nothing was due")
    elif stats.unknown:
        context.out.next("resolve")
    status = exit_status(stats)
    if status:
        raise typer.Exit(status)


def send(context: Context, mailing_id: int | None = None, limit: int | None = None) -> "RunStats":
    """Send what is due and show the progress. If the run ended early, show the reason on stderr."""
    from skychimp.cli import event_log
    from skychimp.delivery.sending.dispatcher import RunOptions
    from skychimp.delivery.sending.runner import send_due

    store, settings = context.store, context.settings
    event_log.start(context.out, "human", logging.WARNING)
    with context.out.progress("sending") as show_progress:
        options = RunOptions(mailing_id, limit)
        stats = send_due(store, settings, options, _reporter(context, options, show_progress), context.out.warn)
    if stats.stopped:
        context.out.warn(f"stopped: {stats.stopped}")
        if stats.hint:
            context.out.note(f"hint: {stats.hint}")
    return stats


@dataclass(frozen=True)
class Summary:
    """What a run did. `queued` and `deferred` count what is still waiting, `opened` the due times that it opened."""

    sent: int
    deferred: int
    failed: int
    unknown: int
    queued: int
    opened: int
    stopped: str | None


def summary(stats: "RunStats") -> Summary:
    """Return the part of a run's stats that is shown."""
    return Summary(
        stats.sent, stats.deferred, stats.failed, stats.unknown, stats.queued, stats.opened, stats.stopped or None
    )


def exit_status(stats: "RunStats") -> int:
    """Return the exit status: 130 after Ctrl-C, 75 if due mail is still queued or deferred, otherwise 0."""
    if stats.stopped == "interrupted":
        return INTERRUPTED
    return MAIL_LEFT if stats.queued or stats.deferred else 0


def _reporter(context: Context, options: "RunOptions", show_progress: ProgressReporter) -> Callable[["RunStats"], None]:
    from skychimp.errors import StoreFailed
    from skychimp.store import ledger

    next_count_at, total = 0.0, 0

    def report(stats: "RunStats") -> None:
        nonlocal next_count_at, total
        done, started_at = stats.sent + stats.failed + stats.unknown, time.monotonic()
        if started_at >= next_count_at:
            with suppress(StoreFailed), context.store.read() as db:  # a run does not end because of its progress
                pending = ledger.count_pending(db.connection(), options.mailing_id) - stats.deferred
                total = min(done + max(pending, 0), options.limit or sys.maxsize)
            # Counting many deliveries is slow. It must not take more than a hundredth of the time.
            next_count_at = started_at + max(1.0, 100 * (time.monotonic() - started_at))
        counts = {"failed": stats.failed, "deferred": stats.deferred, "unknown": stats.unknown}
        description = "emails" + "".join(f", {number} {name}" for name, number in counts.items() if number)
        show_progress(done, description, total if total >= done and total else None)

    return report


def _show_forecast(context: Context, mailing_id: int | None, *, shows_left_out: bool, limit: int | None) -> None:
    """Show the clients who would get an email in the next run, or those who would be left out and why."""
    from skychimp.services.mailings.forecast import forecast

    totals: dict[tuple[int, datetime], _DueTotal] = {}

    def shown_rows() -> "Iterator[Forecast]":
        would_send = 0
        for row in forecast(context.store, context.store.now(), mailing_id):
            if row.left_out is None and would_send == limit:
                row = replace(row, left_out="more than --limit")
            is_sent = row.left_out is None
            would_send += is_sent
            total = totals.setdefault((row.mailing_id, row.due_at), _DueTotal(row.mailing_id, row.due_at))
            total.would_send += is_sent
            total.left_out += not is_sent
            if is_sent != shows_left_out:
                yield row

    if context.out.json:
        clients = [asdict(row) for row in shown_rows()]
        due = [asdict(total) for total in totals.values()]
        context.out.record(_forecast_summary(totals.values()) | {"due": due, "clients": clients})
        return
    columns = LEFT_OUT_COLUMNS if shows_left_out else FORECAST_COLUMNS
    context.out.rows(shown_rows(), columns, empty="no clients are left out" if shows_left_out else "nothing is due")
    for total in totals.values():
        context.out.note(
            f"mailing {total.mailing_id}, due {total.due_at.isoformat(timespec='seconds')}: "
            f"would send {total.would_send}, leave out {total.left_out}"
        )
    context.out.note("nothing was sent")


@dataclass
class _DueTotal:
    """How many emails the next run would send for one due time, and how many clients it would leave out."""

    mailing_id: int
    due_at: datetime
    would_send: int = 0
    left_out: int = 0


def _forecast_summary(totals: Iterable[_DueTotal]) -> dict[str, object]:
    """Return a summary with the fields of a real run, which sent nothing."""
    would_send = sum(total.would_send for total in totals)
    return asdict(Summary(0, 0, 0, 0, queued=would_send, opened=0, stopped=None)) | {"would_send": would_send}
