"""`skychimp users`: who may work here, and as what."""

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from skychimp.cli.commands.clients import made_whole
from skychimp.cli.context import Json, Limit, Offset, Search, Sort, get_context, page
from skychimp.cli.output import write_object
from skychimp.errors import InvalidValue

if TYPE_CHECKING:
    from skychimp.services.users.users import UserInfo

app = typer.Typer(no_args_is_help=True, help="Who may work here, and as what.", rich_markup_mode="rich")

COLUMNS = {
    "id": "ID", "email": "E-mail", "name": "Name", "role": "Role", "verified_at": "Verified", "blocked_at": "Blocked",
}  # fmt: skip
FOR_EYES = {"id": "ID", "email": "E-mail", "name": "Name", "role": "Role", "state": "State"}

RoleName = Literal["user", "manager", "editor", "admin"]
Who = Annotated[str, typer.Argument(metavar="USER", help="A user's id or e-mail.", show_default=False)]


@app.command("list", epilog="skychimp users list --role manager")
def list_(
    ctx: typer.Context,
    role: Annotated[RoleName | None, typer.Option(help="Only users of this role.")] = None,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List users: a manager sees users and editors, an administrator everybody."""
    from skychimp.models import Role
    from skychimp.services.users import users

    context = get_context(ctx, json)
    chosen = Role(role) if role else None
    found = users.list_users(context.store, context.actor, page(limit, offset, search, sort), chosen)
    empty = "no users yet; anyone can become one: skychimp register --email E-MAIL"
    if context.out.on_terminal and not json:
        context.out.rows((SimpleNamespace(**vars(user), state=_state(user)) for user in found), FOR_EYES, empty=empty)
        return
    context.out.rows(found, COLUMNS, empty=empty)


def _state(user: "UserInfo") -> str:
    """In a word, where the table has no room for times."""
    return "blocked" if user.blocked_at else "" if user.verified_at else "not verified"


@app.command()
def show(ctx: typer.Context, user: Who, json: Json = False) -> None:
    """Show one user."""
    from skychimp.services.users import users

    context = get_context(ctx, json)
    context.out.one(users.show(context.store, context.actor, user))


@app.command(epilog="skychimp users block eve@example.org --reason 'bought addresses'")
def block(
    ctx: typer.Context,
    user: Who,
    reason: Annotated[str, typer.Option(help="Why, for the audit trail.")] = "",
    json: Json = False,
) -> None:
    """Keep a user out: sessions end at once, and so do mailings; what is in flight is finished."""
    from skychimp.services.users import users

    context = get_context(ctx, json)
    found = users.block(context.store, context.actor, user, reason)
    context.out.one(found)
    context.out.note(f"to let that person in again: skychimp users unblock {found.email}")


@app.command()
def unblock(ctx: typer.Context, user: Who, json: Json = False) -> None:
    """Let a user in again; mailings go on, and catch up as each says."""
    from skychimp.services.users import users

    context = get_context(ctx, json)
    context.out.one(users.unblock(context.store, context.actor, user))


@app.command(epilog="skychimp users role grace@example.org editor")
def role(
    ctx: typer.Context,
    user: Who,
    role: Annotated[RoleName, typer.Argument(help="What that person may do from now on.", show_default=False)],
    json: Json = False,
) -> None:
    """Give a user another role; it counts from the next command on."""
    from skychimp.models import Role
    from skychimp.services.users import users

    context = get_context(ctx, json)
    context.out.one(users.give_role(context.store, context.actor, user, Role(role)))


@app.command(epilog="skychimp users export mine.json")
def export(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; without it, or for -, stdout.")] = "-",
    json: Json = False,
) -> None:
    """Write all that is your own as JSON: account, clients, messages, mailings, attempts and posts."""
    from skychimp.services.users import privacy

    context = get_context(ctx, json)
    parts = privacy.export(context.store, context.actor)
    if file == "-":
        write_object(sys.stdout, parts)
        return
    try:
        with made_whole(file) as opened, context.out.progress("exporting") as tell:
            write_object(opened, ((name, _counted(name, part, tell)) for name, part in parts))
    except OSError as error:
        raise InvalidValue(f"{file} can't be written: {error.strerror}", "name another file, or - for stdout") from None
    context.out.one({"file": file})


def _counted(name: str, part: Any, tell: Callable[[int, str], None]) -> Any:
    """A part of an export; where it is read row by row, `tell` is told how far."""

    def rows() -> Iterator[Any]:
        for number, row in enumerate(part, 1):
            if number % 1000 == 0:
                tell(number, name)
            yield row

    return rows() if isinstance(part, Iterator) else part
