"""`skychimp clients`: whom you write to."""

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from skychimp.cli.context import Json, Limit, Offset, Search, Sort, Yes, get_context, page
from skychimp.cli.output import Tell
from skychimp.errors import InvalidValue

if TYPE_CHECKING:
    from skychimp.services.clients.clients import ClientInfo
    from skychimp.services.clients.importing import BadRow, ImportResult, LeftOut

app = typer.Typer(no_args_is_help=True, help="Whom you write to.", rich_markup_mode="rich")

COLUMNS = {"id": "ID", "email": "E-mail", "name": "Name", "tags": "Tags", "bad_reason": "Bad address"}

Form = Annotated[
    Literal["csv", "jsonl"] | None,
    typer.Option(help="CSV or JSON lines; by the file's ending if not said.", show_default=False),
]
Who = Annotated[str, typer.Argument(metavar="CLIENT", help="A client's id or e-mail.", show_default=False)]


@app.command(epilog="skychimp clients create --email ada@example.org --name 'Ada Lovelace' --tag vip")
def create(
    ctx: typer.Context,
    email: Annotated[str, typer.Option(help="The address.")],
    name: Annotated[str, typer.Option(help="The full name.")] = "",
    comment: Annotated[str, typer.Option(help="For yourself, and {{ client.comment }}.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="A tag; as often as needed.")] = None,
    json: Json = False,
) -> None:
    """Add a client."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    made = clients.create(context.store, context.actor, email=email, name=name, comment=comment, tags=tag or [])
    context.out.one(made)
    context.out.next("messages create --subject 'Hello {{ client.name }}'")


@app.command("list", epilog="skychimp clients list --tag vip --sort name")
def list_(
    ctx: typer.Context,
    tag: Annotated[str | None, typer.Option(help="Only clients with this tag.")] = None,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List your clients."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    found = clients.list_clients(context.store, context.actor, page(limit, offset, search, sort), tag)
    context.out.rows(found, COLUMNS, empty="no clients yet; add some: skychimp clients import FILE.csv")


@app.command()
def show(ctx: typer.Context, client: Who, json: Json = False) -> None:
    """Show one client."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    context.out.one(clients.show(context.store, context.actor, client))


@app.command(epilog="skychimp clients update 7 --name 'Ada King'")
def update(
    ctx: typer.Context,
    client: Who,
    email: Annotated[str | None, typer.Option(help="Another address.")] = None,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    comment: Annotated[str | None, typer.Option(help="Another comment.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="The tags, instead of those it has.")] = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Take all tags away.")] = False,
    clear_bad: Annotated[bool, typer.Option("--clear-bad", help="The address is good again.")] = False,
    json: Json = False,
) -> None:
    """Change a client."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    tags = [] if no_tags else tag
    changed = clients.change(
        context.store, context.actor, client, email=email, name=name, comment=comment, tags=tags, clear_bad=clear_bad
    )
    context.out.one(changed)


@app.command()
def delete(ctx: typer.Context, client: Who, yes: Yes = False, json: Json = False) -> None:
    """Delete a client; what was sent to it stays in the log."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    found = clients.show(context.store, context.actor, client)
    context.confirm(f"delete client {found.id}, {found.email}?", yes=yes)
    context.out.one(clients.remove(context.store, context.actor, str(found.id)))


@app.command(epilog="skychimp clients forget grace@example.org")
def forget(
    ctx: typer.Context,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="The person's address.", show_default=False)],
    all_users: Annotated[
        bool, typer.Option("--all-users", help="In everybody's clients and log; for administrators.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Erase a person from your clients and from the log of what was sent, which counts as before.

    Letters that wait for that person are cancelled. Files that were exported, letters in the outbox and backups are
    yours to delete.
    """
    from skychimp.services.users import privacy

    context = get_context(ctx, json)
    found = privacy.traces(context.store, context.actor, email, everywhere=all_users)
    what = f"clients: {found.clients}, letters in the log: {found.deliveries}"
    context.confirm(f"forget {email} for good ({what})?", yes=yes)
    context.out.one(privacy.forget(context.store, context.actor, email, everywhere=all_users))
    context.out.note("exported files, letters in an outbox and backups may still name that person")


@app.command("import", epilog="skychimp clients import people.csv --update")
def import_(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV with a header or JSON lines; or - for stdin.")],
    update: Annotated[bool, typer.Option("--update", help="Change the clients whose address is known.")] = False,
    format: Form = None,  # noqa: A002
    json: Json = False,
) -> None:
    """Add clients from a file with email, name, comment and tags; bad rows are named, the others go in.

    An export of listmonk or Mailchimp is known by its columns: who is no longer written to there is left out here.
    """
    from skychimp.services.clients import importing

    context = get_context(ctx, json)
    actor, store = context.actor, context.store
    left_out: Counter[str] = Counter()

    def told(row: "BadRow | LeftOut") -> None:
        if isinstance(row, importing.LeftOut):
            left_out[row.reason] += 1
            if row.is_client:
                remedy = f"skychimp clients delete {shlex.quote(row.email.strip())}"
                context.out.warn(f"line {row.line}: {row.reason} there, and a client here: {remedy}")
        else:
            context.out.warn(f"line {row.line}: {row.reason}")

    size = os.path.getsize(file) if os.path.isfile(file) else None

    with _opened(file) as opened, context.out.progress("importing") as tell:

        def done(result: "ImportResult") -> None:
            rows = sum(vars(result).values())
            tell(rows, "clients", size and _rows_in(opened, size, rows))

        try:
            sheet = _form(format, file).read(opened)
        except InvalidValue as error:
            raise InvalidValue(f"{file} can't be used: {error.message}", error.hint) from None
        if sheet.tool:
            context.out.note(f"this is an export of {sheet.tool}: fields of its own go into the comment")
        if sheet.others:
            context.out.note(f"left out: the columns {', '.join(sheet.others)}")
        known = sheet.columns if update else ()
        result = importing.import_rows(store, actor, sheet.rows, change_known=known, on_bad=told, on_batch=done)
    if left_out:
        counts = ", ".join(f"{number} {reason}" for reason, number in left_out.most_common())
        context.out.note(f"left out, as {sheet.tool} no longer writes to them: {counts}")
    context.out.one(result)
    if result.bad and not result.created + result.updated + result.skipped:
        raise InvalidValue(f"no row of {file} could be used", "each bad row is named above, with its line and reason")
    if result.created:
        context.out.next("messages create --subject 'Hello {{ client.name }}'")


@app.command(epilog="skychimp clients export people.csv")
def export(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; without it, or for -, stdout.")] = "-",
    tag: Annotated[str | None, typer.Option(help="Only clients with this tag.")] = None,
    format: Form = None,  # noqa: A002
    json: Json = False,
) -> None:
    """Write your clients as `import` reads them back: CSV with what a spreadsheet would run quoted, or JSON lines."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    if json and file == "-":
        raise InvalidValue("an export goes to stdout here", "for JSON: --format jsonl, or skychimp clients list --json")
    form = _form(format, file)
    found = clients.list_clients(context.store, context.actor, page(None, 0, None, None), tag)
    if file == "-":
        form.write(sys.stdout, found)
        return
    try:
        with made_whole(file) as opened, context.out.progress("exporting") as tell:
            total = clients.number(context.store, context.actor, tag)
            number = form.write(opened, _counted(found, total, tell))
    except OSError as error:
        raise InvalidValue(f"{file} can't be written: {error.strerror}", "name another file, or - for stdout") from None
    context.out.one({"clients": number, "file": file})


def _form(said: str | None, file: str) -> ModuleType:
    """What reads and writes this file: as said, else by the ending of its name."""
    from skychimp.services.clients import csv_files, jsonl_files

    ending = Path(file).suffix.lower()
    return jsonl_files if (said or ending.removeprefix(".")) in ("jsonl", "ndjson") else csv_files


def _rows_in(opened: TextIO, size: int, rows: int) -> int:
    """About how many rows a file of this size has, of which so many are read."""
    return max(rows, round(rows * size / max(opened.buffer.tell(), 1)))


def _counted(found: "Iterator[ClientInfo]", total: int, tell: Tell) -> "Iterator[ClientInfo]":
    for number, client in enumerate(found):
        if number % 1000 == 0:
            tell(number, "clients", total)
        yield client


def _opened(file: str) -> contextlib.AbstractContextManager[TextIO]:
    from skychimp.services.clients.csv_files import ENCODING, ERRORS, NEWLINE

    try:
        if file != "-":
            return open(file, encoding=ENCODING, errors=ERRORS, newline=NEWLINE)
        assert isinstance(sys.stdin, TextIOWrapper)
        sys.stdin.reconfigure(encoding=ENCODING, errors=ERRORS, newline=NEWLINE)
        return contextlib.nullcontext(sys.stdin)
    except OSError as error:
        raise InvalidValue(f"{file} can't be read: {error.strerror}", "name a readable file, or - for stdin") from None


@contextlib.contextmanager
def made_whole(file: str) -> Iterator[TextIO]:
    """A file that is there once it is whole, and only for its owner if it is new; devices are written as they are."""
    path = Path(file).resolve()
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="") as opened:
            yield opened
        return
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    draft = Path(name)
    try:
        with open(number, "w", encoding="utf-8", newline="") as opened:
            yield opened
        if path.exists():
            shutil.copymode(path, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
