"""List the commands. Each is imported when it is called, and `--help` imports none of them.

The help of the command line must not import SQLAlchemy or anything else that only a command needs.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from skychimp import __version__
from skychimp.cli.context import GlobalOptions
from skychimp.cli.help_pages import SUBCOMMAND, prepare_command, prepare_help, show_group_help
from skychimp.errors import InvalidValue
from skychimp.translation import tr


class CommandInfo(NamedTuple):
    """What the help shows of a command or a group; the example is a group's."""

    panel: str
    summary: str
    example: str = ""


_CORE, _SEND, _REPORT = "Core commands", "Sending commands", "Reporting commands"
_ACCOUNT, _ADMIN, _OTHER = "Account commands", "Administration commands", "Other commands"

COMMANDS = {
    "clients": CommandInfo(
        _CORE, "Manage clients (recipients).", "skychimp clients create --email ada@example.org --name Ada"
    ),
    "segments": CommandInfo(
        _CORE, "Manage segments (saved queries over clients).", "skychimp segments create vips --where \"tag = 'vip'\""
    ),
    "suppressions": CommandInfo(
        _CORE, "Manage addresses that must not get email.", "skychimp suppressions add grace@example.org"
    ),
    "messages": CommandInfo(
        _CORE, "Manage messages.", "skychimp messages create --subject News --body-file news.md --markdown"
    ),
    "layouts": CommandInfo(
        _CORE,
        "Manage layouts (HTML around the content of messages).",
        "skychimp layouts create newsletter --html-file layout.html",
    ),
    "mailings": CommandInfo(
        _CORE,
        "Create and control mailings.",
        "skychimp mailings create --message 1 --start now --every day --all-clients",
    ),
    "run": CommandInfo(_SEND, "Send all due mailings once, then exit."),
    "daemon": CommandInfo(_SEND, "Send mailings on schedule until stopped."),
    "inbound": CommandInfo(_SEND, "Process bounces, complaints and unsubscribe requests.", "skychimp inbound maildir"),
    "serve": CommandInfo(_SEND, "Answer unsubscribe links on the web until stopped."),
    "status": CommandInfo(_SEND, "Show sending activity and the queue."),
    "resolve": CommandInfo(_SEND, "Resolve deliveries with an unknown outcome."),
    "doctor": CommandInfo(_SEND, "Check the configuration and the mail server."),
    "dkim": CommandInfo(_SEND, "Make keys that sign emails.", "skychimp dkim keygen"),
    "service": CommandInfo(
        _SEND, "Set up systemd or cron, and print files for web servers.", "skychimp service install"
    ),
    "stats": CommandInfo(_REPORT, "Show the numbers of mailings and clients, and random posts."),
    "report": CommandInfo(_REPORT, "Show the results of a mailing."),
    "why": CommandInfo(_REPORT, "Show the history of one address."),
    "register": CommandInfo(_ACCOUNT, "Create an account."),
    "verify": CommandInfo(_ACCOUNT, "Confirm the email address of an account."),
    "login": CommandInfo(_ACCOUNT, "Log in."),
    "logout": CommandInfo(_ACCOUNT, "Log out."),
    "whoami": CommandInfo(_ACCOUNT, "Show who is logged in."),
    "sessions": CommandInfo(_ACCOUNT, "See and end your login sessions.", "skychimp sessions list"),
    "password": CommandInfo(_ACCOUNT, "Change or reset your password.", "skychimp password change"),
    "init": CommandInfo(_ADMIN, "Create the config, the store and the first administrator."),
    "trust": CommandInfo(_ADMIN, "Trust the config file in the current folder."),
    "users": CommandInfo(_ADMIN, "Manage users and their roles.", "skychimp users role grace@example.org editor"),
    "audit": CommandInfo(_ADMIN, "Show the audit trail: who did what, and when.", "skychimp audit list --since 24h"),
    "backup": CommandInfo(_ADMIN, "Back up the store while it is in use."),
    "restore": CommandInfo(_ADMIN, "Restore the store from a backup."),
    "store": CommandInfo(_ADMIN, "Check, compact and copy the store, and replace its key.", "skychimp store check"),
    "blog": CommandInfo(_OTHER, "Read and write blog posts.", "skychimp blog list"),
    "demo": CommandInfo(_OTHER, "Show how Skychimp works, in a temporary store."),
    "help": CommandInfo(_OTHER, "Show a help topic, or write the man pages."),
}
"""The commands in the order of the help. The module of each in `skychimp.cli.commands` has its name."""


