"""The `skychimp mailings` commands: create mailings, control them, and show what they will do and have done."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

import typer

from skychimp.cli.commands.mailings_log import EXAMPLES as LOG_EXAMPLES
from skychimp.cli.commands.mailings_log import log
from skychimp.cli.commands.run import exit_status, send, summary
from skychimp.cli.context import Context, Json, Limit, MailingName, Offset, Search, Sort, Yes, get_context, list_options
from skychimp.cli.display.mailing_view import (
    SKIPPED_NOTE,
    json_counts,
    next_step,
    note_canary,
    note_left_out,
    sent_next,
    show_due_times,
    show_mailing,
    show_mailings,
    show_whole_mailing,
)
from skychimp.cli.display.tag_warnings import warn_of_unknown_tags
from skychimp.errors import InvalidValue, SkychimpError
from skychimp.shell import run_hint
from skychimp.text import count_of

if TYPE_CHECKING:
    from skychimp.services.mailings.audience_input import Audience
    from skychimp.services.mailings.canary_input import CanaryInput
    from skychimp.services.mailings.queries import MailingInfo
    from skychimp.services.mailings.schedules import CatchUpPolicy, ScheduleInput
    from skychimp.store.clients.audience import AudienceCount

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

AUDIENCE_COLUMNS = {"email": "Email", "left_out": "Left out"}

Period = Literal["once", "day", "week", "month"]
CatchUpMode = Literal["latest", "all", "skip"]
End = Annotated[str | None, typer.Option(help="Stop sending at this time.", metavar="WHEN")]
ClientIds = Annotated[list[int] | None, typer.Option("--client", help="Client ID (repeatable).", metavar="ID")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="All clients with this tag (repeatable).")]
Segments = Annotated[
    list[str] | None, typer.Option("--segment", help="All clients in this segment (repeatable).", metavar="NAME")
]
Where = Annotated[
    str | None,
    typer.Option(help='All clients that this query chooses (see "skychimp help queries").', metavar="EXPR"),
]
AllClients = Annotated[bool, typer.Option("--all-clients", help="All clients, including ones added later.")]
ExceptTags = Annotated[
    list[str] | None,
    typer.Option("--except-tag", help="Leave out clients with this tag (repeatable).", metavar="TAG"),
]
ExceptSegments = Annotated[
    list[str] | None,
    typer.Option("--except-segment", help="Leave out clients in this segment (repeatable).", metavar="NAME"),
]
ExceptWhere = Annotated[str | None, typer.Option(help="Leave out clients that this query chooses.", metavar="EXPR")]
CanarySize = Annotated[
    str | None, typer.Option("--canary", help="Send to this many clients first, such as 50 or 1%.", metavar="N-or-%")
]
CanaryWait = Annotated[
    str | None,
    typer.Option("--canary-wait", help="How long the other clients wait (default: 30m).", metavar="DURATION"),
]
TRANSACTIONAL = (
    "Send what clients asked for, such as receipts: without unsubscribe headers. Suppressed clients get nothing."
)
Topic = Annotated[str | None, typer.Option(help="What clients can unsubscribe from, such as news or offers.")]


class _NewMailing(TypedDict):
    """What a user gives for a new mailing, as the service takes it."""

    message_id: int
    schedule: "ScheduleInput"
    audience: "Audience"
    catch_up: "CatchUpPolicy"
    topic: str | None
    name: str
    canary: "CanaryInput"
    transactional: bool


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
    segment: Segments = None,
    where: Where = None,
    all_clients: AllClients = False,
    except_tag: ExceptTags = None,
    except_segment: ExceptSegments = None,
    except_where: ExceptWhere = None,
    catch_up: Annotated[CatchUpMode, typer.Option(help="Which missed occurrences to send.")] = "latest",
    grace: Annotated[
        str | None,
        typer.Option(
            help="How late a missed occurrence may still be sent (default: 12h daily, 2d weekly, 5d monthly).",
            metavar="DURATION",
        ),
    ] = None,
    topic: Topic = None,
    name: Annotated[str, typer.Option(help="Name of the mailing, to use instead of its ID.")] = "",
    canary: CanarySize = None,
    canary_wait: CanaryWait = None,
    transactional: Annotated[bool, typer.Option("--transactional", help=TRANSACTIONAL)] = False,
    no_send: Annotated[bool, typer.Option("--no-send", help="Leave the sending to the next run.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Create a mailing. It is sent immediately if its start time has passed."""
    from skychimp.models import CatchUp, Every
    from skychimp.services.mailings import mailings
    from skychimp.services.mailings.canary_input import CanaryInput
    from skychimp.services.mailings.schedules import CatchUpPolicy, ScheduleInput

    context = get_context(ctx, json)
    new: _NewMailing = {
        "message_id": message,
        "schedule": ScheduleInput(start, end, Every(every), timezone or context.settings.mail.read_timezone()),
        "audience": _audience(all_clients, tag, client, segment, where, except_tag, except_segment, except_where),
        "catch_up": CatchUpPolicy(CatchUp(catch_up), _parse_duration(grace)),
        "topic": topic,
        "name": name,
        "canary": CanaryInput(canary, _parse_duration(canary_wait)),
        "transactional": transactional,
    }
    warnings = _check_message(context, message, transactional=transactional)
    counted: AudienceCount | None = None
    if not no_send and context.can_ask_to_send(yes=yes):
        counted = mailings.count_recipients_of_new(
            context.store, context.actor, **new, require_consent=_require_consent(context)
        )
        if counted is not None:
            _confirm(context, counted, yes=yes, canary=canary)
    created = mailings.create(context.store, context.actor, **new)
    warn_of_unknown_tags(context, [*created.tags, *created.except_tags])
    counted = _show_number_of_clients(context, created, counted)
    for warning in warnings:
        context.out.warn(f"warning: {warning}")
    if no_send or created.next_at is None or created.next_at > datetime.now(UTC):
        show_mailing(context, created, counted)
        context.out.note(next_step(created))
        _warn_if_on_hold(context)
        context.out.next("mailings", "preview", created.id)
    else:
        _send_now(context, created, counted)


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
def show(ctx: typer.Context, mailing: MailingName, json: Json = False) -> None:
    """Show a mailing, and how many clients it goes to now."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    mailing_id = context.find_mailing(mailing)
    shown = mailings.show(context.store, context.actor, mailing_id)
    show_whole_mailing(context, shown, _count(context, mailing_id))


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
        require_consent=_require_consent(context),
    )
    empty = "nobody is left out" if left_out else "the mailing goes to no client"
    context.out.rows(islice(clients, limit), AUDIENCE_COLUMNS, empty=empty)
    if context.out.on_terminal and not context.out.json:
        counted = _count(context, mailing_id)
        context.out.note(f"mailing {mailing_id} goes to {count_of(counted.recipients, 'client')}")
        note_left_out(context, counted)


@app.command(epilog="skychimp mailings update 1 --every week --tag vip")
def update(
    ctx: typer.Context,
    mailing: MailingName,
    message: Annotated[int | None, typer.Option(help="ID of the new message.", metavar="ID")] = None,
    start: Annotated[str | None, typer.Option(help="New start time.", metavar="WHEN")] = None,
    end: End = None,
    no_end: Annotated[bool, typer.Option("--no-end", help="Remove the end time.")] = False,
    every: Annotated[Period | None, typer.Option(help="How often to send it.")] = None,
    timezone: Annotated[str | None, typer.Option(help="New time zone.", metavar="ZONE")] = None,
    client: ClientIds = None,
    tag: Tags = None,
    segment: Segments = None,
    where: Where = None,
    all_clients: AllClients = False,
    except_tag: ExceptTags = None,
    except_segment: ExceptSegments = None,
    except_where: ExceptWhere = None,
    no_except: Annotated[bool, typer.Option("--no-except", help="Leave out nobody.")] = False,
    catch_up: Annotated[CatchUpMode | None, typer.Option(help="Which missed occurrences to send.")] = None,
    grace: Annotated[
        str | None, typer.Option(help="How late a missed occurrence may still be sent.", metavar="DURATION")
    ] = None,
    topic: Topic = None,
    no_topic: Annotated[bool, typer.Option("--no-topic", help="Remove the topic.")] = False,
    name: Annotated[str | None, typer.Option(help="New name, or '' to remove it.")] = None,
    canary: CanarySize = None,
    canary_wait: CanaryWait = None,
    no_canary: Annotated[bool, typer.Option("--no-canary", help="Send to all clients at once.")] = False,
    transactional: Annotated[
        bool | None, typer.Option("--transactional/--no-transactional", help=TRANSACTIONAL)
    ] = None,
    json: Json = False,
) -> None:
    """Change a mailing. A changed schedule or canary applies from now on.

    New recipients replace the former ones, and new --except options the former ones.
    """
    from skychimp.models import CatchUp, Every
    from skychimp.services.mailings import mailings
    from skychimp.services.mailings.canary_input import CanaryInput

    context = get_context(ctx, json)
    mailing_id = context.find_mailing(mailing)
    if end is not None and no_end:
        raise InvalidValue("--end and --no-end cannot be combined", "use one of them")
    if topic is not None and no_topic:
        raise InvalidValue("--topic and --no-topic cannot be combined", "use one of them")
    new_audience = _audience(all_clients, tag, client, segment, where, except_tag, except_segment, except_where)
    if no_except and new_audience.excludes:
        raise InvalidValue("--no-except cannot be combined with other --except options", "use one of them")
    if no_canary and (canary is not None or canary_wait is not None):
        raise InvalidValue("--canary and --no-canary cannot be combined", "use one of them")
    warnings: list[str] = []
    if message is not None:
        old = mailings.find(context.store, context.actor, mailing_id)
        is_transactional = old.transactional if transactional is None else transactional
        warnings = _check_message(context, message, transactional=is_transactional)
    changed = mailings.change(
        context.store,
        context.actor,
        mailing_id,
        message_id=message,
        start=start,
        end=end,
        no_end=no_end,
        every=Every(every) if every else None,
        timezone=timezone,
        catch_up=CatchUp(catch_up) if catch_up else None,
        grace=_parse_duration(grace),
        topic=topic,
        no_topic=no_topic,
        audience=new_audience if new_audience.selects or new_audience.excludes else None,
        no_except=no_except,
        name=name,
        canary=CanaryInput(canary, _parse_duration(canary_wait), no_canary),
        transactional=transactional,
    )
    warn_of_unknown_tags(context, [*(changed.tags if tag else ()), *(changed.except_tags if except_tag else ())])
    has_other_clients = (
        new_audience.selects
        or new_audience.excludes
        or no_except
        or topic is not None
        or no_topic
        or canary is not None
    )
    counted = _show_number_of_clients(context, changed) if has_other_clients else None
    for warning in warnings:
        context.out.warn(f"warning: {warning}")
    show_mailing(context, changed, counted)
    context.out.note(next_step(changed))


@app.command()
def delete(ctx: typer.Context, mailing: MailingName, yes: Yes = False, json: Json = False) -> None:
    """Delete a mailing. Its queued emails are cancelled."""
    from skychimp.permissions import Action
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    mailing_id = context.find_mailing(mailing)
    target = mailings.find(context.store, context.actor, mailing_id, action=Action.CHANGE_MAILINGS)
    context.confirm(f'delete mailing {target.id} ("{target.subject}")', yes=yes)
    show_mailing(context, mailings.remove(context.store, context.actor, mailing_id))


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
        context.store, context.actor, mailing_id, require_consent=_require_consent(context)
    )
    _confirm(context, counted, yes=yes)
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
    """
    from skychimp.models import DeliveryState
    from skychimp.services.mailings import mailings, retries

    context = get_context(ctx, json)
    mailing_id = context.find_mailing(mailing)
    chosen = {DeliveryState.FAILED: failed, DeliveryState.EXPIRED: expired, DeliveryState.CANCELLED: cancelled}
    states = [state for state, is_chosen in chosen.items() if is_chosen] or retries.DEFAULT_STATES
    require_consent = _require_consent(context)
    counted = retries.count(context.store, context.actor, mailing_id, states, reply, require_consent=require_consent)
    if counted.left_out:
        reasons = f"suppressed, deleted, {'without consent, ' if require_consent else ''}or with a bad address"
        context.out.note(f"{count_of(counted.left_out, 'client')} left out: {reasons}")
    context.confirm_sending(counted.queued, yes=yes)
    queued = counted
    if counted.queued:
        queued = retries.retry(context.store, context.actor, mailing_id, states, reply, require_consent=require_consent)
    context.out.record(queued)
    if not queued.queued:
        context.out.note("nothing to retry")
        return
    info = mailings.find(context.store, context.actor, mailing_id)
    if info.disabled or info.held is not None:
        context.out.note(next_step(info))
    else:
        context.out.next("run")


