"""`skychimp run`: send what is due, once."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, enter
from skychimp.errors import InvalidValue

if TYPE_CHECKING:
    from skychimp.delivery.run import Tally

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
    here = enter(ctx, json)
    if dry_run and plan:
        raise InvalidValue("--dry-run and --plan can't go together")
    if dry_run or plan:
        _look_ahead(here, mailing, left_out=plan, limit=limit)
        return
    tally = send(here, mailing, limit)
    here.out.one(summary(tally))
    status = exit_status(tally)
    if status:
        raise typer.Exit(status)


def send(here: Context, mailing_id: int | None = None, limit: int | None = None) -> "Tally":
    """Send what is due, with progress; what stopped it is said on stderr."""
    from skychimp.delivery.run import Scope, send_due

    store, settings = here.store, here.settings
    with here.out.progress("sending") as tell:
        tally = send_due(store, settings, Scope(mailing_id, limit), _reporter(tell))
    if tally.stopped:
        here.out.warn(f"stopped: {tally.stopped}")
        if tally.hint:
            here.out.note(f"hint: {tally.hint}")
    return tally


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


def summary(tally: "Tally") -> Summary:
    return Summary(
        tally.sent, tally.deferred, tally.failed, tally.unknown, tally.queued, tally.opened, tally.stopped or None
    )


def exit_status(tally: "Tally") -> int:
    if tally.stopped == "interrupted":
        return INTERRUPTED
    return MAIL_LEFT if tally.queued or tally.deferred else 0


def _reporter(tell: Callable[[int, str], None]) -> Callable[["Tally", int], None]:
    def report(tally: "Tally", total: int) -> None:
        parts = {"failed": tally.failed, "deferred": tally.deferred, "unknown": tally.unknown}
        tell(tally.sent, "sent" + "".join(f", {number} {name}" for name, number in parts.items() if number))

    return report


def _look_ahead(here: Context, mailing_id: int | None, *, left_out: bool, limit: int | None) -> None:
    from datetime import UTC, datetime

    from skychimp.services.outlook import outlook

    would_send, left = 0, 0
    listed = []
    for row in outlook(here.store, datetime.now(UTC), mailing_id):
        sends = row.left_out is None and (limit is None or would_send < limit)
        would_send += sends
        left += not sends
        if sends != left_out:
            listed.append(row)
    if here.out.json:
        here.out.one({"would_send": would_send, "left_out": left, "clients": [asdict(row) for row in listed]})
        return
    columns = OUTLOOK if left_out else {name: OUTLOOK[name] for name in list(OUTLOOK)[:3]}
    here.out.rows(listed, columns, empty="nobody is left out" if left_out else "nothing is due")
    here.out.note(f"would send {would_send}, leave out {left}; nothing was sent")