class _LazyGroup(TyperGroup):
    """Know every command by its name and summary, and import the one that is called."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for name, info in COMMANDS.items():
            self.add_command(TyperCommand(name, help=info.summary, rich_help_panel=info.panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import the command that is called, and prepare its help. The singular of a command's name is the command."""
        if f"{args[0]}s" in COMMANDS:
            args = [f"{args[0]}s", *args[1:]]
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = load_command(name, completing=ctx.resilient_parsing)
            for each in (command, *getattr(command, "commands", {}).values()):
                prepare_help(each, ctx)
        return name, command, rest

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Print the help."""
        prepare_help(self, ctx)
        show_group_help(self, ctx)


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="skychimp demo\nskychimp init --email YOU@EXAMPLE.ORG",
    subcommand_metavar=SUBCOMMAND,
    rich_markup_mode="rich",
)


_COMPLETION_HELP = {
    "install_completion": "Install completion for the current shell.",
    "show_completion": "Print the completion script of the current shell.",
}
"""The help of Typer's own options."""


def command_line() -> Any:
    """Return the whole command line, ready to run."""
    command: Any = get_command(app)
    for param in command.params:
        if param.name in _COMPLETION_HELP:
            param.help = _COMPLETION_HELP[param.name]
        if param.name == "install_completion":
            param.callback = _check_caller(param.callback)
    return command


def _check_caller(install: Callable[..., Any]) -> Callable[..., Any]:
    """Return Typer's function that changes files in the home, but not for a restricted caller of this account."""

    def check_and_install(ctx: Any, param: Any, value: Any) -> Any:
        if value:
            from skychimp.config import shared

            shared.require_operator(tr("change the shell of this account"), tr("run it without sudo"))
        return install(ctx, param, value)

    return check_and_install


def load_command(name: str, *, completing: bool = False) -> Any:
    """Import a command or group and return it. With `completing`, its parameters suggest values from the store."""
    module = importlib.import_module(f"skychimp.cli.commands.{name}")
    if completing:
        from skychimp.cli import completion

        completion.add_completion(module.app)
    command: Any = get_command(module.app)
    command.name = name
    command.params = [param for param in command.params if not param.name.endswith("_completion")]
    if isinstance(command, TyperGroup):
        command.help, command.epilog = COMMANDS[name].summary, COMMANDS[name].example
    prepare_command(command)
    return command


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"skychimp {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _read_global_options(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Use this config file.", metavar="FILE")] = None,
    store: Annotated[str | None, typer.Option(help="Use this store: a path or a URL.", metavar="STORE")] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors and warnings only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print which config and store are used.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Disable colors, as NO_COLOR does.")] = False,  # noqa: ARG001
    no_input: Annotated[bool, typer.Option("--no-input", help="Never prompt.")] = False,
    json: Annotated[bool, typer.Option("--json", hidden=True)] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Send recurring mailings from the command line."""
    if quiet and verbose:
        raise InvalidValue(tr("--quiet and --verbose cannot be combined"), tr("use one of them"))
    if config is not None or store is not None:
        from skychimp.config import shared

        shared.check_options(config=config, store=store)
    ctx.obj.options = GlobalOptions(config, store, verbose=verbose, no_input=no_input)
    ctx.obj.out.quiet = quiet
    ctx.obj.out.json = json
