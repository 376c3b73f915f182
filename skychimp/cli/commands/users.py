"""`skychimp users`: manage users and their roles."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from skychimp import shell
from skychimp.cli import prompts
from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, get_context, list_options
from skychimp.cli.display.values import write_json_object
from skychimp.cli.options.columns import Columns, choose_columns
from skychimp.cli.output_file import Force, open_output_file
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.services.users.users import UserInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {
    "id": tr("ID"), "email": tr("Email"), "name": tr("Name"), "role": tr("Role"), "verified_at": tr("Verified"), "blocked_at": tr("Blocked"),
}  # fmt: skip
SHOWN_MAILINGS = 10
TERMINAL_COLUMNS = {"id": tr("ID"), "email": tr("Email"), "name": tr("Name"), "role": tr("Role"), "state": tr("State")}
"""A table on a terminal has no room for two times."""

RoleName = Literal["user", "manager", "editor", "admin"]
UserArgument = Annotated[str, typer.Argument(metavar="USER", help="The user's ID or email.", show_default=False)]


@app.command("list", epilog="skychimp users list --role manager")
def list_(
    ctx: typer.Context,
    role: Annotated[RoleName | None, typer.Option(help="Show only users with this role.")] = None,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    columns: Columns = None,
    json: Json = False,
) -> None:
    """List users. Managers see users and editors, administrators see everybody."""
    from skychimp.models import Role
    from skychimp.services.users import users

    context = get_context(ctx, json)
    shown = choose_columns(context, columns, COLUMNS, users.UserInfo)
    options = list_options(limit, offset, search, sort)
    listed = users.list_users(context.store, context.actor, options, Role(role) if role else None)
    is_filtered = search is not None or role is not None
    empty = tr('no users; anyone can run "skychimp register"')
    if context.out.on_terminal and not json and columns is None:
        rows = listed.map(lambda user: SimpleNamespace(**vars(user), state=_state(user)))
        context.out.rows(rows, TERMINAL_COLUMNS, noun="user", empty=empty, is_filtered=is_filtered)
    else:
        context.out.rows(listed, shown, noun="user", empty=empty, is_filtered=is_filtered)


def _state(user: "UserInfo") -> str:
    return "blocked" if user.blocked_at else "" if user.verified_at else "not verified"


@app.command()
def show(ctx: typer.Context, user: UserArgument, json: Json = False) -> None:
    """Show a user."""
    from skychimp.services.users import users

    context = get_context(ctx, json)
    context.out.record(users.show(context.store, context.actor, user))


@app.command(epilog="skychimp users block eve@example.org --reason 'bought addresses'")
def block(
    ctx: typer.Context,
    user: UserArgument,
    reason: Annotated[str, typer.Option(help="The reason, for the audit trail.")] = "",
    json: Json = False,
) -> None:
    """Block a user. The user's sessions end and mailings stop at once. Emails being sent are finished."""
    from skychimp.services.users import users

    context = get_context(ctx, json)
    blocked = users.block(context.store, context.actor, user, reason)
    context.out.record(blocked)
    _note_mailings(context, blocked.id, "stopped; emails that wait are sent after the user is unblocked")
    context.out.note(
        tr("to undo this: {command}", command=shell.command("users", "unblock", *shell.arguments(blocked.email)))
    )


@app.command()
def unblock(ctx: typer.Context, user: UserArgument, json: Json = False) -> None:
    """Unblock a user. The user's mailings continue, with their own rules for missed times."""
    from skychimp.services.users import users

    context = get_context(ctx, json)
    unblocked = users.unblock(context.store, context.actor, user)
    context.out.record(unblocked)
    _note_mailings(context, unblocked.id, "not stopped any more")


@app.command(epilog="skychimp users role grace@example.org editor")
def role(
    ctx: typer.Context,
    user: UserArgument,
    role: Annotated[RoleName, typer.Argument(help="The new role.", show_default=False)],
    json: Json = False,
) -> None:
    """Change a user's role, from the user's next command on. The user is told by email."""
    from skychimp.models import Role
    from skychimp.permissions import TABLE, Action
    from skychimp.services.accounts.email_kinds import EmailKind
    from skychimp.services.users import users

    context = get_context(ctx, json)
    before, changed = users.set_role(context.store, context.actor, user, Role(role))
    context.out.record(changed)
    if changed.role == before:
        return
    prompts.send_notice(context, EmailKind.ROLE_CHANGED, changed.email, role=changed.role)
    if changed.role not in TABLE[Action.CHANGE_MAILINGS]:
        _note_mailings(context, changed.id, "still sent, but the user cannot change them any more")


def _note_mailings(context: Context, user_id: int, effect: str) -> None:
    """Name the mailings of a user that a change affects, and say how."""
    from skychimp.services.users import users

    if mailings := users.mailings_of(context.store, user_id):
        more = f" and {len(mailings) - SHOWN_MAILINGS:,} more" if len(mailings) > SHOWN_MAILINGS else ""
        names = ", ".join(map(str, mailings[:SHOWN_MAILINGS]))
        context.out.note(f"{'mailings' if len(mailings) > 1 else 'mailing'} {names}{more}: {effect}")


@app.command(epilog="skychimp users export mine.json")
def export(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The file to write (default: stdout).", show_default=False)
    ] = "-",
    force: Force = False,
    json: Json = False,
) -> None:
    """Export all your data as JSON: account, clients, suppressions, messages, mailings, attempts and posts."""
    from skychimp.services.users import privacy

    context = get_context(ctx, json)
    parts = privacy.export(context.store, context.actor)
    if file == "-":
        context.out.json_object(parts)
        return
    with open_output_file(context, file, force=force) as opened, context.out.progress("exporting") as report_progress:
        write_json_object(opened, ((name, _with_progress(name, part, report_progress)) for name, part in parts))
    context.out.record({"file": file})


def _with_progress(name: str, part: Any, report_progress: Callable[[int, str], None]) -> Any:
    """Return a part of an export that reports progress while it is iterated, if it is an iterator."""

    def rows() -> Iterator[Any]:
        for number, row in enumerate(part, 1):
            if number % 1000 == 0:
                report_progress(number, name)
            yield row

    return rows() if isinstance(part, Iterator) else part
