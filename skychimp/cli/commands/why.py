"""`skychimp why`: everything about one address."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Json, get_context

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from skychimp.services.reporting.address_history import AddressHistory, Chosen, ClientOf, Coming, LeftOut

app = typer.Typer(rich_markup_mode="rich")

COLUMNS = {
    "what": "What", "mailing_id": "Mailing", "due_at": "Due", "status": "Status", "attempt": "Attempt", "at": "At",
    "words": "Words", "queue_id": "Queue id", "message_id": "Message-ID",
}  # fmt: skip
CHOSEN, LEFT_OUT, COMING = "chosen", "left out", "coming"


@app.command(epilog="skychimp why ada@example.org")
def why(
    ctx: typer.Context,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="An address.", show_default=False)],
    json: Json = False,
) -> None:
    """Show which mailings chose an address or left it out, and why; and all that was tried, with the server's words."""
    from skychimp.services.reporting import address_history as service

    context = get_context(ctx, json)
    found = service.address_history(context.store, context.actor, email)
    if json:
        context.out.one(asdict(found))
    elif context.out.on_terminal:
        context.out.draw(*_draw(found))
    else:
        context.out.rows(_lines(found), COLUMNS)


# In a pipe


@dataclass(frozen=True)
class _Line:
    """An attempt, a delivery without one, a reason to leave the address out, or what comes next."""

    what: str
    mailing_id: int
    due_at: datetime
    status: str
    attempt: int = 0
    at: datetime | None = None
    words: str = ""
    queue_id: str = ""
    message_id: str = ""


def _lines(found: "AddressHistory") -> Iterator[_Line]:
    for one in found.chosen:
        what = (CHOSEN, one.mailing_id, one.due_at)
        if not one.attempts:
            yield _Line(*what, one.state, message_id=one.message_id)
        for tried in one.attempts:
            yield _Line(
                *what, tried.status, tried.attempt, tried.at, tried.reply, tried.queue_id, message_id=one.message_id
            )
    for out in found.left_out:
        yield _Line(LEFT_OUT, out.mailing_id, out.last_due_at, f"{out.times} ×", words=out.reason)
    for coming in found.coming:
        status = "chosen" if coming.reason is None else "left out"
        yield _Line(COMING, coming.mailing_id, coming.next_at, status, words=coming.reason or "")


# For eyes


def _draw(found: "AddressHistory") -> "Iterator[RenderableType]":
    from rich.text import Text

    from skychimp.cli import charts
    from skychimp.cli.output import escape

    yield Text(escape(found.email), "bold")
    for client in found.clients:
        yield Text(escape(_who(client)))
    if not found.clients:
        yield Text("it is no client by now")
    for one in found.chosen:
        yield _chosen(one)
    if found.left_out:
        yield charts.title("Left out")
        yield _table((_when(out), out.subject, out.mailing_id, out.reason) for out in found.left_out)
    if found.coming:
        yield charts.title("Comes next")
        yield _table((_moment(one.next_at), one.subject, one.mailing_id, _verdict(one)) for one in found.coming)


def _who(client: "ClientOf") -> str:
    facts = [f"client {client.id} of {client.owner}, since {_moment(client.created_at)}", client.name or ""]
    facts.append("tags: " + ", ".join(client.tags) if client.tags else "")
    if client.bad_at is not None:
        facts.append(f"marked as bad at {_moment(client.bad_at)}: {client.bad_reason}")
    return "; ".join(filter(None, facts))


def _chosen(one: "Chosen") -> "RenderableType":
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from skychimp.cli import charts
    from skychimp.cli.output import escape

    head = charts.title(f"{_moment(one.due_at)}  {escape(one.subject)} ")
    head.append(f"(mailing {one.mailing_id}): ", "dim").append(one.state, charts.STYLES.get(one.state, ""))
    if one.next_try_at is not None:
        head.append(f", the next try is at {_moment(one.next_try_at)}", "")
    table = charts.grid(right=(0,), columns=4)
    for tried in one.attempts:
        words = Text("\n".join(map(escape, tried.reply.split("\n"))))
        if tried.status != "sent":
            words.append(f"\n{tried.meaning}", "dim")
        if tried.queue_id:
            words.append(f"\nqueue id {escape(tried.queue_id)} at {escape(tried.relay)}")
        status = Text(tried.status.replace("_", " "), charts.STYLES[tried.status])
        table.add_row(Text(str(tried.attempt)), Text(_moment(tried.at, "%Y-%m-%d %H:%M:%S")), status, words)
    name = Text(f"Message-ID {escape(one.message_id)}", "dim", overflow="fold")
    return Group(head, table, Padding(name, (0, 0, 0, 1)))


def _table(rows: "Iterator[tuple[str, str, int, str]]") -> "Table":
    from rich.text import Text

    from skychimp.cli import charts
    from skychimp.cli.output import escape

    table = charts.grid(right=(), columns=2)
    for when, subject, mailing_id, verdict in rows:
        said = Text(f"{escape(subject)} ")
        said.append(f"(mailing {mailing_id})", "dim").append(f"\n{escape(verdict)}")
        table.add_row(Text(when), said)
    return table


def _when(out: "LeftOut") -> str:
    if out.times == 1:
        return _moment(out.last_due_at)
    return f"{out.times} times,\n{_moment(out.first_due_at)}\nto {_moment(out.last_due_at)}"


def _verdict(one: "Coming") -> str:
    return "chosen, as things are" if one.reason is None else f"left out: {one.reason}"


def _moment(at: datetime, form: str = "%Y-%m-%d %H:%M") -> str:
    return at.astimezone().strftime(form)
