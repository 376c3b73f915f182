"""`skychimp resolve`: decide about letters whose end nobody knows, and let a restored store go on."""

from typing import Annotated

import typer

from skychimp.cli.context import Json, Yes, enter
from skychimp.errors import InvalidValue

app = typer.Typer(rich_markup_mode="rich")

COLUMNS = {
    "id": "Delivery", "mailing_id": "Mailing", "due_at": "Due", "email": "E-mail", "at": "Tried", "reply": "What came",
    "next_try_at": "Sent again",
}  # fmt: skip


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
    restored: Annotated[bool, typer.Option("--restored", help="Let a restored store send again.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Decide about unknown deliveries: those whose final reply the server never gave. Without options, list them."""
    from skychimp.services import deliveries as service
    from skychimp.services.deliveries import Resolution

    here = enter(ctx, json)
    words = {Resolution.SENT: sent, Resolution.FAILED: failed, Resolution.RESEND: resend}
    said = [resolution for resolution, is_said in words.items() if is_said]
    if restored:
        if said or deliveries or every_one:
            raise InvalidValue("--restored goes alone")
        here.confirm("let this restored store send what is due?", yes=yes or not here.may_ask())
        service.let_go_on(here.store)
        here.out.one({"restored": True})
        here.out.next("run --plan")
        return
    if not said and not deliveries and not every_one:
        here.out.rows(service.unknown(here.store, here.actor), COLUMNS, empty="no delivery is unknown")
        return
    if len(said) != 1:
        raise InvalidValue("say what became of them", "give one of --sent, --failed and --resend")
    if bool(deliveries) == every_one:
        raise InvalidValue("say which", "give deliveries' ids, or --all")
    done = service.resolve(
        here.store,
        here.actor,
        said[0],
        give_up_after=here.settings.delivery.give_up_after,
        ids=None if every_one else deliveries,
    )
    here.out.one(done)
    if said[0] == Resolution.RESEND and done.resolved:
        here.out.next("run")
