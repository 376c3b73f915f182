"""`skychimp status`: show sending activity and the queue, also for monitoring."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.display.outbox_note import show_outbox_note
from skychimp.cli.following import Interval, Watch, watch_interval_s, watch_screen
from skychimp.durations import format_ago, format_duration, parse_duration
from skychimp.errors import InvalidValue
from skychimp.shell import run_hint
from skychimp.text import NO_TEXT, count_of
from skychimp.translation import Phrase, joined, tr, translated

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skychimp.services.operations.status import RunInfo, Status
    from skychimp.store.holds import HeldMailing
    from skychimp.store.occurrences.canary import Waiting

app = typer.Typer(rich_markup_mode="rich")

TOO_OLD = 1
PATIENCE = timedelta(minutes=2)
"""How long due mail may wait until nobody seems to send it. Cron starts a run each minute."""

_OTHER_RELAY_HINT = tr('"skychimp service cron" names the settings that only your environment has')
_RELEASE = tr('run "skychimp resolve --restored"')
_NO_SERVER = tr("none: emails are written to the outbox")


@app.command(epilog="skychimp status --watch\nskychimp status --max-age 2h || alert")
def status(
    ctx: typer.Context,
    max_age: Annotated[
        str | None,
        typer.Option(
            help="Exit with status 1 if nothing was sending for this long, or due mail is waiting for longer.",
            metavar="DURATION",
        ),
    ] = None,
    watch: Watch = False,
    interval: Interval = None,
    json: Json = False,
) -> None:
    """Show sending activity, the queue and the mail server."""
    from skychimp.services.operations import status as service

    context = get_context(ctx, json)
    interval_s = watch_interval_s(context, watch, interval)
    if interval_s is not None:
        if max_age is not None:
            raise InvalidValue(tr("--watch and --max-age cannot be combined"), tr("use one of them"))
        watch_screen(partial(_draw, context), interval_s)
        return
    longest = None if max_age is None else parse_duration(max_age)
    current = service.status(context.store)
    problem = _problem(current, longest)
    queue = {str(state): number for state, number in current.queue.items()}
    if json:
        relays = {
            name: None if relay is None else relay._asdict()
            for name, relay in (("relay", current.relay), ("unavailable_relay", current.unavailable_relay))
        }
        held = [mailing._asdict() for mailing in current.held_mailings]
        canaries = [waiting._asdict() for waiting in current.canaries]
        lists = {"queue": queue, "held_mailings": held, "canaries": canaries}
        more = {"ok": problem is None, "configured_relay": context.settings.relay}
        context.out.record(asdict(current) | lists | more | relays)
    else:
        context.out.record(_in_words(context, current, for_person=context.out.on_terminal))
        show_outbox_note(context, current.outbox, others_sent=True)
    if difference := _other_relay(current.last_run, context.settings.relay):
        context.out.warn(tr("warning: {problem}", problem=difference))
        context.out.note(tr("hint: {hint}", hint=_OTHER_RELAY_HINT))
    if problem is not None:
        context.out.warn(problem)
        raise typer.Exit(TOO_OLD)
    if advice := _advice(current):
        context.out.warn(advice)


def _draw(context: Context) -> "tuple[RenderableType, bool]":
    """Return the screen for somebody who watches, and that it is never the last one."""
    from rich.console import Group
    from rich.text import Text

    from skychimp.cli.display.tables import draw_record
    from skychimp.services.operations import status as service

    current = service.status(context.store)
    table, advice = draw_record(_in_words(context, current, for_person=True)), _advice(current)
    return (Group(table, Text(f"\n{translated(advice)}")) if advice else table), False


def _in_words(context: Context, current: "Status", *, for_person: bool) -> dict[str, object]:
    """Return what is shown. A person reads how long ago each time was."""
    uses_server = context.settings.mail.transport == "smtp"
    show = partial(_ago, now=current.as_of) if for_person else _local
    time = partial(_time, now=current.as_of, for_person=for_person)
    return {
        tr("sending"): count_of(current.sending, "process", "processes"),
        tr("last heartbeat"): time(current.last_heartbeat_at),
        tr("last run"): _last_run(current, show),
        tr("oldest due"): time(current.oldest_due_at),
        tr("oldest waiting"): time(current.oldest_waiting_at),
        tr("queue"): ", ".join(f"{number} {state}" for state, number in current.queue.items()) or tr("empty"),
        tr("outbox"): tr("{number:,} written, not sent", number=current.outbox) if current.outbox else tr("empty"),
        tr("mail server"): _relay(current) or (tr("ok") if uses_server else _NO_SERVER),
        tr("held mailings"): joined("; ", map(_held, current.held_mailings)) or tr("none"),
        tr("canaries"): joined("; ", map(_canary, current.canaries)) or tr("none"),
        tr("store"): _held_store(current) or tr("ok"),
    }


def _advice(current: "Status") -> Phrase:
    """Return what to do if due mail waits and nothing sends it, "" if all is well."""
    waiting = _unsent_for(current)
    if waiting is None:
        return NO_TEXT
    return tr(
        "nothing is sending, although mail was due {ago}; {hint}",
        ago=format_ago(waiting),
        hint=run_hint("run"),
    )


def _unsent_for(current: "Status") -> timedelta | None:
    """Return for how long mail has waited for a process that sends it, None if it was not long or has other reasons."""
    times = [each for each in (current.oldest_due_at, current.stuck_since) if each is not None]
    if current.sending or current.held or _relay(current) or not times:
        return None
    waiting = current.as_of - min(times)
    return waiting if waiting >= PATIENCE else None


def _problem(current: "Status", longest: timedelta | None) -> Phrase | None:
    """Return why monitoring should raise an alert, or None if it should not."""
    if longest is None:
        return None
    duration = format_duration(longest)
    if current.last_heartbeat_at is None or current.as_of - current.last_heartbeat_at > longest:
        return tr("nothing was sending for {duration}; check the timer or the daemon", duration=duration)
    if current.oldest_due_at is not None and current.as_of - current.oldest_due_at > longest:
        return tr("a mailing has been due for more than {duration} without being sent", duration=duration)
    if current.stuck_since is not None and current.as_of - current.stuck_since > longest:
        reason = _why_stuck(current)
        return tr("due mail has been waiting for more than {duration}: {reason}", duration=duration, reason=reason)
    return None


def _why_stuck(current: "Status") -> Phrase:
    if current.held:
        return tr("the store is on hold {reason}", reason=current.held_reason)
    if relay := _relay(current):
        return tr("mail server {state}", state=relay)
    if current.held_mailings:
        return tr("mailing {id} is held", id=current.held_mailings[0].id)
    return tr("see the log of the daemon or of cron")


def _other_relay(last_run: "RunInfo | None", configured: str) -> Phrase:
    """Return that the last run used another mail server than these settings name, "" if it did not."""
    if last_run is None or last_run.relay in ("", configured):
        return NO_TEXT
    used, named = (_describe_relay(relay) for relay in (last_run.relay, configured))
    return tr(
        "the last run used {last_server}, but these settings name {configured_server}",
        last_server=used,
        configured_server=named,
    )


def _describe_relay(relay: str) -> str:
    return tr("the outbox") if relay == "outbox" else relay


def _relay(current: "Status") -> Phrase:
    """Return since when and why no mail server can be used, "" if none is known to be."""
    if current.relay is not None:
        return tr("paused since {at}: {reason}", at=_local(current.relay.since), reason=current.relay.reason)
    if current.unavailable_relay is not None:
        relay = current.unavailable_relay
        return tr("unavailable since {at}: {reason}", at=_local(relay.since), reason=relay.reason)
    return NO_TEXT


def _held(mailing: "HeldMailing") -> Phrase:
    return tr("{id}: {reason}", id=mailing.id, reason=mailing.reason)


def _held_store(current: "Status") -> Phrase:
    if not current.held:
        return NO_TEXT
    return tr("on hold {reason}: {hint}", reason=current.held_reason, hint=_RELEASE)


def _canary(waiting: "Waiting") -> Phrase:
    return tr(
        "{mailing_id}: {emails} wait until {at} or later",
        mailing_id=waiting.mailing_id,
        emails=count_of(waiting.emails, "email"),
        at=_local(waiting.until),
    )


def _time(at: datetime | None, now: datetime, *, for_person: bool) -> datetime | str | None:
    return at if at is None or not for_person else _ago(at, now)


def _ago(at: datetime, now: datetime) -> Phrase:
    return tr("{duration_ago} ({at})", duration_ago=format_ago(now - at), at=_local(at))


def _local(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M")


def _last_run(current: "Status", show: Callable[[datetime], str]) -> Phrase:
    run = current.last_run
    if run is None:
        return tr("none yet")
    counts = {name: getattr(run, name) for name in ("sent", "outbox", "deferred", "failed", "unknown")}
    summary = ", ".join(f"{number} {name}" for name, number in counts.items() if number or name == "sent")
    values = {"pid": str(run.pid), "host": run.host, "summary": summary}
    if run.ended_at is None:
        return tr("process {pid} on {host}, not ended: {summary}", **values)
    return tr("process {pid} on {host}, ended {at}: {summary}", **values, at=show(run.ended_at))
