"""The `skychimp mailings` commands: create mailings, control them, and show what they will do and have done."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from skychimp.cli.commands.run import exit_status, send, summary
from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, list_options
from skychimp.cli.display.mailing_view import SKIPPED_NOTE, next_step, show_due_times, show_mailing, show_mailings
from skychimp.cli.follow_log import follow_log
from skychimp.errors import InvalidValue, SkychimpError
from skychimp.shell import run_hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from skychimp.services.listing import ListOptions
    from skychimp.services.mailings.audience_input import Audience
    from skychimp.services.mailings.queries import MailingInfo
    from skychimp.services.reporting.delivery_log import AttemptInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

LOG_COLUMNS = {"at": "At", "email": "Email", "status": "Status", "attempt": "Attempt", "reply": "Reply"}
LOG_CSV_COLUMNS = (*LOG_COLUMNS, "phase", "code", "enhanced", "relay", "due_at", "delivery_id")
LOG_STATUSES = ("sent", "deferred", "failed", "unknown", "given_back")

Period = Literal["once", "day", "week", "month"]
CatchUpMode = Literal["latest", "all", "skip"]
MailingId = Annotated[int, typer.Argument(metavar="ID", help="Mailing ID.", show_default=False)]
End = Annotated[str | None, typer.Option(help="Stop sending at this time.", metavar="WHEN")]
ClientIds = Annotated[list[int] | None, typer.Option("--client", help="Client ID (repeatable).", metavar="ID")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="All clients with this tag (repeatable).")]
AllClients = Annotated[bool, typer.Option("--all-clients", help="All clients, including ones added later.")]


@app.command(epilog="skychimp mailings create --message 1 --start '2026-12-01 09:00' --every month --tag vip")
def create(
    ctx: typer.Context,
    message: Annotated[int, typer.Option(help="Message ID.", metavar="ID")],
    start: Annotated[
        str, typer.Option(help="Start time: now, +10m, '2026-12-01 09:00' or 2026-12-01T09:00+03:00.", metavar="WHEN")
    ],
    every: Annotated[Period, typer.Option(help="How often to send it.")],
    end: End = None,
    timezone: Annotated[str | None, typer.Option(help="Time zone (default: mail.timezone).", metavar="ZONE")] = None,
    client: ClientIds = None,
    tag: Tags = None,
    all_clients: AllClients = False,
    catch_up: Annotated[CatchUpMode, typer.Option(help="Which missed occurrences to send.")] = "latest",
    grace: Annotated[
        str | None,
        typer.Option(
            help="How late a missed occurrence may still be sent (default: 12h daily, 2d weekly, 5d monthly).",
            metavar="DURATION",
        ),
    ] = None,
    no_send: Annotated[bool, typer.Option("--no-send", help="Leave the sending to the next run.")] = False,
    json: Json = False,
) -> None:
    """Create a mailing. It is sent immediately if its start time has passed."""
    from skychimp.models import CatchUp, Every
    from skychimp.services.mailings import mailings
    from skychimp.services.mailings.audience_input import Audience
    from skychimp.services.mailings.schedules import CatchUpPolicy, ScheduleInput

    context = get_context(ctx, json)
    created = mailings.create(
        context.store,
        context.actor,
        message_id=message,
        schedule=ScheduleInput(start, end, Every(every), timezone or context.settings.mail.timezone),
        audience=Audience(all_clients, tag or (), client or ()),
        catch_up=CatchUpPolicy(CatchUp(catch_up), _parse_duration(grace)),
    )
    if no_send or created.next_at is None or created.next_at > datetime.now(UTC):
        show_mailing(context, created)
        context.out.note(next_step(created))
        _warn_if_on_hold(context)
        context.out.next("mailings", "preview", created.id)
    else:
        _send_now(context, created)


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List your mailings. A manager sees all mailings."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    rows = mailings.list_mailings(context.store, context.actor, list_options(limit, offset, search, sort))
    show_mailings(context, rows)


@app.command()
def show(ctx: typer.Context, mailing: MailingId, json: Json = False) -> None:
    """Show a mailing."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    show_mailing(context, mailings.show(context.store, context.actor, mailing), all_fields=True)


