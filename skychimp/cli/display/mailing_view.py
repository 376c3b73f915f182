"""Show mailings: their columns, their times as people read them, and what happens next."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from skychimp.cli.context import Context
from skychimp.errors import ConfigError
from skychimp.shell import command, run_hint
from skychimp.text import count_of
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skychimp.delivery.scheduling.recurrence import DueTime
    from skychimp.listed import Listed
    from skychimp.services.mailings.queries import MailingInfo
    from skychimp.store.clients.audience import AudienceCount

COLUMNS = {
    "id": tr("ID"), "subject": tr("Subject"), "every": tr("Every"), "status": tr("Status"), "disabled": tr("Disabled"),
    "start_at": tr("Start"), "end_at": tr("End"), "next_at": tr("Next"), "name": tr("Name"), "progress": tr("Progress"),
}  # fmt: skip
OPTIONAL_COLUMNS = ("start_at", "end_at", "name")
"""Columns that a narrow terminal leaves out."""

MANAGER_COLUMNS = {
    "id": tr("ID"),
    "owner": tr("Owner"),
    "subject": tr("Subject"),
    "every": tr("Every"),
    "status": tr("Status"),
    "disabled": tr("Disabled"),
    "owner_blocked": tr("Owner blocked"), "next_at": tr("Next"), "name": tr("Name"), "progress": tr("Progress"),
}  # fmt: skip
DUE_TIME_COLUMNS = {"due_at": tr("UTC"), "local": tr("Local"), "note": tr("Note")}
NO_MAILINGS = 'no mailings yet; run "skychimp mailings create --help"'
SKIPPED_NOTE = tr("skipped: there was no new post")

_MINUTE_FORMAT = "%Y-%m-%d %H:%M"
_NAMES_OF_UTC = ("UTC", "Etc/UTC")


def show_mailing(context: Context, mailing: "MailingInfo", counted: "AudienceCount | None" = None) -> None:
    """Show one mailing. JSON has all its fields, and the numbers of its audience if they are given."""
    if context.out.json:
        context.out.record(asdict(mailing) | ({} if counted is None else json_counts(counted)))
    else:
        shown = _local_times(mailing, with_zone=True) if _is_for_person(context) else asdict(mailing)
        names = [name for name in COLUMNS if name != "name" or mailing.name]
        context.out.record(shown | {"progress": mailing.progress}, names)


def draw_mailing(mailing: "MailingInfo", rate: str) -> "RenderableType":
    """Return a screen for somebody who watches a mailing: what matters while it is sent. `rate` is how fast that is."""
    from skychimp.cli.display.tables import draw_record

    shown = _local_times(mailing, with_zone=True)
    names = [name for name in COLUMNS if name != "name" or mailing.name]
    more = {"held": mailing.held, "canary": canary_in_words(mailing)}
    progress = {"progress": f"{mailing.progress or 'nothing sent yet'}{rate}"}
    return draw_record(
        {name: (shown | progress)[name] for name in names} | {name: value for name, value in more.items() if value}
    )


def show_whole_mailing(context: Context, mailing: "MailingInfo", counted: "AudienceCount") -> None:
    """Show one mailing with all its fields, and its audience in words."""
    if context.out.json:
        show_mailing(context, mailing, counted)
        return
    shown = _local_times(mailing, with_zone=True) if _is_for_person(context) else asdict(mailing)
    audience = {"audience": audience_in_words(mailing), "recipients": f"{counted.recipients:,}"}
    left_out = counted.problem or left_out_in_words(counted) or "nobody"
    more = {"left_out": left_out, "canary": canary_in_words(mailing) or "none"}
    more |= {"bounces": f"{mailing.bounces:,}", "complaints": f"{mailing.complaints:,}"}
    context.out.record(shown | audience | more)


def audience_in_words(mailing: "MailingInfo") -> str:
    """Return who is in a mailing's audience.

    That is `all clients except those with the tag old`, or `clients with the tag vip, and 2 named clients`.
    """
    chosen = "all clients" if mailing.all_clients else ", and ".join(_chosen_in_words(mailing))
    excluded = _conditions_in_words(mailing.except_tags, mailing.except_segments, mailing.except_where)
    return f"{chosen} except those {', and those '.join(excluded)}" if excluded else chosen


def _chosen_in_words(mailing: "MailingInfo") -> list[str]:
    conditions = _conditions_in_words(mailing.tags, mailing.segments, mailing.where)
    named = [count_of(len(mailing.client_ids), "named client")] if mailing.client_ids else []
    return [f"clients {condition}" for condition in conditions] + named


def _conditions_in_words(tags: list[str], segments: list[str], where: str | None) -> list[str]:
    """Return what clients have in common: `with the tag vip`, `in segment riga`, `where name IS NULL`."""
    tag = "with the tag" if len(tags) == 1 else "with one of the tags"
    segment = "in segment" if len(segments) == 1 else "in one of the segments"
    lists = ((tag, tags), (segment, segments), ("where", [] if where is None else [where]))
    return [f"{words} {', '.join(values)}" for words, values in lists if values]


def canary_in_words(mailing: "MailingInfo") -> str:
    """Return who gets a mailing first, and whether the others wait now. "" if all get it at once."""
    from skychimp.durations import format_duration

    words = ""
    if mailing.canary is not None and mailing.canary_wait is not None:
        size = mailing.canary
        first = f"{size} of the clients" if size.endswith("%") else count_of(int(size), "client")
        words = tr(
            "{first} first, the others {format_duration} later",
            first=first,
            format_duration=format_duration(mailing.canary_wait),
        )
    return "; ".join(filter(None, (words, _waits_until(mailing))))


def _waits_until(mailing: "MailingInfo") -> str:
    if mailing.canary_until is None:
        return ""
    if mailing.canary_until <= datetime.now(UTC):
        return "the others wait until the canary emails were tried"
    local = mailing.canary_until.astimezone(ZoneInfo(mailing.timezone))
    return f"the others wait until {local:{_MINUTE_FORMAT}} {mailing.timezone}"


def note_canary(context: Context, mailing: "MailingInfo", counted: "AudienceCount") -> None:
    """Tell how many clients get a mailing first, if not all do."""
    from skychimp.durations import format_duration
    from skychimp.services.mailings.canary_input import number_of_first

    if mailing.canary is None or mailing.canary_wait is None:
        return
    first = number_of_first(mailing.canary, counted.recipients)
    others = counted.recipients - first
    if others:
        rate = context.settings.delivery.canary_failure_rate
        wait = format_duration(mailing.canary_wait)
        context.out.note(
            tr(
                "{first:,} of them first; the other {others:,} after {wait}, "
                "unless more than {rate:.0%} of the first emails fail",
                first=first,
                others=others,
                wait=wait,
                rate=rate,
            )
        )


def left_out_in_words(counted: "AudienceCount") -> str:
    """Return how many clients are left out, by the reason: `12 suppressed, 3 with a bad address`. "" if none is."""
    reasons = {
        "suppressed": counted.suppressed,
        "with a bad address": counted.bad,
        "without a recorded consent": counted.no_consent,
        "excluded": counted.excluded,
    }
    return ", ".join(f"{number:,} {reason}" for reason, number in reasons.items() if number)


def json_counts(counted: "AudienceCount") -> dict[str, Any]:
    """Return the numbers of an audience as JSON has them."""
    left_out = {
        "suppressed": counted.suppressed,
        "bad_address": counted.bad,
        "no_consent": counted.no_consent,
        "excluded": counted.excluded,
    }
    return {"recipients": counted.recipients, "left_out": left_out}


def note_left_out(context: Context, counted: "AudienceCount") -> None:
    """Tell how many clients are left out, if any."""
    if left_out := left_out_in_words(counted):
        context.out.note(tr("left out: {left_out}", left_out=left_out))


def show_mailings(
    context: Context, mailings: "Listed[MailingInfo]", columns: Mapping[str, str], *, is_filtered: bool
) -> None:
    """Show a list of mailings."""
    if _is_for_person(context):
        readable = partial(_readable_row, default_timezone=_default_timezone(context), now=datetime.now(UTC))
        optional = OPTIONAL_COLUMNS if columns in (COLUMNS, MANAGER_COLUMNS) else ()
        rows: Iterable[Any] = mailings.map(readable)
    else:
        rows, optional = mailings, ()
    context.out.rows(rows, columns, noun="mailing", empty=NO_MAILINGS, optional=optional, is_filtered=is_filtered)


def show_due_times(context: Context, mailing: "MailingInfo", due_times: "Iterable[DueTime]") -> None:
    """Show the coming due times of a mailing, in UTC and in its own time zone if that is another one."""
    zone = ZoneInfo(mailing.timezone)
    digest_note = tr("skipped when there is no new post") if mailing.digest else ""
    is_for_person = _is_for_person(context)
    rows = []
    for due in due_times:
        local = due.at.astimezone(zone)
        note = "; ".join(filter(None, (due.note, digest_note)))
        if is_for_person:
            rows.append(
                DueTimeRow(f"{due.at.astimezone(UTC):%a {_MINUTE_FORMAT}}", f"{local:%a {_MINUTE_FORMAT}}", note)
            )
        else:
            rows.append(DueTimeRow(due.at, local.isoformat(), note))
    columns = DUE_TIME_COLUMNS | ({"local": mailing.timezone} if is_for_person else {})
    if is_for_person and mailing.timezone in _NAMES_OF_UTC:
        del columns["local"]
    context.out.rows(
        rows, columns, empty=tr("no more due times: {why_none_is_due}", why_none_is_due=_why_none_is_due(mailing))
    )


def _why_none_is_due(mailing: "MailingInfo") -> str:
    if mailing.every == "once":
        return "it is sent only once"
    if mailing.end_at is None:
        return "no later time can be calculated"
    return f"it ends {mailing.end_at.astimezone(ZoneInfo(mailing.timezone)):{_MINUTE_FORMAT}} {mailing.timezone}"


def next_step(mailing: "MailingInfo") -> Phrase:
    """Return a note on when the mailing is sent next, and what to do for it."""
    if mailing.disabled:
        return tr("disabled; {hint} to enable it", hint=run_hint("mailings", "enable", mailing.id))
    if mailing.held is not None:
        return tr(
            "held: {held}; fix that, then {hint}", held=mailing.held, hint=run_hint("mailings", "enable", mailing.id)
        )
    if mailing.canary_until is not None:
        return tr(
            '{waits_until}; then sent by the daemon or "{command}"',
            waits_until=_waits_until(mailing),
            command=command("run"),
        )
    if mailing.next_at is None:
        return sent_next((mailing.deliveries or 0) - (mailing.done or 0)) or _why_complete(mailing)
    if mailing.next_at <= datetime.now(UTC):
        return tr('due now; run "skychimp run" to send it')
    local = mailing.next_at.astimezone(ZoneInfo(mailing.timezone))
    return f'next due {local:{_MINUTE_FORMAT}} {mailing.timezone}; sent by the daemon or "{command("run")}"'


def _why_complete(mailing: "MailingInfo") -> str:
    if mailing.deliveries is None and mailing.end_at is not None and mailing.end_at <= datetime.now(UTC):
        change = command("mailings", "update", mailing.id, "--end", "WHEN")
        return f"its end has passed, so it will never be sent; to change that: {change}"
    return "nothing left to send"


def sent_next(waiting: int) -> Phrase:
    """Return what sends the emails that wait, "" if there are none."""
    return (
        tr(
            '{emails} waiting; sent by the daemon or "{command}"',
            emails=count_of(waiting, "email"),
            command=command("run"),
        )
        if waiting
        else ""
    )


def relative_time(at: datetime, timezone: str, default_timezone: str, now: datetime) -> str:
    """Return a time such as `tomorrow 09:00`, in a time zone that is named unless it is the default one."""
    local, today = at.astimezone(ZoneInfo(timezone)), now.astimezone(ZoneInfo(timezone)).date()
    days = (local.date() - today).days
    near_days = {-1: "yesterday", 0: "today", 1: "tomorrow"} | dict.fromkeys(range(2, 7), f"{local:%A}")
    text = f"{near_days.get(days, local.date().isoformat())} {local:%H:%M}"
    return text if timezone == default_timezone else f"{text} {timezone}"


@dataclass(frozen=True)
class DueTimeRow:
    due_at: datetime | str
    local: str
    note: str


def _is_for_person(context: Context) -> bool:
    return context.out.on_terminal and not context.out.json


def _default_timezone(context: Context) -> str:
    """Return the time zone that needs no name in a list, or "" if that is not known."""
    try:
        return context.settings.mail.read_timezone()
    except ConfigError:
        return ""


def _readable_row(mailing: "MailingInfo", default_timezone: str, now: datetime) -> SimpleNamespace:
    next_at = mailing.next_at and relative_time(mailing.next_at, mailing.timezone, default_timezone, now)
    return SimpleNamespace(**_local_times(mailing) | {"next_at": next_at or "", "progress": mailing.progress})


def _local_times(mailing: "MailingInfo", *, with_zone: bool = False) -> dict[str, Any]:
    """Return the fields of a mailing with its times as texts in its own time zone."""
    zone = ZoneInfo(mailing.timezone)
    time_format = f"{_MINUTE_FORMAT} {mailing.timezone}" if with_zone else _MINUTE_FORMAT
    times = {name: getattr(mailing, name) for name in ("start_at", "end_at", "next_at", "canary_until")}
    return asdict(mailing) | {name: at and at.astimezone(zone).strftime(time_format) for name, at in times.items()}
