"""`skychimp run`: send what is due, once."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.output import Tell
from skychimp.errors import InvalidValue

if TYPE_CHECKING:
    from skychimp.delivery.sending.dispatcher import RunOptions, RunStats
    from skychimp.services.mailings.forecast import Forecast

app = typer.Typer(rich_markup_mode="rich")

MAIL_LEFT = 75
INTERRUPTED = 130
OUTLOOK = {"mailing_id": "Mailing", "due_at": "Due", "email": "E-mail", "left_out": "Left out, because"}


@app.command(epilog="skychimp run --dry-run")
def run(
    ctx: typer.Context,
    mailing: Annotated[int | None, typer.Option(help="Only this mailing.", metavar="ID")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; say to whom it would.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Send nothing; say who would be left out, and why.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many letters.", metavar="N")] = None,
    json: Json = False,
) -> None:
    """Send what is due, once: what needs no login, for whoever runs the service.

    Leaves with 75 where due mail is left queued or deferred, for the next run.
    """
    from skychimp.delivery.sending.dispatcher import RunStats
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    if dry_run and plan:
        raise InvalidValue("--dry-run and --plan can't go together")
    if mailing is not None:
        mailings.require(context.store, mailing)
    if dry_run or plan:
        _look_ahead(context, mailing, left_out=plan, limit=limit)
        return
    stats = send(context, mailing, limit)
    context.out.one(summary(stats))
    if stats == RunStats():
        context.out.note("nothing was due")
    elif stats.unknown:
        context.out.next("resolve")
    status = exit_status(stats)
    if status:
        raise typer.Exit(status)


def send(context: Context, mailing_id: int | None = None, limit: int | None = None) -> "RunStats":
    """Send what is due, with progress; what stopped it is said on stderr."""
    from skychimp.cli import event_log
    from skychimp.delivery.sending.dispatcher import RunOptions
    from skychimp.delivery.sending.runner import send_due

    store, settings = context.store, context.settings
    event_log.start(context.out, "human", logging.WARNING)
    with context.out.progress("sending") as tell:
        scope = RunOptions(mailing_id, limit)
        stats = send_due(store, settings, scope, _reporter(context, scope, tell), context.out.warn)
    if stats.stopped:
        context.out.warn(f"stopped: {stats.stopped}")
        if stats.hint:
            context.out.note(f"hint: {stats.hint}")
    return stats


@dataclass(frozen=True)
class Summary:
    """What a run did, and what it left: `queued` and `deferred` still wait."""

    sent: int
    deferred: int
    failed: int
    unknown: int
    queued: int
    opened: int
    stopped: str | None


def summary(stats: "RunStats") -> Summary:
    return Summary(
        stats.sent, stats.deferred, stats.failed, stats.unknown, stats.queued, stats.opened, stats.stopped or None
    )


def exit_status(stats: "RunStats") -> int:
    if stats.stopped == "interrupted":
        return INTERRUPTED
    return MAIL_LEFT if stats.queued or stats.deferred else 0


def _reporter(context: Context, scope: "RunOptions", tell: Tell) -> Callable[["RunStats"], None]:
    from skychimp.store import ledger

    count_at, total = 0.0, 0

    def report(stats: "RunStats") -> None:
        nonlocal count_at, total
        done, began = stats.sent + stats.failed + stats.unknown, time.monotonic()
        if began >= count_at:  # a count takes a hundredth of the time at most, however many there are
            with context.store.read() as db:
                waiting = ledger.waiting(db.connection(), scope.mailing_id) - stats.deferred
            total = min(done + max(waiting, 0), scope.limit or sys.maxsize)
            count_at = began + max(1.0, 100 * (time.monotonic() - began))
        parts = {"failed": stats.failed, "deferred": stats.deferred, "unknown": stats.unknown}
        words = "letters" + "".join(f", {number} {name}" for name, number in parts.items() if number)
        tell(done, words, total if total >= done and total else None)

    return report


def _look_ahead(context: Context, mailing_id: int | None, *, left_out: bool, limit: int | None) -> None:
    """Say whom the next run would write to, or whom it would leave out, and why."""
    from skychimp.services.mailings.forecast import forecast

    due: dict[tuple[int, datetime], _Due] = {}

    def chosen() -> "Iterator[Forecast]":
        would_send = 0
        for row in forecast(context.store, datetime.now(UTC), mailing_id):
            if row.left_out is None and would_send == limit:
                row = replace(row, left_out="more than --limit")
            sends = row.left_out is None
            would_send += sends
            counts = due.setdefault((row.mailing_id, row.due_at), _Due(row.mailing_id, row.due_at))
            counts.would_send += sends
            counts.left_out += not sends
            if sends != left_out:
                yield row

    if context.out.json:
        clients = [asdict(row) for row in chosen()]
        context.out.one(
            _forecast(due.values()) | {"due": [asdict(counts) for counts in due.values()], "clients": clients}
        )
        return
    columns = OUTLOOK if left_out else {name: OUTLOOK[name] for name in list(OUTLOOK)[:3]}
    context.out.rows(chosen(), columns, empty="nobody is left out" if left_out else "nothing is due")
    for counts in due.values():
        context.out.note(
            f"mailing {counts.mailing_id}, due {counts.due_at.isoformat(timespec='seconds')}: "
            f"would send {counts.would_send}, leave out {counts.left_out}"
        )
    context.out.note("nothing was sent")


@dataclass
class _Due:
    """What the next run would do about one due time."""

    mailing_id: int
    due_at: datetime
    would_send: int = 0
    left_out: int = 0


def _forecast(due: Iterable[_Due]) -> dict[str, object]:
    """A summary like that of a run, of one that sent nothing."""
    would_send = sum(counts.would_send for counts in due)
    return asdict(Summary(0, 0, 0, 0, queued=would_send, opened=0, stopped=None)) | {"would_send": would_send}