app.command(epilog=LOG_EXAMPLES)(log)


# Sending a new mailing


def _send_now(context: Context, created: "MailingInfo", counted: "AudienceCount") -> None:
    """Send the first emails of a new mailing, and show it. It exists even if nothing can be sent."""
    from skychimp.services.mailings import mailings

    try:
        stats = send(context, created.id)
    except SkychimpError as error:
        context.out.warn(f"mailing {created.id} created but not sent: {error.message}")
        if error.hint:
            context.out.note(f"hint: {error.hint}")
        show_mailing(context, created, counted)
        return
    mailing = mailings.show(context.store, context.actor, created.id)
    counts = asdict(summary(stats))
    if context.out.json:
        context.out.record(asdict(mailing) | json_counts(counted) | {"run": counts})
    else:
        show_mailing(context, mailing)
        shown = ("sent", "deferred", "failed", "unknown", "queued", "waiting")
        context.out.note(", ".join(f"{counts[name]:,} {name}" for name in shown if counts[name] or name == "sent"))
    if mailing.skipped_at is not None:
        context.out.note(SKIPPED_NOTE)
    context.out.next(*(["run"] if exit_status(stats) else ["mailings", "log", mailing.id]))


def _confirm(context: Context, counted: "AudienceCount", *, yes: bool, canary: str | None = None) -> None:
    """Ask before a mailing sends to these clients, or to some of them first. Raises SkychimpError for a no."""
    from skychimp.services.mailings.canary_input import number_of_first

    note_left_out(context, counted)
    first = None if canary is None else number_of_first(canary, counted.recipients)
    context.confirm_sending(counted.recipients, yes=yes, first=first)


