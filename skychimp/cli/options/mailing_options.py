"""Read the options of the `skychimp mailings` commands, and tell who gets a mailing."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skychimp.cli.context import Context
from skychimp.cli.display.mailing_view import note_canary, note_left_out
from skychimp.text import count_of
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.services.mailings.audience_input import Audience
    from skychimp.services.mailings.queries import MailingInfo
    from skychimp.store.clients.audience import AudienceCount

PERIODS = ("once", "day", "week", "month")
CatchUpMode = Literal["latest", "all", "skip"]
End = Annotated[str | None, typer.Option(help="Stop sending at this time.", metavar="WHEN")]
ClientNames = Annotated[
    list[str] | None, typer.Option("--client", help="Client ID or email address (repeatable).", metavar="CLIENT")
]
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


def read_period(text: str) -> str:
    """Return the period that a person typed: `weekly` is `week`. Raises ValueError."""
    period = {"daily": "day"}.get(text.lower(), text.lower().removesuffix("ly"))
    if period not in PERIODS:
        raise ValueError(f"{text!r} is not one of {', '.join(map(repr, PERIODS))}")
    return period


def _complete_period(incomplete: str) -> list[str]:
    return [period for period in PERIODS if period.startswith(incomplete)]


EVERY = typer.Option(
    help="How often to send it.",
    metavar="<once|day|week|month>",
    parser=read_period,
    autocompletion=_complete_period,
)


def read_audience(
    context: Context,
    all_clients: bool,
    tags: list[str] | None,
    client_names: list[str] | None,
    segments: list[str] | None,
    where: str | None,
    except_tags: list[str] | None,
    except_segments: list[str] | None,
    except_where: str | None,
) -> "Audience":
    """Return the audience that the options select. Raises NotFound for an unknown client."""
    from skychimp.services.clients import clients
    from skychimp.services.mailings.audience_input import Audience

    return Audience(
        all_clients=all_clients,
        tags=tags or (),
        client_ids=[clients.show(context.store, context.actor, name).id for name in client_names or ()],
        segments=segments or (),
        where=where,
        except_tags=except_tags or (),
        except_segments=except_segments or (),
        except_where=except_where,
    )


def parse_duration(text: str | None) -> timedelta | None:
    """Return a duration, None for None. Raises InvalidValue."""
    from skychimp import durations

    return None if text is None else durations.parse_duration(text)


def require_consent(context: Context) -> bool:
    """Return whether clients without a recorded consent are left out."""
    return context.settings.delivery.require_consent


def check_message(context: Context, message_id: int, *, transactional: bool) -> list[str]:
    """Return warnings about a message of a mailing. Raises InvalidValue if it cannot be sent."""
    from skychimp.services.mailings import unsubscribing

    return unsubscribing.check_message(
        context.store, context.actor, message_id, context.settings, transactional=transactional
    )


def count_recipients(context: Context, mailing_id: int) -> "AudienceCount":
    """Count the clients in a mailing's audience now."""
    from skychimp.services.mailings import recipients

    return recipients.count_recipients(
        context.store, context.actor, mailing_id, require_consent=require_consent(context)
    )


def confirm_sending(context: Context, counted: "AudienceCount", *, yes: bool, canary: str | None = None) -> None:
    """Ask before a mailing sends to these clients, or to some of them first. Raises SkychimpError for a no."""
    from skychimp.services.mailings.canary_input import number_of_first

    note_left_out(context, counted)
    first = None if canary is None else number_of_first(canary, counted.recipients)
    context.confirm_sending(counted.recipients, yes=yes, first=first)


def show_number_of_clients(
    context: Context, mailing: "MailingInfo", counted: "AudienceCount | None" = None
) -> "AudienceCount":
    """Tell how many clients a mailing goes to, so that a wrong audience is noticed, and return the numbers.

    They are counted if they are not given.
    """
    if counted is None:
        counted = count_recipients(context, mailing.id)
    if counted.problem is not None:
        context.out.warn(tr("warning: {problem}", problem=counted.problem))
    elif counted.recipients:
        context.out.note(
            tr("mailing {id} goes to {clients}", id=mailing.id, clients=count_of(counted.recipients, "client"))
        )
    else:
        context.out.warn(tr("warning: mailing {id} goes to no client", id=mailing.id))
    note_left_out(context, counted)
    note_canary(context, mailing, counted)
    return counted