@app.command(epilog="skychimp mailings update 1 --every week --tag vip")
def update(
    ctx: typer.Context,
    mailing: MailingId,
    message: Annotated[int | None, typer.Option(help="ID of the new message.", metavar="ID")] = None,
    start: Annotated[str | None, typer.Option(help="New start time.", metavar="WHEN")] = None,
    end: End = None,
    no_end: Annotated[bool, typer.Option("--no-end", help="Remove the end time.")] = False,
    every: Annotated[Period | None, typer.Option(help="How often to send it.")] = None,
    timezone: Annotated[str | None, typer.Option(help="New time zone.", metavar="ZONE")] = None,
    client: ClientIds = None,
    tag: Tags = None,
    all_clients: AllClients = False,
    catch_up: Annotated[CatchUpMode | None, typer.Option(help="Which missed occurrences to send.")] = None,
    grace: Annotated[
        str | None, typer.Option(help="How late a missed occurrence may still be sent.", metavar="DURATION")
    ] = None,
    json: Json = False,
) -> None:
    """Change a mailing. A changed schedule applies from now on."""
    from skychimp.models import CatchUp, Every
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    if end is not None and no_end:
        raise InvalidValue("--end and --no-end cannot be combined", "use one of them")
    changed = mailings.change(
        context.store,
        context.actor,
        mailing,
        message_id=message,
        start=start,
        end=end,
        no_end=no_end,
        every=Every(every) if every else None,
        timezone=timezone,
        catch_up=CatchUp(catch_up) if catch_up else None,
        grace=_parse_duration(grace),
        audience=_new_audience(all_clients, tag, client),
    )
    show_mailing(context, changed)
    context.out.note(next_step(changed))


@app.command()
def delete(ctx: typer.Context, mailing: MailingId, yes: Yes = False, json: Json = False) -> None:
    """Delete a mailing. Its queued emails are cancelled."""
    from skychimp.permissions import Action
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    target = mailings.show(context.store, context.actor, mailing, action=Action.CHANGE_MAILINGS)
    context.confirm(f'delete mailing {target.id} ("{target.subject}")', yes=yes)
    show_mailing(context, mailings.remove(context.store, context.actor, mailing))


@app.command(epilog="skychimp mailings preview 1 --from 2027-01-01 --next 12")
def preview(
    ctx: typer.Context,
    mailing: MailingId,
    since: Annotated[
        str | None, typer.Option("--from", help="Start at this time (default: now).", metavar="WHEN")
    ] = None,
    number: Annotated[int, typer.Option("--next", min=1, max=1000, help="Show N due times.", metavar="N")] = 5,
    json: Json = False,
) -> None:
    """Show the next due times of a mailing."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    info, due_times = mailings.preview(context.store, context.actor, mailing, since=since, number=number)
    show_due_times(context, info, due_times)


@app.command(epilog="skychimp mailings duplicate 1 --start '2027-02-01 09:00'")
def duplicate(
    ctx: typer.Context,
    mailing: MailingId,
    start: Annotated[str | None, typer.Option(help="New start time.", metavar="WHEN")] = None,
    end: Annotated[str | None, typer.Option(help="New end time.", metavar="WHEN")] = None,
    json: Json = False,
) -> None:
    """Copy a mailing. The copy is disabled until you enable it."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    created = mailings.duplicate(context.store, context.actor, mailing, start=start, end=end)
    show_mailing(context, created)
    context.out.note(next_step(created))


@app.command()
def disable(
    ctx: typer.Context,
    mailing: MailingId,
    reason: Annotated[str, typer.Option(help="Reason, shown with the mailing.")] = "",
    json: Json = False,
) -> None:
    """Stop sending a mailing until it is enabled."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    changed = mailings.disable(context.store, context.actor, mailing, reason)
    show_mailing(context, changed)
    context.out.note(next_step(changed))


@app.command()
def enable(ctx: typer.Context, mailing: MailingId, json: Json = False) -> None:
    """Resume a disabled mailing."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    changed = mailings.enable(context.store, context.actor, mailing)
    show_mailing(context, changed)
    context.out.note(next_step(changed))


