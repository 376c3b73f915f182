"""`skychimp status`: is anything sending; for a look, and for monitoring."""

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Json, get_context

if TYPE_CHECKING:
    from skychimp.services.operations.status import Status

app = typer.Typer(rich_markup_mode="rich")

TOO_OLD = 1


@app.command(epilog="skychimp status --max-age 2h || alert")
def status(
    ctx: typer.Context,
    max_age: Annotated[
        str | None, typer.Option(help="Leave with 1 where nothing was sending for so long.", metavar="DURATION")
    ] = None,
    json: Json = False,
) -> None:
    """Say whether something is sending, what waits, and how the relay is."""
    from skychimp.durations import parse_duration
    from skychimp.services.operations import status as service

    context = get_context(ctx, json)
    longest = None if max_age is None else parse_duration(max_age)
    found = service.status(context.store)
    why = _too_old(found, longest)
    queue = {str(state): number for state, number in found.queue.items()}
    relay = None if found.relay is None else found.relay._asdict()
    if json:
        context.out.one(asdict(found) | {"queue": queue, "relay": relay, "ok": why is None})
    else:
        context.out.one(
            {
                "sending": f"{found.sending} process{'' if found.sending == 1 else 'es'}",
                "last heartbeat": found.last_heartbeat_at,
                "last run": _run(found),
                "oldest due": found.oldest_due_at,
                "queue": ", ".join(f"{number} {state}" for state, number in queue.items()) or "empty",
                "relay": "paused: " + found.relay.reason if found.relay else "fine",
                "store": "held, as it was restored: skychimp resolve --restored" if found.held else "fine",
            }
        )
    if why is not None:
        context.out.warn(why)
        raise typer.Exit(TOO_OLD)


def _too_old(found: "Status", longest: timedelta | None) -> str | None:
    """Why monitoring should call somebody; None where it should not."""
    if longest is None:
        return None
    if found.last_heartbeat_at is None or found.as_of - found.last_heartbeat_at > longest:
        return f"nothing has been sending for {longest}; is the timer or the daemon on?"
    if found.oldest_due_at is not None and found.as_of - found.oldest_due_at > longest:
        return f"a mailing has been due for more than {longest}, and nobody sends it"
    return None


def _run(found: "Status") -> str:
    run = found.last_run
    if run is None:
        return "none yet"
    counts = {"sent": run.sent, "deferred": run.deferred, "failed": run.failed, "unknown": run.unknown}
    said = ", ".join(f"{number} {name}" for name, number in counts.items() if number or name == "sent")
    ended = run.ended_at.astimezone().strftime("ended %Y-%m-%d %H:%M") if run.ended_at else "not ended"
    return f"{run.host} {run.pid}, {ended}: {said}"
