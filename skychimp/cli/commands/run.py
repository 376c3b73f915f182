"""`skychimp run`: send all due mailings once."""

import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal
from zoneinfo import ZoneInfo

import typer

from skychimp.cli import interrupts
from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.display.outbox_note import show_outbox_note
from skychimp.cli.display.progress import ProgressReporter
from skychimp.errors import InvalidValue
from skychimp.shell import run_hint
from skychimp.text import count_of
from skychimp.translation import Phrase, joined, tr, translated

if TYPE_CHECKING:
    from skychimp.delivery.sending.dispatcher import RunOptions
    from skychimp.delivery.sending.outcomes import RunStats
    from skychimp.services.mailings.forecast import Forecast
    from skychimp.services.mailings.outbox_mail import FromOutbox
    from skychimp.store.runs import OtherRun

app = typer.Typer(rich_markup_mode="rich")

MAIL_LEFT = 75
SHOWN = ("sent", "outbox", "deferred", "failed", "unknown", "expired", "replaced", "queued", "waiting", "stopped")
SHOWN_IF_ANY = ("outbox", "expired", "replaced", "waiting", "stopped")
STOPPED_BY_HAND = ("interrupted", "terminated")
"""The reasons to stop of Ctrl-C and SIGTERM."""
FORECAST_COLUMNS = {"mailing_id": tr("Mailing"), "due_at": tr("Due"), "email": tr("Email")}
LEFT_OUT_COLUMNS = FORECAST_COLUMNS | {"left_out": tr("Reason")}


