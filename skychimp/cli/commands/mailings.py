"""`skychimp mailings`: what goes to whom, and when."""

import re
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn
from zoneinfo import ZoneInfo

import typer

from skychimp.cli.commands.run import exit_status, send, summary
from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, page
from skychimp.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from skychimp.services.listing import ListOptions
    from skychimp.services.mailings.mailings import MailingInfo
    from skychimp.services.reporting.delivery_log import AttemptInfo

app = typer.Typer(no_args_is_help=True, help="What goes to whom, and when.", rich_markup_mode="rich")

COLUMNS = {
    "id": "ID", "subject": "Subject", "every": "Every", "status": "Status", "disabled": "Disabled",
    "start_at": "Start", "end_at": "End", "next_at": "Next",
}  # fmt: skip
SPARE = ("start_at", "end_at")
"""Of these columns, what a narrow terminal can do without."""

LOG = {"at": "At", "email": "E-mail", "status": "Status", "attempt": "Attempt", "reply": "Reply"}
OVERSIGHT = {
    "id": "ID", "owner": "Owner", "subject": "Subject", "every": "Every", "status": "Status", "disabled": "Disabled",
    "owner_blocked": "Owner blocked", "next_at": "Next",
}  # fmt: skip
MORE_LOG = ("phase", "code", "enhanced", "relay", "due_at", "delivery_id")
AGO = re.compile(r"([0-9]+[smhd])+")
COMING = {"due_at": "UTC", "local": "Local", "note": "Note"}
NONE_YET = "no mailings yet; make one: skychimp mailings create --help"
STATUSES = ("sent", "deferred", "failed", "unknown", "given_back")
A_DAY = "%a %Y-%m-%d %H:%M"
FOLLOW_EVERY = 1.0  # s

Period = Literal["once", "day", "week", "month"]
Id = Annotated[int, typer.Argument(metavar="ID", help="A mailing's id.", show_default=False)]
Start = Annotated[str, typer.Option(help="now, +10m, '2026-12-01 09:00', 2026-12-01T09:00+03:00.", metavar="WHEN")]
End = Annotated[str | None, typer.Option(help="Nothing is sent at this time or later.", metavar="WHEN")]
Zone = Annotated[str | None, typer.Option(help="The zone of the times; the config's otherwise.", metavar="ZONE")]
ClientIds = Annotated[
    list[int] | None, typer.Option("--client", help="A client's id; as often as needed.", metavar="ID")
]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="All clients with this tag; as often as needed.")]
All = Annotated[bool, typer.Option("--all-clients", help="All your clients, also those to come.")]

Policy = Annotated[
    Literal["latest", "all", "skip"] | None,
    typer.Option(help="What to send of times that were missed: the latest, if not said otherwise.", show_default=False),
]
Grace = Annotated[
    str | None,
    typer.Option(help="How late is not too late: 12h a day, 2d a week, 5d a month.", metavar="DURATION"),
]


@app.command(epilog="skychimp mailings create --message 1 --start '2026-12-01 09:00' --every month --tag vip")
def create(
    ctx: typer.Context,
    message: Annotated[int, typer.Option(help="The message's id.", metavar="ID")],
    start: Start,
    every: Annotated[Period, typer.Option(help="The period.")],
    end: End = None,
    timezone: Zone = None,
    client: ClientIds = None,
    tag: Tags = None,
    all_clients: All = False,
    catch_up: Policy = None,
    grace: Grace = None,
    no_send: Annotated[bool, typer.Option("--no-send", help="Leave the sending to the next run.")] = False,
    json: Json = False,
) -> None:
    """Make a mailing; it sends at once if its window is open."""
    from skychimp.models import CatchUp, Every
    from skychimp.services.mailings import mailings
    from skychimp.services.mailings.mailings import Audience, Lateness, When

    context = get_context(ctx, json)
    zone = timezone or context.settings.mail.timezone
    made = mailings.create(
        context.store,
        context.actor,
        message_id=message,
        when=When(start, end, Every(every), zone),
        audience=Audience(all_clients, tag or (), client or ()),
        lateness=Lateness(CatchUp(catch_up or "latest"), _duration(grace)),
    )
    if no_send or made.next_at is None or made.next_at > datetime.now(UTC):
        _show(context, made)
        context.out.note(_what_next(made))
        _warn_if_held(context)
        context.out.next(f"mailings preview {made.id}")
        return
    _send_first(context, made)


