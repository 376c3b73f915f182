"""The `skychimp mailings log` command: show every attempt of a mailing, with the server's replies."""

from itertools import chain
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from skychimp.cli.context import Context, Json, Limit, MailingName, Offset, Search, Sort, get_context, list_options
from skychimp.cli.display.mailing_view import SKIPPED_NOTE
from skychimp.cli.following import follow_log
from skychimp.errors import InvalidValue
from skychimp.text import NO_TEXT
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from skychimp.services.listing import ListOptions
    from skychimp.services.reporting.delivery_log import AttemptInfo

EXAMPLES = (
    "skychimp mailings log 1 --status failed --domain example.org\n"
    "skychimp mailings log 1 --reply 5.1.1 --last --csv\nskychimp mailings log 1 --follow --since 1h"
)
COLUMNS = {"at": tr("At"), "email": tr("Email"), "status": tr("Status"), "attempt": tr("Attempt"), "reply": tr("Reply")}
TABLE_COLUMNS = {**COLUMNS, "returned": tr("Returned")}
"""Plain lines have the columns that scripts know."""
CSV_COLUMNS = (*COLUMNS, "phase", "code", "enhanced", "relay", "due_at", "delivery_id", "returned")
STATUSES = ("sent", "outbox", "deferred", "failed", "unknown", "given_back")


def log(
    ctx: typer.Context,
    mailing: MailingName,
    status: Annotated[
        str | None, typer.Option(help=f"Only attempts with this status: {', '.join(STATUSES)}.", metavar="STATUS")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Only addresses in this domain.", metavar="DOMAIN")] = None,
    reply: Annotated[
        str | None, typer.Option(help="Only replies with this code (550 or 5.1.1) or text.", metavar="REPLY")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only since this time, or since this long ago (2h).", metavar="WHEN")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only before this time.", metavar="WHEN")] = None,
    last: Annotated[bool, typer.Option("--last", help="Show only the last attempt of each delivery.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Keep showing new attempts, until Ctrl-C.")] = False,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    csv: Annotated[bool, typer.Option("--csv", help="Output as CSV with a header.")] = False,
    json: Json = False,
) -> None:
    """Show the delivery attempts, with the server's replies.

    With --follow and --json, each attempt is a JSON object on a line of its own.
    """
    from skychimp.services.reporting import delivery_log

    context = get_context(ctx, json)
    _check_log_options(
        status, csv=csv, json=context.out.json, follow=follow, page=bool(last or sort or limit is not None or offset)
    )

    mailing_id = context.find_mailing(mailing)

    def read(options: "ListOptions", after: int | None = None) -> "Iterator[AttemptInfo]":
        return delivery_log.list_attempts(
            context.store,
            context.actor,
            mailing_id,
            options,
            status=status,
            domain=domain,
            reply=reply,
            since=context.parse_past(since),
            until=context.parse_past(until),
            last=last,
            after=after,
        )

    if follow:
        _follow(context, lambda after: read(list_options(None, 0, search, None), after), csv=csv)
    attempts = read(list_options(limit, offset, search, sort))
    if csv:
        context.out.csv(attempts, CSV_COLUMNS)
    elif first := next(attempts, None):
        columns = TABLE_COLUMNS if context.out.on_terminal else COLUMNS
        context.out.rows(chain([first], attempts), columns, noun="attempt")
    else:
        chosen = (status, domain, reply, since, until, search, limit, offset or None)
        is_filtered = any(each is not None for each in chosen)
        empty = NO_TEXT if is_filtered else _empty_log_note(context, mailing_id)
        context.out.rows((), COLUMNS, noun="attempt", empty=empty, is_filtered=is_filtered)


def _check_log_options(status: str | None, *, csv: bool, json: bool, follow: bool, page: bool) -> None:
    if status is not None and status not in STATUSES:
        raise InvalidValue(
            tr('invalid status "{status}"', status=status),
            tr("choose one of: {statuses}", statuses=", ".join(STATUSES)),
        )
    if csv and json:
        raise InvalidValue(tr("--csv and --json cannot be combined"), tr("use one of them"))
    if follow and page:
        raise InvalidValue(
            tr("--follow cannot be combined with --last, --sort, --limit or --offset"), tr("use --follow without them")
        )


def _follow(context: Context, read: "Callable[[int | None], Iterator[AttemptInfo]]", *, csv: bool) -> NoReturn:
    def show(attempts: "Iterator[AttemptInfo]") -> None:
        if csv:
            context.out.csv(attempts, CSV_COLUMNS, header=False)
        else:
            context.out.lines(attempts, COLUMNS)

    if csv:
        context.out.csv((), CSV_COLUMNS)
    follow_log(context, read, show)


def _empty_log_note(context: Context, mailing_id: int) -> Phrase:
    from skychimp.services.mailings import mailings

    if mailings.find(context.store, context.actor, mailing_id).skipped_at is not None:
        return SKIPPED_NOTE
    return tr('no attempts yet; run "skychimp run" to send due emails')
