"""Show mailings: their columns, their times as people read them, and what happens next."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial, reduce
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from skychimp.cli.context import Context
from skychimp.cli.display.several import Kind
from skychimp.cli.display.weekdays import NAMES, with_weekday
from skychimp.errors import ConfigError
from skychimp.shell import command, run_hint
from skychimp.text import NO_TEXT, count_of, thousands
from skychimp.translation import Phrase, joined, tr

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
NO_MAILINGS = tr('no mailings yet; run "skychimp mailings create --help"')
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


def mailing_kind(context: Context) -> "Kind[MailingInfo]":
    """Return how mailings are shown that were changed."""
    return Kind(describe_mailing, partial(show_mailing, context), COLUMNS)


def describe_mailing(mailing: "MailingInfo") -> Phrase:
    """Return a few words that name a mailing, such as `mailing 3 ("News")`."""
    return tr('mailing {id} ("{name}")', id=mailing.id, name=mailing.name or mailing.subject)


def draw_mailing(mailing: "MailingInfo", rate: str) -> "RenderableType":
    """Return a screen for somebody who watches a mailing: what matters while it is sent. `rate` is how fast that is."""
    from skychimp.cli.display.tables import draw_record

    shown = _local_times(mailing, with_zone=True)
    names = [name for name in COLUMNS if name != "name" or mailing.name]
    more = {"held": mailing.held, "canary": canary_in_words(mailing)}
    progress = {"progress": joined("", (mailing.progress or tr("nothing sent yet"), rate))}
    return draw_record(
        {name: (shown | progress)[name] for name in names} | {name: value for name, value in more.items() if value}
    )


def show_whole_mailing(context: Context, mailing: "MailingInfo", counted: "AudienceCount") -> None:
    """Show one mailing with all its fields, and its audience in words."""
    if context.out.json:
        show_mailing(context, mailing, counted)
        return
    shown = _local_times(mailing, with_zone=True) if _is_for_person(context) else asdict(mailing)
    audience = {"audience": audience_in_words(mailing), "recipients": thousands(counted.recipients)}
    left_out = counted.problem or left_out_in_words(counted) or tr("nobody")
    more: dict[str, str] = {"left_out": left_out, "canary": canary_in_words(mailing) or tr("none")}
    more |= {"bounces": thousands(mailing.bounces), "complaints": thousands(mailing.complaints)}
    context.out.record(shown | audience | more)


def audience_in_words(mailing: "MailingInfo") -> Phrase:
    """Return who is in a mailing's audience.

    That is `all clients except those with the tag old`, or `clients with the tag vip, and 2 named clients`.
    """
    chosen = tr("all clients") if mailing.all_clients else _enumerated(_chosen_in_words(mailing))
    excluded = _enumerated(_excluded_in_words(mailing))
    return tr("{chosen} except {excluded}", chosen=chosen, excluded=excluded) if excluded else chosen


def _chosen_in_words(mailing: "MailingInfo") -> Iterator[Phrase]:
    tags, segments = ", ".join(mailing.tags), ", ".join(mailing.segments)
    if len(mailing.tags) > 1:
        yield tr("clients with one of the tags {tags}", tags=tags)
    elif tags:
        yield tr("clients with the tag {tag}", tag=tags)
    if len(mailing.segments) > 1:
        yield tr("clients in one of the segments {segments}", segments=segments)
    elif segments:
        yield tr("clients in segment {segment}", segment=segments)
    if mailing.where is not None:
        yield tr("clients where {condition}", condition=mailing.where)
    if mailing.client_ids:
        yield count_of(len(mailing.client_ids), "named client")


def _excluded_in_words(mailing: "MailingInfo") -> Iterator[Phrase]:
    tags, segments = ", ".join(mailing.except_tags), ", ".join(mailing.except_segments)
    if len(mailing.except_tags) > 1:
        yield tr("those with one of the tags {tags}", tags=tags)
    elif tags:
        yield tr("those with the tag {tag}", tag=tags)
    if len(mailing.except_segments) > 1:
        yield tr("those in one of the segments {segments}", segments=segments)
    elif segments:
        yield tr("those in segment {segment}", segment=segments)
    if mailing.except_where is not None:
        yield tr("those where {condition}", condition=mailing.except_where)


def _enumerated(parts: Iterable[Phrase]) -> Phrase:
    """Return `a, and b`, "" if there are no parts."""
    first, *others = *parts, NO_TEXT
    return reduce(lambda first, second: tr("{first}, and {second}", first=first, second=second), others[:-1], first)


def canary_in_words(mailing: "MailingInfo") -> Phrase:
    """Return who gets a mailing first, and whether the others wait now. "" if all get it at once."""
    from skychimp.durations import format_duration

    words = NO_TEXT
    if mailing.canary is not None and mailing.canary_wait is not None:
        size = mailing.canary
        is_share = size.endswith("%")
        first = tr("{percent} of the clients", percent=size) if is_share else count_of(int(size), "client")
        words = tr("{first} first, the others {wait} later", first=first, wait=format_duration(mailing.canary_wait))
    return joined("; ", (words, _waits_until(mailing)))


def _waits_until(mailing: "MailingInfo") -> Phrase:
    if mailing.canary_until is None:
        return NO_TEXT
    if mailing.canary_until <= datetime.now(UTC):
        return tr("the others wait until the canary emails were tried")
    return tr("the others wait until {time}", time=_zoned(mailing.canary_until, mailing.timezone))


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


def left_out_in_words(counted: "AudienceCount") -> Phrase:
    """Return how many clients are left out, by the reason: `12 suppressed, 3 with a bad address`. "" if none is."""
    reasons = {
        tr("{number:,} suppressed", number=counted.suppressed): counted.suppressed,
        tr("{number:,} with a bad address", number=counted.bad): counted.bad,
        tr("{number:,} without a recorded consent", number=counted.no_consent): counted.no_consent,
        tr("{number:,} excluded", number=counted.excluded): counted.excluded,
    }
    return joined(", ", (reason for reason, number in reasons.items() if number))


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
    digest_note = tr("skipped when there is no new post") if mailing.digest else NO_TEXT
    is_for_person = _is_for_person(context)
    rows = []
    for due in due_times:
        local = due.at.astimezone(zone)
        note = joined("; ", (due.note, digest_note))
        if is_for_person:
            utc, local_time = (with_weekday(at, f"{at:{_MINUTE_FORMAT}}") for at in (due.at.astimezone(UTC), local))
            rows.append(DueTimeRow(utc, local_time, note))
        else:
            rows.append(DueTimeRow(due.at, local.isoformat(), note))
    columns = DUE_TIME_COLUMNS | ({"local": mailing.timezone} if is_for_person else {})
    if is_for_person and mailing.timezone in _NAMES_OF_UTC:
        del columns["local"]
    context.out.rows(rows, columns, empty=tr("no more due times: {reason}", reason=_why_none_is_due(mailing)))


def _why_none_is_due(mailing: "MailingInfo") -> Phrase:
    if mailing.every == "once":
        return tr("it is sent only once")
    if mailing.end_at is None:
        return tr("no later time can be calculated")
    return tr("it ends {time}", time=_zoned(mailing.end_at, mailing.timezone))


def next_step(mailing: "MailingInfo") -> Phrase:
    """Return a note on when the mailing is sent next, and what to do for it."""
    if mailing.disabled:
        return tr("disabled; {run} to enable it", run=run_hint("mailings", "enable", mailing.id))
    if mailing.held is not None:
        run = run_hint("mailings", "enable", mailing.id)
        return tr("held: {reason}; fix that, then {run}", reason=mailing.held, run=run)
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
    time = _zoned(mailing.next_at, mailing.timezone)
    return tr('next due {time}; sent by the daemon or "{command}"', time=time, command=command("run"))


def _why_complete(mailing: "MailingInfo") -> Phrase:
    if mailing.deliveries is None and mailing.end_at is not None and mailing.end_at <= datetime.now(UTC):
        change = command("mailings", "update", mailing.id, "--end", "WHEN")
        return tr("its end has passed, so it will never be sent; to change that: {command}", command=change)
    return tr("nothing left to send")


def sent_next(waiting: int) -> Phrase:
    """Return what sends the emails that wait, "" if there are none."""
    return (
        tr(
            '{emails} waiting; sent by the daemon or "{command}"',
            emails=count_of(waiting, "email"),
            command=command("run"),
        )
        if waiting
        else NO_TEXT
    )


def relative_time(at: datetime, timezone: str, default_timezone: str, now: datetime) -> Phrase:
    """Return a time such as `tomorrow 09:00`, in a time zone that is named unless it is the default one."""
    local, today = at.astimezone(ZoneInfo(timezone)), now.astimezone(ZoneInfo(timezone)).date()
    days = (local.date() - today).days
    near_days = {-1: tr("yesterday"), 0: tr("today"), 1: tr("tomorrow")}
    near_days |= dict.fromkeys(range(2, 7), NAMES[local.weekday()])
    day = near_days.get(days, local.date().isoformat())
    zone = "" if timezone == default_timezone else timezone
    return joined(" ", (day, f"{local:%H:%M}", zone))


@dataclass(frozen=True)
class DueTimeRow:
    due_at: datetime | str
    local: str
    note: str


def _zoned(at: datetime, timezone: str) -> str:
    """Return a time in a time zone, with the name of the zone."""
    return f"{at.astimezone(ZoneInfo(timezone)):{_MINUTE_FORMAT}} {timezone}"


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