def _warn_if_held(context: Context) -> None:
    from skychimp.delivery.sending.runner import is_held

    if is_held(context.store):
        context.out.warn("this store was restored and sends nothing until: skychimp resolve --restored")


def _send_first(context: Context, made: "MailingInfo") -> None:
    """Send a new mailing's first letters; whatever becomes of them, the mailing exists and is shown."""
    from skychimp.errors import SkychimpError
    from skychimp.services.mailings import mailings

    try:
        stats = send(context, made.id)
    except SkychimpError as error:
        context.out.warn(f"mailing {made.id} exists, but nothing was sent: {error.message}")
        if error.hint:
            context.out.note(f"hint: {error.hint}")
        _show(context, made)
        return
    made = mailings.show(context.store, context.actor, made.id)
    done = {name: value for name, value in asdict(summary(stats)).items() if value or name == "sent"}
    if context.out.json:
        context.out.one(asdict(made) | {"run": asdict(summary(stats))})
    else:
        _show(context, made)
        context.out.note(", ".join(f"{value} {name}" for name, value in done.items() if isinstance(value, int)))
    if made.skipped_at is not None:
        context.out.note("it was skipped: there is no new post to tell of")
    context.out.next("run" if exit_status(stats) else f"mailings log {made.id}")


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List your mailings; a manager sees everybody's."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    found = mailings.list_mailings(context.store, context.actor, page(limit, offset, search, sort))
    columns = OVERSIGHT if context.actor.role == "manager" else COLUMNS
    if context.out.on_terminal and not json:
        context.out.rows(_for_eyes(context, found), columns, empty=NONE_YET, spare=SPARE)
        return
    context.out.rows(found, columns, empty=NONE_YET)


@app.command()
def show(ctx: typer.Context, mailing: Id, json: Json = False) -> None:
    """Show one mailing."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    _show(context, mailings.show(context.store, context.actor, mailing), whole=True)


@app.command()
def update(
    ctx: typer.Context,
    mailing: Id,
    message: Annotated[int | None, typer.Option(help="Another message.", metavar="ID")] = None,
    start: Annotated[str | None, typer.Option(help="Another start.", metavar="WHEN")] = None,
    end: End = None,
    no_end: Annotated[bool, typer.Option("--no-end", help="Go on without an end.")] = False,
    every: Annotated[Period | None, typer.Option(help="Another period.")] = None,
    timezone: Zone = None,
    client: ClientIds = None,
    tag: Tags = None,
    all_clients: All = False,
    catch_up: Policy = None,
    grace: Grace = None,
    json: Json = False,
) -> None:
    """Change a mailing; a changed schedule counts from now on."""
    from skychimp.models import CatchUp, Every
    from skychimp.services.mailings import mailings
    from skychimp.services.mailings.mailings import Audience

    context = get_context(ctx, json)
    if end is not None and no_end:
        raise InvalidValue("--end and --no-end can't go together")
    audience: Audience | None = None
    if client or tag or all_clients:
        audience = Audience(all_clients, tag or (), client or ())
    changed = mailings.change(
        context.store,
        context.actor,
        mailing,
        message_id=message,
        start=start,
        end=end,
        no_end=no_end,
        every=Every(every) if every else None,
        timezone=timezone,
        catch_up=CatchUp(catch_up) if catch_up else None,
        grace=_duration(grace),
        audience=audience,
    )
    _show(context, changed)
    context.out.note(_what_next(changed))


@app.command()
def delete(ctx: typer.Context, mailing: Id, yes: Yes = False, json: Json = False) -> None:
    """Delete a mailing; what it still had to send is cancelled."""
    from skychimp.permissions import Action
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    found = mailings.show(context.store, context.actor, mailing, to=Action.CHANGE_MAILINGS)
    context.confirm(f"delete mailing {found.id}, {found.subject!r}?", yes=yes)
    _show(context, mailings.remove(context.store, context.actor, mailing))


@app.command(epilog="skychimp mailings preview 1 --from 2027-01-01 --next 12")
def preview(
    ctx: typer.Context,
    mailing: Id,
    since: Annotated[
        str | None, typer.Option("--from", help="From this time on; from now otherwise.", metavar="WHEN")
    ] = None,
    number: Annotated[int, typer.Option("--next", min=1, max=1000, help="How many.", metavar="N")] = 5,
    json: Json = False,
) -> None:
    """Show the coming due times, in UTC and local."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    info, coming = mailings.preview(context.store, context.actor, mailing, since=since, number=number)
    zone = ZoneInfo(info.timezone)
    digest = "skipped when there is no new post" if info.digest else ""
    notes = ["; ".join(filter(None, (due.note, digest))) for due in coming]
    rows = [_Coming(due.at, due.at.astimezone(zone).isoformat(), note) for due, note in zip(coming, notes, strict=True)]
    columns = COMING
    if context.out.on_terminal and not context.out.json:
        columns = COMING | {"local": info.timezone}
        rows = [
            replace(row, due_at=f"{row.due_at.astimezone(UTC):{A_DAY}}", local=f"{row.due_at.astimezone(zone):{A_DAY}}")
            for row in rows
        ]
    context.out.rows(rows, columns, empty="no more due times")


