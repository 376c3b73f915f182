"""The `skychimp mailings` commands: create mailings, control them, and show what they will do and have done."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.commands.mailings_create import EXAMPLE as CREATE_EXAMPLE
from skychimp.cli.commands.mailings_create import create
from skychimp.cli.commands.mailings_log import EXAMPLES as LOG_EXAMPLES
from skychimp.cli.commands.mailings_log import log
from skychimp.cli.commands.mailings_update import EXAMPLE as UPDATE_EXAMPLE
from skychimp.cli.commands.mailings_update import update
from skychimp.cli.context import (
    Context,
    Json,
    Limit,
    MailingName,
    MailingNames,
    Offset,
    Search,
    Sort,
    Yes,
    get_context,
    list_options,
)
from skychimp.cli.display.deletion import delete_all
from skychimp.cli.display.mailing_view import (
    COLUMNS,
    MANAGER_COLUMNS,
    draw_mailing,
    next_step,
    note_left_out,
    sent_next,
    show_due_times,
    show_mailing,
    show_mailings,
    show_whole_mailing,
)
from skychimp.cli.following import Interval, Watch, watch_interval_s, watch_screen
from skychimp.cli.options.columns import Columns, choose_columns
from skychimp.cli.options.mailing_options import confirm_sending, count_recipients, require_consent
from skychimp.text import count_of
from skychimp.translation import tr

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

AUDIENCE_COLUMNS = {"email": tr("Email"), "left_out": tr("Left out")}

app.command(epilog=CREATE_EXAMPLE)(create)


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    columns: Columns = None,
    json: Json = False,
) -> None:
    """List your mailings. A manager sees all mailings."""
    from skychimp.services.mailings import mailings
    from skychimp.services.mailings.queries import MailingInfo

    context = get_context(ctx, json)
    default = MANAGER_COLUMNS if context.actor.role == "manager" else COLUMNS
    shown = choose_columns(context, columns, default, MailingInfo)
    rows = mailings.list_mailings(context.store, context.actor, list_options(limit, offset, search, sort))
    show_mailings(context, rows, shown, is_filtered=search is not None)


@app.command(epilog="skychimp mailings show 1 --watch")
def show(
    ctx: typer.Context, mailing: MailingName, watch: Watch = False, interval: Interval = None, json: Json = False
) -> None:
    """Show a mailing, and how many clients it goes to now.

    With --watch, show how far its sending is until it is complete, or until Ctrl-C.
    """
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    interval_s = watch_interval_s(context, watch, interval)
    mailing_id = context.find_mailing(mailing)
    if interval_s is not None:
        _watch(context, mailing_id, interval_s)
        return
    shown = mailings.show(context.store, context.actor, mailing_id)
    show_whole_mailing(context, shown, count_recipients(context, mailing_id))


def _watch(context: Context, mailing_id: int, interval_s: float) -> None:
    """Keep showing how far a mailing is, and how fast, until it is complete."""
    from skychimp.cli.display.progress import Pace
    from skychimp.models import MailingStatus
    from skychimp.services.mailings import mailings

    pace, started_with = Pace(), (0, 0)

    def draw() -> "tuple[RenderableType, bool]":
        nonlocal pace, started_with
        mailing = mailings.show(context.store, context.actor, mailing_id)
        deliveries, done = mailing.deliveries or 0, mailing.done or 0
        if deliveries != started_with[0]:  # the first screen, or the mailing is due again
            pace, started_with = Pace(), (deliveries, done)
        already_done = started_with[1]
        rate = pace.describe(done - already_done, deliveries - already_done) if done > already_done else ""
        is_complete = mailing.status == MailingStatus.COMPLETED and done == deliveries
        return draw_mailing(mailing, "" if is_complete else rate), is_complete

    watch_screen(draw, interval_s)


@app.command(epilog="skychimp mailings audience 1 --left-out")
def audience(
    ctx: typer.Context,
    mailing: MailingName,
    left_out: Annotated[bool, typer.Option("--left-out", help="Only clients who get nothing.")] = False,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List who gets a mailing now, who does not, and why."""
    from skychimp.services.mailings import recipients

    context = get_context(ctx, json)
    mailing_id = context.find_mailing(mailing)
    clients = recipients.list_recipients(
        context.store,
        context.actor,
        mailing_id,
        only_left_out=left_out,
        require_consent=require_consent(context),
    )
    empty = tr("nobody is left out") if left_out else tr("the mailing goes to no client")
    context.out.rows(islice(clients, limit), AUDIENCE_COLUMNS, noun="client", empty=empty)
    if context.out.on_terminal and not context.out.json:
        counted = count_recipients(context, mailing_id)
        context.out.note(
            tr(
                "mailing {mailing_id} goes to {clients}",
                mailing_id=mailing_id,
                clients=count_of(counted.recipients, "client"),
            )
        )
        note_left_out(context, counted)


app.command(epilog=UPDATE_EXAMPLE)(update)


