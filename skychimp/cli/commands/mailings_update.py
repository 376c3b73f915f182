"""The `skychimp mailings update` command."""

from typing import Annotated

import typer

from skychimp.cli.context import Json, MailingName, get_context
from skychimp.cli.display.mailing_view import next_step, show_mailing
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
    show_number_of_clients,
)
from skychimp.errors import InvalidValue
from skychimp.translation import tr

EXAMPLE = tr("skychimp mailings update 1 --every week --tag vip")


def update(
    ctx: typer.Context,
    mailing: MailingName,
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
    warnings: list[str] = []
    if message is not None:
        old = mailings.find(context.store, context.actor, mailing_id)
        is_transactional = old.transactional if transactional is None else transactional
        warnings = check_message(context, message, transactional=is_transactional)
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
        grace=parse_duration(grace),
        topic=topic,
        no_topic=no_topic,
        audience=new_audience if new_audience.selects or new_audience.excludes else None,
        no_except=no_except,
        name=name,
        canary=CanaryInput(canary, parse_duration(canary_wait), no_canary),
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
    counted = show_number_of_clients(context, changed) if has_other_clients else None
    for warning in warnings:
        context.out.warn(tr("warning: {warning}", warning=warning))
    show_mailing(context, changed, counted)
    context.out.note(next_step(changed))