@dataclass(frozen=True)
class _Coming:
    due_at: Any
    local: str
    note: str


@app.command(epilog="skychimp mailings duplicate 1 --start '2027-02-01 09:00'")
def duplicate(
    ctx: typer.Context,
    mailing: Id,
    start: Annotated[str | None, typer.Option(help="Another start.", metavar="WHEN")] = None,
    end: Annotated[str | None, typer.Option(help="Another end.", metavar="WHEN")] = None,
    json: Json = False,
) -> None:
    """Make another mailing like this one; it is disabled until you enable it."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    made = mailings.duplicate(context.store, context.actor, mailing, start=start, end=end)
    _show(context, made)
    context.out.note("it is disabled")
    context.out.next(f"mailings update {made.id} ..., then skychimp mailings enable {made.id}")


@app.command()
def disable(
    ctx: typer.Context,
    mailing: Id,
    reason: Annotated[str, typer.Option(help="Why, for whoever asks.")] = "",
    json: Json = False,
) -> None:
    """Stop a mailing until it is enabled."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    _show(context, mailings.disable(context.store, context.actor, mailing, reason))
    context.out.note(f"to let it go on: skychimp mailings enable {mailing}")


@app.command()
def enable(ctx: typer.Context, mailing: Id, json: Json = False) -> None:
    """Let a stopped mailing go on."""
    from skychimp.services.mailings import mailings

    context = get_context(ctx, json)
    changed = mailings.enable(context.store, context.actor, mailing)
    _show(context, changed)
    context.out.note(_what_next(changed))


@app.command(
    epilog="skychimp mailings log 1 --status failed --domain example.org\n"
    "skychimp mailings log 1 --reply 5.1.1 --last --csv\nskychimp mailings log 1 --follow --since 1h"
)
def log(
    ctx: typer.Context,
    mailing: Id,
    status: Annotated[str | None, typer.Option(help="Only " + ", ".join(STATUSES) + ".", metavar="STATUS")] = None,
    domain: Annotated[str | None, typer.Option(help="Only addresses of this domain.", metavar="DOMAIN")] = None,
    reply: Annotated[
        str | None, typer.Option(help="Only replies with this code (550 or 5.1.1) or text.", metavar="REPLY")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only at this time or later; 2h is two hours ago.", metavar="WHEN")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only before this time.", metavar="WHEN")] = None,
    last: Annotated[bool, typer.Option("--last", help="One row a delivery: its last attempt.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on showing new ones, until Ctrl-C.")] = False,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    json: Json = False,
) -> None:
    """Show every attempt, the oldest first, with the server's words.

    With --follow and --json each attempt is a JSON value on a line of its own.
    """
    from skychimp.services.mailings import mailings
    from skychimp.services.reporting import delivery_log

    context = get_context(ctx, json)
    if status is not None and status not in STATUSES:
        raise InvalidValue(f"there is no status {status!r}", "it is one of " + ", ".join(STATUSES))
    if csv and json:
        raise InvalidValue("--csv and --json can't go together")
    if follow and (last or sort or limit is not None or offset):
        raise InvalidValue(
            "--follow shows attempts as they come", "leave out --last, --sort, --limit and --offset, or --follow"
        )

    def read(chosen: "ListOptions", after: int | None = None) -> "Iterator[AttemptInfo]":
        return delivery_log.log(
            context.store,
            context.actor,
            mailing,
            chosen,
            status=status,
            domain=domain,
            reply=reply,
            since=_moment(context, since),
            until=_moment(context, until),
            last=last,
            after=after,
        )

    if follow:
        _follow(context, lambda after: read(page(None, 0, search, None), after), csv=csv)
    found = read(page(limit, offset, search, sort))
    if csv:
        context.out.csv(found, [*LOG, *MORE_LOG])
        return
    empty = "nothing was tried yet; send what is due: skychimp run"
    if mailings.show(context.store, context.actor, mailing).skipped_at is not None:
        empty = "skipped: there was no new post to tell of"
    context.out.rows(found, LOG, empty=empty)