@app.command()
def delete(ctx: typer.Context, mailing: MailingNames, yes: Yes = False, json: Json = False) -> None:
    """Delete mailings. Their queued emails are cancelled."""
    from skychimp.permissions import Action
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    ids = map(context.find_mailing, mailing)
    delete_all(
        context,
        "mailing",
        [mailings.find(context.store, context.actor, each, action=Action.CHANGE_MAILINGS) for each in ids],
        describe=lambda target: f'mailing {target.id} ("{target.name or target.subject}")',
        remove=lambda target: mailings.remove(context.store, context.actor, target.id),
        columns=COLUMNS,
        show=lambda target: show_mailing(context, target),
        yes=yes,
    )


@app.command(epilog="skychimp mailings preview 1 --from 2027-01-01 --next 12")
def preview(
    ctx: typer.Context,
    mailing: MailingName,
    since: Annotated[
        str | None, typer.Option("--from", help="Start at this time (default: now).", metavar="WHEN")
    ] = None,
    number: Annotated[int, typer.Option("--next", min=1, max=1000, help="Show N due times.", metavar="N")] = 5,
    json: Json = False,
) -> None:
    """Show the next due times of a mailing."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    mailing_id = context.find_mailing(mailing)
    info, due_times = mailings.preview(context.store, context.actor, mailing_id, since=since, number=number)
    show_due_times(context, info, due_times)


@app.command(epilog="skychimp mailings duplicate 1 --start '2027-02-01 09:00'")
def duplicate(
    ctx: typer.Context,
    mailing: MailingName,
    start: Annotated[str | None, typer.Option(help="New start time.", metavar="WHEN")] = None,
    end: Annotated[str | None, typer.Option(help="New end time.", metavar="WHEN")] = None,
    json: Json = False,
) -> None:
    """Copy a mailing. The copy is disabled until you enable it."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    mailing_id = context.find_mailing(mailing)
    created = mailings.duplicate(context.store, context.actor, mailing_id, start=start, end=end)
    show_mailing(context, created)
    context.out.note(next_step(created))


@app.command()
def disable(
    ctx: typer.Context,
    mailing: MailingName,
    reason: Annotated[str, typer.Option(help="Reason, shown with the mailing.")] = "",
    json: Json = False,
) -> None:
    """Stop sending a mailing until it is enabled."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    mailing_id = context.find_mailing(mailing)
    changed = mailings.disable(context.store, context.actor, mailing_id, reason)
    show_mailing(context, changed)
    context.out.note(next_step(changed))


@app.command()
def enable(ctx: typer.Context, mailing: MailingName, yes: Yes = False, json: Json = False) -> None:
    """Resume a disabled or held mailing."""
    from skychimp.services.mailings import mailings, recipients

    context = get_context(ctx, json)
    mailing_id = context.find_mailing(mailing)
    counted = recipients.count_when_enabled(
        context.store, context.actor, mailing_id, require_consent=require_consent(context)
    )
    confirm_sending(context, counted, yes=yes)
    changed = mailings.enable(context.store, context.actor, mailing_id)
    show_mailing(context, changed)
    context.out.note(sent_next(counted.recipients) or next_step(changed))


@app.command(epilog="skychimp mailings retry 1 --failed --reply 5.7.1")
def retry(
    ctx: typer.Context,
    mailing: MailingName,
    failed: Annotated[bool, typer.Option("--failed", help="Those that failed.")] = False,
    expired: Annotated[bool, typer.Option("--expired", help="Those that expired.")] = False,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Those that were cancelled.")] = False,
    reply: Annotated[
        str, typer.Option(help="Only those whose last reply has this code (550 or 5.1.1) or text.", metavar="REPLY")
    ] = "",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Queue emails again that failed or expired.

    Those of the mailing's last occurrence are meant. The time after which they expire starts again. Clients
    with a suppressed or bad address are left out, and those without a consent if it is required.

    What was only written to the outbox is sent by `skychimp run --from-outbox`.
    """
    from skychimp.models import DeliveryState
    from skychimp.services.mailings import mailings, retries

    context = get_context(ctx, json)
    mailing_id = context.find_mailing(mailing)
    chosen = {DeliveryState.FAILED: failed, DeliveryState.EXPIRED: expired, DeliveryState.CANCELLED: cancelled}
    states = [state for state, is_chosen in chosen.items() if is_chosen] or retries.DEFAULT_STATES
    is_required = require_consent(context)
    counted = retries.count(context.store, context.actor, mailing_id, states, reply, require_consent=is_required)
    if counted.left_out:
        reasons = f"suppressed, deleted, {'without consent, ' if is_required else ''}or with a bad address"
        context.out.note(
            tr("{clients} left out: {reasons}", clients=count_of(counted.left_out, "client"), reasons=reasons)
        )
    context.confirm_sending(counted.queued, yes=yes)
    queued = counted
    if counted.queued:
        queued = retries.retry(context.store, context.actor, mailing_id, states, reply, require_consent=is_required)
    context.out.record(queued)
    if not queued.queued:
        context.out.note(tr("nothing to retry"))
        return
    info = mailings.find(context.store, context.actor, mailing_id)
    if info.disabled or info.held is not None:
        context.out.note(next_step(info))
    else:
        context.out.next("run")


app.command(epilog=LOG_EXAMPLES)(log)