@app.command(
    epilog="skychimp mailings log 1 --status failed --domain example.org\n"
    "skychimp mailings log 1 --reply 5.1.1 --last --csv\nskychimp mailings log 1 --follow --since 1h"
)
def log(
    ctx: typer.Context,
    mailing: MailingId,
    status: Annotated[
        str | None, typer.Option(help=f"Only attempts with this status: {', '.join(LOG_STATUSES)}.", metavar="STATUS")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Only addresses in this domain.", metavar="DOMAIN")] = None,
    reply: Annotated[
        str | None, typer.Option(help="Only replies with this code (550 or 5.1.1) or text.", metavar="REPLY")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only since this time, or since this long ago (2h).", metavar="WHEN")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only before this time.", metavar="WHEN")] = None,
    last: Annotated[bool, typer.Option("--last", help="Show only the last attempt of each delivery.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Keep showing new attempts, until Ctrl-C.")] = False,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    csv: Annotated[bool, typer.Option("--csv", help="Output as CSV with a header.")] = False,
    json: Json = False,
) -> None:
    """Show the delivery attempts of a mailing, with the server's replies.

    With --follow and --json, each attempt is a JSON object on a line of its own.
    """
    from skychimp.services.reporting import delivery_log

    context = get_context(ctx, json)
    _check_log_options(
        status, csv=csv, json=context.out.json, follow=follow, page=bool(last or sort or limit is not None or offset)
    )

    def read(options: "ListOptions", after: int | None = None) -> "Iterator[AttemptInfo]":
        return delivery_log.list_attempts(
            context.store,
            context.actor,
            mailing,
            options,
            status=status,
            domain=domain,
            reply=reply,
            since=_parse_past(context, since),
            until=_parse_past(context, until),
            last=last,
            after=after,
        )

    if follow:
        _follow(context, lambda after: read(list_options(None, 0, search, None), after), csv=csv)
    attempts = read(list_options(limit, offset, search, sort))
    if csv:
        context.out.csv(attempts, LOG_CSV_COLUMNS)
    else:
        context.out.rows(attempts, LOG_COLUMNS, empty=_empty_log_note(context, mailing))


# Sending a new mailing


def _send_now(context: Context, created: "MailingInfo") -> None:
    """Send the first emails of a new mailing, and show it. It exists even if nothing can be sent."""
    from skychimp.services.mailings import mailings

    try:
        stats = send(context, created.id)
    except SkychimpError as error:
        context.out.warn(f"mailing {created.id} created but not sent: {error.message}")
        if error.hint:
            context.out.note(f"hint: {error.hint}")
        show_mailing(context, created)
        return
    mailing = mailings.show(context.store, context.actor, created.id)
    counts = asdict(summary(stats))
    if context.out.json:
        context.out.record(asdict(mailing) | {"run": counts})
    else:
        show_mailing(context, mailing)
        shown = ("sent", "deferred", "failed", "unknown", "queued")
        context.out.note(", ".join(f"{counts[name]:,} {name}" for name in shown if counts[name] or name == "sent"))
    if mailing.skipped_at is not None:
        context.out.note(SKIPPED_NOTE)
    context.out.next(*(["run"] if exit_status(stats) else ["mailings", "log", mailing.id]))


def _warn_if_on_hold(context: Context) -> None:
    from skychimp.delivery.sending.runner import why_held

    if reason := why_held(context.store):
        context.out.warn(f"the store is on hold {reason}; {run_hint('resolve', '--restored')} to send again")


# The log


def _check_log_options(status: str | None, *, csv: bool, json: bool, follow: bool, page: bool) -> None:
    if status is not None and status not in LOG_STATUSES:
        raise InvalidValue(f'invalid status "{status}"', f"choose one of: {', '.join(LOG_STATUSES)}")
    if csv and json:
        raise InvalidValue("--csv and --json cannot be combined", "use one of them")
    if follow and page:
        raise InvalidValue(
            "--follow cannot be combined with --last, --sort, --limit or --offset", "use --follow without them"
        )


def _follow(context: Context, read: "Callable[[int | None], Iterator[AttemptInfo]]", *, csv: bool) -> NoReturn:
    def show(attempts: "Iterator[AttemptInfo]") -> None:
        if csv:
            context.out.csv(attempts, LOG_CSV_COLUMNS, header=False)
        else:
            context.out.lines(attempts, LOG_COLUMNS)

    if csv:
        context.out.csv((), LOG_CSV_COLUMNS)
    follow_log(context, read, show)


def _empty_log_note(context: Context, mailing_id: int) -> str:
    from skychimp.services.mailings import mailings

    if mailings.show(context.store, context.actor, mailing_id).skipped_at is not None:
        return SKIPPED_NOTE
    return 'no attempts yet; run "skychimp run" to send due emails'


# Options


def _new_audience(all_clients: bool, tags: list[str] | None, client_ids: list[int] | None) -> "Audience | None":
    """Return the audience that the options select, or None if they select none."""
    from skychimp.services.mailings.audience_input import Audience

    if not all_clients and not tags and not client_ids:
        return None
    return Audience(all_clients, tags or (), client_ids or ())


def _parse_past(context: Context, text: str | None) -> datetime | None:
    from skychimp.delivery.scheduling.time_input import parse_past

    return None if text is None else parse_past(text, context.settings.mail.timezone, datetime.now(UTC))


def _parse_duration(text: str | None) -> timedelta | None:
    from skychimp.durations import parse_duration

    return None if text is None else parse_duration(text)
