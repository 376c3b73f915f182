"""`skychimp clients`: whom you write to."""

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Json, Limit, Offset, Search, Sort, Yes, enter, page
from skychimp.errors import InvalidValue

if TYPE_CHECKING:
    from skychimp.services.clients import ClientRow

app = typer.Typer(no_args_is_help=True, help="Whom you write to.", rich_markup_mode="rich")

COLUMNS = {"id": "ID", "email": "E-mail", "name": "Name", "tags": "Tags", "bad_reason": "Bad address"}
HEADINGS = ("email", "name", "comment", "tags")
_KNOWN_AS = {
    "e-mail": "email", "email address": "email", "e-mail address": "email", "mail": "email",
    "full name": "name", "full_name": "name", "fullname": "name", "tag": "tags", "comments": "comment",
}  # fmt: skip
_RUNS_IN_A_SPREADSHEET = ("=", "+", "-", "@", "\t", "\r")

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
    from skychimp.services import clients

    here = enter(ctx, json)
    made = clients.create(here.store, here.actor, email=email, name=name, comment=comment, tags=tag or [])
    here.out.one(made)


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
    from skychimp.services import clients

    here = enter(ctx, json)
    found = clients.list_clients(here.store, here.actor, page(limit, offset, search, sort), tag)
    here.out.rows(found, COLUMNS, empty="no clients yet; add some: skychimp clients import FILE.csv")


@app.command()
def show(ctx: typer.Context, client: Who, json: Json = False) -> None:
    """Show one client."""
    from skychimp.services import clients

    here = enter(ctx, json)
    here.out.one(clients.show(here.store, here.actor, client))


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
    from skychimp.services import clients

    here = enter(ctx, json)
    tags = [] if no_tags else tag
    changed = clients.change(
        here.store, here.actor, client, email=email, name=name, comment=comment, tags=tags, clear_bad=clear_bad
    )
    here.out.one(changed)


@app.command()
def delete(ctx: typer.Context, client: Who, yes: Yes = False, json: Json = False) -> None:
    """Delete a client; what was sent to it stays in the log."""
    from skychimp.services import clients

    here = enter(ctx, json)
    found = clients.show(here.store, here.actor, client)
    here.confirm(f"delete client {found.id}, {found.email}?", yes=yes)
    here.out.one(clients.remove(here.store, here.actor, str(found.id)))


@app.command("import", epilog="skychimp clients import people.csv --update")
def import_(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A CSV file with a header, or - for stdin.")],
    update: Annotated[bool, typer.Option("--update", help="Change the clients whose address is known.")] = False,
    json: Json = False,
) -> None:
    """Add clients from a CSV file: columns email, name, comment and tags; bad rows are named, the others go in."""
    from skychimp.services import clients

    here = enter(ctx, json)
    actor, store = here.actor, here.store

    def bad(line: int, reason: str) -> None:
        here.out.warn(f"line {line}: {reason}")

    with _opened(file) as opened, here.out.progress("importing") as tell:
        result = clients.import_rows(
            store,
            actor,
            _rows(opened, file, bad),
            update_known=update,
            on_bad=bad,
            on_batch=lambda so_far: tell(so_far.created + so_far.updated + so_far.skipped, "clients"),
        )
    here.out.one(result)
    if result.bad and not result.created + result.updated + result.skipped:
        raise InvalidValue(f"no row of {file} could be used", "each bad row is named above, with its line and reason")


@app.command(epilog="skychimp clients export people.csv")
def export(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; without it, or for -, stdout.")] = "-",
    tag: Annotated[str | None, typer.Option(help="Only clients with this tag.")] = None,
) -> None:
    """Write your clients as CSV; what a spreadsheet would run is quoted, and read back by `import`."""
    from skychimp.services import clients

    here = enter(ctx)
    found = clients.list_clients(here.store, here.actor, page(None, 0, None, None), tag)
    lines = ((client.email, client.name, client.comment, ",".join(client.tags)) for client in found)
    if file == "-":
        _write_csv(sys.stdout, lines)
        return
    draft = Path(file).with_name(f".{Path(file).name}.part")
    try:
        with draft.open("w", encoding="utf-8", newline="") as opened:
            number = _write_csv(opened, lines)
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InvalidValue(f"{file} can't be written: {error.strerror}") from None
    here.out.note(f"{number} clients in {file}")


def _opened(file: str) -> IO[str]:
    try:
        source = sys.stdin.fileno() if file == "-" else file
        return open(source, encoding="utf-8-sig", errors="surrogateescape", newline="", closefd=file != "-")
    except OSError as error:
        raise InvalidValue(f"{file} can't be read: {error.strerror}", "name a readable file, or - for stdin") from None


def _rows(opened: IO[str], file: str, bad: Callable[[int, str], None]) -> "Iterator[ClientRow]":
    from skychimp.services.clients import ClientRow

    header = opened.readline()
    delimiter = max(",;\t", key=header.count)
    columns = [_heading(cell) for cell in next(csv.reader([header], delimiter=delimiter), [])]
    if "email" not in columns:
        raise InvalidValue(
            f"{file} has no column email in its first line", "the header names the columns: email,name,comment,tags"
        )
    reader = csv.reader(opened, delimiter=delimiter)
    places = {name: columns.index(name) for name in HEADINGS if name in columns}
    while True:
        line = reader.line_num + 2  # the header is line 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad(line, str(error))
            continue
        if not any(cells):
            continue
        if len(cells) > len(columns):
            bad(line, f"{len(cells)} cells under {len(columns)} headings")
            continue
        value = {name: _bare(cells[place]) if place < len(cells) else "" for name, place in places.items()}
        tags = [tag.strip() for tag in value.get("tags", "").replace(";", ",").split(",") if tag.strip()]
        yield ClientRow(line, value["email"], value.get("name", ""), value.get("comment", ""), tags)


def _heading(cell: str) -> str:
    name = cell.strip().strip("\ufeff").casefold()
    return _KNOWN_AS.get(name, name)


def _write_csv(opened: IO[str], lines: Iterator[tuple[str, ...]]) -> int:
    writer = csv.writer(opened, lineterminator="\n")
    writer.writerow(HEADINGS)
    number = 0
    for number, line in enumerate(lines, 1):
        writer.writerow(map(_quoted, line))
    return number


def _quoted(cell: str) -> str:
    """The cell with an apostrophe in front where a spreadsheet would run it, or would take an apostrophe for ours."""
    return "'" + cell if cell.lstrip("'").startswith(_RUNS_IN_A_SPREADSHEET) else cell


def _bare(cell: str) -> str:
    quoted = cell.startswith("'") and cell.lstrip("'").startswith(_RUNS_IN_A_SPREADSHEET)
    return cell[1:] if quoted else cell