def _follow(context: Context, read: "Callable[[int | None], Iterator[AttemptInfo]]", *, csv: bool) -> NoReturn:
    """Show what there is, and what comes, until Ctrl-C."""
    from skychimp.services.reporting import delivery_log

    seen: int | None = None

    def fresh() -> "Iterator[AttemptInfo]":
        nonlocal seen
        newest = delivery_log.newest(context.store)
        for attempt in read(seen):
            newest = max(newest, attempt.id or 0)
            yield attempt
        seen = newest

    if csv:
        context.out.csv((), [*LOG, *MORE_LOG])
    while True:
        if csv:
            context.out.csv(fresh(), [*LOG, *MORE_LOG], header=False)
        else:
            context.out.lines(fresh(), LOG)
        time.sleep(FOLLOW_EVERY)


def _moment(context: Context, text: str | None) -> datetime | None:
    """A time that a person wrote; a duration is so long ago."""
    from skychimp.delivery.scheduling.time_input import parse_when
    from skychimp.durations import parse_duration

    if text is None:
        return None
    now = datetime.now(UTC)
    if AGO.fullmatch(text.strip()):
        return now - parse_duration(text.strip())
    return parse_when(text, context.settings.mail.timezone, now)


def _duration(text: str | None) -> timedelta | None:
    from skychimp.durations import parse_duration

    return None if text is None else parse_duration(text)


def _for_eyes(context: Context, found: "Iterator[MailingInfo]") -> "Iterator[SimpleNamespace]":
    """Mailings with their times in their own zones, and the next one in words."""
    mine, now = context.settings.mail.timezone, datetime.now(UTC)
    for mailing in found:
        words = "" if mailing.next_at is None else in_words(mailing.next_at, mailing.timezone, mine, now)
        yield SimpleNamespace(**_in_its_zone(mailing) | {"next_at": words})


def _in_its_zone(mailing: "MailingInfo", *, named: bool = False) -> dict[str, Any]:
    """A mailing's fields, with its times as a person reads them: in its own zone, which may be named."""
    times = {name: getattr(mailing, name) for name in ("start_at", "end_at", "next_at")}
    form = f"%Y-%m-%d %H:%M{' ' + mailing.timezone if named else ''}"
    zone = ZoneInfo(mailing.timezone)
    return asdict(mailing) | {name: at and at.astimezone(zone).strftime(form) for name, at in times.items()}


def in_words(at: datetime, timezone: str, mine: str, now: datetime) -> str:
    """A time as a person would say it, in the mailing's zone, which is named where it is not `mine`."""
    local, today = at.astimezone(ZoneInfo(timezone)), now.astimezone(ZoneInfo(timezone)).date()
    days = (local.date() - today).days
    near = {-1: "yesterday", 0: "today", 1: "tomorrow"} | dict.fromkeys(range(2, 7), f"{local:%A}")
    said = f"{near.get(days, local.date().isoformat())} {local:%H:%M}"
    return said if timezone == mine else f"{said} {timezone}"


def _show(context: Context, mailing: "MailingInfo", *, whole: bool = False) -> None:
    shown = _in_its_zone(mailing, named=True) if context.out.on_terminal and not context.out.json else mailing
    context.out.one(shown, None if context.out.json or whole else list(COLUMNS))


def _what_next(mailing: "MailingInfo") -> str:
    if mailing.disabled:
        return f"it is disabled; to let it go on: skychimp mailings enable {mailing.id}"
    if mailing.next_at is None:
        return "it has nothing more to send"
    if mailing.next_at <= datetime.now(UTC):
        return "it is due; send it: skychimp run"
    local = mailing.next_at.astimezone(ZoneInfo(mailing.timezone))
    return f"next due {local:%Y-%m-%d %H:%M} {mailing.timezone}; skychimp run or daemon sends it"
