"""The command line: a table of commands that are imported when they are asked for, and the global options.

`--help` imports neither SQLAlchemy nor anything else that a command needs.
"""

import importlib
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from skychimp import __version__
from skychimp.cli.context import Options
from skychimp.errors import InvalidValue

COMMANDS = {
    "init": ("Set up", "Make the config, the store and the first administrator."),
    "demo": ("Set up", "See the whole story in a throw-away store."),
    "register": ("Account", "Make an account for a mailbox of yours."),
    "verify": ("Account", "Confirm that a mailbox is yours."),
    "login": ("Account", "Log in here."),
    "logout": ("Account", "Log out here."),
    "whoami": ("Account", "Who is logged in here."),
    "password": ("Account", "Give your account another password."),
    "clients": ("Mail", "Whom you write to."),
    "messages": ("Mail", "What you write."),
    "mailings": ("Mail", "What goes to whom, and when."),
    "run": ("Send", "Send what is due, once."),
    "daemon": ("Send", "Send what falls due, until told to stop."),
    "status": ("Send", "Is anything sending, and what waits."),
    "doctor": ("Send", "Can this installation send, and what to mend."),
    "users": ("People", "Who may work here, and as what."),
    "audit": ("People", "Who did what to which object, and when."),
    "service": ("Send", "What systemd or cron needs."),
    "report": ("Look back", "What became of a mailing."),
    "why": ("Look back", "Everything about one address."),
    "resolve": ("Look back", "Decide about letters whose end nobody knows."),
    "stats": ("Read", "The home page: mailings, clients, and posts."),
    "blog": ("Read", "Posts to read, and to write."),
    "backup": ("Keep safe", "Copy the store, while it is in use."),
    "restore": ("Keep safe", "Bring a backup back."),
    "store": ("Keep safe", "Is the store sound."),
    "help": ("Set up", "Read about a topic, as templates or time."),
}
"""Each command's panel in the help, and its line there; its module in skychimp.cli has its name."""


class _LazyGroup(TyperGroup):
    """Knows every command by name and help; imports the one that is called."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for name, (panel, help_line) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=help_line, rich_help_panel=panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = load(name, completing=ctx.resilient_parsing)
            for each in (command, *getattr(command, "commands", {}).values()):
                _tidy_help(each, ctx)
        return name, command, rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _tidy_help(self, ctx)
        super().format_help(ctx, formatter)


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="skychimp demo\nskychimp init --email YOU@EXAMPLE.ORG",
    rich_markup_mode="rich",
)


def command_line() -> Any:
    """The whole command line, ready to be run."""
    return get_command(app)


def load(name: str, *, completing: bool = False) -> Any:
    """A command of the table, imported; `completing` where a shell asks what there is to complete."""
    module = importlib.import_module(f"skychimp.cli.commands.{name}")
    if completing:
        from skychimp.cli import completion

        completion.offer(module.app)
    command: Any = get_command(module.app)
    command.name = name
    command.params = [param for param in command.params if not param.name.endswith("_completion")]
    for each in (command, *getattr(command, "commands", {}).values()):
        _name_values(each)
    return command


def _name_values(command: Any) -> None:
    """Show what an option takes by a name, and not by its type in Python."""
    context = typer.Context(command)
    for param in command.params:
        if param.metavar is None and param.display_type(context) in ("<str>", "<list[str]>"):
            param.metavar = param.name.upper().replace("_", "-")


def _tidy_help(command: Any, ctx: Any) -> None:
    """Show a command's examples, which stand in its epilog, before its options; and no type for what takes no value."""
    if command.epilog:
        first, _, rest = inspect.cleandoc(command.help or "").partition("\n\n")
        examples = "\n".join(f"$ {line}" for line in command.epilog.replace("[", r"\[").splitlines())
        command.help = "\n\n".join(filter(None, (first, f"[not dim]{examples}[/]", rest)))
        command.epilog = None
    for param in (*command.params, command.get_help_option(ctx)):
        if getattr(param, "is_flag", False):
            param.metavar = ""


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"skychimp {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _globals(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option(help="The config file.", metavar="FILE")] = None,
    store: Annotated[str | None, typer.Option(help="The store: a path or a URL.", metavar="STORE")] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say only what went wrong.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say which config and store are used.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours; NO_COLOR does the same.")] = False,  # noqa: ARG001
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask.")] = False,
    json: Annotated[bool, typer.Option("--json", hidden=True)] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A mailing service that lives in a terminal: nothing lost, nothing twice."""
    if quiet and verbose:
        raise InvalidValue("-q and -v can't go together")
    ctx.obj.options = Options(config, store, verbose=verbose, no_input=no_input)
    ctx.obj.out.quiet = quiet
    ctx.obj.out.json = json
