"""`skychimp resolve`: decide about letters whose end nobody knows, and let a restored store go on."""

from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, Operator, Yes, get_context
from skychimp.errors import Conflict, InvalidValue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from skychimp.services.operations.backups import Held
    from skychimp.services.operations.unknown_deliveries import Resolution, UnknownDelivery

app = typer.Typer(rich_markup_mode="rich")

COLUMNS = {
    "id": "Delivery", "mailing_id": "Mailing", "due_at": "Due", "email": "E-mail", "at": "Tried", "reply": "What came",
    "next_try_at": "Sent again", "phase": "Phase", "relay": "Relay", "queue_id": "Queue id", "message_id": "Message-ID",
}  # fmt: skip


WHAT_NEXT = "next: look for the Message-ID in the relay's log, then skychimp resolve --sent ID"


@app.command(epilog="skychimp resolve --resend --all")
def resolve(
    ctx: typer.Context,
    deliveries: Annotated[
        list[int] | None, typer.Argument(metavar="[DELIVERY]...", help="Deliveries' ids.", show_default=False)
    ] = None,
    sent: Annotated[bool, typer.Option("--sent", help="They have arrived.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="They have not, and are not sent again.")] = False,
    resend: Annotated[bool, typer.Option("--resend", help="Send them again, byte for byte the same.")] = False,
    every_one: Annotated[bool, typer.Option("--all", help="All that are unknown.")] = False,
    restored: Annotated[
        bool, typer.Option("--restored", help="Let a restored store go on; with one of the three, about what it holds.")
    ] = False,
    operator: Operator = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Decide about unknown deliveries: those whose final reply the server never gave. Without options, list them."""
    from skychimp.services.operations import unknown_deliveries as service
    from skychimp.services.operations.unknown_deliveries import Resolution

    context = get_context(ctx, json)
    words = {Resolution.SENT: sent, Resolution.FAILED: failed, Resolution.RESEND: resend}
    said = [resolution for resolution, is_said in words.items() if is_said]
    if restored:
        if len(said) > 1 or deliveries or every_one:
            raise InvalidValue("--restored goes with one of --sent, --failed and --resend, or alone")
        _let_go_on(context, said[0] if said else None, operator=operator, yes=yes)
        return
    if operator:
        raise InvalidValue("--operator goes with --restored")
    if not said and not deliveries and not every_one:
        _show(context, service.unknown(context.store, context.actor))
        return
    if len(said) != 1:
        raise InvalidValue("say what became of them", "give one of --sent, --failed and --resend")
    if bool(deliveries) == every_one:
        raise InvalidValue("say which", "give deliveries' ids, or --all")
    done = service.resolve(
        context.store,
        context.actor,
        said[0],
        give_up_after=context.settings.delivery.give_up_after,
        ids=None if every_one else deliveries,
    )
    context.out.one(done)
    if said[0] == Resolution.RESEND and done.resolved:
        context.out.next("run")


def _show(context: Context, found: "Iterator[UnknownDelivery]") -> None:
    if context.out.json or not context.out.on_terminal:
        context.out.rows(found, COLUMNS)
        return
    drawn = list(map(_drawn, found))
    context.out.draw(*drawn)
    context.out.note(WHAT_NEXT if drawn else "no delivery is unknown")


def _drawn(one: "UnknownDelivery") -> "RenderableType":
    from rich.text import Text

    from skychimp.cli import charts
    from skychimp.cli.output import escape

    said = Text(escape(one.email), "bold", overflow="fold")
    said.append(f"  mailing {one.mailing_id}, due {one.due_at.astimezone():%Y-%m-%d %H:%M}\n", "dim")
    if one.at is not None:
        said.append(f"{one.at.astimezone():%Y-%m-%d %H:%M:%S} {one.phase}: {escape(one.reply)}\n", "")
    said.append(f"{escape(one.message_id)} at {escape(one.relay)} {escape(one.queue_id)}".rstrip(), "")
    if one.next_try_at is not None:
        said.append(f"\nsent again at {one.next_try_at.astimezone():%Y-%m-%d %H:%M}, unless you decide", "dim")
    table = charts.grid(right=(0,), columns=2)
    table.columns[0].width = 8
    table.add_row(Text(str(one.id)), said)
    return table


def _let_go_on(context: Context, decision: "Resolution | None", *, operator: bool, yes: bool) -> None:
    """Say what a restored store holds and what will become of it, then let it go on."""
    from skychimp.services.operations import backups

    actor = context.caretaker(operator)
    backups.require_caretaker(actor)
    held = backups.held(context.store)
    if held is None:
        raise Conflict("this store is not held: it sends already")
    context.out.note(f"letters that wait: {held.deliveries}; mailings that are due: {held.due}")
    context.out.note(_what_becomes(held, decision))
    context.confirm("let it go on?", yes=yes or not context.may_ask())
    done = backups.let_go_on(context.store, actor, decision)
    context.out.one(done, None if context.out.json else [name for name, value in vars(done).items() if value])
    context.out.next("resolve" if done.unknown else "run --plan")


def _what_becomes(held: "Held", decision: "Resolution | None") -> str:
    if decision is None and not held.is_blind:
        return "all of it will be sent; what was sent since the backup is known, and stays sent"
    if decision == "resend":
        return "all of it will be sent" + (", perhaps once more" if held.is_blind else "")
    if decision is None:
        return (
            "what was sent since the backup is not known: those letters will be unknown, for you to decide, and the "
            "due times missed. To send all of it instead: skychimp resolve --restored --resend"
        )
    return f"those letters will count as {decision}, and the due times as missed"
