"""`skychimp resolve`: resolve deliveries with an unknown outcome, and end the hold of a restored store."""

from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, Operator, Yes, get_context
from skychimp.errors import Conflict, InvalidValue
from skychimp.text import count_of
from skychimp.translation import Phrase, tr, translated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from skychimp.services.operations.backups import HeldWork
    from skychimp.services.operations.unknown_deliveries import Resolution, UnknownDelivery

app = typer.Typer(rich_markup_mode="rich")

COLUMNS = {
    "id": tr("Delivery"),
    "mailing_id": tr("Mailing"),
    "due_at": tr("Due"),
    "email": tr("Email"),
    "at": tr("Tried"),
    "reply": tr("Reply"),
    "next_try_at": tr("Sent again"),
    "phase": tr("Phase"),
    "relay": tr("Relay"),
    "queue_id": tr("Queue ID"),
    "message_id": tr("Message-ID"),
}  # fmt: skip
NEXT_STEP = tr('search the mail server\'s log for the Message-ID, then run "skychimp resolve --sent ID"')
CHOOSE_ONE = tr("use one of --sent, --failed and --resend")


@app.command(epilog="skychimp resolve --resend --all")
def resolve(
    ctx: typer.Context,
    deliveries: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="Delivery IDs.", show_default=False)
    ] = None,
    sent: Annotated[bool, typer.Option("--sent", help="Mark them as sent.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Mark them as failed. They are not sent again.")] = False,
    resend: Annotated[bool, typer.Option("--resend", help="Send exactly the same emails again.")] = False,
    all_unknown: Annotated[bool, typer.Option("--all", help="Resolve all unknown deliveries.")] = False,
    restored: Annotated[
        bool,
        typer.Option(
            "--restored",
            help="Resume sending after a restore. With --sent, --failed or --resend, decide about what was waiting.",
        ),
    ] = False,
    operator: Operator = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Resolve deliveries with an unknown outcome, because the server's final reply was lost.

    Without options, list them.
    """
    from skychimp.services.operations import unknown_deliveries as service
    from skychimp.services.operations.unknown_deliveries import Resolution

    context = get_context(ctx, json)
    flags = {Resolution.SENT: sent, Resolution.FAILED: failed, Resolution.RESEND: resend}
    chosen = [resolution for resolution, is_set in flags.items() if is_set]
    if restored:
        if len(chosen) > 1 or deliveries or all_unknown:
            raise InvalidValue(tr("--restored can be combined with only one of --sent, --failed and --resend"))
        _resume(context, chosen[0] if chosen else None, operator=operator, yes=yes)
        return
    if operator:
        raise InvalidValue(tr("--operator requires --restored"))
    if not chosen and not deliveries and not all_unknown:
        _show(context, service.list_unknown(context.store, context.actor))
        return
    if len(chosen) != 1:
        raise InvalidValue(tr("more than one outcome given") if chosen else tr("no outcome given"), CHOOSE_ONE)
    if bool(deliveries) == all_unknown:
        raise InvalidValue(
            tr("--all cannot be combined with delivery IDs") if deliveries else tr("no deliveries given"),
            tr("use delivery IDs or --all"),
        )
    resolved = service.resolve(
        context.store,
        context.actor,
        chosen[0],
        ids=None if all_unknown else deliveries,
    )
    context.out.record(resolved)
    if chosen[0] == Resolution.RESEND and resolved.resolved:
        context.out.next("run")


def _show(context: Context, unknown: "Iterator[UnknownDelivery]") -> None:
    if context.out.json or not context.out.on_terminal:
        context.out.rows(unknown, COLUMNS)
        return
    parts = list(map(_render, unknown))
    context.out.draw(*parts)
    context.out.note(NEXT_STEP if parts else tr("no unknown deliveries"))


def _render(delivery: "UnknownDelivery") -> "RenderableType":
    """Return a delivery as a block of lines for a terminal."""
    from rich.text import Text

    from skychimp.cli.display import charts
    from skychimp.cli.display.values import escape, terminal_text

    text = Text(escape(delivery.email), "bold", overflow="fold")
    due = tr(
        "mailing {mailing_id}, due {due_at:%Y-%m-%d %H:%M}",
        mailing_id=delivery.mailing_id,
        due_at=delivery.due_at.astimezone(),
    )
    text.append(f"  {translated(due)}\n", "dim")
    if delivery.at is not None:
        text.append(f"{delivery.at.astimezone():%Y-%m-%d %H:%M:%S} {delivery.phase}: {escape(delivery.reply)}\n", "")
    log_entry = tr(
        "{message_id} at {relay} {queue_id}",
        message_id=delivery.message_id,
        relay=delivery.relay,
        queue_id=delivery.queue_id,
    )
    text.append(terminal_text(log_entry).rstrip(), "")
    if delivery.next_try_at is not None:
        next_try = tr("sent again at {at:%Y-%m-%d %H:%M} unless you resolve it", at=delivery.next_try_at.astimezone())
        text.append(f"\n{translated(next_try)}", "dim")
    table = charts.borderless_table(numbers=(0,), columns=2)
    table.columns[0].width = 8
    table.add_row(Text(str(delivery.id)), text)
    return table


def _resume(context: Context, decision: "Resolution | None", *, operator: bool, yes: bool) -> None:
    """Show what a store on hold would send and what happens to it, then end the hold."""
    from skychimp.permissions import Action
    from skychimp.services.operations import backups

    actor = context.maintenance_actor(operator, Action.RESUME_SENDING)
    work = backups.held_work(context.store)
    if work is None:
        raise Conflict(tr("the store is not on hold"))
    context.out.note(
        tr(
            "{emails} waiting, {mailings} due",
            emails=count_of(work.deliveries, "email"),
            mailings=count_of(work.due, "mailing"),
        )
    )
    context.out.note(_effect(work, decision))
    context.confirm(tr("resume sending"), yes=yes or not context.can_prompt())
    resumed = backups.resume(context.store, actor, decision, require_consent=context.settings.delivery.require_consent)
    shown = None if context.out.json else [name for name, value in vars(resumed).items() if value]
    context.out.record(resumed, shown)
    context.out.next(*(["resolve"] if resumed.unknown else ["run", "--plan"]))


def _effect(work: "HeldWork", decision: "Resolution | None") -> Phrase:
    """Return a sentence about what happens to the waiting emails and due mailings."""
    if decision is None and not work.is_blind:
        return tr("all of it will be sent; what was sent since the backup is not sent again")
    if decision == "resend" and work.is_blind:
        return tr("all of it will be sent, and some emails may arrive twice")
    if decision == "resend":
        return tr("all of it will be sent")
    if decision is None:
        return tr(
            "it is not known what was sent since the backup: waiting emails become unknown, and due times are missed "
            '(to send all of it, run "skychimp resolve --restored --resend")'
        )
    return tr("waiting emails will be marked as {state}, and due times as missed", state=decision)