def _show_number_of_clients(
    context: Context, mailing: "MailingInfo", counted: "AudienceCount | None" = None
) -> "AudienceCount":
    """Tell how many clients a mailing goes to, so that a wrong audience is noticed, and return the numbers.

    They are counted if they are not given.
    """
    if counted is None:
        counted = _count(context, mailing.id)
    if counted.problem is not None:
        context.out.warn(f"warning: {counted.problem}")
    elif counted.recipients:
        context.out.note(f"mailing {mailing.id} goes to {count_of(counted.recipients, 'client')}")
    else:
        context.out.warn(f"warning: mailing {mailing.id} goes to no client")
    note_left_out(context, counted)
    note_canary(context, mailing, counted)
    return counted


def _warn_if_on_hold(context: Context) -> None:
    from skychimp.delivery.sending.runner import why_held

    if reason := why_held(context.store):
        context.out.warn(f"the store is on hold {reason}; {run_hint('resolve', '--restored')} to send again")


# Options


def _count(context: Context, mailing_id: int) -> "AudienceCount":
    from skychimp.services.mailings import recipients

    return recipients.count_recipients(
        context.store, context.actor, mailing_id, require_consent=_require_consent(context)
    )


def _check_message(context: Context, message_id: int, *, transactional: bool) -> list[str]:
    from skychimp.services.mailings import unsubscribing

    return unsubscribing.check_message(
        context.store, context.actor, message_id, context.settings, transactional=transactional
    )


def _require_consent(context: Context) -> bool:
    return context.settings.delivery.require_consent


def _audience(
    all_clients: bool,
    tags: list[str] | None,
    client_ids: list[int] | None,
    segments: list[str] | None,
    where: str | None,
    except_tags: list[str] | None,
    except_segments: list[str] | None,
    except_where: str | None,
) -> "Audience":
    """Return the audience that the options select."""
    from skychimp.services.mailings.audience_input import Audience

    return Audience(
        all_clients=all_clients,
        tags=tags or (),
        client_ids=client_ids or (),
        segments=segments or (),
        where=where,
        except_tags=except_tags or (),
        except_segments=except_segments or (),
        except_where=except_where,
    )


def _parse_duration(text: str | None) -> timedelta | None:
    from skychimp.durations import parse_duration

    return None if text is None else parse_duration(text)
