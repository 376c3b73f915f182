"""The `skychimp mailings create` command."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from skychimp.cli.commands.run import STOPPED_BY_HAND, exit_status, how_to_go_on, send, start_log, summary
from skychimp.cli.context import Context, Json, Yes, get_context
from skychimp.cli.display.mailing_view import SKIPPED_NOTE, json_counts, next_step, show_mailing
from skychimp.cli.display.outbox_note import show_outbox_note
from skychimp.cli.display.tag_warnings import warn_of_unknown_tags
from skychimp.cli.options.attachment_options import attachments_folder, warn_of_missing_files
from skychimp.cli.options.mailing_options import (
    EVERY,
    TRANSACTIONAL,
    AllClients,
    CanarySize,
    CanaryWait,
    CatchUpMode,
    ClientNames,
    End,
    ExceptSegments,
    ExceptTags,
    ExceptWhere,
    Segments,
    Tags,
    Topic,
    Where,
    check_message,
    confirm_sending,
    parse_duration,
    read_audience,
    require_consent,
    show_number_of_clients,
)
from skychimp.errors import SkychimpError
from skychimp.shell import command, run_hint
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.services.mailings.audience_input import Audience
    from skychimp.services.mailings.canary_input import CanaryInput
    from skychimp.services.mailings.queries import MailingInfo
    from skychimp.services.mailings.schedules import CatchUpPolicy, ScheduleInput
    from skychimp.store.clients.audience import AudienceCount

EXAMPLE = tr("skychimp mailings create --message 1 --start '2026-12-01 09:00' --every month --tag vip")


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


def create(
    ctx: typer.Context,
    message: Annotated[int, typer.Option(help="Message ID.", metavar="ID")],
    start: Annotated[
        str,
        typer.Option(
            help="Start time: now, +10m, 'tomorrow 9am', '2026-12-01 09:00' or 2026-12-01T09:00+03:00.", metavar="WHEN"
        ),
    ],
    every: Annotated[str, EVERY],
    end: End = None,
    timezone: Annotated[str | None, typer.Option(help="Time zone (default: mail.timezone).", metavar="ZONE")] = None,
    client: ClientNames = None,
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
    from skychimp.services.mailings.missing_files import require_folder
    from skychimp.services.mailings.schedules import CatchUpPolicy, ScheduleInput

    context = get_context(ctx, json)
    new: _NewMailing = {
        "message_id": message,
        "schedule": ScheduleInput(start, end, Every(every), timezone or context.settings.mail.read_timezone()),
        "audience": read_audience(
            context, all_clients, tag, client, segment, where, except_tag, except_segment, except_where
        ),
        "catch_up": CatchUpPolicy(CatchUp(catch_up), parse_duration(grace)),
        "topic": topic,
        "name": name,
        "canary": CanaryInput(canary, parse_duration(canary_wait)),
        "transactional": transactional,
    }
    warnings = check_message(context, message, transactional=transactional)
    require_folder(context.store, message, attachments_folder(context))
    counted: AudienceCount | None = None
    if not no_send and context.can_ask_to_send(yes=yes):
        counted = mailings.count_recipients_of_new(
            context.store, context.actor, **new, require_consent=require_consent(context)
        )
        if counted is not None:
            confirm_sending(context, counted, yes=yes, canary=canary)
    created = mailings.create(context.store, context.actor, **new)
    warn_of_unknown_tags(context, [*created.tags, *created.except_tags])
    counted = show_number_of_clients(context, created, counted)
    for warning in warnings:
        context.out.warn(tr("warning: {warning}", warning=warning))
    warn_of_missing_files(context, created.id)
    if no_send or created.next_at is None or created.next_at > datetime.now(UTC):
        show_mailing(context, created, counted)
        context.out.note(next_step(created))
        _warn_if_on_hold(context)
        _note_if_nothing_sends(context, created)
        context.out.next("mailings", "preview", created.id)
    else:
        _send_now(context, created, counted)


def _send_now(context: Context, created: "MailingInfo", counted: "AudienceCount") -> None:
    """Send the first emails of a new mailing, and show it. It exists even if nothing can be sent."""
    from skychimp.services.mailings import mailings

    start_log(context)
    try:
        stats = send(context, created.id)
    except SkychimpError as error:
        context.out.warn(tr("mailing {id} created but not sent: {message}", id=created.id, message=error.message))
        if error.hint:
            context.out.note(tr("hint: {hint}", hint=error.hint))
        show_mailing(context, created, counted)
        return
    mailing = mailings.show(context.store, context.actor, created.id)
    counts = asdict(summary(stats))
    if context.out.json:
        context.out.record(asdict(mailing) | json_counts(counted) | {"run": counts})
    else:
        show_mailing(context, mailing)
        shown = ("sent", "deferred", "failed", "unknown", "queued", "waiting")
        words = [f"{counts[name]:,} {name}" for name in shown if counts[name] or (name == "sent" and not stats.outbox)]
        if words:
            context.out.note(", ".join(words))
    show_outbox_note(context, stats.outbox)
    if mailing.skipped_at is not None:
        context.out.note(SKIPPED_NOTE)
    if stats.stopped in STOPPED_BY_HAND:
        context.out.warn(how_to_go_on(stats, mailing.id))
        return
    _note_if_nothing_sends(context, created)
    context.out.next(*(["run"] if exit_status(stats) else ["mailings", "log", mailing.id]))


def _note_if_nothing_sends(context: Context, created: "MailingInfo") -> None:
    """Say how to have a mailing sent that is due later, if nobody but a person seems to run Skychimp."""
    from skychimp.models import Every
    from skychimp.services.installing.detection import is_sent_by_itself

    is_due_later = created.next_at is not None and (created.next_at > datetime.now(UTC) or created.every != Every.ONCE)
    if is_due_later and not is_sent_by_itself(context.store):
        context.out.note(tr("nothing sends it by itself yet: {command}", command=command("service", "install")))


def _warn_if_on_hold(context: Context) -> None:
    from skychimp.delivery.sending.runner import why_held

    if reason := why_held(context.store):
        context.out.warn(
            tr(
                "the store is on hold {reason}; {hint} to send again",
                reason=reason,
                hint=run_hint("resolve", "--restored"),
            )
        )
