"""Run `skychimp why`: show the history of one address."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Json, get_context
from skychimp.translation import Phrase, joined, tr, translated, trn

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from skychimp.services.reporting.address_history import (
        AddressHistory,
        DeliveryInfo,
        Exclusion,
        KnownClient,
        KnownSuppression,
        NextOccurrence,
    )

app = typer.Typer(rich_markup_mode="rich")

COLUMNS = {
    "kind": tr("Kind"),
    "mailing_id": tr("Mailing"),
    "due_at": tr("Due"),
    "status": tr("Status"),
    "attempt": tr("Attempt"),
    "at": tr("At"),
    "details": tr("Reply or reason"), "queue_id": tr("Queue ID"), "message_id": tr("Message-ID"),
}  # fmt: skip
SUPPRESSED, CHOSEN, LEFT_OUT, COMING = "suppressed", "chosen", "left out", "coming"


@app.command(epilog="skychimp why ada@example.org")
def why(
    ctx: typer.Context,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="The email address.", show_default=False)],
    json: Json = False,
) -> None:
    """Show the history of one address.

    Lists the mailings that included it or left it out, with the reasons, and every attempt with the server's reply.
    """
    from skychimp.services.reporting import address_history as service

    context = get_context(ctx, json)
    history = service.address_history(
        context.store, context.actor, email, require_consent=context.settings.delivery.require_consent
    )
    if json:
        context.out.record(asdict(history))
    elif context.out.on_terminal:
        context.out.draw(*_page(history))
    else:
        context.out.rows(_lines(history), COLUMNS)


# Output to a pipe


@dataclass(frozen=True)
class _Line:
    """A suppression, an attempt, a delivery without attempts, a reason to send nothing, or a next due time."""

    kind: str
    mailing_id: int | None
    due_at: datetime | None
    status: str
    attempt: int = 0
    at: datetime | None = None
    details: str = ""
    queue_id: str = ""
    message_id: str = ""


def _lines(history: "AddressHistory") -> Iterator[_Line]:
    for suppression in history.suppressions:
        yield _Line(SUPPRESSED, None, None, "", at=suppression.at, details=_describe_suppression(suppression))
    for delivery in history.chosen:
        yield from _delivery_lines(delivery)
    for exclusion in history.left_out:
        status = f"{exclusion.times} ×"
        yield _Line(LEFT_OUT, exclusion.mailing_id, exclusion.last_due_at, status, details=exclusion.reason)
    for occurrence in history.coming:
        status = CHOSEN if occurrence.reason is None else LEFT_OUT
        yield _Line(COMING, occurrence.mailing_id, occurrence.next_at, status, details=occurrence.reason or "")


def _delivery_lines(delivery: "DeliveryInfo") -> Iterator[_Line]:
    for attempt in delivery.attempts:
        yield _Line(
            kind=CHOSEN,
            mailing_id=delivery.mailing_id,
            due_at=delivery.due_at,
            status=attempt.status,
            attempt=attempt.attempt,
            at=attempt.at,
            details=attempt.reply,
            queue_id=attempt.queue_id,
            message_id=delivery.message_id,
        )
    for returned in delivery.returned:
        yield _Line(
            kind=CHOSEN,
            mailing_id=delivery.mailing_id,
            due_at=delivery.due_at,
            status=returned.kind,
            at=returned.at,
            details=returned.reply,
            message_id=delivery.message_id,
        )
    if not delivery.attempts or delivery.reason:
        yield _Line(
            kind=CHOSEN,
            mailing_id=delivery.mailing_id,
            due_at=delivery.due_at,
            status=delivery.state,
            details=delivery.reason or "",
            message_id=delivery.message_id,
        )


# Output to a terminal


def _page(history: "AddressHistory") -> "Iterator[RenderableType]":
    from rich.text import Text

    from skychimp.cli.display import charts
    from skychimp.cli.display.values import escape, terminal_text

    yield Text(escape(history.email), "bold")
    for client in history.clients:
        yield Text(terminal_text(_describe_client(client)))
    if not history.clients:
        yield Text(translated(tr("not a client")))
    for suppression in history.suppressions:
        since, reason = _local_time(suppression.at), _describe_suppression(suppression)
        yield Text(terminal_text(tr("suppressed since {at}: {reason}", at=since, reason=reason)), "red")
    if not (history.chosen or history.left_out or history.coming):
        yield Text(translated(tr("no mailing has included it, and none will")))
    for delivery in history.chosen:
        yield _delivery_part(delivery)
    if history.left_out:
        yield charts.heading(tr("Left out"))
        yield _mailing_table((_due_times(row), row.subject, row.mailing_id, row.reason) for row in history.left_out)
    if history.coming:
        yield charts.heading(tr("Next"))
        yield _mailing_table(
            (_local_time(row.next_at), row.subject, row.mailing_id, _describe_next(row)) for row in history.coming
        )


def _describe_client(client: "KnownClient") -> Phrase:
    created = _local_time(client.created_at)
    parts = [tr("client {id} of {owner} since {at}", id=client.id, owner=client.owner, at=created), client.name or ""]
    if client.tags:
        parts.append(tr("tags: {tags}", tags=", ".join(client.tags)))
    if client.bad_at is not None:
        parts.append(tr("bad address since {at}: {reason}", at=_local_time(client.bad_at), reason=client.bad_reason))
    return joined("; ", parts)


def _describe_suppression(suppression: "KnownSuppression") -> Phrase:
    """Return the reason, and for which mail and addresses the suppression holds."""
    owner = tr("all users") if suppression.owner is None else suppression.owner
    mail = (
        tr("topic {topic} of {owner}", topic=suppression.topic, owner=owner)
        if suppression.topic
        else tr("all mail of {owner}", owner=owner)
    )
    if suppression.address.startswith("@"):
        mail = tr("all of {domain}, {mail}", domain=suppression.address, mail=mail)
    return tr("{reason} ({mail})", reason=suppression.reason, mail=mail)


def _delivery_part(delivery: "DeliveryInfo") -> "RenderableType":
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from skychimp.cli.display import charts
    from skychimp.cli.display.values import escape, terminal_text

    heading = charts.heading(f"{_local_time(delivery.due_at)}  {escape(delivery.subject)} ")
    heading.append(f"({translated(tr('mailing {id}', id=delivery.mailing_id))}): ", "dim")
    heading.append(delivery.state, charts.STYLES.get(delivery.state, ""))
    if delivery.next_try_at is not None:
        next_try = tr("next try at {at}", at=_local_time(delivery.next_try_at))
        heading.append(f", {translated(next_try)}", "")
    message_id = Text(f"Message-ID {escape(delivery.message_id)}", "dim", overflow="fold")
    returned = (f"{_local_time(each.at)} {each.kind.replace('_', ' ')} {each.reply}" for each in delivery.returned)
    texts = [
        *(Text(escape(text), "red") for text in returned),
        Text(terminal_text(delivery.reason or "")),
        message_id,
    ]
    return Group(heading, _attempt_table(delivery), *(Padding(text, (0, 0, 0, 2)) for text in texts if text))


def _attempt_table(delivery: "DeliveryInfo") -> "Table":
    from rich.text import Text

    from skychimp.cli.display import charts
    from skychimp.cli.display.values import escape, terminal_text

    table = charts.borderless_table(numbers=(0,), columns=4)
    for attempt in delivery.attempts:
        reply = Text("\n".join(map(escape, attempt.reply.split("\n"))))
        if attempt.status != "sent":
            reply.append(f"\n{translated(attempt.meaning)}", "dim")
        if attempt.queue_id:
            found = tr("queue ID {queue_id} at {relay}", queue_id=attempt.queue_id, relay=attempt.relay)
            reply.append(f"\n{terminal_text(found)}")
        status = Text(attempt.status.replace("_", " "), charts.STYLES[attempt.status])
        table.add_row(Text(str(attempt.attempt)), Text(_local_time(attempt.at, "%Y-%m-%d %H:%M:%S")), status, reply)
    return table


def _mailing_table(rows: "Iterable[tuple[str, str, int, str]]") -> "Table":
    """Return a table with due times in the first column, and a mailing and a remark in the second."""
    from rich.text import Text

    from skychimp.cli.display import charts
    from skychimp.cli.display.values import escape, terminal_text

    table = charts.borderless_table(numbers=(), columns=2)
    for due_times, subject, mailing_id, remark in rows:
        cell = Text(f"{escape(subject)} ")
        name = translated(tr("mailing {id}", id=mailing_id))
        cell.append(f"({name})", "dim").append(f"\n{terminal_text(remark)}")
        table.add_row(Text(translated(due_times)), cell)
    return table


def _due_times(exclusion: "Exclusion") -> str:
    if exclusion.times == 1:
        return _local_time(exclusion.last_due_at)
    first, last = _local_time(exclusion.first_due_at), _local_time(exclusion.last_due_at)
    return trn(
        "{number} time,\n{first}\nto {last}",
        "{number} times,\n{first}\nto {last}",
        exclusion.times,
        first=first,
        last=last,
    )


def _describe_next(occurrence: "NextOccurrence") -> Phrase:
    if occurrence.reason is None:
        return tr("will be sent")
    return tr("left out: {reason}", reason=occurrence.reason)


def _local_time(at: datetime, pattern: str = "%Y-%m-%d %H:%M") -> str:
    return at.astimezone().strftime(pattern)
