"""The `skychimp mailings update` command."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skychimp.cli.context import Context, Json, MailingNames, Yes, get_context
from skychimp.cli.display.mailing_view import COLUMNS, describe_mailing, json_counts, next_step, show_mailing
from skychimp.cli.display.several import Kind, change_all, require_one
from skychimp.cli.display.tag_warnings import warn_of_unknown_tags
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
    parse_duration,
    read_audience,
    require_consent,
    show_number_of_clients,
)
from skychimp.errors import InvalidValue
from skychimp.shell import command
from skychimp.text import count_of
from skychimp.translation import tr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skychimp.services.mailings.audience_input import Audience
    from skychimp.services.mailings.queries import MailingInfo
    from skychimp.store.clients.audience import AudienceCount

EXAMPLE = "skychimp mailings update 1 --every week --tag vip"


def update(
    ctx: typer.Context,
    mailing: MailingNames,
    message: Annotated[int | None, typer.Option(help="ID of the new message.", metavar="ID")] = None,
    start: Annotated[str | None, typer.Option(help="New start time.", metavar="WHEN")] = None,
    end: End = None,
    no_end: Annotated[bool, typer.Option("--no-end", help="Remove the end time.")] = False,
    every: Annotated[str | None, EVERY] = None,
    timezone: Annotated[str | None, typer.Option(help="New time zone.", metavar="ZONE")] = None,
    client: ClientNames = None,
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
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Change mailings. A changed schedule or canary applies from now on.

    New recipients replace the former ones, and new --except options the former ones.
    """
    from skychimp.models import CatchUp, Every
    from skychimp.permissions import Action
    from skychimp.services.mailings import mailings
    from skychimp.services.mailings.canary_input import CanaryInput

    context = get_context(ctx, json)
    require_one(mailing, name=name)
    found = mailings.find_several(context.store, context.actor, mailing, action=Action.CHANGE_MAILINGS)
    if end is not None and no_end:
        raise InvalidValue(tr("--end and --no-end cannot be combined"), tr("use one of them"))
    if topic is not None and no_topic:
        raise InvalidValue(tr("--topic and --no-topic cannot be combined"), tr("use one of them"))
    new_audience = read_audience(
        context, all_clients, tag, client, segment, where, except_tag, except_segment, except_where
    )
    if no_except and new_audience.excludes:
        raise InvalidValue(tr("--no-except cannot be combined with other --except options"), tr("use one of them"))
    if no_canary and (canary is not None or canary_wait is not None):
        raise InvalidValue(tr("--canary and --no-canary cannot be combined"), tr("use one of them"))
    warnings: dict[str, None] = {}
    if message is not None:
        for old in found:
            is_transactional = old.transactional if transactional is None else transactional
            warnings |= dict.fromkeys(check_message(context, message, transactional=is_transactional))
    if topic is not None or no_topic:
        _confirm_topic(context, found, topic, new_audience, no_except=no_except, yes=yes)
    has_other_clients = (
        new_audience.selects
        or new_audience.excludes
        or no_except
        or topic is not None
        or no_topic
        or canary is not None
    )
    counts: dict[int, AudienceCount] = {}

    def change(target: "MailingInfo") -> "MailingInfo":
        changed = mailings.change(
            context.store,
            context.actor,
            target.id,
            message_id=message,
            start=start,
            end=end,
            no_end=no_end,
            every=Every(every) if every else None,
            timezone=timezone,
            catch_up=CatchUp(catch_up) if catch_up else None,
            grace=parse_duration(grace),
            topic=topic,
            no_topic=no_topic,
            audience=new_audience if new_audience.selects or new_audience.excludes else None,
            no_except=no_except,
            name=name,
            canary=CanaryInput(canary, parse_duration(canary_wait), no_canary),
            transactional=transactional,
            require_consent=require_consent(context),
        )
        if target == found[0]:
            new_tags = [*(changed.tags if tag else ()), *(changed.except_tags if except_tag else ())]
            warn_of_unknown_tags(context, new_tags)
        if has_other_clients:
            counts[changed.id] = show_number_of_clients(context, changed)
        return changed

    def as_json(mailing: "MailingInfo") -> dict[str, Any]:
        return asdict(mailing) | (json_counts(counts[mailing.id]) if has_other_clients else {})

    def show(mailing: "MailingInfo") -> None:
        show_mailing(context, mailing, counts.get(mailing.id))

    changed = change_all(context, "updated", found, change, Kind(describe_mailing, show, COLUMNS, as_json))
    for warning in warnings:
        context.out.warn(tr("warning: {problem}", problem=warning))
    if len(changed) == 1:
        context.out.note(next_step(changed[0]))


def _confirm_topic(
    context: Context,
    found: "Sequence[MailingInfo]",
    new_topic: str | None,
    new_audience: "Audience",
    *,
    no_except: bool,
    yes: bool,
) -> None:
    """Warn of clients who left the topic of a mailing and would get it again, and ask if there is somebody to ask.

    Raises SkychimpError for a no.
    """
    from skychimp.services.mailings import topic_changes

    left: set[str] = set()
    for mailing in found:
        number = topic_changes.count_returning(
            context.store,
            context.actor,
            mailing,
            new_topic,
            new_audience,
            no_except=no_except,
            require_consent=require_consent(context),
        )
        if number and mailing.topic is not None:
            left.add(mailing.topic)
            clients = count_of(number, "client")
            context.out.warn(
                tr(
                    "warning: {clients} unsubscribed from {topic}, and would get mailing {id} again",
                    clients=clients,
                    topic=mailing.topic,
                    id=mailing.id,
                )
            )
    for old_topic in sorted(left):
        into = ("--topic", new_topic) if new_topic is not None else ("--ignore-column", "topic")
        exporting = command("suppressions", "export", "--topic", old_topic)
        context.out.note(
            tr(
                "hint: to keep them out: {export_command} | {import_command}",
                export_command=exporting,
                import_command=command("suppressions", "import", "-", *into),
            )
        )
    if left and context.can_ask_to_send(yes=yes):
        context.confirm(tr("change the topic"), yes=False)