@app.command(epilog="skychimp run --dry-run")
def run(
    ctx: typer.Context,
    mailing: Annotated[str | None, typer.Option(help="Send only this mailing (ID or name).", metavar="MAILING")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing. List the clients who would get an email.")
    ] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Send nothing. Show how many emails are due, and why clients would be left out."),
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="With --plan, list the clients who would be left out (always in a pipe).")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Send at most N emails.", metavar="N")] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Send even if another run or daemon on this host is sending the same.")
    ] = False,
    from_outbox: Annotated[
        bool,
        typer.Option(
            "--from-outbox", help="Also send the emails that were only written to the outbox. Not with --dry-run."
        ),
    ] = False,
    log_format: Annotated[
        Literal["human", "logfmt", "json"] | None,
        typer.Option(help="Write a log in this format (default: only what goes wrong).", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Send all due mailings once, then exit. No login required.

    Exits with status 75 if due mail is still queued or deferred.

    --from-outbox sends what was written to the outbox before there was a mail server. It leaves out clients who are
    suppressed by now, or have a newer email of the same mailing. Mailings that are disabled, held or have ended stay in
    the outbox. With --limit, at most N emails leave it.

    Exits at once with status 0 if another run or daemon on this host is already sending it.
    """
    from skychimp.delivery.sending.outcomes import RunStats
    from skychimp.delivery.sending.runner import AlreadySending
    from skychimp.delivery.sending.stop_signals import INTERRUPTED, TERMINATED

    context = get_context(ctx, json)
    context.is_unattended = True
    start_log(context, log_format)
    if dry_run and plan:
        raise InvalidValue(tr("--dry-run and --plan cannot be combined"), tr("use one of them"))
    if from_outbox and (dry_run or plan):
        hint = run_hint("mailings", "log", "ID", "--status", "outbox", "--last")
        raise InvalidValue(
            tr("--from-outbox cannot be combined with --dry-run or --plan"), tr("{hint} to see them", hint=hint)
        )
    if list_ and not plan:
        raise InvalidValue(
            tr("--list needs --plan"), tr("use --plan --list, or --dry-run to list who would get an email")
        )
    if dry_run or plan:
        is_list = list_ or dry_run or not context.out.on_terminal
        _show_forecast(context, _find(context, mailing), shows_left_out=plan, is_list=is_list, limit=limit)
        return
    with _monitored(context) as report_failure:
        mailing_id = _find(context, mailing)
        taken = _queue_outbox(context, mailing_id, limit) if from_outbox else None
        try:
            stats = send(context, mailing_id, limit, join=join)
        except AlreadySending as already:
            _show_other_run(context, already.other)
            return
        if stats.stopped in (INTERRUPTED, TERMINATED):
            report_failure(f"stopped: {stats.stopped}")
    shown = [name for name in SHOWN if name not in SHOWN_IF_ANY or getattr(stats, name)]
    context.out.record(asdict(replace(summary(stats), from_outbox=taken)), shown)
    show_outbox_note(context, stats.outbox, others_sent=stats.sent > 0)
    if stats == RunStats():
        context.out.note(tr("nothing was due"))
    elif stats.unknown:
        context.out.next("resolve")
    if stats.stopped in STOPPED_BY_HAND:
        context.out.warn(how_to_go_on(stats, mailing_id))
    _tidy(context, stats)
    status = exit_status(stats)
    if status:
        raise typer.Exit(status)


def start_log(context: Context, log_format: str | None = None) -> None:
    """Show what goes wrong while emails are sent, or write a log in a format, if one is asked for."""
    from skychimp.cli import event_log

    event_log.start(context.out, log_format or "human", logging.INFO if log_format else logging.WARNING)


def _queue_outbox(context: Context, mailing_id: int | None, limit: int | None) -> "FromOutbox":
    """Queue what is in the outbox, and show what stays there or is not sent any more."""
    from skychimp.services.mailings import outbox_mail

    taken = outbox_mail.queue_outbox(context.store, context.settings, mailing_id, limit)
    if any(vars(taken).values()):
        context.out.note(tr("{emails} queued from the outbox", emails=count_of(taken.queued, "email")))
    elif mailing_id is None:
        context.out.note(tr("the outbox is empty"))
    else:
        context.out.note(tr("the outbox has no emails of mailing {mailing_id}", mailing_id=mailing_id))
    if taken.cancelled:
        context.out.note(
            tr("{emails} cancelled: suppressed, bad or deleted clients", emails=count_of(taken.cancelled, "email"))
        )
    if taken.replaced:
        context.out.note(
            tr(
                "{emails} replaced: the clients have a newer one of the mailing",
                emails=count_of(taken.replaced, "email"),
            )
        )
    for left in taken.left:
        emails = count_of(left.emails, "email")
        context.out.note(
            tr(
                "mailing {mailing_id}: {emails} left in the outbox: {reason}",
                mailing_id=left.mailing_id,
                emails=emails,
                reason=left.reason,
            )
        )
    return taken


def send(context: Context, mailing_id: int | None = None, limit: int | None = None, *, join: bool = True) -> "RunStats":
    """Send what is due and show the progress. If the run ended early, show the reason on stderr.

    If a signal ended it, the caller shows how to go on. Raises AlreadySending if another run on this host is sending
    the same, unless this one may join it.
    """
    from skychimp.delivery.sending.dispatcher import RunOptions
    from skychimp.delivery.sending.runner import send_due

    store, settings = context.store, context.settings
    with context.out.progress(tr("sending")) as show_progress:
        options = RunOptions(mailing_id, limit, join)
        stats = send_due(store, settings, options, _reporter(context, options, show_progress), context.out.warn)
    if stats.stopped and stats.stopped not in STOPPED_BY_HAND:
        context.out.warn(tr("stopped: {reason}", reason=stats.stopped))
        if stats.hint:
            context.out.note(tr("hint: {hint}", hint=stats.hint))
    for mailing in stats.held:
        context.out.warn(tr("mailing {id} is held: {reason}", id=mailing.id, reason=mailing.reason))
        context.out.note(tr("hint: fix that, then {hint}", hint=run_hint("mailings", "enable", mailing.id)))
    return stats


def _find(context: Context, mailing: str | None) -> int | None:
    """Return the id of the only mailing to send, if one is named. Raises NotFound."""
    if mailing is None:
        return None
    from skychimp.services.mailings import mailings

    return mailings.require_mailing(context.store, mailing)


@contextmanager
def _monitored(context: Context) -> Iterator[Callable[[str], None]]:
    """Tell monitoring, if it is set up, how the run ends. Yield a function that takes a failure."""
    settings = context.settings.monitor
    if not settings.is_on:
        yield lambda failure: None
        return
    from skychimp.cli.event_log import Tail
    from skychimp.services.monitoring.monitor import watch_run

    with closing(Tail()) as tail, watch_run(settings, lambda: context.store, tail.read) as report_failure:
        yield report_failure


def how_to_go_on(stats: "RunStats", mailing_id: int | None) -> Phrase:
    """Return what a run did until a signal ended it, and the command that goes on."""
    waiting = stats.queued + stats.deferred + stats.waiting
    command = run_hint("run", *([] if mailing_id is None else ["--mailing", mailing_id]))
    return tr(
        "{stopped}: {emails} sent, {waiting:,} waiting; {command} to go on",
        stopped=stats.stopped,
        emails=count_of(stats.sent, "email"),
        waiting=waiting,
        command=command,
    )


def _tidy(context: Context, stats: "RunStats") -> None:
    """Do some of the housekeeping, unless a person is waiting for the end. A failure is no failure of the run."""
    from skychimp.errors import StoreFailed
    from skychimp.services.operations import housekeeping

    if stats.stopped == "interrupted":
        return
    try:
        housekeeping.tidy_after_run(
            context.store,
            keep_attempts=context.settings.delivery.keep_attempts,
            score_period=context.settings.inbound.soft_bounce_period,
        )
    except StoreFailed as error:
        context.out.warn(tr("cannot remove old records: {problem}", problem=error.message))


@dataclass(frozen=True)
class Summary:
    """What a run did. `queued` and `deferred` count what is left, `opened` the due times that it opened.

    `outbox` counts emails that were only written to the outbox. `from_outbox` tells what became of those that were
    there before, None without --from-outbox.

    `waiting` counts emails that go later, because other clients of the mailing get it first (its canary). `expired`
    counts emails whose time is over, `replaced` those whose clients get a newer one instead. `other_run` is the run
    that was already sending the same, so that this one did nothing.
    """

    sent: int = 0
    outbox: int = 0
    deferred: int = 0
    failed: int = 0
    unknown: int = 0
    expired: int = 0
    replaced: int = 0
    queued: int = 0
    waiting: int = 0
    opened: int = 0
    stopped: str | None = None
    other_run: "OtherRun | None" = None
    from_outbox: "FromOutbox | None" = None


def summary(stats: "RunStats") -> Summary:
    """Return the part of a run's stats that is shown."""
    return Summary(
        sent=stats.sent,
        outbox=stats.outbox,
        deferred=stats.deferred,
        failed=stats.failed,
        unknown=stats.unknown,
        expired=stats.expired,
        replaced=stats.replaced,
        queued=stats.queued,
        waiting=stats.waiting,
        opened=stats.opened,
        stopped=stats.stopped or None,
    )


def exit_status(stats: "RunStats") -> int:
    """Return the exit status: 130 after Ctrl-C, 75 if due mail is still queued, deferred or held, otherwise 0."""
    if stats.stopped == "interrupted":
        return interrupts.STATUS
    is_left = stats.queued or stats.deferred or any(mailing.is_opening for mailing in stats.held)
    return MAIL_LEFT if is_left else 0


def _show_other_run(context: Context, other: "OtherRun") -> None:
    """Show that another run is sending, so that this one does nothing."""
    if context.out.json:
        context.out.record(asdict(Summary(other_run=other)))
    zone = context.settings.mail.timezone
    since = other.started_at.astimezone(ZoneInfo(zone) if zone else None)
    context.out.note(
        tr(
            "process {pid} is already sending this, since {since:%Y-%m-%d %H:%M:%S}; use --join to help it",
            pid=other.pid,
            since=since,
        )
    )


def _reporter(context: Context, options: "RunOptions", show_progress: ProgressReporter) -> Callable[["RunStats"], None]:
    from skychimp.errors import StoreFailed
    from skychimp.store import ledger
    from skychimp.store.occurrences import canary

    next_count_at, total, emails = 0.0, 0, tr("emails")

    def report(stats: "RunStats") -> None:
        nonlocal next_count_at, total
        done, started_at = stats.sent + stats.outbox + stats.failed + stats.unknown, time.monotonic()
        if started_at >= next_count_at:
            with suppress(StoreFailed), context.store.read() as db:  # a run does not end because of its progress
                pending = ledger.count_pending(db.connection(), options.mailing_id) - stats.deferred
                pending -= sum(each.emails for each in canary.list_waiting(db.connection(), options.mailing_id))
                total = min(done + max(pending, 0), options.limit or sys.maxsize)
            # Counting many deliveries is slow. It must not take more than a hundredth of the time.
            next_count_at = started_at + max(1.0, 100 * (time.monotonic() - started_at))
        counts = {"failed": stats.failed, "deferred": stats.deferred, "unknown": stats.unknown}
        others = [f"{number} {name}" for name, number in counts.items() if number]
        described = joined(", ", (emails, *others)) if others else emails  # called for each email
        show_progress(done, described, total if total >= done and total else None)

    return report


def _show_forecast(
    context: Context, mailing_id: int | None, *, shows_left_out: bool, is_list: bool, limit: int | None
) -> None:
    """Show the clients who would get an email in the next run, or those who would be left out and why.

    Unless it `is_list`, show only how many they are for each due time.
    """
    from skychimp.cli.options.attachment_options import attachments_folder
    from skychimp.services.mailings.forecast import BEYOND_LIMIT, forecast

    totals: dict[tuple[int, datetime], DueTotal] = {}
    is_cut = False

    def shown_rows() -> "Iterator[Forecast]":
        nonlocal is_cut
        would_send = 0
        settings = context.settings.delivery
        for row in forecast(
            context.store,
            context.store.now(),
            mailing_id,
            require_consent=settings.require_consent,
            canary_failure_rate=settings.canary_failure_rate,
            folder=attachments_folder(context),
        ):
            if row.left_out is None and would_send == limit:
                if not shows_left_out:
                    is_cut = True
                    return
                row = replace(row, left_out=BEYOND_LIMIT)
            would_send += row.left_out is None
            totals.setdefault((row.mailing_id, row.due_at), DueTotal(row.mailing_id, row.due_at)).add(row)
            if (row.left_out is None) != shows_left_out:
                yield row

    if context.out.json:
        context.out.json_object(_forecast_parts(shown_rows(), totals))
        return
    if is_list:
        columns = LEFT_OUT_COLUMNS if shows_left_out else FORECAST_COLUMNS
        context.out.rows(
            shown_rows(), columns, empty=tr("no clients are left out") if shows_left_out else tr("nothing is due")
        )
    else:
        deque(shown_rows(), maxlen=0)
        lines = list(map(_in_words, totals.values())) or [tr("nothing is due")]
        context.out.text("\n".join(map(translated, lines)))
    if is_list:
        for total in totals.values():
            context.out.note(_in_words(total))
    if is_cut:
        context.out.note(tr("the other clients were not looked at, because of --limit"))
    context.out.note(tr("nothing was sent"))
    if not is_list and any(total.left_out for total in totals.values()):
        context.out.next("run", "--plan", "--list")


@dataclass
class DueTotal:
    """How many emails the next run would send for one due time, and how many clients it would leave out."""

    mailing_id: int
    due_at: datetime
    would_send: int = 0
    left_out: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """How many clients each kind of reason leaves out."""
    remark: str = ""
    """Why nothing at all is sent."""

    def add(self, row: "Forecast") -> None:
        """Count a row of the forecast."""
        from skychimp.services.mailings.forecast import kind_of_reason

        self.would_send += row.left_out is None
        self.left_out += row.left_out is not None
        if row.left_out is not None and row.email:
            self.reasons[kind_of_reason(row.left_out)] += 1
        elif row.left_out is not None:
            self.remark = row.left_out

    def counts(self) -> dict[str, object]:
        """Return the numbers as JSON has them."""
        names = ("mailing_id", "due_at", "would_send", "left_out")
        return {name: getattr(self, name) for name in names}


def _in_words(total: DueTotal) -> Phrase:
    """Return `mailing 3, due 2026-12-01 09:00: 1,988 emails; left out: 12 suppressed, 3 bad address`."""
    emails = count_of(total.would_send, "email") if total.would_send or not total.remark else total.remark
    values = {"mailing_id": total.mailing_id, "due_at": total.due_at.astimezone(), "emails": emails}
    if not total.reasons:
        return tr("mailing {mailing_id}, due {due_at:%Y-%m-%d %H:%M}: {emails}", **values)
    counted = [
        tr("{number:,} {reason}", number=number, reason=reason) for reason, number in total.reasons.most_common()
    ]
    return tr(
        "mailing {mailing_id}, due {due_at:%Y-%m-%d %H:%M}: {emails}; left out: {reasons}",
        **values,
        reasons=joined(", ", counted),
    )


def _forecast_parts(
    rows: "Iterator[Forecast]", totals: dict[tuple[int, datetime], DueTotal]
) -> Iterator[tuple[str, object]]:
    """Yield the parts of the JSON object. The totals are known once all rows were read."""
    yield "clients", map(asdict, rows)
    yield "due", (total.counts() for total in totals.values())
    yield from _forecast_summary(totals.values()).items()


def _forecast_summary(totals: Iterable[DueTotal]) -> dict[str, object]:
    """Return a summary with the fields of a real run, which sent nothing."""
    would_send = sum(total.would_send for total in totals)
    return asdict(Summary(queued=would_send)) | {"would_send": would_send}
